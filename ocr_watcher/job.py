"""One piece of work, and one version of a file: what every stage from the inbox to the record speaks of.

A job says where its file is as a root and the steps below it, and carries no wall-clock time: it means the
same on another host, and whatever the clock is set to.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path


class Stamp(NamedTuple):
    """One version of a file. The same size and modification time is taken for the same content."""

    size_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """The stamp of a stat result."""
        return cls(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class Job:
    """One file for the consumer.

    `root` is the inbox (or, for a file named on the command line, its folder), `parts` the folders below it,
    `name` the file; `stamp` the version that had settled, and `settled` as in `inbox.ready.Ready`;
    `queued_at` monotonic seconds of this process; `redelivered` says that it was queued before and came back
    without an end.
    """

    root: Path
    parts: tuple[str, ...]
    name: str
    stamp: Stamp
    settled: bool
    queued_at: float
    redelivered: bool = False

    @property
    def path(self) -> str:
        """The whole path."""
        return os.path.join(self.root, *self.parts, self.name)


class Outcome(Enum):
    """What became of a job, as far as the inbox must know."""

    DONE = "done"
    FAILED = "failed"  # an error record was written
    GONE = "gone"
    RESETTLE = "resettle"  # it changed under the reader, or was not complete yet
    RETRY = "retry"  # try again after a pause
    PAUSED = "paused"  # a long document lets the others go first; it goes on at the next page
    BROKEN_OFF = "broken_off"  # the service stops: the next start does it
