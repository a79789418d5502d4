"""Which inboxes are worked on, by which process: no two work on the same one, nor on one inside the other's.

Every inbox has a file in a folder that all instances of one user share, locked for as long as the process
lives: the kernel lets go of it however that ends. Only that user and root can open the folder, so nobody else
can keep a service from starting. Nothing in the inbox itself is locked.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import stat
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ocr_watcher import log
from ocr_watcher.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Made by the units, with RuntimeDirectory=. Whoever else runs as their user finds them there too.
_SERVICE_FOLDER: Final = Path("/run/ocr-watcher")
_SUFFIX: Final = ".claim"
_MUTEX: Final = "mutex"
# How long to wait for another process that looks through the claims just now: that takes milliseconds.
_TRIES = 100
_PAUSE_S = 0.05

Identity = tuple[int, int]
"""Device and inode: what a folder is, whatever path leads there."""


@dataclass(frozen=True)
class Claim:
    """That a process works on an inbox; `above` are the folders that it is in, up to the root."""

    pid: int
    path: str
    identity: Identity
    above: tuple[Identity, ...]
    recursive: bool

    @classmethod
    def of(cls, inbox: Path, *, recursive: bool) -> Claim:
        """Claim for this process. Raises OSError where the inbox cannot be opened."""
        fd = os.open(inbox, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            identity, above = _identity(fd), _above(fd)
        finally:
            os.close(fd)
        return cls(os.getpid(), str(inbox), identity, above, recursive)

    def conflict(self, other: Claim) -> str:
        """How another claim excludes this one, in words; empty where it does not."""
        if other.identity == self.identity:
            return "it"
        if other.recursive and other.identity in self.above:
            return f"{other.path}, which it is in"
        if self.recursive and self.identity in other.above:
            return f"{other.path}, which is in it"
        return ""

    @classmethod
    def from_json(cls, text: bytes) -> Claim:
        """Raises ValueError, KeyError or TypeError where it is none."""
        told: dict[str, Any] = json.loads(text)
        above = tuple((device, inode) for device, inode in told["above"])
        device, inode = told["identity"]
        return cls(told["pid"], told["path"], (device, inode), above, told["recursive"])


def shared_folder() -> Path:
    """Where the instances of this user meet."""
    with suppress(OSError):
        if os.stat(_SERVICE_FOLDER).st_uid == os.geteuid():
            return _SERVICE_FOLDER
    # Not $TMPDIR nor $XDG_RUNTIME_DIR: cron and a terminal would meet in different places.
    return Path(f"/tmp/ocr-watcher-{os.geteuid()}")  # noqa: S108 - whose it is and who may enter is checked


class Claims:
    """The claims of this process."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or shared_folder()
        self._held: dict[Path, tuple[int, str, Claim]] = {}

    def add(self, inbox: Path, *, recursive: bool) -> None:
        """Claim an inbox. May be called again: it may be another folder by now.

        Where claims cannot be kept the log says so, and the work goes on.

        Raises:
            UnavailableError: another process of this user works on it, on a folder that it is in, or on one
                in it; or the inbox cannot be opened.
        """
        try:
            claim = Claim.of(inbox, recursive=recursive)
        except OSError as error:
            raise UnavailableError(f"cannot open the inbox {inbox}: {error.strerror}") from error
        held = self._held.get(inbox)
        if held is not None and held[2] == claim and os.fstat(held[0]).st_nlink:
            os.utime(held[0])  # what is old is cleared away in some shared folders
            return
        try:
            with self._alone() as folder:
                self._add(folder, inbox, claim)
        except OSError as error:
            log.get().warning(
                "claim.failed",
                inbox=str(inbox),
                message=f"another instance on it would not be noticed: {self._folder}: {error.strerror}",
            )

    def _add(self, folder: int, inbox: Path, claim: Claim) -> None:
        for other in self._others(folder):
            if words := claim.conflict(other):
                raise UnavailableError(
                    f"another instance already works on {inbox}: process {other.pid} works on {words}",
                    hint="Stop it first, or give this one a watch.inbox of its own.",
                )
        self._release(inbox)
        self._held[inbox] = (*_write(folder, claim), claim)

    def release(self) -> None:
        """Give all of them up."""
        for inbox in list(self._held):
            self._release(inbox)

    def _release(self, inbox: Path) -> None:
        held = self._held.pop(inbox, None)
        if held is not None:
            with suppress(OSError):
                os.unlink(self._folder / held[1])
            os.close(held[0])

    @contextmanager
    def _alone(self) -> Iterator[int]:
        """The open folder, while no other process looks through it. Raises OSError."""
        folder = _open_private(self._folder)
        try:
            mutex = os.open(
                _MUTEX, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder
            )
            try:
                for _ in range(_TRIES):
                    if _lock(mutex):
                        break
                    time.sleep(_PAUSE_S)
                yield folder
            finally:
                os.close(mutex)
        finally:
            os.close(folder)

    def _others(self, folder: int) -> Iterator[Claim]:
        """Claims of other processes that live; what the others left is removed."""
        own = {name for _, name, _ in self._held.values()}
        for name in os.listdir(folder):
            if not name.endswith(_SUFFIX) or name in own:
                continue
            try:
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            except OSError:
                continue
            try:
                if _lock(fd):
                    os.unlink(name, dir_fd=folder)
                else:
                    with suppress(ValueError, KeyError, TypeError):
                        yield Claim.from_json(os.read(fd, 1 << 20))
            finally:
                os.close(fd)


def _open_private(folder: Path) -> int:
    """Open a folder that only this user can enter, and make it where it is missing. Raises OSError."""
    with suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    status = os.fstat(fd)
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        os.close(fd)
        raise PermissionError(errno.EPERM, "somebody else may use this folder", str(folder))
    return fd


def _write(folder: int, claim: Claim) -> tuple[int, str]:
    """Write a locked file; returns its descriptor and its name."""
    name = secrets.token_hex(8) + _SUFFIX
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
    _lock(fd)
    os.write(fd, json.dumps(asdict(claim)).encode("utf-8", "surrogatepass"))
    return fd, name


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _identity(fd: int) -> Identity:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _above(fd: int) -> tuple[Identity, ...]:
    """The folders above an open one; as far as this user may go."""
    found: list[Identity] = []
    last, here = _identity(fd), os.dup(fd)
    try:
        while True:
            above = os.open("..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here)
            os.close(here)
            here = above
            if _identity(here) == last:
                break
            last = _identity(here)
            found.append(last)
    except OSError:
        pass
    finally:
        os.close(here)
    return tuple(found)
