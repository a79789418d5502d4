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
"""How long a job may be neither in the broker nor in a bridge's heartbeat: on its way between them."""
# A queue that is never empty hides a lost message; so after this long a job is offered again anyway. Where
# it was not lost it is in the broker twice, and the second one ends at once.
_LONGEST_S: Final = 3600.0


@dataclass
class _Offered:
    """A job in the window. `unseen_at` is since when (monotonic s) no bridge is known to have it."""

    job: Job
    message: Message
    sent: bool = False
    unseen_at: float = 0.0
    holder: str = ""


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
            return [one.message for one in self._offered.values() if not one.sent]

    def sent(self, task: str) -> None:
        """A message is in the broker, or a bridge has the job already."""
        with self._lock:
            if (one := self._offered.get(task)) is not None:
                one.sent, one.unseen_at = True, self._clock()

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
                if not one.sent:
                    continue
                holder = held.get(task, "")
                if holder:
                    one.holder, one.unseen_at = holder, now
                    continue
                unseen_s = now - one.unseen_at
                # Whose bridge went away is not waited for: the broker would deliver it only much later.
                empty = queued.get(one.message.root) == 0
                if (unseen_s > LOST_S and (empty or one.holder)) or unseen_s > _LONGEST_S:
                    del self._offered[task]
                    lost.append(one.job)
        return lost

    def still_busy(self) -> set[str]:
        """Paths of all of them."""
        return {job.path for _, job in self.jobs()}
