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
from ocr_watcher.names import printable
from ocr_watcher.outputs.sidecar import now
from ocr_watcher.service.told import InHand, LastError, LastExit, QueueState, SinceStart, Told, Total

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from structlog.typing import FilteringBoundLogger

    from ocr_watcher.config import Settings
    from ocr_watcher.inbox.intake import Intake
    from ocr_watcher.jobs.supervision import InFlight, Supervision
    from ocr_watcher.jobs.totals import Key
    from ocr_watcher.memory import Memory
    from ocr_watcher.service.health import Notifier
    from ocr_watcher.service.told import StatusFile


@dataclass(frozen=True)
class _Batch:
    """When the first file of a batch came (monotonic s), and how many had ended by then."""

    since: float
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
        self._batch: _Batch | None = None
        self._totals: Callable[[], Mapping[Key, float]] = dict

    def count(self, outcome: Outcome) -> None:
        """A job ended."""
        self.done += outcome is Outcome.DONE
        self.failed += outcome is Outcome.FAILED

    def note_load(self, *, idle: bool) -> None:
        """Log `queue.drained` when the last file that waited has its record; call it at every tick."""
        if not idle:
            self._batch = self._batch or _Batch(self._clock(), self.done, self.failed)
            return
        batch, self._batch = self._batch, None
        if batch is None or (self.done, self.failed) == (batch.done, batch.failed):
            return  # what came in went away again
        duration_s = max(self._clock() - batch.since, 0.001)
        done, failed = self.done - batch.done, self.failed - batch.failed
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
        intake: Intake,
        supervision: Supervision,
        memory: Memory,
        *,
        queued: int,
        also_figures: bool = True,
    ) -> None:
        """Write the status file where something changed; with `also_figures` in any case."""
        told = replace(
            self._told,
            queue=QueueState(queued, self._settings.queue.max_size, intake.waiting),
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

    def _in_hand(self, in_flight: InFlight | None) -> InHand | None:
        if in_flight is None:
            return None
        since = now(self._clock() - in_flight.since)
        return InHand(printable(in_flight.path), in_flight.page + 1, since, in_flight.pages or None)

    # -- elsewhere -----------------------------------------------------------------------------

    def status_line(self, intake: Intake, memory: Memory) -> None:
        """The line that `systemctl status` shows."""
        self._notifier.status(
            f"{self.done} done, {self.failed} failed, {intake.busy} queued, {intake.waiting} waiting; "
            f"RSS {memory.rss_mb():.0f} of {self._settings.memory.rss_limit_mb} MiB"
        )

    def stats(self, intake: Intake, memory: Memory, *, queued: int) -> None:
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
            waiting=intake.waiting,
            uptime_s=round(self._clock() - self._started),
        )
