"""The cluster as anybody sees it who listens for a few seconds: bridges, dispatchers, queues."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ocr_watcher.cluster.broker import (
    DISPATCH,
    HEARTBEAT,
    OFFLINE,
    BrokerError,
    Listener,
    Sender,
    make_app,
)
from ocr_watcher.cluster.hosts import HEARTBEAT_S, Beat, DispatchBeat, Hosts, from_fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ocr_watcher.config import Settings

# Whoever is there was heard by then, if the network takes less than this (s).
_MARGIN_S = 0.5


@dataclass(frozen=True)
class HostStatus:
    """A bridge and its daemon; amounts of memory are MiB. `closed` says why it takes no jobs of a root."""

    name: str
    daemon: bool
    in_hand: int
    queue: int
    rss_mb: float
    rss_limit_mb: int
    bridge_rss_mb: float
    done: int
    closed: tuple[str, ...]


@dataclass(frozen=True)
class DispatchStatus:
    """A dispatcher: see `hosts.DispatchBeat`."""

    name: str
    roots: tuple[str, ...]
    window: int
    window_size: int
    waiting: int
    done: int
    failed: int
    lost: int
    rss_mb: float


@dataclass(frozen=True)
class ClusterStatus:
    """`queued` is the messages in the broker by root; `trouble` why it cannot be told, in words."""

    hosts: tuple[HostStatus, ...] = ()
    dispatchers: tuple[DispatchStatus, ...] = ()
    queued: Mapping[str, int] | None = None
    trouble: str = ""


class Overview:
    """Listens from `start` on."""

    def __init__(self, settings: Settings) -> None:
        """Raises `UnavailableError` where the libraries are missing."""
        app = make_app(settings)
        self.hosts = Hosts()
        self._roots = tuple(settings.cluster.roots)
        self._sender = Sender(app)
        self._listener = Listener(app, self._hear)
        self._dispatchers: dict[str, tuple[DispatchBeat, float]] = {}

    def start(self) -> None:
        """Begin to listen."""
        self._listener.start()

    def listen(self, seconds: float = HEARTBEAT_S + _MARGIN_S) -> None:
        """Until everybody was heard, or that is impossible."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not (self._listener.error and self._listener.since is None):
            time.sleep(0.05)

    def now(self) -> ClusterStatus:
        """What is known by now."""
        try:
            queued = self._sender.queued(self._roots)
        except BrokerError as error:
            return ClusterStatus(trouble=f"the broker does not answer: {error}")
        return ClusterStatus(
            tuple(_host(host.name, host.beat) for host in self.hosts.present()),
            tuple(
                _dispatcher(name, beat)
                for name, (beat, heard_at) in sorted(self._dispatchers.items())
                if time.monotonic() - heard_at < 5 * HEARTBEAT_S
            ),
            queued,
        )

    def stop(self) -> None:
        """Listen no longer."""
        self._listener.stop()
        self._sender.close()

    def _hear(self, event: Mapping[str, Any]) -> None:
        kind, name = event.get("type"), str(event.get("hostname", ""))
        if kind == HEARTBEAT and (beat := from_fields(Beat, event)) is not None:
            self.hosts.hear(name, beat)
        elif kind == OFFLINE:
            self.hosts.leave(name)
        elif kind == DISPATCH and (told := from_fields(DispatchBeat, event)) is not None:
            self._dispatchers[name] = (told, time.monotonic())


def look(settings: Settings) -> ClusterStatus:
    """Listen for long enough, and tell. Raises `UnavailableError` where the libraries are missing."""
    overview = Overview(settings)
    overview.start()
    try:
        overview.listen()
        return overview.now()
    finally:
        overview.stop()


def _host(name: str, beat: Beat) -> HostStatus:
    return HostStatus(
        name.partition("@")[2],
        beat.daemon,
        len(beat.tasks),
        beat.queue,
        beat.rss_mb,
        beat.rss_limit_mb,
        beat.bridge_rss_mb,
        beat.done,
        beat.closed,
    )


def _dispatcher(name: str, beat: DispatchBeat) -> DispatchStatus:
    return DispatchStatus(
        name.partition("@")[2],
        beat.roots,
        beat.window,
        beat.window_size,
        beat.waiting,
        beat.done,
        beat.failed,
        beat.lost,
        beat.rss_mb,
    )
