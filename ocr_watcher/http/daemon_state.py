"""The daemon as seen from the server: whether it works, and what it says it is doing.

It tells so in its state folder; the two processes share nothing else. A recycle takes seconds, so a daemon
counts as away only when nobody has seen it for longer.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Final

from ocr_watcher import names
from ocr_watcher.errors import UnavailableError
from ocr_watcher.http.problems import Problem
from ocr_watcher.service import lock
from ocr_watcher.service.told import StatusFile, Told

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ocr_watcher.http.spool import Job

AWAY_S: Final = 30.0
"""A restart, with the model loaded and a test image read, takes 3 to 10 s."""

# How old what is known may be.
_FRESH_S: Final = 0.25
# Beyond the interval at which it tells its figures anyway, a daemon that says nothing hangs.
_SILENT_S: Final = 60.0


class DaemonState:
    """What is known of the daemon of one configuration."""

    def __init__(
        self,
        state_dir: Path,
        spool: Path,
        stats_interval_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._state_dir = state_dir
        self._spool = str(spool)
        self._file = StatusFile(state_dir / names.STATUS)
        self._silent_s = stats_interval_s + _SILENT_S
        self._clock = clock
        self._wall_clock = wall_clock
        self._looked_at = clock() - _FRESH_S
        self._seen_at = clock()  # it may be starting, as we are
        self._told = Told()
        self._running = False

    @property
    def told(self) -> Told:
        """What the daemon last told, running or not."""
        self._look()
        return self._told

    @property
    def running(self) -> bool:
        """Whether there is a daemon now, starting ones included."""
        self._look()
        return self._running

    @property
    def away_s(self) -> float:
        """How long there has been none; 0 where there is one."""
        self._look()
        return 0.0 if self._running else self._clock() - self._seen_at

    def problem(self) -> Problem | None:
        """Why no work is taken in; None where it is."""
        if self.away_s > AWAY_S:
            return _away(
                "the OCR daemon is not running", "Start `ocr-watcher run` with the same configuration."
            )
        if self._running and self._told.pid and self._told.spool != self._spool:
            return _away(
                "the OCR daemon does not watch the spool",
                "Put an `http:` section into its configuration, and start it again.",
            )
        if self._running and self._is_silent():
            return _away("the OCR daemon does not answer", "See its log; restart it.")
        return None

    def page_of(self, job: Job) -> tuple[int, int | None] | None:
        """The page (from 1) of a job that is being read, of how many; None where it is not."""
        in_hand = self.told.in_hand
        if not self._running or in_hand is None or in_hand.path != names.printable(job.path):
            return None
        return in_hand.page, in_hand.pages

    def _look(self) -> None:
        now = self._clock()
        if now - self._looked_at < _FRESH_S:
            return
        self._looked_at = now
        try:
            self._running = lock.running(self._state_dir) is not None
        except UnavailableError:
            self._running = False
        self._told = self._file.read()
        if self._running:
            self._seen_at = now

    def _is_silent(self) -> bool:
        if self._told.updated_at is None:
            return False
        told_at = datetime.fromisoformat(self._told.updated_at).timestamp()
        return self._wall_clock() - told_at > self._silent_s


class ClusterState(DaemonState):
    """In its place where the hosts of a cluster read: the share is the queue, so work is always taken in.

    Who reads is not known here: a server speaks to no broker.
    """

    def problem(self) -> Problem | None:
        """See `DaemonState`."""
        return None

    def page_of(self, job: Job) -> tuple[int, int | None] | None:  # noqa: ARG002 - of the base
        """See `DaemonState`."""
        return None


def _away(message: str, hint: str) -> Problem:
    return Problem(503, "daemon_away", message, hint=hint, headers={"Retry-After": "10"})
