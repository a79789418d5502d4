"""The jobs that have no record yet, and who waits for one.

The folder's modification time tells that something happened in it: looking at that costs microseconds, needs
no thread and works on every file system. Only then the records of waiting jobs are looked for.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ocr_watcher.inbox.records import RecordState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ocr_watcher.http.spool import Job, Spool

# How often the folder is looked at while somebody waits: half of it is what a result is late on average.
_LOOK_S: Final = 0.01
# Without somebody who waits.
_IDLE_LOOK_S: Final = 0.25
# The kernel's clock for files ticks every 4 ms, so two changes may carry one time: a folder that changed just
# now is looked into again.
_TICK_NS: Final = 20_000_000
# However quiet the folder seems.
_LOOK_ANYWAY_S: Final = 5.0

_ENDS: Final = (RecordState.DONE, RecordState.FAILED)


class Pace:
    """How long a document takes: seconds between two ends while others wait, the last ones counting most."""

    _WEIGHT: Final = 0.2

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last_end = -math.inf
        self.document_s = 1.0

    def ended(self, began: float) -> None:
        """A job ended that was here since `began` (s of the clock)."""
        now = self._clock()
        took_s = now - max(began, self._last_end)
        self._last_end = now
        self.document_s += self._WEIGHT * (took_s - self.document_s)

    def retry_after_s(self, max_waiting: int) -> int:
        """When to come again: an eighth of the places is free by then."""
        return min(600, max(1, math.ceil(self.document_s * max_waiting / 8)))


class _Waiter:
    def __init__(self, job: Job, since: float) -> None:
        self.job = job
        self.since = since
        self.ended = asyncio.Event()
        self.watched = 0


class Waiting:
    """The jobs without a record, in the order in which they came."""

    def __init__(
        self,
        spool: Spool,
        *,
        on_end: Callable[[Job, RecordState, float], None] = lambda _job, _state, _took_s: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_end` is told of every end: the job, how, and how long it was here (s)."""
        self._spool = spool
        self._on_end = on_end
        self._clock = clock
        self._waiters: dict[str, _Waiter] = {}
        self._somebody = asyncio.Event()
        self._seen_ns = 0
        self._looked_at = -math.inf
        self.pace = Pace(clock)

    def __len__(self) -> int:
        return len(self._waiters)

    def add(self, jobs: Iterable[Job]) -> None:
        """Jobs that were handed to the daemon."""
        for job in jobs:
            self._waiters[job.id] = _Waiter(job, self._clock())

    def forget(self, job: str) -> None:
        """A job was removed; whoever waits for it waits no longer."""
        waiter = self._waiters.pop(job, None)
        if waiter is not None:
            waiter.ended.set()

    def place(self, job: str) -> int | None:
        """Which in the line a job is, from 1; None where it is not in it."""
        for place, waiting in enumerate(self._waiters, 1):
            if waiting == job:
                return place
        return None

    async def wait(self, job: str, seconds: float) -> bool:
        """Whether the job had an end, or was removed, within that time."""
        waiter = self._waiters.get(job)
        if waiter is None:
            return True
        waiter.watched += 1
        self._somebody.set()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await waiter.ended.wait()
        finally:
            waiter.watched -= 1
            if not any(waiter.watched for waiter in self._waiters.values()):
                self._somebody.clear()
        return waiter.ended.is_set()

    async def run(self) -> None:
        """Look for records until cancelled."""
        while True:
            self.look()
            if self._somebody.is_set():
                await asyncio.sleep(_LOOK_S)
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_IDLE_LOOK_S):
                        await self._somebody.wait()

    def look(self) -> None:
        """Look once; wakes those whose job has ended."""
        if not self._waiters:
            return
        now = self._clock()
        try:
            changed_ns = os.stat(self._spool.folder).st_mtime_ns
        except OSError:
            return
        if changed_ns == self._seen_ns and now - self._looked_at < _LOOK_ANYWAY_S:
            return
        if time.time_ns() - changed_ns > _TICK_NS:
            self._seen_ns = changed_ns
        self._looked_at = now
        for waiter in list(self._waiters.values()):
            state = self._spool.state(waiter.job)
            if state in _ENDS:
                self.pace.ended(waiter.since)
                self._on_end(waiter.job, state, now - waiter.since)
                self.forget(waiter.job.id)
