"""What the daemon tells of itself: the status file, systemd's status line, and the figures in the log.

Written by the main thread only. What happens to jobs reaches it as an observer, from the consumer's thread.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil

from ocr_watcher import __version__
from ocr_watcher.errors import VanishedError
from ocr_watcher.job import Outcome
from ocr_watcher.log import one_line
from ocr_watcher.names import printable
from ocr_watcher.outputs.sidecar import now

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from ocr_watcher.config import Settings
    from ocr_watcher.errors import ExitCode
    from ocr_watcher.jobs.supervision import Failure, InFlight, Supervision
    from ocr_watcher.memory import Memory
    from ocr_watcher.service.health import Notifier, StatusFile


@dataclass(frozen=True)
class Load:
    """What there is to do: files in the queue or in hand, files that wait; and the inboxes that hang."""

    busy: int
    waiting: int
    hung: tuple[str, ...] = ()


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
        self._told: dict[str, Any] = {}
        self.done = 0
        self.failed = 0

    def count(self, outcome: Outcome) -> None:
        """A job ended."""
        self.done += outcome is Outcome.DONE
        self.failed += outcome is Outcome.FAILED

    # -- the status file -----------------------------------------------------------------------

    def begin(self) -> None:
        """The process starts; what went wrong in the one before it outlives the restart."""
        before = self._file.read()
        self._told = {
            "pid": os.getpid(),
            "process_started": psutil.Process().create_time(),
            "version": __version__,
            "started_at": now(),
            "engine": self._settings.ocr.engine,
            "model": self._settings.ocr.model,
            "last_error": before.get("last_error"),
            "last_exit": before.get("last_exit"),
        }
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
        told = {
            **self._told,
            "queue": {
                "size": queued,
                "max_size": self._settings.queue.max_size,
                "settling": load.waiting,
            },
            "inboxes_hung": [printable(inbox) for inbox in load.hung],
            "in_hand": self._in_hand(supervision.in_flight),
            "since_start": {"done": self.done, "failed": self.failed},
        }
        failure = supervision.last_failure
        if failure is not None and failure.code != VanishedError.code:
            told["last_error"] = _as_json(failure)
        if also_figures or told != self._told:
            figures = memory.figures()
            told |= {
                "rss_mb": figures.rss_mb,
                "peak_rss_mb": figures.peak_rss_mb,
                "updated_at": now(),
            }
            self._told = told
            self._file.write(told)

    def end(self, reason: str, code: ExitCode) -> None:
        """The process ends."""
        self._told["last_exit"] = {"reason": reason, "exit_code": int(code), "at": now()}
        self._file.write(self._told)

    def _in_hand(self, in_flight: InFlight | None) -> dict[str, Any] | None:
        if in_flight is None:
            return None
        return {
            "path": printable(in_flight.path),
            "page": in_flight.page + 1,
            **({"pages": in_flight.pages} if in_flight.pages else {}),
            "since": now(self._clock() - in_flight.since),
        }

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


def _as_json(failure: Failure) -> dict[str, str]:
    return {
        "path": printable(failure.path),
        "code": failure.code,
        "message": failure.message,
        "at": failure.at,
    }
