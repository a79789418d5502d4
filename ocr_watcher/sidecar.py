"""The result files: their names, their schema, their atomic write, and whether an image has one.

`scan.png` is done when `scan.png.json` names the same size and modification time; it has failed
when `scan.png.error.json` does. Records appear complete or not at all: written under a temporary
name in the same folder, flushed, renamed. A JSON file that this program did not write is never
replaced. Imports `errors`, `files`, `ready` and `result`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

from ocr_watcher.errors import OutputError, OutputExistsError
from ocr_watcher.files import stat_file
from ocr_watcher.ready import Stamp
from ocr_watcher.result import text_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ocr_watcher.errors import FileError
    from ocr_watcher.image import Page
    from ocr_watcher.result import Line

SCHEMA = "ocr-watcher/1"

# NAME_MAX of every file system in use; an image whose own name leaves no room for the suffix gets
# a shortened one.
_NAME_MAX = 255
# Temporary names carry a token of this process, so that the next process can tell leftovers of a
# killed one from files in the making. (A process id would not do: in a container it is always 1.)
_TOKEN = secrets.token_hex(4)
_SHORTENED = re.compile(r"~[0-9a-f]{8}\Z")
_TEMPORARY = re.compile(r"\.ocr-watcher-([0-9a-f]{8})-[0-9a-f]{8}\.tmp")
# Our writer puts schema, status and source first, so the head of the file tells whether it is
# current; reading 100,000 sidecars whole would take minutes. Inside a JSON string every quote is
# escaped, so no name can imitate these keys. A 255-byte name escapes to 1,530 bytes at most.
_HEAD_BYTES = 4096
_HEAD = re.compile(
    rb'\{"schema": "ocr-watcher/\d+", "status": "(ok|failed)", '
    rb'"source": \{"name": "(?:[^"\\]|\\.)*", "size_bytes": (\d+), "mtime_ns": (-?\d+)'
)


# What opening or reading says of nothing, a link, a socket or a pipe, a folder.
_NO_FILE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EISDIR})


class Names(NamedTuple):
    """The record names of one image, in the image's folder."""

    sidecar: str
    error: str


class State(Enum):
    """What the records beside an image say about one version of it."""

    OPEN = "open"  # nothing, or a record of another version
    DONE = "done"
    FAILED = "failed"
    RETRY = "retry"  # failed for a cause outside the file; is tried again


@dataclass(frozen=True)
class Source:
    """The image a record is about. `sha256` is None where the bytes were never read whole."""

    name: str
    stamp: Stamp
    sha256: str | None

    def as_json(self) -> dict[str, Any]:
        """The record's `source` object."""
        return {
            "name": printable(self.name),
            "size_bytes": self.stamp.size_bytes,
            "mtime_ns": self.stamp.mtime_ns,
            "sha256": self.sha256,
        }


def printable(name: str) -> str:
    r"""A file name as valid Unicode: bytes that are no UTF-8 appear as `\\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def names(image: str) -> Names:
    """The names of the two records of `image` (a file name, no path)."""
    longest = _NAME_MAX - len(b".error.json")
    # A character takes four bytes at most: nearly every name is told by its length.
    if len(image) > longest // 4 and len(raw := os.fsencode(image)) > longest:
        digest = hashlib.sha256(raw).hexdigest()[:8]
        # "ignore": the cut may fall into a multi-byte character
        image = raw[: longest - 9].decode("utf-8", "ignore") + "~" + digest
    return Names(f"{image}.json", f"{image}.error.json")


def image_of(record: str) -> str | None:
    """The image a record's name belongs to, None where it is no record name. Not for shortened names."""
    for suffix in (".error.json", ".json"):
        if record.endswith(suffix) and record != suffix:
            return record[: -len(suffix)]
    return None


def is_shortened(image: str) -> bool:
    """Whether `image_of` gave what may be a shortened name, from which the image's own cannot be told."""
    return _SHORTENED.search(image) is not None


def is_leftover(name: str) -> bool:
    """Whether `name` is a temporary file that a killed process left behind."""
    if not name.startswith(".ocr-watcher-"):  # quick, and asked of every name
        return False
    match = _TEMPORARY.fullmatch(name)
    return match is not None and match[1] != _TOKEN


def schema() -> dict[str, Any]:
    """The JSON Schema of both records, as shipped with the package."""
    text = resources.files(__package__).joinpath("sidecar.schema.json").read_text("utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


# -- reading -----------------------------------------------------------------------------------


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


def _describes(head: bytes | None, status: bytes, stamp: Stamp) -> bool:
    match = _HEAD.match(head or b"")
    return match is not None and match[1] == status and Stamp(int(match[2]), int(match[3])) == stamp


def lookup(image: str, stamp: Stamp, *, folder: int | None = None) -> State:
    """What the records beside `image` say of its version `stamp`.

    `image` is a path, or a file name with the descriptor of its open folder. A record that cannot
    be read counts as none: the image is then done again, which does no harm.
    """
    head, tail = os.path.split(image)
    own = names(tail)
    try:
        if _describes(_read(folder, os.path.join(head, own.sidecar), _HEAD_BYTES), b"ok", stamp):
            return State.DONE
        # Error records are few and short, so they are read whole: whether they are final stands at the end.
        record = _read(folder, os.path.join(head, own.error), 1 << 16)
    except OSError:
        return State.OPEN
    if not _describes(record, b"failed", stamp):
        return State.OPEN
    try:
        error = json.loads(record or b"").get("error", {})
    except (ValueError, AttributeError):
        return State.OPEN
    return State.RETRY if error.get("will_retry") else State.FAILED


def _is_foreign(folder: int, name: str) -> bool:
    """Whether `name` is something that this program did not write and must not replace.

    Raises OSError where that cannot be told.
    """
    status = stat_file(folder, name)
    if status is None:
        return False
    head = _read(folder, name, _HEAD_BYTES)
    if head is None:
        return True  # a folder, a link
    # Empty or binary zeros: what a power loss leaves of a file whose data never reached the disk.
    return bool(head.strip(b"\0 \t\r\n")) and not head.startswith(b'{"schema": "ocr-watcher/')


# -- writing -----------------------------------------------------------------------------------


@contextmanager
def _as_output_error(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {what}: {error.strerror or error}") from error


def _write(folder: int, name: str, document: Mapping[str, Any], like: os.stat_result) -> None:
    """Put `document` at `name`, complete or not at all; readable by those who may read the image."""
    data = json.dumps(document, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"
    temporary = f".ocr-watcher-{_TOKEN}-{secrets.token_hex(4)}.tmp"
    mode = (like.st_mode & 0o666) | 0o600
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(temporary, flags, 0o600, dir_fd=folder)
        try:
            # The text is as private as its picture. Owner and group follow where we may set them
            # (root); elsewhere the record belongs to the service.
            with suppress(OSError):
                os.fchown(fd, like.st_uid, like.st_gid)
            with suppress(OSError):  # file systems without modes refuse this
                os.fchmod(fd, mode)
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise
    with suppress(OSError):  # some network file systems cannot flush a folder
        os.fsync(folder)


def _remove(folder: int, name: str) -> None:
    """Remove a record of ours; nothing happens where there is none or it is somebody else's."""
    if stat_file(folder, name) is not None and not _is_foreign(folder, name):
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)


def now(ago_s: float = 0.0) -> str:
    """The wall clock (`ago_s` seconds ago) as records and logs write it: UTC, milliseconds."""
    return (
        (datetime.now(UTC) - timedelta(seconds=ago_s))
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )


def page_json(page: Page, lines: Sequence[Line]) -> dict[str, Any]:
    """One page of a sidecar, coordinates mapped to source pixels and rounded to a tenth."""
    rows = []
    for line in lines:
        polygon = [[round(x, 1), round(y, 1)] for x, y in page.to_source(line.polygon)]
        xs, ys = [x for x, _ in polygon], [y for _, y in polygon]
        rows.append(
            {
                "text": line.text,
                "score": round(line.score, 4),
                "polygon": polygon,
                "box": [min(xs), min(ys), max(xs), max(ys)],
            }
        )
    return {
        "index": page.index,
        "width_px": page.width_px,
        "height_px": page.height_px,
        "scale": page.scale,
        "text": text_of(lines),
        "lines": rows,
    }


def check_place(folder: int, image: str) -> None:
    """Raise `OutputExistsError` where somebody else's file has the sidecar's name."""
    own = names(image)
    try:
        foreign = _is_foreign(folder, own.sidecar)
    except PermissionError:  # ours would be readable
        foreign = True
    if foreign:
        raise OutputExistsError(f"{printable(own.sidecar)} exists and is not a sidecar of ocr-watcher")


def write_ok(
    folder: int,
    source: Source,
    like: os.stat_result,
    pages: list[dict[str, Any]],
    facts: Mapping[str, Any],
) -> None:
    """Write the sidecar of `source` into the open folder: the commit point.

    `pages` come from `page_json`; `facts` are the objects `engine`, `timing_ms` and `memory_mb`.
    An error record of an earlier attempt is removed first: a crash between the two leaves an
    image without record, which is done again, never one with both.

    Raises `OutputError` where the folder cannot be written, `OutputExistsError` where somebody
    else's file is in the way.
    """
    check_place(folder, source.name)
    own = names(source.name)
    document = {
        "schema": SCHEMA,
        "status": "ok",
        "source": source.as_json(),
        "text": "\n".join(page["text"] for page in pages),
        "pages": pages,
        **facts,
        "finished_at": now(),
    }
    with _as_output_error(printable(own.sidecar)):
        _remove(folder, own.error)
        _write(folder, own.sidecar, document, like)


def write_error(
    folder: int, source: Source, like: os.stat_result, error: FileError, *, attempts: int, will_retry: bool
) -> None:
    """Write the error record of `source`, after removing a sidecar of an earlier version of the image.

    In this order for the same reason as in `write_ok`.

    `will_retry` marks a record that explains a cause outside the file, which is tried again.
    Raises `OutputError` where the folder cannot be written.
    """
    own = names(source.name)
    with _as_output_error(printable(own.error)):
        foreign = _is_foreign(folder, own.error)
    if foreign:
        raise OutputError(
            f"{printable(own.error)} exists and is not an error record of ocr-watcher",
            hint="Move that file away.",
        )
    about: dict[str, Any] = {
        "code": error.code,
        "message": str(error),
        "hint": error.hint,
        "attempts": attempts,
    }
    if will_retry:
        about["will_retry"] = True
    document = {
        "schema": SCHEMA,
        "status": "failed",
        "source": source.as_json(),
        "error": about,
        "finished_at": now(),
    }
    with _as_output_error(printable(own.error)):
        _remove(folder, own.sidecar)
        _write(folder, own.error, document, like)


def remove_leftover(folder: int, name: str) -> bool:
    """Remove a killed process's temporary file; False where that was not possible."""
    try:
        os.unlink(name, dir_fd=folder)
    except OSError as error:
        return error.errno == errno.ENOENT
    return True


def forget_failure(folder: int, image: str) -> None:
    """Remove the error record of `image`, so that it is tried again."""
    with _as_output_error(printable(names(image).error)):
        _remove(folder, names(image).error)
