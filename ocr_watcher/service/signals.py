"""Signals, for everything that works until it is told to stop.

A signal whose default is to end the process must not do so with a file in hand: the file would be blamed.
Paddle installs signal handlers of its own while it is imported, and they end the process as well. What comes
meanwhile waits until ours are back.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

# SIGQUIT is Ctrl-\.
STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
# They mean nothing to this program, and would end it.
MEANINGLESS: tuple[int, ...] = (
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGVTALRM,
    signal.SIGPROF,
    signal.SIGPOLL,
    signal.SIGPWR,
    signal.SIGSTKFLT,
    *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),
)
_ALL = (*STOP, signal.SIGHUP, *MEANINGLESS)


def name_of(number: int) -> str:
    """SIGTERM; SIGRTMIN+2 for what has no name of its own."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"


class Signals:
    """Handles signals, in the main thread.

    `on_stop` is told the number of each of `STOP`, and `count` is how many came; `on_hangup` is called for
    SIGHUP, unless that was ignored from the start (`nohup`); `on_other` is told the number of any other.
    """

    def __init__(
        self,
        on_stop: Callable[[int], None],
        on_hangup: Callable[[], None],
        on_other: Callable[[int], None] = lambda _number: None,
    ) -> None:
        self.on_stop = on_stop
        self.on_hangup = on_hangup
        self.on_other = on_other
        self.count = 0
        self._handled: tuple[int, ...] = ()

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle them; what was there before comes back afterwards."""
        no_hangup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        self._handled = tuple(number for number in _ALL if number != signal.SIGHUP or not no_hangup)
        before = {number: signal.signal(number, self._handle) for number in self._handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Let them wait meanwhile, and install our handlers again at the end."""
        signal.pthread_sigmask(signal.SIG_BLOCK, self._handled)
        try:
            yield
        finally:
            for number in self._handled:
                signal.signal(number, self._handle)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._handled)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number in STOP:
            self.count += 1
            self.on_stop(number)
        elif number == signal.SIGHUP:
            self.on_hangup()
        else:
            self.on_other(number)
