"""What bridges tell of themselves, and who of them is there.

Each sends Celery's `worker-heartbeat` with a few fields more. What counts is when it arrived here, by this
process's own monotonic clock: nobody compares the clocks of two machines.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

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
        bridge_rss_mb: Of the bridge.
        roots: The shared folders that it takes jobs of, now.
        done: Jobs that it has ended since it started.
        rss_limit_mb: Where the daemon starts afresh (MiB).
        wall_s: Its clock (s since 1970), for `doctor`.
    """

    tasks: tuple[str, ...] = ()
    daemon: bool = False
    queue: int = 0
    rss_mb: float = 0.0
    bridge_rss_mb: float = 0.0
    roots: tuple[str, ...] = ()
    done: int = 0
    rss_limit_mb: int = 0
    wall_s: float = 0.0

    def as_fields(self) -> dict[str, Any]:
        """The fields of the event."""
        return {f"{_PREFIX}{name}": value for name, value in vars(self).items()}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Beat | None:
        """From an event; None where it is one of another kind of worker."""
        told = {name: fields[_PREFIX + name] for name in vars(cls()) if _PREFIX + name in fields}
        if not told:
            return None
        for name in ("tasks", "roots"):
            told[name] = tuple(str(one) for one in told.get(name, ()))
        return cls(**told)


@dataclass
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
        """Those that are there, by name; the others are forgotten."""
        now = self.clock()
        self._by_name = {n: host for n, host in self._by_name.items() if now - host.heard_at <= AWAY_S}
        return sorted(self._by_name.values(), key=lambda host: host.name)

    def in_hand(self) -> Iterator[tuple[str, str]]:
        """Identities of the jobs that somebody has, and the name of who has them."""
        for host in self.present():
            for task in host.beat.tasks:
                yield task, host.name
