"""What the consumer and those who look after it share: one small object.

Safe to use from any thread: every field is replaced as a whole, and has one writer; the engine has a lock.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ocr_watcher.job import Outcome
from ocr_watcher.jobs.observers import Observer
from ocr_watcher.jobs.verdict import Interruption
from ocr_watcher.outputs.sidecar import now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

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
        self._hung: frozenset[Path] = frozenset()
        self._engine_lock = threading.Lock()
        self._in_engine: threading.Thread | None = None
        self._retired: set[threading.Thread] = set()

    # -- requests ------------------------------------------------------------------------------

    def request_stop(self) -> None:
        """No further page is to be begun. Safe in a signal handler."""
        self._stop = True

    def request_recycle(self, reason: str) -> None:
        """The process should start afresh; the first reason stays."""
        self._recycle = self._recycle or reason

    @property
    def stop_requested(self) -> bool:
        """Whether somebody asked for a stop, or has given up this consumer."""
        return self._stop or self._is_retired()

    @property
    def recycle_reason(self) -> str:
        """Why the process should start afresh, in words; empty where it should not."""
        return self._recycle

    # -- inboxes that hang ---------------------------------------------------------------------

    @property
    def hung(self) -> frozenset[Path]:
        """The inboxes whose file system does not answer: no job of theirs is to be begun."""
        return self._hung

    def note_hung(self, inboxes: frozenset[Path]) -> None:
        """These do not answer now."""
        self._hung = inboxes

    def retire(self, consumer: threading.Thread) -> bool:
        """Give up a consumer that waits for a file system; another one may take its place.

        When it comes back it ends at the next page, and never uses the engine again. False where it is using
        the engine now.
        """
        with self._engine_lock:
            if self._in_engine is consumer:
                return False
            self._retired.add(consumer)
            self._in_flight = None
            return True

    @contextmanager
    def engine_turn(self) -> Iterator[None]:
        """Use the engine meanwhile. Raises `Interruption` in a consumer that was given up."""
        with self._engine_lock:
            if self._is_retired():
                raise Interruption(Outcome.BROKEN_OFF)
            self._in_engine = threading.current_thread()
        try:
            yield
        finally:
            self._in_engine = None

    def _is_retired(self) -> bool:
        return threading.current_thread() in self._retired

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
        if not self._is_retired():
            self._in_flight = InFlight(job.path, index, pages, self._clock())

    def job_ended(self, ended: JobEnded) -> None:
        """See `Observer`."""
        if self._is_retired():
            return
        self._in_flight = None
        if ended.error is not None:
            self.note_failure(ended.job.path, ended.error)
