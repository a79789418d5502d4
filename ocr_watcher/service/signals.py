"""Requests to stop that come as signals, for everything that works until it is told to.

Paddle installs signal handlers of its own while it is imported, and they end the process. A request that
comes meanwhile waits until ours are back.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

STOP = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Handles `STOP`: `on_signal` is told the number of each, in the main thread; `count` how many came."""

    def __init__(self, on_signal: Callable[[int], None]) -> None:
        self.on_signal = on_signal
        self.count = 0

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle them; what was there before comes back afterwards."""
        before = {number: signal.signal(number, self._handle) for number in STOP}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Let them wait meanwhile, and install our handlers again at the end."""
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
        try:
            yield
        finally:
            for number in STOP:
                signal.signal(number, self._handle)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self.count += 1
        self.on_signal(number)
