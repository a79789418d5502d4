"""What a list shows of a document: read from its record, and kept for as long as that is the same file."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ocr_watcher.inbox import records
from ocr_watcher.outputs import reading

if TYPE_CHECKING:
    from typing import BinaryIO

_BLOCK_BYTES: Final = 1 << 16
_TAIL_BYTES: Final = 4096
# As `sidecar` writes a line. Inside a string every quote is escaped, so no text imitates it.
_LINE: Final = b'"polygon": ['
_TIMING: Final = b'"timing_ms": '
_MAX_KEPT: Final = 2000
_TEXT: Final = b', "text": "'
MAX_TEXT_BYTES: Final = 8 << 20
"""So much of a document's text is looked through."""


@dataclass(frozen=True)
class Summary:
    """Of a document that was read: how many pages and lines, and how long its OCR took (ms)."""

    pages: int
    lines: int
    ocr_ms: int | None


@dataclass
class Summaries:
    """The latest ones. Not for two threads at once."""

    _kept: OrderedDict[str, tuple[object, Summary]] = field(default_factory=OrderedDict)

    def of(self, record: str) -> Summary | None:
        """What a record (a path) says; None where there is none any more."""
        try:
            status = os.stat(record)
            version = status.st_ino, status.st_size, status.st_mtime_ns
            kept = self._kept.pop(record, None)
            if kept is None or kept[0] != version:
                with open(record, "rb") as file:
                    kept = version, _summary(file)
        except (OSError, ValueError):
            return None
        self._kept[record] = kept
        if len(self._kept) > _MAX_KEPT:
            self._kept.popitem(last=False)
        return kept[1]


def _summary(file: BinaryIO) -> Summary:
    pages = reading.count(file)
    file.seek(0)
    lines, left, tail = 0, b"", b""
    while block := file.read(_BLOCK_BYTES):
        text = left + block
        lines += text.count(_LINE)
        left = text[1 - len(_LINE) :]
        tail = (tail + block)[-_TAIL_BYTES:]
    at = tail.rfind(_TIMING)
    timing: Any = {}
    if at >= 0:
        timing, _ = json.JSONDecoder().raw_decode(tail[at + len(_TIMING) :].decode("utf-8", "ignore"))
    return Summary(pages, lines, timing.get("ocr"))


def error_of(beside: str) -> dict[str, Any] | None:
    """The error of the document whose records are beside a path; None where it has none."""
    error = records.read_error(beside)
    return None if error is None else vars(error) | {}


def text_of(record: str) -> str:
    """The text of a record (a path), as much of it as is looked through; "" where there is none."""
    try:
        with open(record, "rb") as file:
            head = file.read(MAX_TEXT_BYTES)
    except OSError:
        return ""
    at = head.find(_TEXT)
    if at < 0:
        return ""
    begin = at + len(_TEXT)
    end = _end_of_string(head, begin)
    try:
        return str(json.loads(b'"' + head[begin:end] + b'"'))
    except ValueError:  # it was cut off within a character or an escape
        return ""


def _end_of_string(text: bytes, at: int) -> int:
    """Where a JSON string that began before `at` ends: at its quote, or with what there is."""
    while (end := text.find(b'"', at)) >= 0:
        backslashes = end
        while backslashes > 0 and text[backslashes - 1 : backslashes] == b"\\":
            backslashes -= 1
        if (end - backslashes) % 2 == 0:
            return end
        at = end + 1
    return len(text)
