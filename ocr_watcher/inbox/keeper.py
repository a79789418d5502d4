"""Everything that looks at one inbox, in a thread of its own: events, scan, settling, what is known.

A call of the operating system on a mount that hangs does not come back. It holds up this thread, and with it
this inbox, and nobody else: what the others may ask for can be told without such a call.
"""

from __future__ import annotations

import queue
import signal
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ocr_watcher.errors import UnavailableError
from ocr_watcher.inbox import intake
from ocr_watcher.inbox.intake import Intake
from ocr_watcher.inbox.places import Places
from ocr_watcher.inbox.scan import Scan
from ocr_watcher.inbox.timing import Bell, Timer
from ocr_watcher.inbox.watch import Events, Watcher

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

    from ocr_watcher.inbox.ready import Rules
    from ocr_watcher.inbox.records import RecordState
    from ocr_watcher.job import Job, Outcome, Stamp

# How long one slice of a scan may keep events waiting.
_SLICE_S = 0.02
# How often the inbox and its observer are looked after. An idle wake-up costs about 20 µs.
_LOOK_AFTER_S = 1.0
# How often it is claimed anew, in case that it is another folder by now.
_CLAIM_S = 60.0
# How long to wait before an inbox is opened again that answers at last, but cannot be worked on.
_OPEN_AGAIN_S = 5.0
# Folders that appear ask for a scan. It begins so long after the last (s), or so many times what that took.
_SCAN_PAUSE_S = 1.0
_SCAN_PAUSE_FACTOR = 5.0


@dataclass(frozen=True)
class Habits:
    """How an inbox is watched: `watch` and `queue` of the settings."""

    rules: Rules
    mode: str
    recursive: bool
    poll_interval_s: float
    rescan_interval_s: float
    queue_size: int


class Keeper(threading.Thread):
    """Keeps one inbox. `open` and `go` are two steps, because between them the engine is loaded."""

    def __init__(
        self,
        inbox: Path,
        habits: Habits,
        *,
        claim: Callable[[Path], None],
        offer: Callable[[Job], bool],
        still_busy: Callable[[], set[str]],
        wake: Callable[[], None],
        log: FilteringBoundLogger,
        places: Places | None = None,
    ) -> None:
        """Nothing is done before `start`.

        Args:
            inbox: the folder.
            habits: how it is watched.
            claim: makes sure that no other process works on it; raises `UnavailableError`.
            offer: takes a job into the queue; False where there is no room. Called by this thread.
            still_busy: the files in the queue or in hand, whatever the intake knows of them.
            wake: called when the inbox was opened, when the last file is through or the first one comes, and
                when the thread has ended.
            log: where it tells what it does.
            places: where records are; beside the documents if not given.
        """
        super().__init__(name=f"keeper {inbox}", daemon=True)
        self.inbox = inbox
        self.error: BaseException | None = None
        # False when a thread of the observer has died: nothing would be noticed any more.
        self.observes = True
        self.seen_at = time.monotonic()
        self._habits = habits
        self._claim = claim
        self._still_busy = still_busy
        self._wake = wake
        self._log = log
        self._places = places or Places((inbox,))
        self._bell = Bell()
        self._opened = threading.Event()
        self._watching = threading.Event()
        self._go = False
        self._ends = False
        self._at_work = False
        self._is_idle = True
        self._completions: queue.SimpleQueue[tuple[Job, Outcome]] = queue.SimpleQueue()
        self._events = Events(self._bell.ring)
        self._watcher = Watcher(
            (inbox,), habits.mode, recursive=habits.recursive, events=self._events, log=log
        )
        self._intake = Intake(
            (inbox,),
            habits.rules,
            queue_size=habits.queue_size,
            offer=offer,
            clock=self._clock,
            log=log,
            stat=self._stat,
            lookup=self._lookup,
            with_records=self._places.with_records,
        )
        self._scan: Scan | None = None
        self._first_scan = True
        now = time.monotonic()
        self._look_after = Timer(_LOOK_AFTER_S, now)
        self._claim_again = Timer(_CLAIM_S, now + _CLAIM_S)
        self._next_scan = Timer(habits.rescan_interval_s, now)
        self._scan_pause_until = now

    # -- asked and told by others ----------------------------------------------------------------

    def wait_until_open(self, seconds: float) -> bool:
        """Whether the inbox answered within that time.

        Raises:
            UnavailableError: it is missing, or may not be worked on.
        """
        opened = self._opened.wait(max(0.0, seconds))
        if isinstance(self.error, UnavailableError):
            raise self.error
        return opened

    def wait_until_watching(self, seconds: float) -> bool:
        """Whether what is put into the inbox from now on is noticed at once; to be asked after `go`."""
        return self._watching.wait(max(0.0, seconds))

    def go(self) -> None:
        """Begin to watch and to scan, now or as soon as the inbox answers."""
        self._go = True
        self._bell.ring()

    def stop(self) -> None:
        """Offer no further job, and end."""
        self._ends = True
        self._bell.ring()

    def completed(self, job: Job, outcome: Outcome) -> None:
        """The consumer is through with a job of this inbox."""
        self._completions.put((job, outcome))
        self._bell.ring()

    def room(self) -> None:
        """There may be room in the queue again."""
        self._bell.ring()

    @property
    def waiting(self) -> int:
        """See `Intake`."""
        return self._intake.waiting

    @property
    def busy(self) -> int:
        """See `Intake`."""
        return self._intake.busy

    @property
    def failed(self) -> int:
        """Files known to have failed for good."""
        return len(self._intake.failed)

    @property
    def may_find_more(self) -> bool:
        """Whether files may be about to be found: it is at work just now, or scans, or is to scan."""
        return self._at_work or self._scan is not None or self._intake.rescan_due

    # -- the thread ------------------------------------------------------------------------------

    def run(self) -> None:
        """Keep the inbox until told to stop; what ends it otherwise is kept for the main thread."""
        # Signals are the main thread's, also while a library has handlers of its own.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._open()
            while not self._go and not self._ends:
                self._bell.wait(_LOOK_AFTER_S)
                self._clock()
            if not self._ends:
                self._watcher.start()  # before the first scan: nothing may fall between the two
            self._watching.set()
            self._loop()
            self._watcher.stop()
        except BaseException as error:  # noqa: BLE001 - told to the main thread
            self.error = error
        self._opened.set()
        self._watching.set()
        self._wake()

    def _open(self) -> None:
        """Check and claim the inbox. Raises `UnavailableError`, as long as somebody waits to be told."""
        told = ""
        while not self._ends:
            try:
                for check in self._places.checks(self.inbox):
                    check()
                self._claim(self.inbox)
            except UnavailableError as error:
                if not self._go:
                    raise
                if str(error) != told:
                    told = str(error)
                    self._log.error("watch.trouble", inbox=str(self.inbox), message=told, hint=error.hint)
                self._clock()
                self._bell.wait(_OPEN_AGAIN_S)
            else:
                break
        self._opened.set()
        self._wake()

    def _loop(self) -> None:
        while not self._ends:
            self._at_work = True
            try:
                wake_at = self._tick()
            except MemoryError:
                # The job in hand may have taken all there is, under memory.hard_limit_mb. What was
                # lost of the settling files is on the disk.
                self._intake.start_over(self._still_busy())
                self._log.warning("daemon.out_of_memory", message="looking at the inbox again in a second")
                wake_at = time.monotonic() + 1
            self._at_work = False
            self._tell_if_idle()
            self._bell.wait(wake_at - time.monotonic())

    def _tell_if_idle(self) -> None:
        is_idle = not (self.busy or self.waiting or self.may_find_more)
        if is_idle != self._is_idle:
            self._is_idle = is_idle
            self._wake()

    def _tick(self) -> float:
        """Do everything that is due, in slices; returns when to come again."""
        now = self._clock()
        while not self._completions.empty():
            self._intake.completed(*self._completions.get_nowait())
        self._take_events()
        self._advance_scan(now)
        due = self._intake.step()  # after the scan, so that what it found is waited for and no longer
        if self._look_after.is_due(now):
            self.observes = self._watcher.is_alive()
            if self._watcher.ensure():
                self._intake.rescan_due = True
                self._claim_again.pause(0, now)
        if self._claim_again.is_due(now):
            self._claim_once_more()
        self._begin_scan(now)
        if self._scan is not None:
            return 0.0
        wake_at = min(self._look_after.next_at, self._next_scan.next_at)
        if self._intake.scan_wanted:
            wake_at = min(wake_at, self._scan_pause_until)
        return wake_at if due is None else min(wake_at, due)

    def _take_events(self) -> None:
        for event in self._events.drain():
            if event.kind == "file":
                self._intake.notice(event.path, closed=event.closed)
            elif event.kind == "deleted":
                self._intake.notice_record_removed(event.path)
            else:
                self._intake.scan_wanted = True
        if self._events.lost:
            self._events.lost = False
            self._intake.scan_wanted = True

    def _advance_scan(self, now: float) -> None:
        if self._scan is None or not self._scan.advance(now + _SLICE_S):
            return
        figures = self._scan.figures()
        say = self._log.info if self._first_scan or figures.queued else self._log.debug
        say("scan.done", inbox=str(self.inbox), **vars(figures))
        self._scan, self._first_scan = None, False
        pause_s = self._habits.rescan_interval_s
        if self._watcher.polls:
            pause_s = min(pause_s, self._habits.poll_interval_s)
        now = self._clock()
        self._next_scan.pause(pause_s, now)
        self._scan_pause_until = now + max(_SCAN_PAUSE_S, _SCAN_PAUSE_FACTOR * figures.duration_ms / 1000)

    def _begin_scan(self, now: float) -> None:
        if self._scan is not None:
            return
        # A rescan for want of room waits until there is some again.
        wanted = self._intake.rescan_due and self._intake.has_room
        wanted = wanted or (self._intake.scan_wanted and now >= self._scan_pause_until)
        if self._next_scan.is_due(now) or wanted:
            self._intake.rescan_due = self._intake.scan_wanted = False
            self._scan = Scan(
                (self.inbox,),
                self._habits.rules,
                self._intake,
                recursive=self._habits.recursive,
                log=self._log,
                clock=self._clock,
                has_record=self._places.has_record,
                trees=self._places.trees_of(self.inbox) if self._first_scan else (),
            )

    def _claim_once_more(self) -> None:
        try:
            self._claim(self.inbox)
        except UnavailableError as error:  # missing just now, or somebody was quicker
            self._log.debug("watch.trouble", inbox=str(self.inbox), message=str(error))

    # -- signs of life ---------------------------------------------------------------------------

    def _clock(self) -> float:
        """The time (monotonic s). Everything here that may take long asks for it again and again."""
        self.seen_at = time.monotonic()
        return self.seen_at

    def _stat(self, path: str) -> os.stat_result | None:
        self._clock()
        return intake.lstat(path)

    def _lookup(self, path: str, stamp: Stamp) -> RecordState:
        self._clock()
        return self._places.lookup(path, stamp)
