"""Between noticing a file and working on it: files settle here, then enter the bounded queue.

The disk is the queue; this is a bounded window onto it. What has no room is not remembered: it
stays on the disk and `rescan_due` says that the folders must be looked at again. Runs in the main
thread only, without locks; clock and stat are passed in.
"""

from __future__ import annotations

import heapq
import itertools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ocr_watcher import names
from ocr_watcher.inbox import records
from ocr_watcher.inbox.ready import Ignore, Rules, Sight, Wait, judge
from ocr_watcher.inbox.records import RecordState
from ocr_watcher.job import Job, Outcome, Stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

    from ocr_watcher.inbox.scan import Found

# Pauses before a file is tried again: 2, 4, 8 … 300 s. Short at first, because a full disk or a
# dropped share is often back at once; five minutes is as long as somebody waits who has mended it.
_FIRST_PAUSE_S = 2.0
_LONGEST_PAUSE_S = 300.0
# Settling files beyond the queue's own room: enough that a burst is not cut into rescans.
_WAITING_PER_SLOT = 4
_MAX_TOLD = 10_000
# Finished files of which the record is not read again at a rescan; about 200 bytes each.
_MAX_KNOWN = 1_000_000


@dataclass
class _Waiting:
    sight: Sight | None
    closed: bool
    due: float
    pause_until: float = 0.0  # a retry: not before this


def lstat(path: str) -> os.stat_result | None:
    """The default `stat`: None where there is nothing, or nothing that we may look at."""
    try:
        return os.lstat(path)
    except OSError:
        return None


class Intake:
    """Settling files, the files in the queue or in hand, and what is known to be done."""

    def __init__(
        self,
        inboxes: tuple[Path, ...],
        rules: Rules,
        *,
        queue_size: int,
        offer: Callable[[Job], bool],
        clock: Callable[[], float],
        log: FilteringBoundLogger,
        stat: Callable[[str], os.stat_result | None] = lstat,
        lookup: Callable[[str, Stamp], RecordState] = records.lookup,
    ) -> None:
        self._roots = sorted(((str(i), i) for i in inboxes), key=lambda r: len(r[0]), reverse=True)
        self._rules = rules
        self._max_waiting = queue_size * _WAITING_PER_SLOT
        self._offer = offer
        self._clock = clock
        self._log = log
        self._stat = stat
        self._lookup = lookup
        self._waiting: dict[str, _Waiting] = {}
        self._heap: list[tuple[float, int, str]] = []  # (due, tie-break, path); stale entries are skipped
        self._ties = itertools.count()
        self._busy: set[str] = set()  # in the queue or in the consumer's hand
        self._retries: dict[str, int] = {}
        self._returned: set[str] = set()  # offered before, and came back without an end
        # path -> hash of the version whose record was read: a rescan of 100,000 finished files
        # must not read 100,000 records again
        self._known: dict[str, int] = {}
        self.failed: set[str] = set()  # of these, the ones whose record is an error record
        self._told: set[str] = set()
        self._queue_full = False
        self.rescan_due = False

    @property
    def waiting(self) -> int:
        """Files that were noticed and not yet queued."""
        return len(self._waiting)

    @property
    def busy(self) -> int:
        """Files in the queue or in hand."""
        return len(self._busy)

    @property
    def has_room(self) -> bool:
        """Whether a rescan would find a place for what it meets."""
        return len(self._waiting) <= self._max_waiting // 2

    # -- noticing ------------------------------------------------------------------------------

    def notice(self, path: str, *, closed: bool = False) -> None:
        """Something happened at `path`; it is judged now or when it has settled."""
        if not self._is_wanted(path) or path in self._busy:
            return  # what happens to a busy file is seen when it is completed
        if path in self._waiting:
            entry = self._waiting[path]
            entry.closed = entry.closed or closed
        elif len(self._waiting) >= self._max_waiting:
            self.rescan_due = True
            return
        else:
            entry = self._waiting[path] = _Waiting(None, closed, 0.0)
        self._look(path, entry)

    def notice_record_removed(self, path: str) -> None:
        """A file was deleted: where it was a record, its image is to be looked at again."""
        folder, name = os.path.split(path)
        image = names.document_of(name)
        if image is not None and names.is_shortened(image):
            self.rescan_due = True
        elif image is not None:
            path = os.path.join(folder, image)
            if path in self._waiting:  # it may be what stood in the way: do not wait any longer
                self._waiting[path].pause_until = 0.0
            self.notice(path)

    def found(self, found: Found) -> bool:
        """The scan met a file: True where its record says that it is done or has failed for good."""
        path, stamp = found.path, Stamp.of(found.status)
        if path in self._busy or path in self._waiting:
            return False
        if found.records and self._is_settled_by_record(path, stamp):
            return True
        self.notice(path)
        return False

    def ignore(self, path: str, reason: str) -> None:
        """Say once, not at every scan, that something with an image's name is not read."""
        if path in self._told:
            return
        if len(self._told) >= _MAX_TOLD:
            self._told.clear()
        self._told.add(path)
        self._log.warning("file.ignored", path=path, reason=reason)

    def knows(self, path: str, status: os.stat_result) -> bool:
        """Whether this version's record was read before, and nothing is to be done about the file."""
        known = self._known.get(path)
        # the hash of a `Stamp`, made without one: a rescan asks for every file there is
        return (
            known is not None
            and known == hash((status.st_size, status.st_mtime_ns))
            and path not in self._busy
            and path not in self._waiting
        )

    def forget_gone(self, met: int) -> Iterator[None]:
        """After a whole scan that met `met` of the known files: forget those that are no more.

        Pauses at every file: on a slow share, looking for 100,000 of them takes minutes.
        """
        if met >= len(self._known):  # the usual case, and it saves remembering whom it met
            return
        for path in list(self._known):
            if self._stat(path) is None:
                self._known.pop(path, None)
                self.failed.discard(path)
            yield

    def start_over(self, still_busy: Iterable[str]) -> None:
        """Forget every settling file: after an error left them half judged. A scan finds them again.

        `still_busy` are the files in the queue or in hand: one whose end was being noted would be taken for
        busy for ever otherwise.
        """
        self._waiting.clear()
        self._heap.clear()
        self._busy = set(still_busy)
        self.rescan_due = True

    # -- judging -------------------------------------------------------------------------------

    def step(self) -> float | None:
        """Judge every file that is due; returns the monotonic time of the next one (None: none waits)."""
        self._queue_full = False
        while self._heap:
            due, _, path = self._heap[0]
            entry = self._waiting.get(path)
            if entry is None or entry.due != due:
                heapq.heappop(self._heap)  # stale
                continue
            if due > self._clock():
                return due
            heapq.heappop(self._heap)
            self._look(path, entry)
            if self._queue_full:
                return None  # a completed job will call again
        return None

    def completed(self, job: Job, outcome: Outcome) -> None:
        """The consumer is through with a job."""
        path = job.path
        self._busy.discard(path)
        if outcome in (Outcome.RETRY, Outcome.RESETTLE, Outcome.PAUSED):
            self._returned.add(path)
        else:
            self._returned.discard(path)
        if outcome is Outcome.RETRY:
            tries = self._retries[path] = self._retries.get(path, 0) + 1
            pause = min(_FIRST_PAUSE_S * 2 ** min(tries - 1, 16), _LONGEST_PAUSE_S)
            entry = self._waiting[path] = _Waiting(None, False, 0.0, self._clock() + pause)  # noqa: FBT003
            self._look(path, entry)
            return
        self._retries.pop(path, None)
        if outcome in (Outcome.DONE, Outcome.FAILED):
            self._remember(path, job.stamp, failed=outcome is Outcome.FAILED)
            status = self._stat(path)
            if status is not None and Stamp.of(status) != job.stamp:
                self.notice(path)  # replaced since
        elif outcome in (Outcome.RESETTLE, Outcome.PAUSED):
            self.notice(path)

    def _look(self, path: str, entry: _Waiting) -> None:
        """Judge one waiting file: keep it waiting, drop it, or queue it."""
        now = self._clock()
        verdict = judge(self._stat(path), entry.sight, now=now, closed=entry.closed, rules=self._rules)
        if isinstance(verdict, Ignore):
            del self._waiting[path]
            self._retries.pop(path, None)
            self._returned.discard(path)
            if verdict.reason:
                self.ignore(path, f"it is {verdict.reason}, not a file")
            return
        if isinstance(verdict, Wait):
            self._wait(path, entry, verdict.sight, max(verdict.until, entry.pause_until))
            return
        if now < entry.pause_until:
            self._wait(path, entry, entry.sight, entry.pause_until)
            return
        if self._is_settled_by_record(path, verdict.stamp):
            del self._waiting[path]
            return
        root, parts, name = self._split(path)
        redelivered = path in self._returned
        if self._offer(Job(root, parts, name, verdict.stamp, verdict.settled, now, redelivered)):
            del self._waiting[path]
            self._busy.add(path)
        else:
            self._queue_full = True
            self._wait(path, entry, entry.sight, now)

    def _wait(self, path: str, entry: _Waiting, sight: Sight | None, until: float) -> None:
        # `closed` is folded into the sight, which forgets it when the file changes again
        entry.sight, entry.closed, entry.due = sight, False, until
        heapq.heappush(self._heap, (until, next(self._ties), path))

    def _is_settled_by_record(self, path: str, stamp: Stamp) -> bool:
        state = self._lookup(path, stamp)
        if state not in (RecordState.DONE, RecordState.FAILED):
            return False
        self._remember(path, stamp, failed=state is RecordState.FAILED)
        return True

    def _remember(self, path: str, stamp: Stamp, *, failed: bool) -> None:
        if len(self._known) >= _MAX_KNOWN and path not in self._known:
            return  # its record is read again at every scan
        self._known[path] = hash(stamp)
        (self.failed.add if failed else self.failed.discard)(path)

    # -- names ---------------------------------------------------------------------------------

    def _split(self, path: str) -> tuple[Path, tuple[str, ...], str]:
        for text, root in self._roots:
            if path.startswith(text + os.sep):
                *parts, name = path[len(text) + 1 :].split(os.sep)
                return root, tuple(parts), name
        raise ValueError(f"{path} is in no inbox")

    def _is_wanted(self, path: str) -> bool:
        name = path.rpartition(os.sep)[2]
        if not self._rules.wants(name) or not names.is_in_reach(path):
            return False
        try:
            _, parts, _ = self._split(path)
        except ValueError:
            return False
        return not any(self._rules.ignores(part) for part in parts)
