"""Waiting and waking, for threads with a loop of their own."""

from __future__ import annotations

import os
import select
from contextlib import suppress
from dataclasses import dataclass


class Bell:
    """Wakes one thread. A counter in the kernel: safe from any thread and from a signal handler."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def ring(self) -> None:
        """Wake it, now or at its next wait."""
        with suppress(BlockingIOError):
            os.eventfd_write(self._fd, 1)

    def wait(self, seconds: float) -> None:
        """Until it rings, at most so long."""
        poll = select.poll()  # select() takes no descriptor above 1023
        poll.register(self._fd, select.POLLIN)
        if poll.poll(max(0.0, seconds) * 1000):
            with suppress(BlockingIOError):
                os.eventfd_read(self._fd)


@dataclass
class Timer:
    """Something that is due every `interval_s`, for the first time at `next_at` (monotonic s)."""

    interval_s: float
    next_at: float

    def would_be_due(self, now: float) -> bool:
        """Whether it is due, without taking note."""
        return now >= self.next_at

    def is_due(self, now: float) -> bool:
        """Whether it is due; the next time is an interval later."""
        if now < self.next_at:
            return False
        self.next_at = now + self.interval_s
        return True

    def pause(self, seconds: float, now: float) -> None:
        """Not before `seconds` from now."""
        self.next_at = now + seconds
