"""`once`: drain the inbox, or do the given files, and exit. The same line as the daemon's, in one thread.

Imports what the daemon is made of; prints nothing itself: the caller hands in what shows progress.
"""

from __future__ import annotations

import os
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ocr_watcher import log
from ocr_watcher.inbox import records
from ocr_watcher.inbox.intake import Intake
from ocr_watcher.inbox.ready import kind_of
from ocr_watcher.inbox.records import RecordState
from ocr_watcher.job import Job, Outcome, Stamp
from ocr_watcher.service.daemon import Line, MakeEngine, Scan, build_line

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ocr_watcher.config import Settings


FAILED_BEFORE = "it failed before; its error record says why, `ocr-watcher retry` forgets it"


class Progress(Protocol):
    """What is told while the work goes on."""

    def begin(self, path: str) -> None:
        """Work on `path` starts."""

    def end(self, path: str, left: int) -> None:
        """It ended, well or not; at least `left` files remain."""


@dataclass
class Summary:
    """How a run ended."""

    done: int = 0
    current: int = 0  # had their record already
    failed: dict[str, str] = field(default_factory=dict)  # path -> why
    elapsed_s: float = 0.0
    recycle: str = ""  # why it ended before all was done


def drain(settings: Settings, make_engine: MakeEngine, progress: Progress) -> Summary:
    """Do every image in the inboxes that has no record yet. Raises `ServiceError`."""
    started = time.monotonic()
    line = build_line(settings, make_engine)
    try:
        summary = _Drain(settings, line, progress).run()
    finally:
        line.close()
    summary.elapsed_s = time.monotonic() - started
    return summary


class _Drain:
    """One run over the inboxes."""

    def __init__(self, settings: Settings, line: Line, progress: Progress) -> None:
        self._settings = settings
        self._line = line
        self._progress = progress
        self._queue: deque[Job] = deque()
        self._done = 0
        self._failed: dict[str, str] = {}
        self._intake = Intake(
            settings.watch.inbox,
            line.rules,
            queue_size=settings.queue.max_size,
            offer=self._offer,
            clock=time.monotonic,
            log=log.get(),
        )

    def run(self) -> Summary:
        """Scan and work in turns, until a scan leaves nothing behind for want of room."""
        current = None
        while True:
            self._intake.rescan_due = False
            scan = Scan(self._settings, self._line.rules, self._intake)
            scan.advance(float("inf"))
            if current is None:  # later scans meet what this run did
                current = scan.current
            self._empty()
            if not self._intake.rescan_due or self._line.worker.recycle:
                before = dict.fromkeys(self._intake.failed - self._failed.keys(), FAILED_BEFORE)
                failed = dict(sorted((before | self._failed).items()))
                return Summary(self._done, current - len(before), failed, recycle=self._line.worker.recycle)

    def _offer(self, job: Job) -> bool:
        if len(self._queue) >= self._settings.queue.max_size:
            return False
        self._queue.append(job)
        return True

    def _empty(self) -> None:
        """Work until nothing waits, settles or is queued any more."""
        while not self._line.worker.recycle:
            due = self._intake.step()
            if self._queue:
                self._work(self._queue.popleft())
            elif due is None:
                return
            else:
                time.sleep(max(0.0, due - time.monotonic()))

    def _work(self, job: Job) -> None:
        outcome = _do(self._line, job, self._progress, left=len(self._queue) + self._intake.waiting)
        # A cause that lasts is not waited for: to the intake, the file is gone.
        self._intake.completed(job, Outcome.GONE if outcome is Outcome.RETRY else outcome)
        self._done += outcome is Outcome.DONE
        self._failed.pop(job.path, None)
        if outcome in (Outcome.FAILED, Outcome.RETRY):
            self._failed[job.path] = _why(self._line)


def _do(line: Line, job: Job, progress: Progress, *, left: int) -> Outcome:
    """Try one job as often as it may be tried."""
    progress.begin(job.path)
    for _ in range(line.max_attempts):
        outcome = line.worker.step(job, lambda: left)
        if outcome is not Outcome.RETRY:
            break
    progress.end(job.path, left)
    return outcome


def _why(line: Line) -> str:
    """Why the last job failed, in words."""
    return line.worker.last_error.message if line.worker.last_error else ""


def do_files(
    settings: Settings, make_engine: MakeEngine, paths: Iterable[Path], progress: Progress
) -> Summary:
    """Do the named files wherever they are, whatever their names; folders stand for the images in them."""
    started = time.monotonic()
    summary = Summary()
    line = build_line(settings, make_engine)
    try:
        todo = deque(_jobs(line, paths, summary))
        while todo and not line.worker.recycle:
            job = todo.popleft()
            outcome = _do(line, job, progress, left=len(todo))
            if outcome is Outcome.DONE:
                summary.done += 1
            else:
                summary.failed[job.path] = _why(line)
    finally:
        line.close()
    summary.elapsed_s = time.monotonic() - started
    summary.recycle = line.worker.recycle if todo else ""
    return summary


def _jobs(line: Line, paths: Iterable[Path], summary: Summary) -> Iterable[Job]:
    for path in paths:
        members = [path]
        if path.is_dir():
            members = sorted(entry for entry in path.iterdir() if line.rules.wants(entry.name))
        for member in members:
            # The named folder may be reached by links; the file itself may not be one.
            root = Path(os.path.realpath(member.parent))
            try:
                status = os.lstat(root / member.name)
            except OSError as error:
                log.get().warning("file.vanished", path=str(member), message=error.strerror)
                summary.failed[str(member)] = error.strerror or str(error)
                continue
            if not Path(root / member.name).is_file() or member.is_symlink():
                reason = f"it is {kind_of(status.st_mode)}, not a file"
                log.get().warning("file.ignored", path=str(member), reason=reason)
                summary.failed[str(member)] = reason
                continue
            stamp = Stamp.of(status)
            match records.lookup(str(root / member.name), stamp):
                case RecordState.DONE:
                    summary.current += 1
                case RecordState.FAILED:
                    summary.failed[str(member)] = FAILED_BEFORE
                case _:
                    yield Job(root, (), member.name, stamp, settled=True, queued_at=time.monotonic())
