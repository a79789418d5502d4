"""Looks through the inboxes, in slices: what is there, what is new, what is no more.

Events make the service quick, the scan makes it complete: events get lost (queue overflow, network mounts,
folders that appear while a watch is being added), so every promise rests on the scan and none on an event.
Knows names, folders and stat results, never contents.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, cast

from ocr_watcher import names
from ocr_watcher.errors import FileError
from ocr_watcher.inbox import records
from ocr_watcher.inbox.files import FOLDER, descend, remove_leftover
from ocr_watcher.inbox.ready import Rules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

    from ocr_watcher.inbox.intake import Intake

_NOTHING = Rules.of((), (), 0.0)
# The longest that a walk goes on without a pause (s), unless one call of the operating system takes longer.
_PAUSE_EVERY_S = 0.005
# Folders above the one in hand that are kept open. However deep the tree, no more descriptors are needed: the
# way back up leads through "..".
_MAX_OPEN = 16


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


@dataclass(frozen=True)
class OutOfReach:
    """An image whose path is too long to be read, or a folder that is left out because all in it would be."""

    path: str


def walk(
    folder: str,
    rules: Rules,
    *,
    recursive: bool,
    trouble: Callable[[str, OSError], None],
    is_current: Callable[[str, os.stat_result], bool] = lambda _path, _status: False,
    has_record: Callable[[str], bool] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Found | Leftover | OutOfReach | None]:
    """Walk `folder` lazily and yield what may be work; None now and then, so that the caller can pause.

    An image that has a record and of which `is_current` says that this version is done is left out. Links are
    never followed, also where one takes a folder's place while the scan is under way. A folder that
    cannot be listed is told to `trouble` and left out. The time of a walk grows with the number of entries,
    whatever their depth. `has_record` tells whether there is a record of the image of this path; without it,
    records are looked for beside the image.
    """
    pauses = _Pauses(clock)
    tree = _Tree(folder, trouble)
    try:
        for entered in tree.steps():
            if entered:
                try:
                    yield from _visit(
                        tree,
                        rules,
                        pauses,
                        recursive=recursive,
                        is_current=is_current,
                        has_record=has_record,
                    )
                except OSError as error:
                    trouble(tree.path, error)
            if pauses.is_due():
                yield None
    finally:
        tree.close()


def count_folders(folder: str) -> int:
    """The number of folders from `folder` down, it included. Links and what cannot be opened do not count."""
    tree = _Tree(folder, lambda _path, _error: None)
    count = 0
    for entered in tree.steps():
        if entered:
            count += 1
            with suppress(OSError), os.scandir(tree.fd) as entries:
                tree.add([entry.name for entry in entries if entry.is_dir(follow_symlinks=False)])
    return count


class _Pauses:
    """Tells when a walk has gone on for long enough."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._next = clock() + _PAUSE_EVERY_S

    def is_due(self) -> bool:
        if self._clock() < self._next:
            return False
        self._next = self._clock() + _PAUSE_EVERY_S
        return True


@dataclass
class _Level:
    """A folder on the way from the root to the folder in hand.

    `fd` is None while it is closed to save descriptors, `identity` its device and inode, `pending` the names
    of the folders in it that are still to be visited.
    """

    name: str
    path: str
    fd: int | None
    identity: tuple[int, int]
    pending: list[str] = field(default_factory=list)


class _Tree:
    """Visits folders depth first, each opened relative to the one above it, without following links.

    A folder that was closed meanwhile is opened again through the one below it, and only taken for the same
    where device and inode are: it may have been moved.
    """

    def __init__(self, root: str, trouble: Callable[[str, OSError], None]) -> None:
        self._root = root
        self._trouble = trouble
        self._levels: list[_Level] = []
        self._first_open = 0  # the levels above it have no descriptor

    @property
    def path(self) -> str:
        """The folder in hand."""
        return self._levels[-1].path

    @property
    def fd(self) -> int:
        """Its descriptor. Only valid right after a step that entered it."""
        return cast("int", self._levels[-1].fd)

    def add(self, folders: list[str]) -> None:
        """These are in the folder in hand, and are visited next."""
        self._levels[-1].pending = folders

    def steps(self) -> Iterator[bool]:
        """Yield True for each folder that was entered, and False for each step that entered none."""
        yield self._enter(self._root, self._root, os.O_RDONLY, None)
        while self._levels:
            level = self._levels[-1]
            if level.pending:
                name = level.pending.pop()
                yield self._enter(name, os.path.join(level.path, name), os.O_NOFOLLOW, level.fd)
            else:
                self._leave()
                yield False

    def close(self) -> None:
        """Close every descriptor."""
        for level in self._levels:
            _close(level)
        self._levels.clear()

    def _enter(self, name: str, path: str, flags: int, above: int | None) -> bool:
        try:
            fd = os.open(name, FOLDER | flags, dir_fd=above)
            level = _Level(name, path, fd, _identity(fd))
        except OSError as error:
            self._trouble(path, error)
            return False
        self._levels.append(level)
        if len(self._levels) - self._first_open > _MAX_OPEN:
            _close(self._levels[self._first_open])
            self._first_open += 1
        return True

    def _leave(self) -> None:
        """Go back to the folder above."""
        left = self._levels.pop()
        if self._levels and self._levels[-1].fd is None:
            above = self._levels[-1]
            self._first_open = len(self._levels) - 1
            try:
                above.fd = self._reopen(above, left)
            except OSError as error:
                if above.pending:
                    self._trouble(above.path, error)
                above.pending.clear()
        _close(left)

    def _reopen(self, above: _Level, left: _Level) -> int:
        """Open the folder `above` again; raises OSError where it is not what or where it was."""
        if left.fd is not None:
            fd = os.open("..", FOLDER, dir_fd=left.fd)
            if _identity(fd) == above.identity:
                return fd
            os.close(fd)  # the folder that we leave was moved; the one above may still be in its place
        fd = descend(self._root, tuple(level.name for level in self._levels[1:]))
        if _identity(fd) != above.identity:
            os.close(fd)
            raise FileNotFoundError(errno.ENOENT, "it was moved while it was looked through", above.path)
        return fd


def _identity(fd: int) -> tuple[int, int]:
    """Device and inode of an open folder. Where a share refuses to tell, closes it and raises OSError."""
    try:
        status = os.fstat(fd)
    except OSError:
        os.close(fd)
        raise
    return status.st_dev, status.st_ino


def _close(level: _Level) -> None:
    if level.fd is not None:
        os.close(level.fd)
        level.fd = None


def _visit(
    tree: _Tree,
    rules: Rules,
    pauses: _Pauses,
    *,
    recursive: bool,
    is_current: Callable[[str, os.stat_result], bool],
    has_record: Callable[[str], bool] | None,
) -> Iterator[Found | Leftover | OutOfReach | None]:
    """Look through the folder in hand; raises OSError where it cannot be listed."""
    fd, here = tree.fd, tree.path
    room = names.MAX_PATH_BYTES - len(os.fsencode(here)) - 1
    listing = _Listing()
    yield from _list(fd, here, rules, listing, pauses)
    if recursive:
        for name in _too_long(listing.folders, room):
            listing.folders.remove(name)
            yield OutOfReach(os.path.join(here, name))
        tree.add(listing.folders)
    prefix, stat, recorded = os.path.join(here, ""), os.stat, listing.records
    out_of_reach = set(_too_long(listing.images, room))
    for name in listing.images:
        if pauses.is_due():
            yield None
        if name in out_of_reach:
            yield OutOfReach(prefix + name)
            continue
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


def _too_long(entries: list[str], room: int) -> list[str]:
    """Those names that have more than `room` bytes."""
    if room >= names.MAX_NAME_BYTES:
        return []
    return [name for name in entries if len(os.fsencode(name)) > room]


@dataclass
class _Listing:
    """One folder: names of images, of what may be records, and of folders."""

    images: list[str] = field(default_factory=list)
    records: set[str] = field(default_factory=set)
    folders: list[str] = field(default_factory=list)


def _list(fd: int, here: str, rules: Rules, listing: _Listing, pauses: _Pauses) -> Iterator[Leftover | None]:
    """Sort the names of one open folder into `listing`.

    Half of 200,000 names are records, so what is cheap to tell comes first.
    """
    images, records, wants = listing.images.append, listing.records.add, rules.wants
    with os.scandir(fd) as entries:
        for entry in entries:
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
            if pauses.is_due():
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
                elif isinstance(item, Leftover):
                    self._remove(item)
                elif item is not None:
                    self._intake.ignore(item.path, names.OUT_OF_REACH)
                yield
        for tree in self._trees:
            for item in walk(
                str(tree), _NOTHING, recursive=True, trouble=self._tree_trouble, clock=self._clock
            ):
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
        if removed or (removed is not None and self._intake.is_new(leftover.path)):
            self._log.info("file.leftover", path=leftover.path, removed=removed)

    def _trouble(self, folder: str, error: OSError) -> None:
        self._troubled = True
        self._tree_trouble(folder, error)

    def _tree_trouble(self, folder: str, error: OSError) -> None:
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
