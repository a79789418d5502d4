"""One instance on each state folder, and who that is; with it, the claims on inboxes.

flock on the state folder's lock file: the kernel lets go of it when the process ends, however it ends. A
process with a thread in a call that does not come back has not ended: whoever leaves in spite of one lets go
before.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ocr_watcher import names
from ocr_watcher.errors import UnavailableError
from ocr_watcher.service.claims import Claims

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ocr_watcher.config import Settings


# Who only looks (`running`) holds the lock for microseconds; who works keeps it.
_TRIES = 5
_PAUSE_S = 0.05


@dataclass
class Hold:
    """That this process is the only instance on its state folder, and its claims on inboxes."""

    claims: Claims
    _fd: int | None

    def release(self) -> None:
        """Let go of all. May be called again."""
        self.claims.release()
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


@contextmanager
def hold_lock(settings: Settings) -> Iterator[Hold]:
    """Be the only instance on this state folder. What is held is let go of at the end.

    Raises `UnavailableError` naming the process that is already there.
    """
    state = settings.state_dir
    try:
        state.mkdir(parents=True, exist_ok=True)
        # Closed to others: whoever can open it can lock it.
        fd = os.open(state / names.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UnavailableError(
            f"cannot write the state folder {state}: {error.strerror}",
            hint="Set state_dir to a folder that the service may write.",
        ) from error
    hold = Hold(Claims(), fd)
    try:
        with suppress(OSError):  # made by an earlier version, or somebody else's
            os.fchmod(fd, 0o600)
        _lock(fd, state)
        _sign(fd)
        yield hold
    finally:
        hold.release()


@contextmanager
def hold_all(settings: Settings) -> Iterator[None]:
    """Be the only instance on this state folder and on each inbox. Raises `UnavailableError`."""
    with hold_lock(settings) as hold:
        for inbox in settings.watch.inbox:
            hold.claims.add(inbox, recursive=settings.watch.recursive)
        yield


def running(state: Path) -> int | None:
    """The process that works on the state folder; None where there is none, 0 where it is not told.

    Raises `UnavailableError` where the lock may not be looked at.
    """
    try:
        fd = os.open(state / names.LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnavailableError(
            f"cannot read the state folder {state}: {error.strerror}",
            hint="Ask as root, or as the user that the service runs as.",
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        told = os.pread(fd, 32, 0).strip()
        return int(told) if told.isdigit() else 0
    except OSError:
        return None
    finally:
        os.close(fd)
    return None


def _sign(fd: int) -> None:
    """Say who holds the lock. On a full disk nobody is named, and the work goes on."""
    told = f"{os.getpid()}\n".encode()
    try:
        written = os.pwrite(fd, told, 0)  # in the place of what is there: that needs no room
    except OSError:
        written = 0
    os.ftruncate(fd, written)


def _lock(fd: int, state: Path) -> None:
    try:
        for _ in range(_TRIES - 1):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_PAUSE_S)
            else:
                return
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        raise UnavailableError(
            f"another instance already works on {state}" + (f" (process {holder})" if holder else ""),
            hint="Stop it first, or give this one its own watch.inbox and state_dir.",
        ) from None
    except OSError as error:
        raise UnavailableError(f"cannot lock {state}: {error.strerror}") from error
