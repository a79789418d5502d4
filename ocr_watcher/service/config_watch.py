"""Notices that the configuration file does not say any more what the process was started with.

Nothing is applied here: a change asks for a reload, and is told once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ocr_watcher.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ocr_watcher.config import Settings

_Identity = tuple[int, int, int] | None


@dataclass(frozen=True)
class Change:
    """The file says something else, or nothing that can be used: then `mistakes` has the reason."""

    mistakes: str = ""


class ConfigWatch:
    """Compares the file with the settings in force."""

    def __init__(
        self,
        in_force: Settings,
        load: Callable[[], Settings | None],
        stat: Callable[[Path], os.stat_result] = os.stat,
    ) -> None:
        """`load` reads the file anew; raises `ServiceError` where it is wrong."""
        self._in_force = in_force
        self._load = load
        self._stat = stat
        self._seen = self._judged = self._identity()
        self.differs = False

    def look(self) -> Change | None:
        """What there is to tell; to be called on a timer.

        A file that was changed is read when it was the same at two looks: it may still be written.
        """
        before, self._seen = self._seen, self._identity()
        if self._seen == self._judged or self._seen != before:
            return None
        self._judged = self._seen
        try:
            now = self._load()
        except ServiceError as error:
            self.differs = True
            return Change(str(error))
        self.differs = now is not None and now != self._in_force
        return Change() if self.differs else None

    def note_told(self) -> None:
        """Somebody has asked for this version, and was told what is wrong with it."""
        self._judged = self._seen = self._identity()
        self.differs = True

    def _identity(self) -> _Identity:
        """What changes with the file; None where there is none."""
        if self._in_force.source is None:
            return None
        try:
            status = self._stat(self._in_force.source)
        except OSError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns
