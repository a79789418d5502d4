"""Moves finished documents into the archive, with their record and outputs. Nothing is ever deleted.

The document goes last: as long as it is in the inbox, the next attempt goes on where this one ended. Across
file systems everything is copied and flushed before the first original is removed.
"""

from __future__ import annotations

import errno
import hashlib
import os
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ocr_watcher import names
from ocr_watcher.errors import ChangedError, OutputError, OutputExistsError
from ocr_watcher.inbox import records
from ocr_watcher.inbox.files import descend_one, open_file, stat_file
from ocr_watcher.inbox.records import RecordState
from ocr_watcher.job import Stamp
from ocr_watcher.names import printable
from ocr_watcher.outputs import commit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader

_BLOCK_BYTES: Final = 1 << 20
# Where the archive has another document of the name, this one gets a folder named after its content.
_DIGEST_DIGITS: Final = 16


@dataclass(frozen=True)
class Finished:
    """A document that has its record.

    Attributes:
        name: Its file name.
        stamp: The version that was read.
        sha256: Of its content.
        folder: Descriptor of the folder that it is in.
        with_records: Its record and outputs are beside it, and go with it.
    """

    name: str
    stamp: Stamp
    sha256: str
    folder: int
    with_records: bool


def has_record(target: int, name: str, stamp: Stamp, sha256: str) -> bool:
    """Whether the record of a document is in the archive already: its move was broken off.

    `target` is the descriptor of the folder in the archive.
    """
    if records.lookup(name, stamp, folder=target) is RecordState.DONE:
        return True
    try:
        own = descend_one(target, sha256[:_DIGEST_DIGITS])
    except OSError:
        return False
    try:
        return records.lookup(name, stamp, folder=own) is RecordState.DONE
    finally:
        os.close(own)


def move(finished: Finished, target: int) -> None:
    """Move a document into the open folder `target` of the archive.

    Raises:
        ChangedError: It is not the version that was read.
        OutputExistsError: Somebody else's file is in the way.
        OutputError: The archive cannot be written.
    """
    try:
        with _own_folder(finished, target) as folder:
            _move(finished, folder)
    except OSError as error:
        raise OutputError(
            f"cannot move {printable(finished.name)} into the archive: {error.strerror or error}",
            hint="Check free space and write permission of output.archive and the inbox; it is tried again.",
        ) from error


@contextmanager
def _own_folder(finished: Finished, target: int) -> Iterator[int]:
    """The folder for a document: `target`, or one below it where that has another document of the name."""
    if _is_free(finished, target):
        yield target
        return
    name = finished.sha256[:_DIGEST_DIGITS]
    with suppress(FileExistsError):
        os.mkdir(name, os.fstat(target).st_mode & 0o777 | 0o700, dir_fd=target)
    own = descend_one(target, name)
    try:
        if not _is_free(finished, own):
            raise OutputExistsError(
                f"the archive has other files named {printable(finished.name)} or like its results"
            )
        yield own
    finally:
        os.close(own)


def _is_free(finished: Finished, folder: int) -> bool:
    """Whether nothing would be lost: what is there is absent, ours, or a document of the same content."""
    there = stat_file(folder, finished.name)
    if there is not None and not (
        there.st_size == finished.stamp.size_bytes and _sha256(folder, finished.name) == finished.sha256
    ):
        return False
    if not finished.with_records:
        return True
    try:
        commit.check_place(folder, finished.name, names.OUTPUT_SUFFIXES)
    except OutputExistsError:
        return False
    # A record without its document is of one that somebody took out.
    return (
        there is not None
        or stat_file(folder, names.records_of(finished.name).sidecar) is None
        or records.lookup(finished.name, finished.stamp, folder=folder) is RecordState.DONE
    )


def _move(finished: Finished, target: int) -> None:
    _check(finished)
    moving = _to_move(finished)
    try:
        for name in moving:
            if name == finished.name:
                _check(finished)
            os.rename(name, name, src_dir_fd=finished.folder, dst_dir_fd=target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy_and_remove(finished, moving, target)
    for folder in (target, finished.folder):
        with suppress(OSError):  # some network file systems cannot flush a folder
            os.fsync(folder)


def _to_move(finished: Finished) -> list[str]:
    """Names of the files that are still here, in the order in which they go."""
    if not finished.with_records:
        return [finished.name]
    outputs = [name for _, name in commit.outputs_of(finished.folder, finished.name)]
    sidecar = names.records_of(finished.name).sidecar
    there = [name for name in (*outputs, sidecar) if stat_file(finished.folder, name) is not None]
    return [*there, finished.name]


def _check(finished: Finished) -> None:
    """See that the document is still the version that was read."""
    status = stat_file(finished.folder, finished.name)
    if status is None or Stamp.of(status) != finished.stamp:
        raise ChangedError("it changed before it was archived: reading it again")


def _copy_and_remove(finished: Finished, moving: list[str], target: int) -> None:
    with ExitStack() as at_end:
        made: list[commit.Making] = []
        for name in moving:
            with open_file(finished.folder, name) as file:
                made.append(_copied(file, name, target))
                at_end.callback(made[-1].discard)
            if name == finished.name and made[-1].sha256 != finished.sha256:
                raise ChangedError("it changed before it was archived: reading it again")
        for making in made:
            making.put()
    with suppress(OSError):
        os.fsync(target)
    for name in moving:
        if name == finished.name:
            _check(finished)
        os.unlink(name, dir_fd=finished.folder)


def _copied(file: BufferedReader, name: str, target: int) -> commit.Making:
    """A finished copy of a file, which has its times too: by them a record knows its document."""
    status = os.fstat(file.fileno())
    making = commit.Making(target, name, status)
    try:
        making.write(iter(lambda: file.read(_BLOCK_BYTES), b""))
        making.finish(mark=True, times_ns=(status.st_atime_ns, status.st_mtime_ns))
    except BaseException:
        making.discard()
        raise
    return making


def _sha256(folder: int, name: str) -> str:
    with open_file(folder, name) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
