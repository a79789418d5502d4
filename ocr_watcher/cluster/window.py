"""The window of `dispatch`: the jobs that were offered to the broker and have not ended.

It takes the place of the daemon's local queue, and is as bounded. A job leaves it when a bridge says how it
ended or its record is there. A job that nobody has, and that cannot be in the broker either, is lost: it is
given back to its inbox, which offers it again. Touches no broker; used by several threads.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ocr_watcher.cluster.message import Message
    from ocr_watcher.job import Job

LOST_S: Final = 15.0
"""How long a job may be neither in the broker nor in a bridge's heartbeat, on its way between them.

A heartbeat comes every 2 s, and every 2 s it is looked."""
# A queue that is never empty hides a lost message; so after this long a job is offered again anyway. Where
# it was not lost it is in the broker twice, and the second one ends at once.
_LONGEST_S: Final = 3600.0


@dataclass
class _Offered:
    """A job in the window.

    `sent_at` is when it was sent (monotonic s), `holder` the bridge that was last known to have it, and
    `missed_at` since when it is neither with one nor, as far as can be told, in the broker.
    """

    job: Job
    message: Message
    sent_at: float | None = None
    holder: str = ""
    missed_at: float | None = None


class Window:
    """At most `size` jobs."""

    def __init__(self, size: int, clock: Callable[[], float]) -> None:
        self._size = size
        self._clock = clock
        self._lock = threading.Lock()
        self._offered: OrderedDict[str, _Offered] = OrderedDict()

    def __len__(self) -> int:
        return len(self._offered)

    def offer(self, job: Job, message: Message) -> bool:
        """Take a job in; False where there is no room."""
        with self._lock:
            if len(self._offered) >= self._size and message.id not in self._offered:
                return False
            self._offered[message.id] = _Offered(job, message)
            return True

    def unsent(self) -> list[Message]:
        """What is to be sent, the oldest first."""
        with self._lock:
            return [one.message for one in self._offered.values() if one.sent_at is None]

    def sent(self, task: str) -> None:
        """A message is in the broker, or a bridge has the job already."""
        with self._lock:
            if (one := self._offered.get(task)) is not None:
                one.sent_at = self._clock()

    def returned(self, task: str) -> None:
        """A bridge has put a message back into the broker."""
        with self._lock:
            if (one := self._offered.get(task)) is not None:
                one.holder, one.missed_at = "", None

    def ended(self, task: str) -> Job | None:
        """A job has ended: it leaves. None where it is not here (any more)."""
        with self._lock:
            one = self._offered.pop(task, None)
            return None if one is None else one.job

    def jobs(self) -> list[tuple[str, Job]]:
        """Identity and job of all of them."""
        with self._lock:
            return [(task, one.job) for task, one in self._offered.items()]

    def held(self) -> int:
        """How many of them a bridge had when it was last heard of."""
        with self._lock:
            return sum(bool(one.holder) for one in self._offered.values())

    def look(self, in_hand: Iterable[tuple[str, str]], queued: Mapping[str, int]) -> list[Job]:
        """Take out what is lost, and return it.

        Args:
            in_hand: identity and holder of what the bridges have.
            queued: how many messages each root's queue holds.
        """
        held = dict(in_hand)
        now = self._clock()
        lost = []
        with self._lock:
            for task, one in list(self._offered.items()):
                if one.sent_at is None:
                    continue
                if holder := held.get(task, ""):
                    one.holder, one.missed_at, one.sent_at = holder, None, now
                    continue
                # Whose bridge went away is not waited for: the broker would deliver it only much later.
                if one.holder or queued.get(one.message.root) == 0:
                    one.missed_at = one.missed_at if one.missed_at is not None else now
                else:
                    one.missed_at = None
                missed = one.missed_at is not None and now - one.missed_at > LOST_S
                if missed or now - one.sent_at > _LONGEST_S:
                    del self._offered[task]
                    lost.append(one.job)
        return lost

    def still_busy(self) -> set[str]:
        """Paths of all of them."""
        return {job.path for _, job in self.jobs()}
