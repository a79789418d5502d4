"""What this process may do with a folder. Looks, and changes nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ocr_watcher.errors import UnavailableError

if TYPE_CHECKING:
    from pathlib import Path

_READ = os.R_OK | os.X_OK
_ALL = _READ | os.W_OK


def may(path: Path, mode: int) -> bool:
    """Whether the effective user of this process may do that; False also where there is no such file.

    `mode` is one of `os.R_OK`, `os.W_OK` and `os.X_OK`, or several of them combined with `|`.
    """
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def check_inbox(inbox: Path, *, writes: bool = True) -> None:
    """Find out whether the inbox is a folder that may be read, and written where `writes` says so.

    Raises:
        UnavailableError: it is not.
    """
    if not os.path.isdir(inbox):
        raise UnavailableError(
            f"the inbox {inbox} is {'not a folder' if os.path.exists(inbox) else 'missing'}",
            hint="Create it, mount it, or correct watch.inbox. It is never created for you: "
            "an unmounted share must not turn into an empty folder.",
        )
    if not may(inbox, _ALL if writes else _READ):
        raise UnavailableError(
            f"the inbox {inbox} cannot be read{' and written' if writes else ''} by this user",
            hint="Results are written next to the images: give the user read and write permission, or set "
            "output.folder for results elsewhere."
            if writes
            else "Give the user read permission.",
        )


def check_tree(folder: Path, key: str) -> None:
    """Find out whether a folder that results go to is there and may be written; `key` is its setting.

    Raises:
        UnavailableError: it is not.
    """
    if not os.path.isdir(folder):
        raise UnavailableError(
            f"{key} {folder} is {'not a folder' if os.path.exists(folder) else 'missing'}",
            hint=f"Create it, mount it, or correct {key}. It is never created for you: an unmounted share "
            "must not turn into an empty folder.",
        )
    if not may(folder, _ALL):
        raise UnavailableError(
            f"{key} {folder} cannot be read and written by this user",
            hint="Give the user read and write permission.",
        )


def obstacle(folder: Path) -> str:
    """Why `folder` cannot be written, or created where it is missing; empty where nothing is in the way."""
    there = folder
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not os.path.isdir(there):
        return f"{there} is not a folder"
    if not may(there, os.W_OK | os.X_OK):
        return f"{there} cannot be written by this user"
    return ""
