"""The one OCR consumer: takes jobs from the bounded queue, one after the other.

One thread, because PaddleX predictors are not thread-safe and because memory is bounded by what one page
needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ocr_watcher.job import Outcome
from ocr_watcher.jobs.attempt import Attempt

if TYPE_CHECKING:
    from collections.abc import Callable

    from ocr_watcher.job import Job
    from ocr_watcher.jobs.attempt import Tools


class Jobs(Protocol):
    """Where jobs come from."""

    def get(self) -> Job | None:
        """Wait for the next; None where there will be none."""


class Worker:
    """Does jobs until it is told to stop or the process is to start afresh."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    def step(self, job: Job) -> Outcome:
        """Do one job. Never raises for anything that a file can cause."""
        return Attempt(job, self._tools).run()

    def run(self, jobs: Jobs, completed: Callable[[Job, Outcome], None]) -> None:
        """Do jobs until None comes, or a stop or a recycle is requested. A page in hand is finished."""
        while not self._is_over() and (job := jobs.get()) is not None:
            completed(job, self._do(job))

    def _do(self, job: Job) -> Outcome:
        supervision = self._tools.supervision
        if supervision.stop_requested:  # asked again: the wait for the job may have been long
            return Outcome.BROKEN_OFF
        return Outcome.RETRY if job.root in supervision.hung else self.step(job)

    def _is_over(self) -> bool:
        supervision = self._tools.supervision
        return supervision.stop_requested or bool(supervision.recycle_reason)
