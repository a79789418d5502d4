"""What bridges tell of themselves, and who of them is there.

Each sends Celery's `worker-heartbeat` with a few fields more. What counts is when it arrived here, by this
process's own monotonic clock: nobody compares the clocks of two machines.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

HEARTBEAT_S: Final = 2.0
"""How often a bridge tells of itself."""
AWAY_S: Final = 30.0
"""A bridge that was silent for so long is away. A restart takes 2 s; fifteen heartbeats do not get lost."""

_PREFIX = "ocr_"


@dataclass(frozen=True)
class Beat:
    """What a bridge tells.

    Attributes:
        tasks: Identities of the jobs in its spool: being read, or to be put back.
        daemon: Whether its daemon runs.
        queue: Files in that daemon's queue.
        rss_mb: Resident memory of the daemon (MiB).
        rss_limit_mb: Where the daemon starts afresh (MiB).
        bridge_rss_mb: Resident memory of the bridge (MiB).
        roots: The shared folders that it takes jobs of, now.
        closed: Why it takes none of the others, in words.
        probes: Identity and time of the file of `doctor` that it sees in each root, where there is one.
        done: Jobs that it has ended since it started.
        wall_s: Its clock (s since 1970), for `doctor`.
    """

    tasks: tuple[str, ...] = ()
    daemon: bool = False
    queue: int = 0
    rss_mb: float = 0.0
    rss_limit_mb: int = 0
    bridge_rss_mb: float = 0.0
    roots: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()
    done: int = 0
    wall_s: float = 0.0


@dataclass(frozen=True)
class DispatchBeat:
    """What a dispatcher tells.

    Attributes:
        roots: The shared folders that it watches.
        window: Jobs that were offered and have not ended.
        window_size: How many there may be.
        queued: Of these, those that are still in the broker.
        waiting: Files that settle, or wait for their next try; there may be more on the disk.
        sent: Messages since it started.
        done: Documents that ended with a record since it started.
        failed: Documents that ended with an error record.
        lost: Jobs that were offered again because no host had them.
        rss_mb: Its resident memory (MiB).
        wall_s: Its clock (s since 1970).
    """

    roots: tuple[str, ...] = ()
    window: int = 0
    window_size: int = 0
    queued: int = 0
    waiting: int = 0
    sent: int = 0
    done: int = 0
    failed: int = 0
    lost: int = 0
    rss_mb: float = 0.0
    wall_s: float = 0.0


_Told = TypeVar("_Told", Beat, DispatchBeat)


def as_fields(told: Beat | DispatchBeat) -> dict[str, Any]:
    """The fields of an event."""
    return {f"{_PREFIX}{name}": value for name, value in vars(told).items()}


def from_fields(kind: type[_Told], fields: Mapping[str, Any]) -> _Told | None:
    """From an event; None where it is another program's, or cannot be understood."""
    told: dict[str, Any] = {}
    for name, default in vars(kind()).items():
        if _PREFIX + name in fields:
            value = fields[_PREFIX + name]
            try:
                told[name] = tuple(map(str, value)) if isinstance(default, tuple) else type(default)(value)
            except (TypeError, ValueError):
                return None
    return kind(**told) if told else None


@dataclass(frozen=True)
class Host:
    """One bridge, as it was last heard of (monotonic s)."""

    name: str
    beat: Beat
    heard_at: float


@dataclass
class Hosts:
    """Every bridge that was heard of in the last while."""

    clock: Callable[[], float] = time.monotonic
    _by_name: dict[str, Host] = field(default_factory=dict)

    def hear(self, name: str, beat: Beat) -> None:
        """A heartbeat came."""
        self._by_name[name] = Host(name, beat, self.clock())

    def leave(self, name: str) -> None:
        """A bridge said that it goes."""
        self._by_name.pop(name, None)

    def present(self) -> list[Host]:
        """Those that are there, by name. Safe from any thread."""
        now = self.clock()
        there = [host for host in list(self._by_name.values()) if now - host.heard_at <= AWAY_S]
        return sorted(there, key=lambda host: host.name)

    def in_hand(self) -> Iterator[tuple[str, str]]:
        """Identities of the jobs that somebody has, and the name of who has them."""
        for host in self.present():
            for task in host.beat.tasks:
                yield task, host.name
