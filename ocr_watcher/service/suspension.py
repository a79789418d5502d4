"""Time that passes while the process does not: it was stopped by a signal, or its container was paused.

The clock goes on meanwhile, and none of it may be counted for the page in hand. The sleep of the whole
machine is no part of it: the monotonic clock stands still then.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# A tick may be late by so much without meaning anything.
_TOLERANCE_S = 2.0
# More of them in one page are not remembered.
_MAX_GAPS = 100


@dataclass(frozen=True)
class _Gap:
    """Between two ticks, from `start` to `end` (monotonic s), the process stood still for `seconds`."""

    start: float
    end: float
    seconds: float


class Suspensions:
    """Finds out from the ticks of the main loop when the process stood still.

    A tick that is late may have another cause: a library that computes and lets no other Python thread run.
    So processor time that the process took counts as time that passed for it. Errs on the side of the file
    where the machine is too busy to let the process run.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._gaps: deque[_Gap] = deque(maxlen=_MAX_GAPS)
        self._tick_at = clock()
        self._cpu_s = cpu_clock()

    def tick(self, waited_s: float) -> float:
        """Called at each turn of the main loop, which meant to wait for `waited_s` since the last.

        Returns for how long (s) the process stood still; 0 where it did not.
        """
        now, cpu_s = self._clock(), self._cpu_clock()
        seconds = now - self._tick_at - waited_s - (cpu_s - self._cpu_s)
        if seconds > _TOLERANCE_S:
            self._gaps.append(_Gap(self._tick_at, now, seconds))
        self._tick_at, self._cpu_s = now, cpu_s
        return seconds if seconds > _TOLERANCE_S else 0.0

    def within(self, start: float, end: float) -> float:
        """For how long (s) the process stood still between two monotonic times."""
        overlaps = ((min(gap.end, end) - max(gap.start, start), gap.seconds) for gap in self._gaps)
        return sum(min(overlap, seconds) for overlap, seconds in overlaps if overlap > 0)
