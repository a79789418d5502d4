"""`once`: drain the inbox, or do the given files, and exit. The same line as the daemon's, in one thread.

Prints nothing itself: the caller hands in what shows progress.
"""

from __future__ import annotations

import os
import signal
import stat
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ocr_watcher import log
from ocr_watcher.inbox.intake import Intake
from ocr_watcher.inbox.places import Places
from ocr_watcher.inbox.ready import kind_of, rules_of
from ocr_watcher.inbox.records import RecordState
from ocr_watcher.inbox.scan import Scan
from ocr_watcher.inbox.unwanted import Told, Unwanted, head_of
from ocr_watcher.inputs import table
from ocr_watcher.job import Job, Outcome, Stamp
from ocr_watcher.jobs.observers import Observer
from ocr_watcher.service import assembly, reread
from ocr_watcher.service.signals import Signals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ocr_watcher.config import Settings
    from ocr_watcher.inbox.ready import Rules
    from ocr_watcher.service.assembly import Assembly, MakeEngine


# How long one slice of a scan, or of a wait, may keep a request to stop waiting.
_SLICE_S = 0.2
BLOCKED = "a file of somebody else has the name of its sidecar or of another output"
FAILED_BEFORE = "it failed before; its .error.json says why; delete that to have it tried again"


class Progress(Protocol):
    """What is told while the work goes on."""

    def begin(self, path: str) -> None:
        """Work on `path` starts."""

    def page(self, path: str, page: int, pages: int) -> None:
        """Page `page` (from 1) of `pages`, which are several, is in hand."""

    def end(self, path: str, left: int) -> None:
        """It ended, well or not; at least `left` files remain."""


@dataclass
class Summary:
    """How a run ended.

    Attributes:
        done: Files that got their sidecar.
        current: Files that had their record already.
        failed: Why each of the others failed, by path.
        unwanted: How many files were passed over because of their names, by extension.
        unreadable: Files that are done, although most of their text was seen but not read.
        elapsed_s: How long it took, start included.
        recycle: Why it ended before all was done, if memory was the reason.
        signal: The number of the signal that ended it before all was done; 0 for none.
    """

    done: int = 0
    current: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    unwanted: dict[str, int] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    elapsed_s: float = 0.0
    recycle: str = ""
    signal: int = 0


def drain(settings: Settings, make_engine: MakeEngine, progress: Progress) -> Summary:
    """Do every image in the inboxes that has no record yet. Raises `ServiceError`."""
    queue: deque[Job] = deque()
    with _Run.of(settings, make_engine, progress, queue) as run:
        _Drain(settings, run).drain()
    return run.summary


def do_files(
    settings: Settings, make_engine: MakeEngine, paths: Iterable[Path], progress: Progress
) -> Summary:
    """Do the named files wherever they are; folders stand for the images in them.

    A file whose name is not wanted is done where its first bytes are those of a document.
    """
    queue: deque[Job] = deque()
    with _Run.of(settings, make_engine, progress, queue) as run:
        lookup = Places.of(settings).lookup
        queue.extend(_jobs(rules_of(settings), lookup, paths, run.summary))
        while queue and not run.is_over:
            run.do(queue.popleft())
    return run.summary


class _Pages(Observer):
    """Hands on which page is in hand."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def page_started(self, job: Job, index: int, pages: int) -> None:
        if pages > 1:
            self._progress.page(job.path, index + 1, pages)


class _Run:
    """Jobs done in this thread, until they are done or somebody asks for a stop.

    The first signal ends it after the page in hand, the second at once; neither is held against the file.
    """

    def __init__(
        self,
        work: Assembly,
        progress: Progress,
        summary: Summary,
        queue: deque[Job],
        *,
        max_attempts: int,
        signals: Signals,
    ) -> None:
        self._work = work
        self._progress = progress
        self._max_attempts = max_attempts
        self._signals = signals
        self.queue = queue
        self.summary = summary

    @classmethod
    @contextmanager
    def of(
        cls, settings: Settings, make_engine: MakeEngine, progress: Progress, queue: deque[Job]
    ) -> Iterator[_Run]:
        """Load everything, and let go of it at the end. Raises `ServiceError`."""
        started = time.monotonic()
        stop: list[int] = []
        summary = Summary()
        signals = Signals(stop.append, lambda: signals.on_stop(signal.SIGHUP))
        with signals.handled():
            with signals.held_back():
                work = assembly.build(
                    settings,
                    make_engine,
                    queue_depth=lambda: len(queue),
                    observers=[_Pages(progress), _NotesUnreadable(summary.unreadable)],
                )
            run = cls(
                work,
                progress,
                summary,
                queue,
                max_attempts=settings.retry.max_attempts,
                signals=signals,
            )
            signals.on_stop = run.stop
            try:
                for number in stop:  # while it was loading
                    run.stop(number)
                yield run
            except KeyboardInterrupt:
                pass
            finally:
                work.close()
        run.summary.elapsed_s = time.monotonic() - started
        run.summary.recycle = work.supervision.recycle_reason if queue else ""

    def stop(self, number: int) -> None:
        """A signal came."""
        self._work.supervision.request_stop()
        self.summary.signal = number
        if self._signals.count > 1:
            raise KeyboardInterrupt

    @property
    def is_over(self) -> bool:
        """Whether no further job is to be begun."""
        supervision = self._work.supervision
        return supervision.stop_requested or bool(supervision.recycle_reason)

    def do(self, job: Job, *, left: int = 0) -> Outcome:
        """Try one job as often as it may be tried, and count it; at least `left` others remain."""
        left += len(self.queue)
        self._progress.begin(job.path)
        for _ in range(self._max_attempts):
            outcome = self._work.worker.step(job)
            if outcome is not Outcome.RETRY or self.is_over:
                break
        self.summary.failed.pop(job.path, None)
        if outcome is Outcome.BROKEN_OFF:
            self.queue.appendleft(job)  # for the next run
            return outcome
        self._progress.end(job.path, left)
        self.summary.done += outcome is Outcome.DONE
        if outcome in (Outcome.FAILED, Outcome.RETRY):
            self.summary.failed[job.path] = self._why(job)
        return outcome

    def _why(self, job: Job) -> str:
        """Why this job failed, in words."""
        failure = self._work.supervision.last_failure
        return failure.message if failure is not None and failure.path == job.path else ""


class _NotesUnreadable(Observer):
    """Notes the paths of files of which most of the text was seen but not read."""

    def __init__(self, paths: list[str]) -> None:
        self._paths = paths

    def text_unreadable(self, job: Job, first: int, count: int, pages: int) -> None:  # noqa: ARG002 - the protocol's
        self._paths.append(job.path)


class _Drain:
    """One run over the inboxes."""

    def __init__(self, settings: Settings, run: _Run) -> None:
        self._settings = settings
        self._run = run
        self._told = Told(log.get(), table.kind_of)
        places = Places.of(settings)
        self._intake = Intake(
            settings.watch.inbox,
            rules_of(settings),
            queue_size=settings.queue.max_size,
            offer=self._offer,
            clock=time.monotonic,
            log=log.get(),
            lookup=partial(places.lookup, reread=reread.requested(settings)),
            with_records=places.with_records,
        )

    def drain(self) -> None:
        """Scan and work in turns, until a scan leaves nothing behind for want of room."""
        summary = self._run.summary
        current = None
        while True:
            self._intake.rescan_due = False
            scan = self._scan()
            if current is None:  # later scans meet what this run did
                current = scan.current
            summary.unwanted = scan.unwanted.counts
            self._empty()
            if not self._intake.rescan_due or self._run.is_over:
                break
        before = dict.fromkeys(self._intake.failed - summary.failed.keys(), FAILED_BEFORE)
        summary.failed = dict.fromkeys(self._intake.blocked, BLOCKED) | summary.failed
        summary.current = current - len(before)
        summary.failed = dict(sorted((before | summary.failed).items()))

    def _scan(self) -> Scan:
        watch = self._settings.watch
        scan = Scan(
            watch.inbox,
            rules_of(self._settings),
            self._intake,
            recursive=watch.recursive,
            log=log.get(),
            has_record=Places.of(self._settings).has_record,
            trees=Places.of(self._settings).trees,
            told=self._told,
        )
        while not self._run.is_over and not scan.advance(time.monotonic() + _SLICE_S):
            pass
        return scan

    def _offer(self, job: Job) -> bool:
        if len(self._run.queue) >= self._settings.queue.max_size:
            return False
        self._run.queue.append(job)
        return True

    def _empty(self) -> None:
        """Work until nothing waits, settles or is queued any more."""
        while not self._run.is_over:
            due = self._intake.step()
            if self._run.queue:
                self._work(self._run.queue.popleft())
            elif due is None:
                return
            else:
                # In slices: a signal does not shorten a sleep.
                time.sleep(min(max(0.0, due - time.monotonic()), _SLICE_S))

    def _work(self, job: Job) -> None:
        outcome = self._run.do(job, left=self._intake.waiting)
        # A cause that lasts is not waited for: to the intake, the file is gone.
        self._intake.completed(job, Outcome.GONE if outcome is Outcome.RETRY else outcome)


def _jobs(
    rules: Rules,
    lookup: Callable[[str, Stamp], RecordState],
    paths: Iterable[Path],
    summary: Summary,
) -> Iterator[Job]:
    """What is to be done of files and of what is in folders; the others are counted in `summary`."""
    for path in paths:
        # The named folder may be reached by links; the file itself may not be one.
        for member in _images_in(path, rules, summary) if path.is_dir() else [path]:
            root = Path(os.path.realpath(member.parent))
            try:
                status = os.lstat(root / member.name)
            except OSError as error:
                log.get().warning("file.vanished", path=str(member), message=error.strerror)
                summary.failed[str(member)] = error.strerror or str(error)
                continue
            if reason := _why_not(root / member.name, status, rules):
                log.get().warning("file.ignored", path=str(member), reason=reason)
                summary.failed[str(member)] = reason
                continue
            stamp = Stamp.of(status)
            match lookup(str(root / member.name), stamp):
                case RecordState.DONE:
                    summary.current += 1
                case RecordState.FAILED:
                    summary.failed[str(member)] = FAILED_BEFORE
                case _:
                    yield Job(root, (), member.name, stamp, settled=True, queued_at=time.monotonic())


def _images_in(folder: Path, rules: Rules, summary: Summary) -> list[Path]:
    """The images in a folder, by their names; files with other names are counted in `summary`."""
    unwanted = Unwanted()
    images = []
    for entry in sorted(folder.iterdir()):
        if rules.wants(entry.name):
            images.append(entry)
        elif rules.passes_over(entry.name) and not entry.is_dir():
            unwanted.add(str(entry))
    for extension, count in unwanted.counts.items():
        summary.unwanted[extension] = summary.unwanted.get(extension, 0) + count
    return images


def _why_not(path: Path, status: os.stat_result, rules: Rules) -> str:
    """Why a named file is not tried at all, and gets no record; empty where it is."""
    if not stat.S_ISREG(status.st_mode):
        return f"it is {kind_of(status.st_mode)}, not a file"
    if rules.wants(path.name) or table.kind_of(head_of(str(path))):
        return ""
    return "it is no image and no PDF, neither by its name nor by its first bytes"
