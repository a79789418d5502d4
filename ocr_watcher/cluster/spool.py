"""The spool of a bridge: folders that the daemon of this host watches, each for one document at a time.

The document keeps its name, so the daemon's records and outputs need no change when they are put beside the
original. A file `.errand` in each folder says whose document it is; it comes first and goes last, so whatever
ends the process, the next one knows what everything here is for.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ocr_watcher import names
from ocr_watcher.cluster.message import Message
from ocr_watcher.errors import AccessError, UnavailableError
from ocr_watcher.inbox import records
from ocr_watcher.inbox.files import FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader
    from pathlib import Path

    from ocr_watcher.document import Output
    from ocr_watcher.inbox.records import RecordState

FOLDERS: Final = 8
"""Documents that may be in the spool at the same time. The folders are there from the start: the daemon would
find a new one by a scan, which takes a second."""
_BLOCK_BYTES: Final = 1 << 20


class SpoolError(Exception):
    """The spool takes nothing, or cannot be read: no space, no permission, an I/O error."""


@dataclass(frozen=True)
class Errand:
    """A document in the spool: whose it is, and the folder that it is in."""

    message: Message
    folder: Path

    @property
    def path(self) -> str:
        """Where the daemon finds the document."""
        return os.path.join(self.folder, self.message.name)

    def state(self) -> RecordState:
        """What the daemon's records say; `OPEN` and `RETRY` mean that it is not through with it."""
        return records.lookup(self.path, self.message.stamp)

    def outputs(self) -> tuple[Output, ...]:
        """What the daemon wrote beside the record, as that says. Raises `SpoolError`."""
        with as_spool_error():
            folder = os.open(self.folder, FOLDER)
            try:
                return records.manifest(folder, names.records_of(self.message.name).sidecar)
            finally:
                os.close(folder)

    def has_document(self) -> bool:
        """Whether the whole document is there for the daemon."""
        return os.path.lexists(self.path)


class Spool:
    """The folders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: int | None = None

    def open(self) -> None:
        """Make the folders, and be the only bridge on them. Raises `UnavailableError`."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._lock = os.open(self.folder / names.BRIDGE_LOCK, flags, 0o600)
            for folder in self._folders():
                folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise UnavailableError(
                f"cannot write the spool {self.folder}: {error.strerror}",
                hint="Set cluster.spool to a folder that this user may write.",
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UnavailableError(
                f"another bridge already works on the spool {self.folder}",
                hint="Stop it first; one is enough for a daemon.",
            ) from error

    def close(self) -> None:
        """Let the next bridge in."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # -- errands -------------------------------------------------------------------------------

    def errands(self) -> list[Errand]:
        """Everything that is in the spool. What cannot be understood is cleared. Raises `SpoolError`."""
        found = []
        with as_spool_error():
            for folder in self._folders():
                message = _read(folder)
                if message is not None:
                    found.append(Errand(message, folder))
                else:
                    _clear(folder, with_errand=True)
        return found

    def begin(self, message: Message) -> Errand:
        """Take a folder for a document. Raises `SpoolError`, also where none is free."""
        with as_spool_error():
            for folder in self._folders():
                if not os.path.lexists(folder / names.ERRAND):
                    _clear(folder)
                    _write(folder / names.ERRAND, json.dumps(message.as_dict()).encode("ascii"))
                    return Errand(message, folder)
        raise SpoolError("every folder of the spool is taken")

    @staticmethod
    def bring_ticket(errand: Errand, content: bytes | None) -> None:
        """What a client of the HTTP server asked for with the document, before it. Raises `SpoolError`."""
        if content is not None:
            with as_spool_error():
                _write(errand.folder / names.ticket_of(errand.message.name), content)

    def bring(self, errand: Errand, original: BufferedReader) -> bool:
        """Copy the document in, with its time, flush it, and show it to the daemon; False where it changed.

        Raises `AccessError` where it cannot be read, and `SpoolError`.
        """
        temporary = errand.folder / names.temporary()
        with as_spool_error():
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                status = _copy(original, fd)
                if (status.st_size, status.st_mtime_ns) != errand.message.stamp:
                    return False
                os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))
                written = os.fstat(fd)
                if (written.st_size, written.st_mtime_ns) != errand.message.stamp:
                    raise SpoolError("the file system of the spool does not keep a file's time")
                os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(temporary, errand.path)
        return True

    @staticmethod
    def end(errand: Errand) -> None:
        """Remove everything of an errand. What the daemon has in hand ends without a record.

        Raises `SpoolError`.
        """
        with as_spool_error():
            # The document first: a record that goes before it would have it read again.
            with suppress(FileNotFoundError):
                os.unlink(errand.path)
            _clear(errand.folder)
            with suppress(FileNotFoundError):
                os.unlink(errand.folder / names.ERRAND)

    def _folders(self) -> list[Path]:
        return [self.folder / str(number) for number in range(FOLDERS)]


@contextmanager
def as_spool_error() -> Iterator[None]:
    """What the operating system refuses in the spool is a `SpoolError`."""
    try:
        yield
    except OSError as error:
        raise SpoolError(error.strerror or str(error)) from error


def _copy(original: BufferedReader, fd: int) -> os.stat_result:
    """Copy a file; returns its status after that. Raises `AccessError`, and OSError for the copy."""
    while True:
        try:
            block = original.read(_BLOCK_BYTES)
            if not block:
                return os.fstat(original.fileno())
        except OSError as error:
            raise AccessError(f"cannot read the document: {error.strerror}") from error
        view = memoryview(block)
        while view:
            view = view[os.write(fd, view) :]


def _clear(folder: Path, *, with_errand: bool = False) -> None:
    """Remove everything, or all but the errand."""
    for name in os.listdir(folder):
        if with_errand or name != names.ERRAND:
            with suppress(FileNotFoundError):
                os.unlink(folder / name)


def _read(folder: Path) -> Message | None:
    try:
        return Message.from_dict(json.loads((folder / names.ERRAND).read_bytes()))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    temporary = path.with_name(names.temporary())
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, content)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(temporary, path)
