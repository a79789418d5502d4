"""One instance on each state folder and each inbox, and who that is.

flock on the state folder's lock file and on the inbox itself: the kernel lets go of both when the
process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ocr_watcher import names
from ocr_watcher.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ocr_watcher.config import Settings


# Who only looks (`running`) holds the lock for microseconds; who works keeps it.
_TRIES = 5
_PAUSE_S = 0.05


@contextmanager
def hold_lock(settings: Settings) -> Iterator[None]:
    """Be the only instance on this state folder and on each inbox.

    Raises `UnavailableError` naming the process that is already there.
    """
    state = settings.state_dir
    try:
        state.mkdir(parents=True, exist_ok=True)
        own = os.open(state / names.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UnavailableError(
            f"cannot write the state folder {state}: {error.strerror}",
            hint="Set state_dir to a folder that the service may write.",
        ) from error
    held = [own]
    try:
        _lock(own, own, state)
        for inbox in settings.inboxes:
            held.append(os.open(inbox, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            _lock(held[-1], own, inbox)
        os.ftruncate(own, 0)
        os.pwrite(own, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        for fd in held:
            os.close(fd)


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


def _lock(fd: int, own: int, what: Path) -> None:
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
        holder = os.pread(own, 32, 0).decode("ascii", "replace").strip() if fd == own else lock_holder(fd)
        raise UnavailableError(
            f"another instance already works on {what}" + (f" (process {holder})" if holder else ""),
            hint="Stop it first, or give this one its own watch.inbox and state_dir.",
        ) from None
    except OSError as error:
        if fd == own:
            raise UnavailableError(f"cannot lock {what}: {error.strerror}") from error
        # Some network file systems lock no folders; the lock on the state folder remains.


def lock_holder(fd: int) -> str:
    """The process that holds a flock on the open file, from /proc/locks; "" where it is not told."""
    status = os.fstat(fd)
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with suppress(OSError), open("/proc/locks", encoding="ascii") as rows:
        for row in rows:
            fields = row.split()
            if "FLOCK" in fields and device in fields:
                return fields[fields.index("FLOCK") + 3]
    return ""
