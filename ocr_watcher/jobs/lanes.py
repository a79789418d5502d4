"""The bounded queue: two lanes, of which the consumer takes from one and the other in turn.

What comes by HTTP has a lane of its own. It does not wait behind the files of a folder, however many,
and takes no more than every second turn from them. Each lane is bounded for itself.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from ocr_watcher.job import Job


class Lanes:
    """Jobs that wait for the consumer. Safe to use from any thread."""

    def __init__(self, max_size: int, *, spool: Path | None = None, spool_size: int = 0) -> None:
        """`max_size` is the room for jobs of folders, `spool_size` that for jobs whose root is `spool`."""
        self._spool = spool
        self._room = (max_size, spool_size)
        self._lanes: tuple[deque[Job], deque[Job]] = (deque(), deque())
        self._last = 1
        self._ends = False
        self._changed = threading.Condition()

    def qsize(self) -> int:
        """How many jobs wait."""
        with self._changed:
            return sum(map(len, self._lanes))

    def empty(self) -> bool:
        """Whether none waits."""
        return not self.qsize()

    def put_nowait(self, job: Job) -> None:
        """Add a job. Raises `queue.Full` where its lane is."""
        lane = int(self._spool is not None and job.root == self._spool)
        with self._changed:
            if len(self._lanes[lane]) >= self._room[lane]:
                raise queue.Full
            self._lanes[lane].append(job)
            self._changed.notify()

    def hurries(self, job: Job) -> bool:
        """Whether a document by HTTP waits, and this one came otherwise: somebody sits there and waits."""
        with self._changed:
            return bool(self._lanes[1]) and job.root != self._spool

    def close(self) -> None:
        """Whoever waits in `get`, or will, gets None."""
        with self._changed:
            self._ends = True
            self._changed.notify_all()

    def get(self) -> Job | None:
        """Take the next job, and wait for one; None after `close`."""
        with self._changed:
            while not self._ends and not any(self._lanes):
                self._changed.wait()
            if self._ends:
                return None
            lane = 1 - self._last
            if not self._lanes[lane]:
                lane = self._last
            self._last = lane
            return self._lanes[lane].popleft()

    def waiting(self) -> list[Job]:
        """The jobs that wait, in no order."""
        with self._changed:
            return [job for lane in self._lanes for job in lane]
