"""Notices that a bridge takes no jobs any more, though it should.

Celery's worker connects again by itself. Where that went wrong, it sat there idle, healthy to look at. A
process that starts afresh costs two seconds, and goes on with what it had in hand.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_LOOK_S: Final = 10.0
# How long the worker may be silent while the broker answers: connecting anew takes it up to 32 s.
_SILENT_S: Final = 120.0
# How long jobs may wait in queues that it should take from, without it getting one. With many hosts and few
# jobs others are quicker; but then there is no job there at one look after the other.
_IDLE_S: Final = 60.0


@dataclass(frozen=True)
class Signs:
    """What the worker did last.

    `loop_at` is when it was last alive (monotonic s), `jobs` how many it has begun, `roots` those whose
    queues it should take from, `busy` whether it has one in hand.
    """

    loop_at: float
    jobs: int
    roots: tuple[str, ...]
    busy: bool


class Verdict:
    """Decides from one look to the next."""

    def __init__(self) -> None:
        self._idle_since: float | None = None
        self._jobs = -1

    def look(self, signs: Signs, queued: Mapping[str, int] | None, now: float) -> str:
        """Why the process should start afresh, in words; empty where it should not.

        `queued` is how many messages wait for each root; None where the broker does not answer.
        """
        if queued is None or signs.busy:
            self._idle_since = None
            return ""
        if now - signs.loop_at > _SILENT_S:
            return f"the worker has not moved for {now - signs.loop_at:.0f} s, and the broker answers"
        waits = any(queued.get(root) for root in signs.roots)
        if not waits or signs.jobs != self._jobs:
            self._jobs, self._idle_since = signs.jobs, now if waits else None
            return ""
        if self._idle_since is not None and now - self._idle_since > _IDLE_S:
            return f"jobs wait in the broker for {now - self._idle_since:.0f} s, and none arrives"
        self._idle_since = self._idle_since or now
        return ""


class Guard(threading.Thread):
    """Looks every few seconds."""

    def __init__(
        self,
        signs: Callable[[], Signs],
        *,
        queued: Callable[[tuple[str, ...]], Mapping[str, int] | None],
        beat: Callable[[], None],
        restart: Callable[[str], None],
    ) -> None:
        """Calls back from its own thread.

        Args:
            signs: what the worker does.
            queued: how many messages wait for these roots; None where the broker does not answer.
            beat: called while all is well, also while the broker is away: for the service manager's watchdog.
            restart: called with the reason.
        """
        super().__init__(name="guard", daemon=True)
        self._signs = signs
        self._queued = queued
        self._beat = beat
        self._restart = restart
        self._ends = threading.Event()

    def run(self) -> None:
        """Look until told to stop."""
        verdict = Verdict()
        while not self._ends.wait(_LOOK_S):
            signs = self._signs()
            if why := verdict.look(signs, self._queued(signs.roots), time.monotonic()):
                self._restart(why)
                return
            self._beat()

    def stop(self) -> None:
        """End; it is a daemon thread, so nobody waits for it."""
        self._ends.set()
