"""The shared folders, by name, and how a host knows that it sees the real ones.

An unmounted share is an empty folder, in which every document looks as if it were gone, and on which a record
is lost. So the dispatcher puts a small file with a random identity into each root and each tree of results;
who takes a job first looks whether they are there.
"""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ocr_watcher import names

if TYPE_CHECKING:
    from pathlib import Path

_IDENTITY = re.compile(r"[0-9a-f]{32}")
_BETWEEN: Final = "+"
PROBE_NS: Final = 1_700_000_000_123_456_789
"""The time of a probe."""


def identity_of(*folders: Path) -> str:
    """The identities of these folders, one after the other; "" stands for one that has none.

    Raises OSError where one cannot be looked at.
    """
    return _BETWEEN.join(map(_identity_of, folders))


def mark(*folders: Path) -> str:
    """Give each an identity where it has none and can be written; returns what `identity_of` does."""
    return _BETWEEN.join(map(_mark, folders))


def is_same(told: str, there: str) -> bool:
    """Whether folders are those that a job tells of: `there` is what `identity_of` says of them."""
    known = told.split(_BETWEEN)
    here = there.split(_BETWEEN)
    return len(known) == len(here) and all(one in ("", other) for one, other in zip(known, here, strict=True))


def put_probe(root: str, folder: Path) -> str:
    """Put a file into a root by a rename; returns what others see of it (see `probe_of`). Raises OSError.

    Its time has nanoseconds, which not every file system keeps.
    """
    fresh = folder / names.temporary()
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, secrets.token_hex(16).encode())
        os.utime(fd, ns=(PROBE_NS, PROBE_NS))
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(fresh, folder / names.SHARE_PROBE)
    return probe_of(root, folder)


def remove_probe(folder: Path) -> None:
    """Take it away again."""
    with suppress(OSError):
        os.unlink(folder / names.SHARE_PROBE)


def probe_of(root: str, folder: Path) -> str:
    """What is seen of the probe in a root: the root's name, content and time; "" where there is none."""
    try:
        fd = os.open(folder / names.SHARE_PROBE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return f"{root}:{os.read(fd, 64).decode('ascii', 'replace')}:{os.fstat(fd).st_mtime_ns}"
    except OSError:
        return ""
    finally:
        os.close(fd)


def _identity_of(folder: Path) -> str:
    try:
        fd = os.open(folder / names.SHARE_MARK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        told = os.read(fd, 64).decode("ascii", "replace").strip()
    finally:
        os.close(fd)
    return told if _IDENTITY.fullmatch(told) else ""


def _mark(folder: Path) -> str:
    """Of two that do so at once one wins: the file is linked into place, which fails where there is one."""
    try:
        if there := _identity_of(folder):
            return there
        fresh = folder / names.temporary()
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, f"{secrets.token_hex(16)}\n".encode())
            os.fsync(fd)
        finally:
            os.close(fd)
        try:
            os.link(fresh, folder / names.SHARE_MARK)
        except FileExistsError:
            pass
        except OSError:  # no links on this file system
            os.rename(fresh, folder / names.SHARE_MARK)
        with suppress(FileNotFoundError):
            os.unlink(fresh)
        return _identity_of(folder)
    except OSError:
        return ""
