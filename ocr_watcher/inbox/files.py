"""Opening things beneath an inbox without ever following a link out of it.

Every step from the inbox down is opened relative to the folder before it, with O_NOFOLLOW, so a
link that is swapped in at any moment is refused by the kernel instead of being checked and then
raced. The open folder is also where the sidecar is written: it lands beside the image that was
read, whatever has happened to the path since. The inbox itself may be a link: that is the
administrator's word, not an inbox user's.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ocr_watcher.errors import AccessError, VanishedError
from ocr_watcher.inbox.ready import kind_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader
    from pathlib import Path

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
"""How a folder is opened; with O_NOFOLLOW everywhere but at an inbox itself."""
# O_NONBLOCK: opening a named pipe that was swapped in must not hang the consumer.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}


def access_error(error: OSError, what: str) -> VanishedError | AccessError:
    """The error to raise for an OSError met while opening or reading: gone, or refused for now."""
    reason = error.strerror or str(error)
    if error.errno in _GONE:
        return VanishedError(f"{what}: {reason}")
    return AccessError(f"cannot read {what}: {reason}")


@contextmanager
def open_folder(root: Path, parts: tuple[str, ...]) -> Iterator[int]:
    """Open the folder `parts` below `root`; yields its descriptor and closes it.

    Raises `VanishedError` where a step is missing or has become a link, `AccessError` where the
    operating system refuses.
    """
    try:
        fd = descend(root, parts)
    except OSError as error:
        raise access_error(error, str(root.joinpath(*parts))) from error
    try:
        yield fd
    finally:
        os.close(fd)


def descend(root: str | Path, parts: tuple[str, ...]) -> int:
    """Open the folder `parts` below `root`; the caller closes the descriptor. Raises OSError."""
    fd = os.open(root, FOLDER)
    for part in parts:
        try:
            below = descend_one(fd, part)
        finally:
            os.close(fd)
        fd = below
    return fd


def descend_one(folder: int, part: str) -> int:
    """Open the folder `part` in an open one; the caller closes the descriptor. Raises OSError."""
    return os.open(part, FOLDER | os.O_NOFOLLOW, dir_fd=folder)


def open_file(folder: int, name: str) -> BufferedReader:
    """Open the regular file `name` in the open folder for reading; the caller closes it.

    Raises `VanishedError` where it is gone or no regular file any more, `AccessError` where the
    operating system refuses.
    """
    try:
        fd = os.open(name, _FILE, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, or a pipe without a writer
            raise VanishedError(f"{name}: is no regular file") from error
        raise access_error(error, name) from error
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        raise VanishedError(f"{name}: is now {kind_of(mode)}")
    return os.fdopen(fd, "rb")


def stat_file(folder: int, name: str) -> os.stat_result | None:
    """The lstat of `name` in the open folder; None where there is nothing.

    Raises `AccessError` where the operating system refuses.
    """
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise AccessError(f"cannot read {name}: {error.strerror}") from error


def remove_leftover(folder: int, name: str) -> bool | None:
    """Remove the temporary file of a process that was killed.

    Returns False where it cannot be removed, None where it is still being written: its writer holds a lock on
    it (`outputs.commit`), as `once` does beside a daemon.
    """
    return None if _is_locked(folder, name) else discard(folder, name)


# Folders in which a file can be made, but neither renamed nor removed (append-only ones, some drop boxes), by
# device and inode: a temporary file that is left there.
_stuck: dict[tuple[int, int], str] = {}
_MAX_STUCK = 1000


def discard(folder: int, name: str) -> bool:
    """Remove a temporary file; False where that is impossible, which `check_can_rename` then knows."""
    identity = _identity(folder)
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        pass
    except OSError:
        if len(_stuck) >= _MAX_STUCK:
            _stuck.clear()  # one more file is left in each, and they are known again
        _stuck[identity] = name
        return False
    if _stuck.get(identity) == name:
        del _stuck[identity]
    return True


def check_can_rename(folder: int) -> None:
    """Raise OSError in a folder in which a temporary file would stay for ever, as one did before.

    The one that is there tells, by whether it can be removed now.
    """
    left = _stuck.get(_identity(folder))
    if left is not None and not discard(folder, left):
        raise PermissionError(
            errno.EPERM, "files can be made in this folder, but neither renamed nor removed"
        )


def _identity(folder: int) -> tuple[int, int]:
    status = os.fstat(folder)
    return status.st_dev, status.st_ino


def _is_locked(folder: int, name: str) -> bool:
    try:
        fd = os.open(name, _FILE, dir_fd=folder)
    except OSError:  # gone, or a link: nobody of ours writes it
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # some network file systems lock nothing
        return False
    finally:
        os.close(fd)
    return False
