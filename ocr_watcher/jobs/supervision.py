"""What the consumer and those who look after it share: one small object.

Safe to use from any thread without a lock: every field is replaced as a whole, and has one writer.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ocr_watcher.jobs.observers import Observer
from ocr_watcher.outputs.sidecar import now

if TYPE_CHECKING:
    from collections.abc import Callable

    from ocr_watcher.errors import FileError
    from ocr_watcher.job import Job
    from ocr_watcher.jobs.observers import JobEnded


@dataclass(frozen=True)
class InFlight:
    """The page that is being decoded or read, since when (monotonic s); `pages` is 0 until that is known."""

    path: str
    page: int
    pages: int
    since: float


@dataclass(frozen=True)
class Failure:
    """How a job failed, and when (ISO 8601)."""

    path: str
    code: str
    message: str
    at: str


class Supervision(Observer):
    """Requests to the consumer, and what it is doing.

    The consumer finishes the page in hand before it obeys a request.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stop = False
        self._recycle = ""
        self._in_flight: InFlight | None = None
        self._last_failure: Failure | None = None

    # -- requests ------------------------------------------------------------------------------

    def request_stop(self) -> None:
        """No further page is to be begun. Safe in a signal handler."""
        self._stop = True

    def request_recycle(self, reason: str) -> None:
        """The process should start afresh; the first reason stays."""
        self._recycle = self._recycle or reason

    @property
    def stop_requested(self) -> bool:
        """Whether somebody asked for a stop."""
        return self._stop

    @property
    def recycle_reason(self) -> str:
        """Why the process should start afresh, in words; empty where it should not."""
        return self._recycle

    # -- what is going on ----------------------------------------------------------------------

    @property
    def in_flight(self) -> InFlight | None:
        """The page in hand."""
        return self._in_flight

    @property
    def last_failure(self) -> Failure | None:
        """How the last job that failed did so."""
        return self._last_failure

    def note_failure(self, path: str, error: FileError) -> None:
        """A job failed, or is given up from outside."""
        self._last_failure = Failure(path, error.code, str(error), now())

    def page_started(self, job: Job, index: int, pages: int) -> None:
        """See `Observer`."""
        self._in_flight = InFlight(job.path, index, pages, self._clock())

    def job_ended(self, ended: JobEnded) -> None:
        """See `Observer`."""
        self._in_flight = None
        if ended.error is not None:
            self.note_failure(ended.job.path, ended.error)
