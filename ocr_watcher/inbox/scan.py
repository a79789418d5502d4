"""Looks through the inboxes, in slices: what is there, what is new, what is no more.

Events make the service quick, the scan makes it complete: events get lost (queue overflow, network mounts,
folders that appear while a watch is being added), so every promise rests on the scan and none on an event.
Knows names, folders and stat results, never contents.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ocr_watcher import names
from ocr_watcher.errors import FileError
from ocr_watcher.inbox import records
from ocr_watcher.inbox.files import descend, remove_leftover
from ocr_watcher.inbox.ready import Rules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

    from ocr_watcher.inbox.intake import Intake

# Entries of one folder between two pauses of a scan: below a millisecond.
_PAUSE_EVERY = 256
_NOTHING = Rules.of((), (), 0.0)


class Found(NamedTuple):
    """An image-like name that the scan met. `records` says whether any record has its name."""

    path: str
    status: os.stat_result
    records: bool


@dataclass(frozen=True)
class Leftover:
    """A temporary file of a process that was killed.

    `folder` is the descriptor of its folder, open until the scan goes on: the path could lead
    elsewhere by now.
    """

    path: str
    folder: int


def walk(
    folder: str,
    rules: Rules,
    *,
    recursive: bool,
    trouble: Callable[[str, OSError], None],
    is_current: Callable[[str, os.stat_result], bool] = lambda _path, _status: False,
    has_record: Callable[[str], bool] | None = None,
) -> Iterator[Found | Leftover | None]:
    """Walk `folder` lazily and yield what may be work; None now and then, so that the caller can pause.

    An image that has a record and of which `is_current` says that this version is done is left out. Links are
    never followed, also where one takes a folder's place while the scan is under way. A folder that
    cannot be listed is told to `trouble` and left out. `has_record` tells whether there is a record of the
    image of this path; without it, records are looked for beside the image.
    """
    stack: list[tuple[str, ...]] = [()]
    while stack:
        parts = stack.pop()
        here = os.path.join(folder, *parts)
        try:
            fd = descend(folder, parts)
        except OSError as error:
            trouble(here, error)
            continue
        try:
            listing = _Listing()
            try:
                yield from _list(fd, here, rules, listing)
            except OSError as error:
                trouble(here, error)
                continue
            if recursive:
                stack += [(*parts, name) for name in listing.folders]
            prefix, stat, recorded = os.path.join(here, ""), os.stat, listing.records
            for count, name in enumerate(listing.images, 1):
                if count % _PAUSE_EVERY == 0:
                    yield None
                try:
                    status = stat(name, dir_fd=fd, follow_symlinks=False)
                except OSError:
                    continue  # gone meanwhile
                path = prefix + name
                if has_record is not None:
                    records = has_record(path)
                else:
                    # The usual name first: of 100,000 finished images, all but a few have it.
                    records = f"{name}{names.SIDECAR_SUFFIX}" in recorded or not recorded.isdisjoint(
                        names.records_of(name)
                    )
                if not (records and is_current(path, status)):
                    yield Found(path, status, records)
        finally:
            os.close(fd)


@dataclass
class _Listing:
    """One folder: names of images, of what may be records, and of folders."""

    images: list[str] = field(default_factory=list)
    records: set[str] = field(default_factory=set)
    folders: list[str] = field(default_factory=list)


def _list(fd: int, here: str, rules: Rules, listing: _Listing) -> Iterator[Leftover | None]:
    """Sort the names of one open folder into `listing`.

    Half of 200,000 names are records, so what is cheap to tell comes first.
    """
    images, records, wants = listing.images.append, listing.records.add, rules.wants
    with os.scandir(fd) as entries:
        for count, entry in enumerate(entries, 1):
            name = entry.name
            if entry.is_dir(follow_symlinks=False):
                if not rules.ignores(name):
                    listing.folders.append(name)
                if wants(name):  # to be told that it is none
                    images(name)
            elif names.is_record(name):
                records(name)
            elif names.is_leftover(name):
                yield Leftover(os.path.join(here, name), fd)
            elif wants(name):
                images(name)
            if count % _PAUSE_EVERY == 0:
                yield None


@dataclass(frozen=True)
class ScanFigures:
    """What a scan met: files, those that wait or are in hand, those that have their record; and its time."""

    found: int
    queued: int
    current: int
    duration_ms: int


class Scan:
    """One pass over the inboxes, done in slices; feeds the intake and counts."""

    def __init__(
        self,
        inboxes: tuple[Path, ...],
        rules: Rules,
        intake: Intake,
        *,
        recursive: bool,
        log: FilteringBoundLogger,
        clock: Callable[[], float] = time.monotonic,
        has_record: Callable[[str], bool] | None = None,
        trees: Iterable[Path] = (),
    ) -> None:
        """`trees` are looked through for what killed processes left; nothing else in them is work."""
        self._inboxes = inboxes
        self._rules = rules
        self._intake = intake
        self._recursive = recursive
        self._log = log
        self._clock = clock
        self._has_record = has_record
        self._trees = tuple(trees)
        self._steps = self._walk()
        self._troubled = False
        self._started = clock()
        self._unchanged = self._others = self._done = 0

    def advance(self, until: float) -> bool:
        """Go on until monotonic time `until` (s); True when the pass is complete."""
        return all(self._clock() < until for _ in self._steps)

    def _walk(self) -> Iterator[None]:
        for inbox in self._inboxes:
            for item in walk(
                str(inbox),
                self._rules,
                recursive=self._recursive,
                is_current=self._is_current,
                has_record=self._has_record,
                trouble=self._trouble,
            ):
                if isinstance(item, Found):
                    self._others += 1
                    self._done += self._intake.found(item)
                elif item is not None:
                    self._remove(item)
                yield
        for tree in self._trees:
            for item in walk(str(tree), _NOTHING, recursive=True, trouble=self._trouble):
                if isinstance(item, Leftover):
                    self._remove(item)
                yield
        if not self._troubled:
            yield from self._intake.forget_gone(self._unchanged)

    def _is_current(self, path: str, status: os.stat_result) -> bool:
        if not self._intake.knows(path, status):
            return False
        self._unchanged += 1
        return True

    def _remove(self, leftover: Leftover) -> None:
        name = os.path.basename(leftover.path)
        try:
            if records.is_needed(leftover.folder, name):
                return
        except (OSError, FileError):  # the next scan looks again
            return
        removed = remove_leftover(leftover.folder, name)
        if removed is not None:
            self._log.info("file.leftover", path=leftover.path, removed=removed)

    def _trouble(self, folder: str, error: OSError) -> None:
        self._troubled = True
        if not isinstance(error, FileNotFoundError):
            self._log.warning("scan.trouble", path=folder, message=f"cannot list it: {error.strerror}")

    @property
    def current(self) -> int:
        """Files that were done already, or have failed for good."""
        return self._unchanged + self._done

    def figures(self) -> ScanFigures:
        """How it went so far."""
        return ScanFigures(
            found=self._unchanged + self._others,
            queued=self._intake.busy + self._intake.waiting,
            current=self.current,
            duration_ms=round((self._clock() - self._started) * 1000),
        )
