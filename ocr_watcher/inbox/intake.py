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
from ocr_watcher.inbox.ready import Ignore, Ready, Rules, Sight, Wait, judge
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
# Files that wait for their next try; about 500 bytes each. Others are found again by the next scan.
_MAX_PAUSED = 100_000
# Files in whose place somebody else's record stands; about 300 bytes each.
_MAX_BLOCKED = 100_000
# How many of them are looked at in one step.
_PAUSED_A_STEP = 100
# Settling files beyond the queue's own room: enough that a burst is not cut into rescans.
_WAITING_PER_SLOT = 4
_MAX_TOLD = 10_000
_SETTLED = (RecordState.DONE, RecordState.FAILED)
# Finished files of which the record is not read again at a rescan; about 200 bytes each.
_MAX_KNOWN = 1_000_000


@dataclass
class _Waiting:
    sight: Sight | None
    closed: bool
    due: float


@dataclass
class _Paused:
    """A file that waits for its next try, for a cause outside it.

    `version` changes with everything about the file that could end the cause: content, name, permissions.
    """

    sight: Sight
    version: int
    tries: int
    until: float


def lstat(path: str) -> os.stat_result | None:
    """The default `stat`: None where there is nothing, or nothing that we may look at."""
    try:
        return os.lstat(path)
    except OSError:
        return None


def _version(status: os.stat_result) -> int:
    return hash((status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))


class Intake:
    """Settling files, those that wait for their next try, the files in the queue or in hand, what is done.

    What waits for its next try takes no room from what is fresh: it has a place of its own, and one file of
    it at a time is in the queue.
    """

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
        with_records: Callable[[str], str] = lambda path: path,
    ) -> None:
        self._roots = sorted(((str(i), i) for i in inboxes), key=lambda r: len(r[0]), reverse=True)
        self._rules = rules
        self._max_waiting = queue_size * _WAITING_PER_SLOT
        self._offer = offer
        self._clock = clock
        self._log = log
        self._stat = stat
        self._lookup = lookup
        self._with_records = with_records
        self._waiting: dict[str, _Waiting] = {}
        self._heap: list[tuple[float, int, str]] = []  # (due, tie-break, path); stale entries are skipped
        self._ties = itertools.count()
        self._busy: set[str] = set()  # in the queue or in the consumer's hand
        self._paused: dict[str, _Paused] = {}
        self._paused_heap: list[tuple[float, int, str]] = []  # as `_heap`
        self._tries: dict[str, int] = {}  # of the files that were paused and are in the queue or in hand
        # path -> what was seen of the file and of the record in its way
        self._blocked: dict[str, tuple[int, ...]] = {}
        self._returned: set[str] = set()  # offered before, and came back without an end
        # path -> hash of the version whose record was read: a rescan of 100,000 finished files
        # must not read 100,000 records again
        self._known: dict[str, int] = {}
        self.failed: set[str] = set()  # of these, the ones whose record is an error record
        self._told: set[str] = set()
        self._queue_full = False
        self.rescan_due = False  # for want of room
        self.scan_wanted = False  # for something that happened; may wait a little

    @property
    def waiting(self) -> int:
        """Files that were noticed and not yet queued, or wait for their next try."""
        return len(self._waiting) + len(self._paused)

    @property
    def blocked(self) -> tuple[str, ...]:
        """Files that are not tried before somebody moves the file that has their sidecar's name."""
        return tuple(self._blocked)

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
        if path in self._paused and not self._has_changed(path, self._stat(path)):
            return
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
            self.scan_wanted = True
        elif image is not None:
            path = os.path.join(folder, image)
            self._paused.pop(path, None)  # it may be what stood in the way: do not wait any longer
            self._blocked.pop(path, None)
            self.notice(path)

    def found(self, found: Found) -> bool:
        """The scan met a file: True where its record says that it is done or has failed for good."""
        path = found.path
        if path in self._busy or path in self._waiting:
            return False
        if path in self._paused and not self._has_changed(path, found.status):
            return False
        if path in self._blocked and self._blocked[path] == self._block(path, found.status):
            return False
        if found.records:
            state = self._by_record(path, found.status)
            if state is RecordState.RETRY:
                self._pause(path, found.status, tries=0)
            if state is not RecordState.OPEN:
                return state in _SETTLED
        self.notice(path)
        return False

    def ignore(self, path: str, reason: str) -> None:
        """Say that something with an image's name is not read."""
        if self.is_new(path):
            self._log.warning("file.ignored", path=path, reason=reason)

    def is_new(self, path: str) -> bool:
        """True once for each path: what is met at every scan is said at the first."""
        if path in self._told:
            return False
        if len(self._told) >= _MAX_TOLD:
            self._told.clear()
        self._told.add(path)
        return True

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
        self._paused.clear()
        self._paused_heap.clear()
        self._blocked.clear()
        self._busy = set(still_busy)
        self._tries = {path: tries for path, tries in self._tries.items() if path in self._busy}
        self.rescan_due = True

    # -- judging -------------------------------------------------------------------------------

    def step(self) -> float | None:
        """Judge every file that is due; returns the monotonic time of the next one (None: none waits)."""
        self._queue_full = False
        # One of those that were tried before goes first, because there is never more than one in the queue.
        dues = [self._step_paused(), self._step_waiting()]
        return None if self._queue_full else min((due for due in dues if due is not None), default=None)

    def _step_waiting(self) -> float | None:
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

    def _step_paused(self) -> float | None:
        for _ in range(_PAUSED_A_STEP):
            while self._paused_heap and self._is_stale(*self._paused_heap[0]):
                heapq.heappop(self._paused_heap)
            if self._tries or not self._paused_heap:
                return None  # one at a time: its end will call again
            due, _, path = self._paused_heap[0]
            if due > self._clock():
                return due
            heapq.heappop(self._paused_heap)
            self._try_again(path, self._paused[path])
            if self._queue_full:
                return None
        return self._clock()

    def _is_stale(self, until: float, _tie: int, path: str) -> bool:
        paused = self._paused.get(path)
        return paused is None or paused.until != until

    def completed(self, job: Job, outcome: Outcome) -> None:
        """The consumer is through with a job."""
        path = job.path
        self._busy.discard(path)
        tries = self._tries.pop(path, 0)
        if outcome in (Outcome.RETRY, Outcome.RESETTLE, Outcome.PAUSED):
            self._returned.add(path)
        else:
            self._returned.discard(path)
        if outcome in (Outcome.RESETTLE, Outcome.PAUSED):
            self.notice(path)
        elif outcome in (Outcome.DONE, Outcome.FAILED, Outcome.RETRY):
            status = self._stat(path)
            if outcome is not Outcome.RETRY:
                self._remember(path, job.stamp, failed=outcome is Outcome.FAILED)
            if status is None:
                self._returned.discard(path)
            elif Stamp.of(status) != job.stamp:
                self.notice(path)  # replaced since
            elif outcome is Outcome.RETRY:
                self._pause(path, status, tries=tries + 1)

    def _look(self, path: str, entry: _Waiting) -> None:
        """Judge one waiting file: keep it waiting, drop it, or queue it."""
        now = self._clock()
        status = self._stat(path)
        verdict = judge(status, entry.sight, now=now, closed=entry.closed, rules=self._rules)
        if isinstance(verdict, Wait):
            self._wait(path, entry, verdict.sight, verdict.until)
            return
        if isinstance(verdict, Ignore) or status is None:
            del self._waiting[path]
            self._drop(path, verdict)
            return
        state = self._by_record(path, status)
        if state is not RecordState.OPEN:
            del self._waiting[path]
            if state is RecordState.RETRY:
                self._pause(path, status, tries=0, sight=entry.sight)
        elif self._queue(path, verdict, redelivered=path in self._returned):
            del self._waiting[path]
        else:
            self._wait(path, entry, entry.sight, now)

    def _wait(self, path: str, entry: _Waiting, sight: Sight | None, until: float) -> None:
        # `closed` is folded into the sight, which forgets it when the file changes again
        entry.sight, entry.closed, entry.due = sight, False, until
        heapq.heappush(self._heap, (until, next(self._ties), path))

    def _queue(self, path: str, verdict: Ready, *, redelivered: bool) -> bool:
        """Offer a file to the consumer; False where there is no room."""
        root, parts, name = self._split(path)
        job = Job(root, parts, name, verdict.stamp, verdict.settled, self._clock(), redelivered)
        self._queue_full = not self._offer(job)
        if not self._queue_full:
            self._busy.add(path)
        return not self._queue_full

    def _drop(self, path: str, verdict: Ready | Wait | Ignore) -> None:
        self._returned.discard(path)
        if isinstance(verdict, Ignore) and verdict.reason:
            self.ignore(path, f"it is {verdict.reason}, not a file")

    # -- trying again --------------------------------------------------------------------------

    def _pause(self, path: str, status: os.stat_result, *, tries: int, sight: Sight | None = None) -> None:
        """Let a file wait for its next try, after `tries` in this process."""
        self._known.pop(path, None)
        if len(self._paused) >= _MAX_PAUSED and path not in self._paused:
            return
        now = self._clock()
        pause_s = min(_FIRST_PAUSE_S * 2 ** min(tries - 1, 16), _LONGEST_PAUSE_S) if tries else 0.0
        sight = sight or Sight(Stamp.of(status), now)
        self._paused[path] = _Paused(sight, _version(status), tries, 0.0)
        self._pause_until(path, now + pause_s)

    def _pause_until(self, path: str, until: float) -> None:
        self._paused[path].until = until
        heapq.heappush(self._paused_heap, (until, next(self._ties), path))

    def _has_changed(self, path: str, status: os.stat_result | None) -> bool:
        """Whether a paused file is not what it was: then it is as fresh as any other."""
        if status is not None and _version(status) == self._paused[path].version:
            return False
        del self._paused[path]
        return True

    def _try_again(self, path: str, paused: _Paused) -> None:
        """The pause of a file is over: queue it, unless there is nothing left to do."""
        status = self._stat(path)
        verdict = judge(status, paused.sight, now=self._clock(), closed=False, rules=self._rules)
        if isinstance(verdict, Ignore) or status is None:
            del self._paused[path]
            self._drop(path, verdict)
        elif self._has_changed(path, status):
            self.notice(path)
        elif isinstance(verdict, Wait):
            self._pause_until(path, verdict.until)
        elif self._by_record(path, status) not in (RecordState.OPEN, RecordState.RETRY):
            del self._paused[path]
        elif self._queue(path, verdict, redelivered=True):
            del self._paused[path]
            self._tries[path] = paused.tries
        else:
            self._pause_until(path, self._clock())

    # -- records -------------------------------------------------------------------------------

    def _by_record(self, path: str, status: os.stat_result) -> RecordState:
        """What its records say of a file, remembered."""
        stamp = Stamp.of(status)
        state = self._lookup(path, stamp)
        if state in _SETTLED:
            self._remember(path, stamp, failed=state is RecordState.FAILED)
        elif state is RecordState.BLOCKED:
            self._known.pop(path, None)
            if len(self._blocked) >= _MAX_BLOCKED:
                self._blocked.clear()  # their records are read again by the next scan
            self._blocked[path] = self._block(path, status)
        return state

    def _block(self, path: str, status: os.stat_result) -> tuple[int, ...]:
        """What changes where a blocked file, or a file that may be in its way, does."""
        folder, name = os.path.split(self._with_records(path))
        others = (self._stat(os.path.join(folder, other)) for other in names.in_the_way(name))
        return _version(status), *(0 if other is None else _version(other) for other in others)

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
