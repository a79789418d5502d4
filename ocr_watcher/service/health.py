"""systemd's ready, status line and heartbeat.

Of service managers it knows systemd's notification protocol and nothing else; without one every call
does nothing. The heartbeat is sent by the main loop, and only after it has seen that the other threads
are alive and the page in hand is within its time.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Beat this many times within the manager's timeout, so that one late turn is no death.
_BEATS_PER_TIMEOUT = 4


@dataclass
class Notifier:
    """systemd's end of the line; `environ` is where the manager says how to reach it."""

    environ: Mapping[str, str]
    clock: Callable[[], float]
    _next_beat: float = field(default=0.0, init=False)

    def ready(self) -> None:
        """The service does its work from now on."""
        self._send("READY=1")

    def stopping(self) -> None:
        """The service is closing down."""
        self._send("STOPPING=1")

    def status(self, words: str) -> None:
        """What `systemctl status` shows."""
        self._send(f"STATUS={words}")

    def beat(self) -> None:
        """All is well and moving; sent as often as the manager's WatchdogSec asks for."""
        interval_s = self._interval_s()
        now = self.clock()
        if interval_s and now >= self._next_beat:
            self._next_beat = now + interval_s
            self._send("WATCHDOG=1")

    def _interval_s(self) -> float:
        if self.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            return 0.0  # meant for another process of the unit
        with suppress(ValueError):
            return int(self.environ.get("WATCHDOG_USEC", "0")) / 1e6 / _BEATS_PER_TIMEOUT
        return 0.0

    def _send(self, message: str) -> None:
        address = self.environ.get("NOTIFY_SOCKET", "")
        if not address:
            return
        if address.startswith("@"):  # the abstract namespace
            address = "\0" + address[1:]
        # A manager that does not listen must not stop the work.
        with (
            suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line,
        ):
            line.sendto(message.encode(), address)
