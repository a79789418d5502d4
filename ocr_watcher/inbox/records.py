"""What the records beside a document say of it: done, failed, or still to do.

`scan.png` is done when `scan.png.json` names the same size and modification time; it has failed when
`scan.png.error.json` does. Only reads; `outputs` writes them.
"""

from __future__ import annotations

import errno
import json
import os
import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from ocr_watcher import names
from ocr_watcher.document import Output
from ocr_watcher.errors import OutputExistsError
from ocr_watcher.inbox.files import stat_file
from ocr_watcher.job import Stamp

SCHEMA: Final = "ocr-watcher/1"
# Our writer puts schema, status and source first, so the head of the file tells whether it is
# current; reading 100,000 sidecars whole would take minutes. Inside a JSON string every quote is
# escaped, so no name can imitate these keys. A 255-byte name escapes to 1,530 bytes at most.
_HEAD_BYTES = 4096
_HEAD = re.compile(
    rb'\{"schema": "ocr-watcher/\d+", "status": "(ok|failed)", '
    rb'"source": \{"name": ("(?:[^"\\]|\\.)*"), "size_bytes": (\d+), "mtime_ns": (-?\d+)'
)
_OURS = b'{"schema": "ocr-watcher/'
# The outputs follow the source. Seven names and their hashes take 12 KiB at most.
_MANIFEST_BYTES = 1 << 15
_SOURCE, _OUTPUTS = '"source": ', ', "outputs": '

# What opening or reading says of nothing, a link, a socket or a pipe, a folder.
_NO_FILE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EISDIR})


class RecordState(Enum):
    """What the records beside a document say about one version of it."""

    OPEN = "open"  # nothing, or a record of another version
    DONE = "done"
    FAILED = "failed"
    RETRY = "retry"  # failed for a cause outside the file; is tried again
    BLOCKED = "blocked"  # somebody else's file has the sidecar's name, and the error record has said so


def lookup(document: str, stamp: Stamp, *, folder: int | None = None) -> RecordState:
    """What the records beside `document` say of its version `stamp`.

    `document` is a path, or a file name with the descriptor of its open folder. A record that cannot
    be read counts as none: the document is then done again, which does no harm.
    """
    try:
        return _lookup(document, stamp, folder)
    except (OSError, ValueError, AttributeError):
        return RecordState.OPEN


def _lookup(document: str, stamp: Stamp, folder: int | None) -> RecordState:
    head, tail = os.path.split(document)
    own = names.records_of(tail)
    sidecar = os.path.join(head, own.sidecar)
    try:
        found = _read(folder, sidecar, _HEAD_BYTES)
    except PermissionError:  # not ours, which could be read
        found = None
    if _describes(found, b"ok", tail, stamp):
        return RecordState.DONE
    # Error records are few and short, so they are read whole: whether they are final stands at the end.
    record = _read(folder, os.path.join(head, own.error), 1 << 16)
    if record is None or not _describes(record, b"failed", tail, stamp):
        return RecordState.OPEN
    error = json.loads(record).get("error", {})
    if not error.get("will_retry"):
        return RecordState.FAILED
    if error.get("code") != OutputExistsError.code:
        return RecordState.RETRY
    if (kind := error.get("format")) in names.OUTPUT_SUFFIXES:
        in_the_way = _is_there(folder, os.path.join(head, names.output_of(tail, kind)))
    else:
        in_the_way = _is_somebody_elses(found) if found is not None else _is_there(folder, sidecar)
    return RecordState.BLOCKED if in_the_way else RecordState.OPEN


def manifest(folder: int, sidecar: str) -> tuple[Output, ...]:
    """The outputs that a sidecar in the open folder names; none where it is no sidecar of ours.

    Raises OSError where the operating system refuses.
    """
    head = (_read(folder, sidecar, _MANIFEST_BYTES) or b"").decode("utf-8", "replace")
    if not head.startswith(_OURS.decode()):
        return ()
    decoder = json.JSONDecoder()
    try:
        _, end = decoder.raw_decode(head, head.index(_SOURCE) + len(_SOURCE))
        if not head.startswith(_OUTPUTS, end):
            return ()
        found, _ = decoder.raw_decode(head, end + len(_OUTPUTS))
        return tuple(
            Output(str(one["format"]), str(one["name"]), int(one["size_bytes"]), str(one["sha256"]))
            for one in found
        )
    except (ValueError, KeyError, TypeError):
        return ()


def claimed(folder: int, claim: str) -> dict[str, list[str]]:
    """What a claim says (`names.claim_of`): the name of a sidecar, and `SIZE:SHA256` of outputs by name.

    The sidecar is under the empty name. Nothing where there is no claim, or a power loss left half of one.
    Raises OSError where the operating system refuses.
    """
    try:
        found = json.loads(_read(folder, claim, _MANIFEST_BYTES) or b"{}")
        return {str(name): [str(one) for one in what] for name, what in found.items()}
    except (ValueError, AttributeError, TypeError):
        return {}


def is_needed(folder: int, leftover: str) -> bool:
    """Whether a leftover is a claim without which outputs would be taken for somebody else's.

    Raises OSError where the operating system refuses.
    """
    if not names.is_claim(leftover):
        return False
    outputs = claimed(folder, leftover)
    named = {
        (output.name, f"{output.size_bytes}:{output.sha256}")
        for sidecar in outputs.pop("", [])
        for output in manifest(folder, sidecar)
    }
    return any(
        stat_file(folder, name) is not None and not any((names.printable(name), one) in named for one in what)
        for name, what in outputs.items()
    )


@dataclass(frozen=True)
class RecordedError:
    """What an error record says."""

    code: str
    message: str
    hint: str
    attempts: int
    will_retry: bool


def read_error(document: str) -> RecordedError | None:
    """The error record beside `document` (a path); None where there is none that can be understood."""
    head, tail = os.path.split(document)
    try:
        record = _read(None, os.path.join(head, names.records_of(tail).error), 1 << 16)
        error = json.loads(record or b"")["error"]
        return RecordedError(
            str(error["code"]),
            str(error["message"]),
            str(error.get("hint", "")),
            int(error["attempts"]),
            bool(error.get("will_retry", False)),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_foreign(folder: int, name: str) -> bool:
    """Whether `name` is something that this program did not write and must not replace.

    Raises OSError where that cannot be told.
    """
    status = stat_file(folder, name)
    if status is None:
        return False
    head = _read(folder, name, _HEAD_BYTES)
    return head is None or _is_somebody_elses(head)  # None: a folder, a link


def _is_somebody_elses(head: bytes) -> bool:
    # Empty or binary zeros: what a power loss leaves of a file whose data never reached the disk.
    return bool(head.strip(b"\0 \t\r\n")) and not head.startswith(_OURS)


def _is_there(folder: int | None, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return True


def _read(folder: int | None, name: str, limit: int) -> bytes | None:
    """The first `limit` bytes of a record; None where there is no regular file of that name.

    Raises OSError where the operating system refuses.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, dir_fd=folder)
        try:
            return os.read(fd, limit)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno in _NO_FILE:
            return None
        raise


def _describes(head: bytes | None, status: bytes, document: str, stamp: Stamp) -> bool:
    match = _HEAD.match(head or b"")
    if match is None or match[1] != status or Stamp(int(match[3]), int(match[4])) != stamp:
        return False
    # Two long names may share a shortened record. Any other record belongs to the name it stands beside, also
    # where somebody renamed the two together.
    shortened = names.records_of(document).sidecar != document + names.SIDECAR_SUFFIX
    return not shortened or json.loads(match[2]) == names.printable(document)
