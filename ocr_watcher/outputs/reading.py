"""A sidecar read page by page from its file, so that one of thousands of pages takes no more memory."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from ocr_watcher.document import Source
from ocr_watcher.job import Stamp
from ocr_watcher.outputs.sidecar import page_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from ocr_watcher.document import Page

# As `sidecar.document_json` writes them. Inside a string every quote is escaped, so no text imitates these.
_PAGES: Final = b'", "pages": ['
_PAGE: Final = b'{"index": '
_END: Final = b'], "engine": '
_BLOCK_BYTES: Final = 1 << 16
_SOURCE: Final = b'"source": '
_HEAD_BYTES: Final = 4096


def pages(file: BinaryIO) -> Iterator[Page]:
    """The pages of a sidecar of ours. Raises OSError; ValueError, KeyError or TypeError where it is none."""
    text = _skip_to(file, _PAGES)
    decoder = json.JSONDecoder()
    while True:
        # A page ends where the next one, or what comes after all of them, begins.
        at = 1
        while (end := _end(text, at)) < 0:
            at = max(1, len(text) - len(_END))
            if not (block := file.read(_BLOCK_BYTES)):
                raise ValueError("it ends within a page")
            text += block
        piece = bytes(text[:end])
        if piece.startswith(_PAGE):
            yield page_of(decoder.raw_decode(piece.decode("utf-8"))[0])
        if text.startswith(_END, end):
            return
        del text[:end]


def source(file: BinaryIO) -> Source:
    """What a sidecar of ours is about. Raises OSError; ValueError, KeyError or TypeError where it is none."""
    head = file.read(_HEAD_BYTES)
    at = head.find(_SOURCE)
    if at < 0:
        raise ValueError("it has no source")
    fields, _ = json.JSONDecoder().raw_decode(head[at + len(_SOURCE) :].decode("utf-8", "ignore"))
    stamp = Stamp(int(fields["size_bytes"]), int(fields["mtime_ns"]))
    return Source(str(fields["name"]), stamp, fields["sha256"])


def count(file: BinaryIO) -> int:
    """How many pages a sidecar of ours has. Raises OSError."""
    found, left = 0, b""
    while block := file.read(_BLOCK_BYTES):
        text = left + block
        found += text.count(_PAGE)
        left = text[1 - len(_PAGE) :]
    return found


def _skip_to(file: BinaryIO, mark: bytes) -> bytearray:
    text = bytearray()
    while (at := text.find(mark)) < 0:
        del text[: -len(mark)]
        if not (block := file.read(_BLOCK_BYTES)):
            raise ValueError("it has no pages")
        text += block
    # The bracket stays: then no page begins at the first byte.
    del text[: at + len(mark) - 1]
    return text


def _end(text: bytearray, at: int) -> int:
    found = [position for mark in (_PAGE, _END) if (position := text.find(mark, at)) >= 0]
    return min(found, default=-1)
