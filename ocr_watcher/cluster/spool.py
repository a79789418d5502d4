"""The spool of a bridge: folders that the daemon of this host watches, each for one document at a time.

The document keeps its name, so the daemon's records and outputs need no change when they are put beside the
original. A file `.errand` in each folder says whose document it is; it comes first and goes last, so whatever
ends the process, the next one knows what everything here is for.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ocr_watcher import names
from ocr_watcher.cluster.message import Message
from ocr_watcher.errors import UnavailableError
from ocr_watcher.inbox import records
from ocr_watcher.inbox.files import FOLDER
from ocr_watcher.inbox.records import RecordState

if TYPE_CHECKING:
    from io import BufferedReader
    from pathlib import Path

# Folders that are there from the start. More are made where long documents are set aside; the daemon finds a new
# folder by a scan, which takes a second.
_FOLDERS: Final = 8
_BLOCK_BYTES: Final = 1 << 20


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
            self._lock = os.open(
                self.folder / names.BRIDGE_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            for number in range(_FOLDERS):
                (self.folder / str(number)).mkdir(mode=0o700, exist_ok=True)
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
        """Everything that is in the spool; folders whose errand cannot be understood are cleared. Raises OSError."""
        found = []
        for folder in self._folders():
            message = _read(folder)
            if message is not None:
                found.append(Errand(message, folder))
            else:
                _clear(folder)
        return found

    def begin(self, message: Message) -> Errand:
        """Take a folder for a document. Raises OSError."""
        folder = next(
            (folder for folder in self._folders() if not os.path.lexists(folder / names.ERRAND)), None
        )
        if folder is None:
            folder = self.folder / str(len(self._folders()))
            folder.mkdir(mode=0o700)
        _clear(folder)
        _write(folder / names.ERRAND, json.dumps(message.as_dict()).encode("ascii"))
        return Errand(message, folder)

    def bring(self, errand: Errand, original: BufferedReader) -> bool:
        """Copy the document in, with its time, flush it, and show it to the daemon; False where it changed.

        Raises OSError.
        """
        stamp = errand.message.stamp
        temporary = errand.folder / names.temporary()
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            size_bytes = 0
            while block := original.read(_BLOCK_BYTES):
                size_bytes += len(block)
                view = memoryview(block)
                while view:
                    view = view[os.write(fd, view) :]
            status = os.fstat(original.fileno())
            if (status.st_size, status.st_mtime_ns) != stamp or size_bytes != stamp.size_bytes:
                os.unlink(temporary)
                return False
            os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, errand.path)
        return True

    def end(self, errand: Errand) -> None:
        """Remove everything of an errand. Raises OSError."""
        _clear(errand.folder, first=errand.message.name)
        os.unlink(errand.folder / names.ERRAND)

    def _folders(self) -> list[Path]:
        return sorted(
            (self.folder / name for name in os.listdir(self.folder) if name.isdigit()),
            key=lambda folder: int(folder.name),
        )


def _clear(folder: Path, first: str | None = None) -> None:
    """Remove all but the errand; `first` goes first: a document without its record would be read again."""
    if first is not None:
        with suppress(FileNotFoundError):
            os.unlink(folder / first)
    for name in os.listdir(folder):
        if name != names.ERRAND:
            with suppress(FileNotFoundError):
                os.unlink(folder / name)


def _read(folder: Path) -> Message | None:
    try:
        return Message.from_dict(json.loads((folder / names.ERRAND).read_bytes()))
    except (OSError, ValueError, KeyError, TypeError):
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
