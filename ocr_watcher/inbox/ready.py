"""Is this file ready to be read? Pure rules: (name, stat now, sight before, clock) -> verdict.

A file that is still being written must never be read, and a name that is no image must never be
looked at twice. Touches no file and no clock of its own.
"""

from __future__ import annotations

import fnmatch
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ocr_watcher import names
from ocr_watcher.job import Stamp

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from ocr_watcher.config import Settings

# A close-after-write says that one writer has finished. Some writers open and close a file for
# every chunk, so the file must also stand still for a moment; 20 ms is far below what a person
# notices and above the gap of a writer that goes on at once. Where the guess is wrong, the worker
# sees a truncated image inside the settle time and hands the file back (see `Outcome.RESETTLE`).
CLOSED_SETTLE_S = 0.02


@dataclass(frozen=True)
class Rules:
    """What counts as an image by its name, and how long it must stand still (seconds)."""

    extensions: frozenset[str]
    ignore: re.Pattern[str]
    settle_s: float

    @classmethod
    def of(cls, extensions: Iterable[str], ignore: Iterable[str], settle_s: float) -> Rules:
        """Compile the configuration's lists. Globs match whole names, case-insensitively."""
        globs = "|".join(fnmatch.translate(pattern) for pattern in ignore) or r"(?!)"
        return cls(frozenset(e.lower() for e in extensions), re.compile(globs, re.IGNORECASE), settle_s)

    def ignores(self, name: str) -> bool:
        """Whether a file or folder of this name is never looked at."""
        return self.ignore.match(name) is not None

    def wants(self, name: str) -> bool:
        """Whether a file of this name is an image to be read."""
        dot = name.rfind(".")
        # dot > 0: ".png" is a hidden file without extension
        return (
            dot > 0
            and name[dot:].lower() in self.extensions
            and self.ignore.match(name) is None
            and not names.is_output(name)
        )

    def passes_over(self, name: str) -> bool:
        """Whether a file of this name is not read, and nobody has said so.

        It is neither wanted nor ignored, nor does it have the name of a record or an output of ours.
        """
        if names.is_record(name) or self.wants(name) or self.ignores(name):
            return False
        document = names.document_of_output(name)
        return document is None or not (self.wants(document) or names.is_shortened(document))


def rules_of(settings: Settings) -> Rules:
    """The rules of a configuration."""
    return Rules.of(settings.watch.extensions, settings.watch.ignore, settings.watch.settle_s)


@dataclass(frozen=True)
class Sight:
    """What was seen of a waiting file.

    `since` is the monotonic time (s) from which `stamp` has stood still; `closed` says that a
    writer has closed the file since then.
    """

    stamp: Stamp
    since: float
    closed: bool = False


@dataclass(frozen=True)
class Ready:
    """Read it now; `stamp` is the version that was judged.

    `settled`: it stood still for the whole settle time, so it is complete as far as anybody can
    tell. Otherwise only a close-after-write says so.
    """

    stamp: Stamp
    settled: bool


@dataclass(frozen=True)
class Wait:
    """Look again at monotonic time `until` (s), and hand back `sight`."""

    sight: Sight
    until: float


@dataclass(frozen=True)
class Ignore:
    """Not a file to read; `reason` in words, or empty where the file is simply gone."""

    reason: str


def kind_of(mode: int) -> str:
    """A file type in words, for the log."""
    names = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISLNK, "a symbolic link"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
    )
    return next((words for test, words in names if test(mode)), "a device")


def judge(
    status: os.stat_result | None, before: Sight | None, *, now: float, closed: bool, rules: Rules
) -> Ready | Wait | Ignore:
    """Decide about one file whose name is wanted.

    `status` is an lstat result (None: gone), `before` what an earlier call returned with `Wait`,
    `now` the monotonic clock (s), `closed` whether a close-after-write arrived since that call.
    Only the file's own standing still counts, never its modification time against the wall
    clock: copies keep old times, shares have clocks of their own, and clocks are set.
    """
    if status is None:
        return Ignore("")
    if not stat.S_ISREG(status.st_mode):
        return Ignore(kind_of(status.st_mode))
    stamp = Stamp.of(status)
    if before is None or before.stamp != stamp:
        sight = Sight(stamp, now, closed)
    else:
        sight = Sight(stamp, before.since, before.closed or closed)
    # An empty file was most likely just created, to be filled by a second open.
    quick = sight.closed and stamp.size_bytes > 0
    until = sight.since + (min(CLOSED_SETTLE_S, rules.settle_s) if quick else rules.settle_s)
    if now < until:
        return Wait(sight, until)
    return Ready(stamp, settled=now >= sight.since + rules.settle_s)
