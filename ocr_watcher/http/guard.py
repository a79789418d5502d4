"""Connections that do nothing are closed: whoever sends no request, or does not take its answer.

Stands between the operating system's socket and aiohttp's own protocol, and passes everything on. The body of
a request has time-outs of its own, where it is read.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable

HEAD_S: Final = 10.0
"""The head of a request must be there so long after its connection, or its first byte."""
IDLE_S: Final = 75.0
"""A connection without a request, and an answer that nobody takes, are kept so long."""


class Guard(asyncio.Protocol):
    """One connection."""

    def __init__(self, inner: asyncio.Protocol, guards: Guards) -> None:
        self._inner = inner
        self._guards = guards
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._busy = False
        self._waits_for_head = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - of a stream
        self._transport = transport
        self._guards.add(transport, self)
        self._arm(HEAD_S)
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if not self._busy and not self._waits_for_head:
            self._waits_for_head = True
            self._arm(HEAD_S)
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """See `asyncio.Protocol`."""
        return self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._disarm()
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`: some of an answer was taken."""
        if not self._busy and not self._waits_for_head:
            self._arm(IDLE_S)
        self._inner.resume_writing()

    def request_begins(self) -> None:
        """The head is there."""
        self._busy = True
        self._disarm()

    def request_ends(self) -> None:
        """The answer is on its way."""
        self._busy = self._waits_for_head = False
        self._arm(IDLE_S)

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._give_up)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class Guards:
    """All connections."""

    def __init__(self) -> None:
        self._by_transport: WeakKeyDictionary[asyncio.BaseTransport, Guard] = WeakKeyDictionary()

    def around(self, factory: Callable[[], asyncio.Protocol]) -> Callable[[], Guard]:
        """A factory of protocols with a guard around each that `factory` makes."""
        return lambda: Guard(factory(), self)

    def add(self, transport: asyncio.BaseTransport, guard: Guard) -> None:
        """A connection was made."""
        self._by_transport[transport] = guard

    def of(self, transport: asyncio.BaseTransport | None) -> Guard | None:
        """The guard of a connection; None where it is closed."""
        return None if transport is None else self._by_transport.get(transport)
