"""The shared folders, by name, and how a host knows that it sees the real one.

An unmounted share is an empty folder, in which every document looks as if it were gone. So the dispatcher
puts a small file with a random identity into each root, and who takes a job first looks whether it is there.
"""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

from ocr_watcher import names

if TYPE_CHECKING:
    from pathlib import Path

_IDENTITY = re.compile(r"[0-9a-f]{32}")


def identity_of(root: Path) -> str:
    """The identity that a root has; "" where it has none. Raises OSError where it cannot be looked at."""
    try:
        fd = os.open(root / names.SHARE_MARK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        told = os.read(fd, 64).decode("ascii", "replace").strip()
    finally:
        os.close(fd)
    return told if _IDENTITY.fullmatch(told) else ""


def mark(root: Path) -> str:
    """Give a root an identity where it has none; returns it, or "" where nothing can be written there.

    Of two that do so at once, one wins: the file is linked into place, which fails where it is there.
    """
    try:
        if there := identity_of(root):
            return there
        made = secrets.token_hex(16)
        fresh = root / names.temporary()
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, f"{made}\n".encode())
            os.fsync(fd)
        finally:
            os.close(fd)
        try:
            os.link(fresh, root / names.SHARE_MARK)
        except FileExistsError:
            pass
        except OSError:  # no links on this file system
            os.rename(fresh, root / names.SHARE_MARK)
        with suppress(FileNotFoundError):
            os.unlink(fresh)
        return identity_of(root)
    except OSError:
        return ""
