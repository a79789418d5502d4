"""Puts records beside their document: each appears complete or not at all.

Written under a temporary name in the same folder, flushed, renamed. The folder is an open descriptor, so what
is written lands beside the file that was read, whatever has happened to the path since. What this program did
not write is never replaced.

Of two records the stale one goes first: an error record makes way for a sidecar, and a sidecar for an error
record, before the new one is written. A crash between the two leaves a document without record, which is done
again, never one with both.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ocr_watcher import names
from ocr_watcher.errors import OutputError, OutputExistsError
from ocr_watcher.inbox.files import check_can_rename, discard, stat_file
from ocr_watcher.inbox.records import is_foreign
from ocr_watcher.names import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def check_place(folder: int, document: str) -> None:
    """Find out whether a sidecar can be written, as far as that can be told before.

    Raises `OutputExistsError` where somebody else's file has its name, `OutputError` where nothing can be
    renamed in the folder.
    """
    own = names.records_of(document)
    try:
        foreign = is_foreign(folder, own.sidecar)
    except PermissionError:  # ours would be readable
        foreign = True
    if foreign:
        raise OutputExistsError(f"{printable(own.sidecar)} exists and is not a sidecar of ocr-watcher")
    with _as_output_error(own.sidecar):
        check_can_rename(folder)


def commit(folder: int, document: str, like: os.stat_result, pieces: Iterable[bytes]) -> None:
    """Write the sidecar of `document` (a file name) into the open folder: the commit point.

    Args:
        folder: descriptor of the folder.
        document: the file that the record is about.
        like: its status; the record gets its mode, and its owner where this process may give files away.
        pieces: the record's bytes, in order.

    Raises `OutputError` where the folder cannot be written, `OutputExistsError` where somebody else's file is
    in the way, and what going through `pieces` raises.
    """
    check_place(folder, document)
    own = names.records_of(document)
    with _as_output_error(own.sidecar):
        _remove(folder, own.error)
        _write(folder, own.sidecar, pieces, like)


def commit_error(folder: int, document: str, like: os.stat_result, record: bytes) -> None:
    """Write the error record of `document`, like `commit`."""
    own = names.records_of(document)
    with _as_output_error(own.error):
        foreign = is_foreign(folder, own.error)
    if foreign:
        raise OutputError(
            f"{printable(own.error)} exists and is not an error record of ocr-watcher",
            hint="Move that file away.",
        )
    with _as_output_error(own.error):
        _remove(folder, own.sidecar)
        _write(folder, own.error, (record,), like)


def forget_failure(folder: int, document: str) -> None:
    """Remove the error record of `document`, so that it is tried again."""
    own = names.records_of(document)
    with _as_output_error(own.error):
        _remove(folder, own.error)


_BLOCK_BYTES = 1 << 16


@contextmanager
def _as_output_error(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {printable(name)}: {error.strerror or error}") from error


def _write(folder: int, name: str, pieces: Iterable[bytes], like: os.stat_result) -> None:
    """Put a file at `name`, complete or not at all; readable by those who may read the document."""
    check_can_rename(folder)
    temporary = names.temporary()
    mode = (like.st_mode & 0o666) | 0o600
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(temporary, flags, 0o600, dir_fd=folder)
        try:
            with suppress(OSError):  # some network file systems lock nothing
                # Says that it is in the making: another process takes it for a leftover otherwise.
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The text is as private as its picture. Owner and group follow where we may set them
            # (root); elsewhere the record belongs to the service.
            with suppress(OSError):
                os.fchown(fd, like.st_uid, like.st_gid)
            with suppress(OSError):  # file systems without modes refuse this
                os.fchmod(fd, mode)
            for block in _blocks(pieces):
                view = memoryview(block)
                while view:
                    view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            discard(folder, temporary)
        raise
    with suppress(OSError):  # some network file systems cannot flush a folder
        os.fsync(folder)


def _blocks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in blocks that are worth a call of the operating system."""
    block = bytearray()
    for piece in pieces:
        block += piece
        if len(block) >= _BLOCK_BYTES:
            yield bytes(block)
            block.clear()
    yield bytes(block)


def _remove(folder: int, name: str) -> None:
    """Remove a record of ours; nothing happens where there is none or it is somebody else's."""
    if stat_file(folder, name) is not None and not is_foreign(folder, name):
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
