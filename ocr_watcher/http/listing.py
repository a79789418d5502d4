"""The list of documents: of folders and jobs alike, the latest first, by pages, searched by name and text.

Only what is shown is looked at closely. A search goes on for a short time and says where it stopped.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import re
import threading
import time
from bisect import bisect_left
from collections import OrderedDict
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from ocr_watcher.http import summary
from ocr_watcher.http.folders import Entry, FolderDocument, Folders, stamp_of
from ocr_watcher.http.problems import bad_request, not_found
from ocr_watcher.http.received import EVERYBODY, Jobs
from ocr_watcher.http.summary import Summaries
from ocr_watcher.http.threads import Threads
from ocr_watcher.inbox.records import RecordState
from ocr_watcher.names import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    from ocr_watcher.config import Settings
    from ocr_watcher.http.daemon_state import DaemonState
    from ocr_watcher.http.spool import Job, Spool
    from ocr_watcher.http.waiting import Waiting

    _T = TypeVar("_T")

MAX_ROWS: Final = 200
# How often is looked at what may have changed while somebody watches (s).
_LOOK_S: Final = 0.5
# Everything is looked through so often (s): where the log tells of every document, and where it does not.
_LOOK_THROUGH_S: Final = 15.0
_LOOK_THROUGH_UNTOLD_S: Final = 5.0
# Also when nobody watched for so long (s).
_LONG_S: Final = 10.0
# And never for more than a thirtieth of the time.
_LOOK_THROUGH_FACTOR: Final = 30.0
# A request that searches takes no longer (s), and says where it stopped.
_SEARCH_S: Final = 1.0
# Of those who want to know what changed, the first one waits so long (s).
_LOOK_PATIENCE_S: Final = 2.0
# A look that takes so long (s) is taken for one that does not come back, a few times at most.
_ABANDON_S: Final = 30.0
_MAX_ABANDONED: Final = 4
_EXCERPT_CHARACTERS: Final = 60
# Ids of which the path is remembered; others are looked for.
_MAX_GIVEN: Final = 5000
_FOLDER_ID = re.compile(r"f[0-9a-f]{32}")
__all__ = ("EVERYBODY", "MAX_ROWS", "Asked", "Listing", "Row")
_ENDED: Final = (RecordState.DONE, RecordState.FAILED)


@dataclass(frozen=True)
class Asked:
    """What somebody wants to see.

    Attributes:
        owner: Whose jobs; `EVERYBODY`'s, or None: only those of `jobs`.
        jobs: Ids that whoever asks knows.
        query: Words that the name or the text has, one after the other; "": all documents.
        failed: Only those that failed.
        before: Where the page before ended; "": from the latest.
        limit: Rows at most.
    """

    owner: str | None
    jobs: frozenset[str] = frozenset()
    query: str = ""
    failed: bool = False
    before: str = ""
    limit: int = 50


@dataclass(frozen=True)
class _Place:
    """Where a page of the list ends: after so many of the entries of that time (ns)."""

    changed_ns: int
    skipped: int

    @classmethod
    def of(cls, text: str) -> _Place:
        """From its text. Raises `Problem` 400."""
        match = re.fullmatch(r"(\d{1,20})-(\d{1,9})", text)
        if match is None:
            raise bad_request("before is none of the places that this server gave")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.changed_ns}-{self.skipped}"


@dataclass(frozen=True)
class Row:
    """A document as it is listed; see the schema `File` in `openapi`."""

    id: str
    source: str
    name: str
    state: str
    changed_at: str
    page: int | None = None
    page_count: int | None = None
    place: int | None = None
    lines: int | None = None
    ocr_ms: int | None = None
    error: dict[str, Any] | None = None
    excerpt: list[str] | None = None

    def as_json(self) -> dict[str, Any]:
        """Without what is not known."""
        return {key: value for key, value in asdict(self).items() if value is not None}


class Listing:
    """The list. What it does with files it does in threads of its own: an inbox may not answer."""

    def __init__(
        self,
        settings: Settings,
        spool: Spool,
        *,
        daemon: DaemonState,
        waiting: Waiting,
        folders: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`folders`: whether documents of the inboxes are shown."""
        self._daemon = daemon
        self._waiting = waiting
        self._spool = spool
        self._jobs = Jobs(spool)
        self._folders = Folders(settings) if folders else None
        self._summaries = Summaries()
        self._clock = clock
        self._lock = threading.Lock()
        self._settings = settings
        self._threads = Threads()
        self._abandoned = 0
        self._looked_at = float("-inf")
        self._look_began = float("-inf")
        self._through_at = float("-inf")
        self._through_s = 0.0
        self._told: object = None
        self._looking: asyncio.Future[None] | None = None
        self._sorted: tuple[object, list[Entry]] = (None, [])
        self._given: OrderedDict[str, str] = OrderedDict()
        self._hidden = _hidden(settings)

    @property
    def version(self) -> int:
        """Grows with every change of the list."""
        return self._jobs.version + (self._folders.version if self._folders is not None else 0)

    def name_of(self, path: str) -> str | None:
        """What is shown of the path of a document; None where it is not shown."""
        document = self._folders.document(path) if self._folders is not None else None
        return None if document is None else document.name

    async def look(self) -> int:
        """See what has changed, if nobody did just now; returns the version.

        Nobody waits for a look that takes long: there may be many documents, or an inbox that hangs.
        """
        now = self._clock()
        looking = self._looking
        if looking is not None and looking.done():
            looking = None
        elif looking is not None and now - self._look_began > _ABANDON_S and self._abandoned < _MAX_ABANDONED:
            self._abandon()
            looking = None
        if looking is None:
            if now - self._looked_at < _LOOK_S:
                return self.version
            self._look_began = now
            self._looking = looking = self._threads.start(self._look_for(self._folders))
        left_s = self._look_began + _LOOK_PATIENCE_S - now
        await asyncio.wait([looking], timeout=max(0.0, left_s))
        return self.version

    def _abandon(self) -> None:
        """The look under way does not come back: go on without it, from what is known."""
        self._abandoned += 1
        old = self._folders
        if old is not None:
            self._folders = Folders(self._settings, old.version + 1, dict(old.entries))
            self._through_at = float("-inf")

    def _look_for(self, folders: Folders | None) -> Callable[[], None]:
        hung = self._hung()
        now = self._clock()

        def look() -> None:
            self._jobs.look()
            if folders is None:
                return
            every_s = _LOOK_THROUGH_S if folders.log_tells else _LOOK_THROUGH_UNTOLD_S
            is_first = now - self._looked_at > _LONG_S  # somebody came
            if now - self._through_at > max(every_s, _LOOK_THROUGH_FACTOR * self._through_s) or is_first:
                folders.look_through(hung)
                self._through_at, self._through_s = now, self._clock() - now
            else:
                folders.follow(hung)
            self._looked_at = self._clock()

        return look

    def _hung(self) -> frozenset[str]:
        """Inboxes of which the daemon says that they do not answer: nobody looks into them."""
        return frozenset(self._daemon.told.inboxes_hung if self._daemon.running else ())

    async def rows(self, asked: Asked) -> dict[str, Any]:
        """A page of the list: `files`, `before` (of the next one; null: there is none), `searched`, `total`.

        It is `complete` once everything was looked through.

        Raises `Problem`.
        """
        await self.look()
        return await self.run(lambda: self._rows(asked))

    async def row(self, document: Job | FolderDocument, key: str) -> Row:
        """One document. Raises `Problem` 404 where it is gone."""
        return await self.run(lambda: self._row(document, key) or _gone())

    async def run(self, act: Callable[[], _T]) -> _T:
        """Do something with files, in a thread. Raises `Problem` 504 where a file system does not answer."""
        return await self._threads.run(act)

    # -- by id ---------------------------------------------------------------------------------

    def id_of(self, path: str) -> str:
        """What names a document of a folder: nobody can guess it or tell the path from it."""
        digest = hmac.new(self._spool.secret, path.encode("utf-8", "surrogateescape"), hashlib.sha256)
        return "f" + digest.hexdigest()[:32]

    async def find(self, key: str) -> Job | FolderDocument:
        """The document of an id. Raises `Problem` 404."""
        await self.look()
        return await self.run(lambda: self._find(key) or _gone())

    def _find(self, key: str) -> Job | FolderDocument | None:
        if _FOLDER_ID.fullmatch(key) is None:
            return self._spool.find(key)
        folders = self._folders
        if folders is None:
            return None
        path = self._given.get(key)
        if path is None or path not in folders.entries:
            path = next((path for path in list(folders.entries) if self.id_of(path) == key), None)
        return None if path is None else folders.document(path)

    def _give(self, path: str) -> str:
        """The id of a document, which somebody will ask for."""
        key = self.id_of(path)
        with self._lock:
            self._given[key] = path
            if len(self._given) > _MAX_GIVEN:
                self._given.popitem(last=False)
        return key

    # -- rows ----------------------------------------------------------------------------------

    def _entries(self, asked: Asked) -> list[Entry]:
        """All that may be shown, the oldest first."""
        hung = self._hung()
        key = self.version, asked.owner, asked.jobs, hung
        known, entries = self._sorted
        if known != key:
            entries = self._jobs.entries(asked.owner, asked.jobs)
            if self._folders is not None:
                entries += self._folders.answering(hung)
            entries.sort()
            self._sorted = key, entries
        return entries

    def _rows(self, asked: Asked) -> dict[str, Any]:
        entries = self._entries(asked)
        wanted = _Wanted(asked.query)
        deadline = self._clock() + _SEARCH_S
        rows: list[dict[str, Any]] = []
        at = _end_of(entries, asked.before)
        while at > 0 and len(rows) < asked.limit and self._clock() < deadline:
            at -= 1
            row = self._wanted_row(entries[at], wanted, failed=asked.failed)
            if row is not None:
                rows.append(row.as_json())
        return {
            "files": rows,
            "before": _place_of(entries, at) if at else None,
            "searched": len(entries) - at,
            "total": len(entries),
            "complete": self._looked_at > float("-inf"),
            "version": self.version,
        }

    def _wanted_row(self, entry: Entry, wanted: _Wanted, *, failed: bool) -> Row | None:
        document = self._document(entry.key)
        if document is None:
            return None
        excerpt = None
        if wanted.words and not wanted.are_in(document.name):
            excerpt = wanted.excerpt(summary.text_of(document.record))
            if excerpt is None:
                return None
        row = self._row(document, entry.key, entry.changed_ns, excerpt)
        return None if row is None or (failed and row.state not in ("failed", "retrying")) else row

    def _document(self, key: str) -> Job | FolderDocument | None:
        if self._folders is not None and key in self._folders.entries:
            return self._folders.document(key)
        return self._spool.find(key)

    def _row(
        self,
        document: Job | FolderDocument,
        key: str,
        changed_ns: int = 0,
        excerpt: list[str] | None = None,
    ) -> Row | None:
        """What is shown of a document now; None where it is gone."""
        stamp = stamp_of(document.path)
        if stamp is None:
            return None
        state = document.state(stamp)
        by_folder = isinstance(document, FolderDocument)
        found: dict[str, Any] = {
            "id": self._give(document.path) if by_folder else key,
            "source": "folder" if by_folder else "http",
            "name": document.name,
            "changed_at": _iso(changed_ns or stamp.mtime_ns),
            "excerpt": excerpt,
        }
        in_hand = self._in_hand(document.path) if state not in _ENDED else None
        if state is RecordState.DONE:
            with self._lock:
                read = self._summaries.of(document.record)
            if read is not None:
                found |= {"page_count": read.pages, "lines": read.lines, "ocr_ms": read.ocr_ms}
            return Row(state="done", **found)
        if in_hand is not None:
            return Row(state="reading", page=in_hand[0], page_count=in_hand[1], **found)
        if state is RecordState.OPEN:
            return Row(state="waiting", place=None if by_folder else self._waiting.place(key), **found)
        error = summary.error_of(document.beside)
        if error is not None:
            error = {key: self._without_paths(value) for key, value in error.items()}
        return Row(state="failed" if state is RecordState.FAILED else "retrying", error=error, **found)

    def _without_paths(self, value: Any) -> Any:  # noqa: ANN401 - of JSON
        """A message without the folders of this machine that it names."""
        if isinstance(value, str):
            for folder in self._hidden:
                value = value.replace(folder, "")
        return value

    def _in_hand(self, path: str) -> tuple[int, int | None] | None:
        in_hand = self._daemon.told.in_hand
        if not self._daemon.running or in_hand is None or in_hand.path != printable(path):
            return None
        return in_hand.page, in_hand.pages


def _hidden(settings: Settings) -> list[str]:
    """Folders that no message names, the longest first."""
    output = settings.output
    folders = [*settings.watch.inbox, output.folder, output.archive, settings.state_dir]
    if settings.http is not None:
        folders.append(settings.http.spool)
    found = {os.path.join(printable(str(folder)), "") for folder in folders if folder is not None}
    return sorted(found, key=len, reverse=True)


def _gone() -> Any:  # noqa: ANN401 - returns nothing
    raise not_found()


def _iso(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _end_of(entries: Sequence[Entry], before: str) -> int:
    """Where the page begins, counted from the end: all entries from this index on were shown."""
    if not before:
        return len(entries)
    place = _Place.of(before)
    after = bisect_left(entries, (place.changed_ns + 1, ""))
    return max(0, after - place.skipped)


def _place_of(entries: Sequence[Entry], at: int) -> str:
    """The place of the entry at an index, which was the last to be shown."""
    changed_ns = entries[at].changed_ns
    return str(_Place(changed_ns, bisect_left(entries, (changed_ns + 1, "")) - at))


@dataclass
class _Wanted:
    """Words that a name or a text is searched for. Blanks and line ends are the same, and so are cases."""

    query: str
    words: list[str] = field(init=False)
    _pattern: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        self.words = self.query.split()
        self._pattern = re.compile(r"\s+".join(map(re.escape, self.words)), re.IGNORECASE)

    def are_in(self, name: str) -> bool:
        """Whether a name has them."""
        return self._pattern.search(name) is not None

    def excerpt(self, text: str) -> list[str] | None:
        """What stands before them, they, what stands after; None where they are not in the text."""
        match = self._pattern.search(text)
        if match is None:
            return None
        before = text[max(0, match.start() - _EXCERPT_CHARACTERS) : match.start()]
        after = text[match.end() : match.end() + _EXCERPT_CHARACTERS]
        return [" ".join(("|" + part + "|").split())[1:-1] for part in (before, match[0], after)]
