"""The documents in the inboxes, the latest of them: found by looking through the folders, kept up by the log.

The folders and the records in them are the truth. A line of the daemon's log only says where to look again.
"""

from __future__ import annotations

import heapq
import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from ocr_watcher import names
from ocr_watcher.http.events import LogTail
from ocr_watcher.inbox import records, scan
from ocr_watcher.inbox.places import Places
from ocr_watcher.inbox.ready import Rules
from ocr_watcher.job import Stamp

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator
    from pathlib import Path
    from typing import Any

    from ocr_watcher.config import Settings
    from ocr_watcher.inbox.records import RecordState

MAX_KEPT: Final = 20_000
"""So many documents are known, the latest; 300 bytes each."""


class Entry(NamedTuple):
    """A document: when it came or got its record (ns since 1970), and its path or job. Sorts by age."""

    changed_ns: int
    key: str


@dataclass(frozen=True)
class Tree:
    """A folder with documents.

    Attributes:
        root: Its path, with a separator at the end.
        records: The same of the tree that has their records; None: they are beside the documents.
        prefix: What stands before their names when they are shown; "" or the inbox's name with a separator.
        is_archive: It is where documents are moved when they are done.
    """

    root: str
    records: str | None = None
    prefix: str = ""
    is_archive: bool = False

    @property
    def inbox(self) -> str:
        """As the daemon calls it in its status."""
        return names.printable(self.root.rstrip(os.sep))

    @classmethod
    def of(cls, settings: Settings) -> tuple[Tree, ...]:
        """The inboxes of a configuration, and its archive."""
        places = Places.of(settings)
        several = len(places.inboxes) > 1
        found = []
        for inbox in places.inboxes:
            own = (inbox.name,) if several else ()
            tree = None if places.folder is None else os.path.join(places.folder.joinpath(*own), "")
            found.append(cls(os.path.join(inbox, ""), tree, os.path.join(*own, "") if own else ""))
        if places.archive is not None:
            tree = None if places.folder is None else os.path.join(places.folder, "")
            found.append(cls(os.path.join(places.archive, ""), tree, is_archive=True))
        return tuple(found)


@dataclass(frozen=True)
class FolderDocument:
    """One of them, with everything by which its results are sent (see `results.Finished`)."""

    path: str
    tree: Tree
    origin: str = ""
    """Where it was when it was read: in the inbox."""

    @property
    def name(self) -> str:
        """Its path below the inbox, as it is shown. Nothing above that ever leaves the server."""
        return names.printable(self.tree.prefix + self.path[len(self.tree.root) :])

    @property
    def renamed(self) -> str:
        """What stands for its name in its results: its own does."""
        return ""

    @property
    def extension(self) -> str:
        """Of its name, in lower case."""
        return os.path.splitext(self.path)[1].lower()

    @property
    def beside(self) -> str:
        """The path beside which its records are."""
        if self.tree.records is None:
            return self.path
        return self.tree.records + self.path[len(self.tree.root) :]

    @property
    def record(self) -> str:
        """The path of its sidecar."""
        folder, document = os.path.split(self.beside)
        return os.path.join(folder, names.records_of(document).sidecar)

    @property
    def error_record(self) -> str:
        """The path of its error record."""
        folder, document = os.path.split(self.beside)
        return os.path.join(folder, names.records_of(document).error)

    def output(self, kind: str) -> str:
        """The path of a further output, which may not be there."""
        folder, document = os.path.split(self.beside)
        return os.path.join(folder, names.output_of(document, kind))

    def state(self, stamp: Stamp) -> RecordState:
        """What its records say of this version."""
        return records.lookup(self.beside, stamp)


@dataclass
class Folders:
    """What is known of them. `version` grows with every change. Calls of the operating system block."""

    settings: Settings
    version: int = 0
    entries: dict[str, Entry] = field(default_factory=dict)
    _trees: tuple[Tree, ...] = ()
    _tail: LogTail | None = None

    def __post_init__(self) -> None:
        self._trees = Tree.of(self.settings)

    @property
    def log_tells(self) -> bool:
        """Whether every end of a document is in the log."""
        return self.settings.logging.level in ("debug", "info")

    def document(self, path: str) -> FolderDocument | None:
        """The document of a path; None where that is in none of the folders."""
        for tree in self._trees:
            if path.startswith(tree.root):
                return FolderDocument(path, tree, self._origin(path, tree))
        return None

    def _origin(self, path: str, tree: Tree) -> str:
        below = path[len(tree.root) :]
        for inbox in self._trees if tree.is_archive else ():
            if not inbox.is_archive and below.startswith(inbox.prefix):
                return inbox.root + below[len(inbox.prefix) :]
        return path

    def look_through(self, hung: Container[str] = ()) -> None:
        """Look at everything anew, but not into inboxes that are `hung`."""
        if self._tail is None:
            self._tail = LogTail(self.settings.logging.file)
            self._tail.skip()
        found = heapq.nlargest(MAX_KEPT, self._found(hung))
        fresh = {entry.key: entry for entry in found}
        if fresh != self.entries:
            self.entries = fresh
            self.version += 1

    def follow(self, hung: Container[str] = ()) -> None:
        """Look again at what the log has told of since, but not into inboxes that are `hung`."""
        if self._tail is None:
            return
        for path in dict.fromkeys(_paths(self._tail.events())):
            document = self.document(path)
            if document is not None and document.tree.inbox not in hung:
                self.look_at(path)

    def answering(self, hung: frozenset[str]) -> Iterator[Entry]:
        """The entries of documents in inboxes that are not `hung`."""
        silent = tuple(tree.root for tree in self._trees if tree.inbox in hung)
        return (entry for entry in self.entries.values() if not entry.key.startswith(silent))

    def look_at(self, path: str) -> None:
        """Look at one document."""
        for candidate in self._candidates(path):
            document = self.document(candidate)
            entry = None if document is None else _entry(document)
            known = self.entries.pop(candidate, None)
            if entry is not None:
                self.entries[candidate] = entry
            self.version += entry != known
        if len(self.entries) > MAX_KEPT + MAX_KEPT // 10:
            self.entries = {entry.key: entry for entry in heapq.nlargest(MAX_KEPT, self.entries.values())}

    def _candidates(self, path: str) -> Iterator[str]:
        """Where a document may be: where it was, or in the archive."""
        yield path
        document = self.document(path)
        for tree in self._trees:
            if tree.is_archive and document is not None and document.tree is not tree:
                yield tree.root + document.tree.prefix + path[len(document.tree.root) :]

    def _found(self, hung: Container[str]) -> Iterator[Entry]:
        watch = self.settings.watch
        rules = Rules.of(watch.extensions, watch.ignore, watch.settle_s)
        for tree in self._trees:
            if tree.inbox in hung:
                continue
            for item in scan.walk(
                tree.root.rstrip(os.sep) or os.sep,
                rules,
                recursive=watch.recursive or tree.is_archive,
                trouble=lambda _path, _error: None,
                has_record=lambda _path: True,
            ):
                if isinstance(item, scan.Found) and stat.S_ISREG(item.status.st_mode):
                    yield _dated(FolderDocument(item.path, tree), item.status)


def _paths(events: Iterable[dict[str, Any]]) -> Iterator[str]:
    for event in events:
        path = event.get("path")
        if isinstance(path, str):
            yield path


def _entry(document: FolderDocument) -> Entry | None:
    try:
        status = os.lstat(document.path)
    except (OSError, ValueError):
        return None
    return _dated(document, status) if stat.S_ISREG(status.st_mode) else None


def _dated(document: FolderDocument, status: os.stat_result) -> Entry:
    """When it got its record, or where it has none, when it came."""
    for record in (document.record, document.error_record):
        try:
            return Entry(os.lstat(record).st_mtime_ns, document.path)
        except OSError:
            continue
    return Entry(status.st_ctime_ns, document.path)


def stamp_of(path: str | Path) -> Stamp | None:
    """The version of a document; None where there is no such file."""
    try:
        status = os.lstat(path)
    except (OSError, ValueError):
        return None
    return Stamp.of(status) if stat.S_ISREG(status.st_mode) else None
