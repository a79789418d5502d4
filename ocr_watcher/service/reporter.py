"""What the daemon tells of itself: the status file, systemd's status line, and the figures in the log.

Written by the main thread only. What happens to jobs reaches it as an observer, from the consumer's thread.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import psutil

from ocr_watcher import __version__
from ocr_watcher.errors import ExitCode, VanishedError
from ocr_watcher.job import Outcome
from ocr_watcher.log import one_line
from ocr_watcher.names import printable
from ocr_watcher.outputs.sidecar import now
from ocr_watcher.service.told import InHand, LastError, LastExit, QueueState, SinceStart, Told, Total

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from structlog.typing import FilteringBoundLogger

    from ocr_watcher.config import Settings
    from ocr_watcher.jobs.supervision import InFlight, Supervision
    from ocr_watcher.jobs.totals import Key
    from ocr_watcher.memory import Memory
    from ocr_watcher.service.health import Notifier
    from ocr_watcher.service.told import StatusFile


@dataclass(frozen=True)
class _Idle:
    """When nothing was left to do (monotonic s), and how many files had ended by then."""

    at: float
    done: int
    failed: int


# What the words of a reason begin with or have in them; see `memory.Guard` and `Daemon`.
_RECYCLES = (("RSS", "memory"), ("memory.max_jobs", "max_jobs"), ("hung", "hung"), ("SIGHUP", "reload"))


def kind_of_recycle(reason: str) -> str:
    """One of a few words for the reason of a recycle, for metrics."""
    return next((kind for words, kind in _RECYCLES if words in reason), "engine")


def _one_more(recycles: tuple[Total, ...], kind: str) -> tuple[Total, ...]:
    counts = Counter({total.label: int(total.value) for total in recycles})
    counts[kind] += 1
    return tuple(Total("recycles", label, count) for label, count in sorted(counts.items()))


@dataclass(frozen=True)
class Load:
    """What there is to do: files in the queue or in hand, files that wait, whether there may be more.

    And `failed`, how many are known to have failed; `oldest_at`, since when the first in the queue waits
    (monotonic s); `hung`, the inboxes that do not answer.
    """

    busy: int
    waiting: int
    more: bool = False
    hung: tuple[str, ...] = ()
    failed: int = 0
    oldest_at: float | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to do."""
        return not (self.busy or self.waiting or self.more)


class Reporter:
    """Counts jobs and tells how it goes."""

    def __init__(
        self,
        settings: Settings,
        status_file: StatusFile,
        notifier: Notifier,
        log: FilteringBoundLogger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._file = status_file
        self._notifier = notifier
        self._log = log
        self._clock = clock
        self._started = clock()
        self._told = Told()
        self.done = 0
        self.failed = 0
        self._idle = _Idle(self._started, 0, 0)
        self._busy_since: float | None = None
        self._oldest: tuple[float | None, str | None] = (None, None)
        self._totals: Callable[[], Mapping[Key, float]] = dict

    def count(self, outcome: Outcome) -> None:
        """A job ended."""
        self.done += outcome is Outcome.DONE
        self.failed += outcome is Outcome.FAILED

    def note_load(self, load: Load) -> None:
        """Log `queue.drained` when the last file that waited has its record; call it at every tick.

        Every job that had ended when `load` was looked at must have been counted.
        """
        if not load.is_idle:
            self._busy_since = self._busy_since or self._clock()
            return
        before, self._idle = self._idle, _Idle(self._clock(), self.done, self.failed)
        since, self._busy_since = self._busy_since or before.at, None
        done, failed = self.done - before.done, self.failed - before.failed
        if not done and not failed:
            return  # what came in went away again
        duration_s = max(self._idle.at - since, 0.001)
        self._log.info(
            "queue.drained",
            done=done,
            failed=failed,
            duration_s=round(duration_s, 1),
            files_per_s=round((done + failed) / duration_s, 2),
        )

    def totals_from(self, totals: Callable[[], Mapping[Key, float]]) -> None:
        """Where the totals are kept, as soon as that is known."""
        self._totals = totals

    # -- the status file -----------------------------------------------------------------------

    def begin(self) -> None:
        """The process starts; what went wrong in the one before it outlives the restart."""
        before = self._file.read()
        self._told = Told(
            pid=os.getpid(),
            process_started=psutil.Process().create_time(),
            version=__version__,
            started_at=now(),
            engine=self._settings.ocr.engine,
            model=self._settings.ocr.model,
            spool=str(self._settings.http.spool) if self._settings.http is not None else None,
            last_error=before.last_error,
            last_exit=before.last_exit,
            totals=before.totals,
            recycles=before.recycles,
            soft_limit_mb=self._settings.memory.soft_limit_mb,
            rss_limit_mb=self._settings.memory.rss_limit_mb,
        )
        self._file.write(self._told)

    def tell(
        self,
        load: Load,
        supervision: Supervision,
        memory: Memory,
        *,
        queued: int,
        also_figures: bool = True,
    ) -> None:
        """Write the status file where something changed; with `also_figures` in any case."""
        told = replace(
            self._told,
            queue=QueueState(
                queued, self._settings.queue.max_size, load.waiting, load.failed, self._at(load)
            ),
            inboxes_hung=tuple(printable(inbox) for inbox in load.hung),
            in_hand=self._in_hand(supervision.in_flight),
            since_start=SinceStart(self.done, self.failed),
        )
        failure = supervision.last_failure
        if failure is not None and failure.code != VanishedError.code:
            error = LastError(printable(failure.path), failure.code, failure.message, failure.at)
            told = replace(told, last_error=error)
        if also_figures or told.since_start != self._told.since_start:
            counted = sorted(self._totals().items())
            told = replace(told, totals=tuple(Total(*key, value) for key, value in counted))
        if also_figures or told != self._told:
            figures = memory.figures()
            told = replace(told, rss_mb=figures.rss_mb, peak_rss_mb=figures.peak_rss_mb, updated_at=now())
            self._told = told
            self._file.write(told)

    def end(self, reason: str, code: ExitCode) -> None:
        """The process ends."""
        self._told = replace(self._told, last_exit=LastExit(reason, int(code), now()))
        if code is ExitCode.RECYCLE:
            self._told = replace(self._told, recycles=_one_more(self._told.recycles, kind_of_recycle(reason)))
        self._file.write(self._told)

    def _at(self, load: Load) -> str | None:
        """Since when the first in the queue waits; the same text as long as it is the same file."""
        if load.oldest_at != self._oldest[0]:
            when = None if load.oldest_at is None else now(self._clock() - load.oldest_at)
            self._oldest = (load.oldest_at, when)
        return self._oldest[1]

    def _in_hand(self, in_flight: InFlight | None) -> InHand | None:
        if in_flight is None:
            return None
        since = now(self._clock() - in_flight.since)
        return InHand(printable(in_flight.path), in_flight.page + 1, since, in_flight.pages or None)

    # -- elsewhere -----------------------------------------------------------------------------

    def status_line(self, load: Load, memory: Memory) -> None:
        """The line that `systemctl status` shows."""
        hung = f"; does not answer: {', '.join(map(one_line, load.hung))}" if load.hung else ""
        self._notifier.status(
            f"{self.done} done, {self.failed} failed, {load.busy} queued, {load.waiting} waiting; "
            f"RSS {memory.rss_mb():.0f} of {self._settings.memory.rss_limit_mb} MiB{hung}"
        )

    def stats(self, load: Load, memory: Memory, *, queued: int) -> None:
        """Log `memory.stats`."""
        figures = memory.figures()
        limits = self._settings.memory
        self._log.info(
            "memory.stats",
            rss_mb=figures.rss_mb,
            peak_rss_mb=figures.peak_rss_mb,
            available_mb=figures.available_mb,
            soft_limit_mb=limits.soft_limit_mb,
            rss_limit_mb=limits.rss_limit_mb,
            jobs=self.done + self.failed,
            queue_depth=queued,
            waiting=load.waiting,
            uptime_s=round(self._clock() - self._started),
        )
