"""The service from start to exit code: start-up, loop, shutdown.

The main thread notices and settles files, rescans, tells figures and looks after the other two threads: the
observer's and the one consumer's. Signal handlers only set flags.
"""

from __future__ import annotations

import os
import queue
import select
import signal
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ocr_watcher import __version__, log, names
from ocr_watcher.errors import ExitCode, JobTimeoutError, ServiceError
from ocr_watcher.inbox.intake import Intake
from ocr_watcher.inbox.scan import Scan
from ocr_watcher.inbox.watch import Events, Watcher
from ocr_watcher.service import assembly
from ocr_watcher.service.health import Notifier
from ocr_watcher.service.lock import hold_lock
from ocr_watcher.service.reporter import Reporter
from ocr_watcher.service.signals import StopSignals
from ocr_watcher.service.told import StatusFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ocr_watcher.config import Settings
    from ocr_watcher.job import Job, Outcome
    from ocr_watcher.jobs.supervision import InFlight
    from ocr_watcher.service.assembly import Assembly, MakeEngine

# A stop request finishes the page in hand for this long; the rest of the 10 s that a stop may take
# is for closing down.
_STOP_DEADLINE_S = 9.0
# How long one slice of a scan may keep the main thread from events and signals.
_SCAN_SLICE_S = 0.02
# How often the threads and the inboxes are looked after. An idle wake-up costs about 20 µs.
_LOOK_AFTER_S = 1.0


class Daemon:
    """The service. `run` is called once."""

    def __init__(self, settings: Settings, make_engine: MakeEngine) -> None:
        self._settings = settings
        self._make_engine = make_engine
        self._log = log.get()
        self._bell = _Bell()
        self._stop_reason = ""
        self._exit_code = ExitCode.OK
        self._signals = StopSignals(self._on_signal)
        self._jobs: queue.Queue[Job | None] = queue.Queue(settings.queue.max_size)
        self._completions: queue.SimpleQueue[tuple[Job, Outcome]] = queue.SimpleQueue()
        self._notifier = Notifier(os.environ, time.monotonic)
        self._reporter = Reporter(
            settings, StatusFile(settings.state_dir / names.STATUS), self._notifier, self._log
        )

    # -- life ----------------------------------------------------------------------------------

    def run(self) -> ExitCode:
        """Work until a signal or a reason to restart; returns the exit code. Raises `ServiceError`."""
        with self._signals.handled():
            self._log.info("daemon.starting", version=__version__, pid=os.getpid(), **self._facts())
            assembly.check_inboxes(self._settings)
            with hold_lock(self._settings), self._telling_the_end():
                parts = self._start_up()
                self._loop(parts)
                self._shut_down(parts)
        self._log.info("daemon.exiting", reason=self._stop_reason, exit_code=int(self._exit_code))
        return self._exit_code

    def _start_up(self) -> _Parts:
        """Load the engine, start watching, start the consumer."""
        settings = self._settings
        with self._signals.held_back():
            work = assembly.build(
                settings,
                self._make_engine,
                queue_depth=self._jobs.qsize,
                others_wait=lambda: not self._jobs.empty(),
            )
        self._reporter.totals_from(work.journal.totals)
        intake = Intake(
            settings.inboxes,
            assembly.rules(settings),
            queue_size=settings.queue.max_size,
            offer=self._offer,
            clock=time.monotonic,
            log=self._log,
        )
        events = Events(self._bell.ring)
        watcher = Watcher(
            settings.inboxes,
            settings.watch.mode,
            recursive=settings.watch.recursive,
            events=events,
            log=self._log,
        )
        consumer = _Consumer(work, self._jobs, self._completed, self._bell)
        watcher.start()  # before the first scan: nothing may fall between the two
        consumer.start()
        self._log.info(
            "daemon.ready",
            engine=work.engine.name,
            provider=work.engine.provider,
            model=work.engine.model,
            rss_mb=work.memory.rss_mb(),
        )
        self._notifier.ready()
        return _Parts(work, intake, events, watcher, consumer, _Timers.of(settings, time.monotonic()))

    def _loop(self, parts: _Parts) -> None:
        """The main thread's work until there is a reason to stop."""
        while not self._stop_reason:
            try:
                wake_at = self._tick(parts)
            except MemoryError:
                # The job in hand may have taken all there is, under memory.hard_limit_mb. What was
                # lost of the settling files is on the disk.
                parts.intake.start_over(self._still_busy(parts))
                self._log.warning("daemon.out_of_memory", message="looking at the inbox again in a second")
                wake_at = time.monotonic() + 1
            if not self._stop_reason:
                self._bell.wait(wake_at - time.monotonic())

    def _tick(self, parts: _Parts) -> float:
        """Do everything that is due, in slices short enough for signals; returns when to come again."""
        self._take_completions(parts.intake)
        self._take_events(parts)
        recycle = parts.work.supervision.recycle_reason
        if recycle:
            self._stop(recycle, ExitCode.RECYCLE)
            return 0.0
        now = time.monotonic()
        self._advance_scan(parts, now)
        due = parts.intake.step()  # after the scan, so that what it found is waited for and no longer
        self._reporter.note_load(
            idle=not (parts.intake.busy or parts.intake.waiting or parts.intake.rescan_due)
        )
        if parts.timers.look_after.is_due(now):
            self._look_after(parts)
            if parts.watcher.ensure():
                parts.intake.rescan_due = True
            self._reporter.status_line(parts.intake, parts.work.memory)
            self._tell(parts, also_figures=False)
        if parts.timers.stats.is_due(now):
            self._tell(parts)
            self._reporter.stats(parts.intake, parts.work.memory, queued=self._jobs.qsize())
        self._begin_scan(parts, now)
        self._notifier.beat()  # only ever reached after all of the above
        if parts.scan is not None:
            return 0.0
        wake_at = parts.timers.next()
        return wake_at if due is None else min(wake_at, due)

    def _shut_down(self, parts: _Parts) -> None:
        """Stop the intake, finish the page in hand, close down; gives up on the page at the deadline."""
        work = parts.work
        self._notifier.stopping()
        deadline = time.monotonic() + _STOP_DEADLINE_S
        in_flight = work.supervision.in_flight
        self._log.info(
            "daemon.stopping", reason=self._stop_reason, in_hand=in_flight.path if in_flight else None
        )
        work.supervision.request_stop()
        with suppress(queue.Full):  # then it wakes up for a job, and sees that it is to stop
            self._jobs.put_nowait(None)
        parts.watcher.stop()
        while parts.consumer.is_alive() and time.monotonic() < deadline and self._signals.count < 2:
            parts.consumer.join(0.05)
        if parts.consumer.is_alive():
            in_flight = work.supervision.in_flight
            if in_flight is not None:
                work.journal.forgive(in_flight.path)  # not the file's fault
            self._abandon(in_flight.path if in_flight else None)
        self._take_completions(parts.intake)
        self._tell(parts)
        work.close()

    def _abandon(self, path: str | None) -> None:
        """Leave without waiting for the consumer: its file is done again by the next start."""
        self._log.warning(
            "daemon.abandoned", path=path, message="not finished in time: the next start does it"
        )
        self._reporter.end(self._stop_reason, self._exit_code)
        self._log.info("daemon.exiting", reason=self._stop_reason, exit_code=int(self._exit_code))
        log.flush()
        os._exit(int(self._exit_code))

    # -- what a tick does ----------------------------------------------------------------------

    def _take_completions(self, intake: Intake) -> None:
        with suppress(queue.Empty):
            while True:
                job, outcome = self._completions.get_nowait()
                intake.completed(job, outcome)
                self._reporter.count(outcome)

    def _take_events(self, parts: _Parts) -> None:
        intake = parts.intake
        for event in parts.events.drain():
            if event.kind == "file":
                intake.notice(event.path, closed=event.closed)
            elif event.kind == "deleted":
                intake.notice_record_removed(event.path)
            else:
                intake.rescan_due = True
        if parts.events.lost:
            parts.events.lost = False
            intake.rescan_due = True

    def _advance_scan(self, parts: _Parts, now: float) -> None:
        if parts.scan is None or not parts.scan.advance(now + _SCAN_SLICE_S):
            return
        figures = parts.scan.figures()
        say = self._log.info if parts.timers.first_scan or figures.queued else self._log.debug
        say("scan.done", **vars(figures))
        parts.scan, parts.timers.first_scan = None, False
        watch = self._settings.watch
        pause_s = watch.rescan_interval_s
        parts.timers.scan.pause(
            min(pause_s, watch.poll_interval_s) if parts.watcher.polls else pause_s, time.monotonic()
        )

    def _begin_scan(self, parts: _Parts, now: float) -> None:
        if parts.scan is not None:
            return
        # A rescan for want of room waits until there is some again.
        wanted = parts.intake.rescan_due and parts.intake.has_room
        if parts.timers.scan.is_due(now) or wanted:
            parts.intake.rescan_due = False
            settings = self._settings
            parts.scan = Scan(
                settings.inboxes,
                assembly.rules(settings),
                parts.intake,
                recursive=settings.watch.recursive,
                log=self._log,
            )

    def _look_after(self, parts: _Parts) -> None:
        """Notice what would otherwise sit there doing nothing."""
        supervision = parts.work.supervision
        if not parts.consumer.is_alive() and not supervision.recycle_reason:
            self._log.error("daemon.thread_died", thread="consumer", exc_info=parts.consumer.error)
            self._stop("the consumer thread died", ExitCode.BUG)
        elif not parts.watcher.is_alive():
            self._log.error("daemon.thread_died", thread="observer")
            self._stop("the observer thread died", ExitCode.BUG)
        in_flight = supervision.in_flight
        if in_flight is not None and time.monotonic() - in_flight.since > self._settings.ocr.job_timeout_s:
            self._give_up_hung(parts, in_flight)

    def _give_up_hung(self, parts: _Parts, in_flight: InFlight) -> None:
        """A page takes too long. No thread can be stopped from outside, so the process goes."""
        error = JobTimeoutError(
            f"page {in_flight.page + 1} took longer than ocr.job_timeout_s "
            f"({self._settings.ocr.job_timeout_s:g} s)"
        )
        parts.work.journal.failed(in_flight.path, error.code, str(error))
        parts.work.supervision.note_failure(in_flight.path, error)
        self._tell(parts)
        self._log.error(
            "ocr.failed", path=in_flight.path, code=error.code, will_retry=True, message=str(error)
        )
        self._stop("a job hung", ExitCode.RECYCLE)
        self._abandon(in_flight.path)

    def _tell(self, parts: _Parts, *, also_figures: bool = True) -> None:
        self._reporter.tell(
            parts.intake,
            parts.work.supervision,
            parts.work.memory,
            queued=self._jobs.qsize(),
            also_figures=also_figures,
        )

    def _still_busy(self, parts: _Parts) -> set[str]:
        """The files that are queued or in hand, whatever the intake knows of them."""
        busy = {job.path for job in list(self._jobs.queue) if job is not None}
        in_flight = parts.work.supervision.in_flight
        return busy | {in_flight.path} if in_flight is not None else busy

    # -- between the threads -------------------------------------------------------------------

    def _completed(self, job: Job, outcome: Outcome) -> None:
        """Called by the consumer."""
        self._completions.put((job, outcome))
        self._bell.ring()

    def _offer(self, job: Job) -> bool:
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            return False
        say = self._log.debug if job.redelivered else self._log.info
        say("file.queued", path=job.path, queue_depth=self._jobs.qsize())
        return True

    def _stop(self, reason: str, code: ExitCode) -> None:
        if not self._stop_reason:
            self._stop_reason, self._exit_code = reason, code

    def _on_signal(self, number: int) -> None:
        self._stop(signal.Signals(number).name, ExitCode.OK)
        self._bell.ring()

    @contextmanager
    def _telling_the_end(self) -> Iterator[None]:
        """The status file says how the process ended, however it did."""
        self._reporter.begin()
        try:
            yield
        except ServiceError as error:
            self._reporter.end(str(error), error.exit_code)
            raise
        except BaseException as error:
            self._reporter.end(f"unexpected {type(error).__name__}: {error}", ExitCode.BUG)
            raise
        self._reporter.end(self._stop_reason, self._exit_code)

    def _facts(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "inbox": [str(inbox) for inbox in settings.inboxes],
            "config": str(settings.source) if settings.source else None,
            "engine": settings.ocr.engine,
            "model": settings.ocr.model,
            "soft_limit_mb": settings.memory.soft_limit_mb,
            "rss_limit_mb": settings.memory.rss_limit_mb,
        }


# -- what it is made of --------------------------------------------------------------------------


@dataclass
class _Parts:
    """What is alive while the daemon is."""

    work: Assembly
    intake: Intake
    events: Events
    watcher: Watcher
    consumer: _Consumer
    timers: _Timers
    scan: Scan | None = None


@dataclass
class _Timer:
    """Something that is due every `interval_s`, for the first time at `next_at` (monotonic s)."""

    interval_s: float
    next_at: float

    def would_be_due(self, now: float) -> bool:
        """Whether it is due, without taking note."""
        return now >= self.next_at

    def is_due(self, now: float) -> bool:
        """Whether it is due; the next time is an interval later."""
        if now < self.next_at:
            return False
        self.next_at = now + self.interval_s
        return True

    def pause(self, seconds: float, now: float) -> None:
        """Not before `seconds` from now."""
        self.next_at = now + seconds


@dataclass
class _Timers:
    look_after: _Timer
    stats: _Timer
    scan: _Timer
    first_scan: bool = True

    @classmethod
    def of(cls, settings: Settings, now: float) -> _Timers:
        return cls(
            look_after=_Timer(_LOOK_AFTER_S, now),
            stats=_Timer(settings.memory.stats_interval_s, now),
            scan=_Timer(settings.watch.rescan_interval_s, now),
        )

    def next(self) -> float:
        """When the first of them is due."""
        return min(self.look_after.next_at, self.stats.next_at, self.scan.next_at)


class _Consumer(threading.Thread):
    """The thread of the one worker; what ends it is kept for the log."""

    def __init__(
        self,
        work: Assembly,
        jobs: queue.Queue[Job | None],
        completed: Callable[[Job, Outcome], None],
        bell: _Bell,
    ) -> None:
        super().__init__(name="consumer", daemon=True)
        self._work = work
        self._jobs = jobs
        self._completed = completed
        self._bell = bell
        self.error: BaseException | None = None

    def run(self) -> None:
        """Work until told to stop; the main thread exits for an error."""
        try:
            self._work.worker.run(self._jobs, self._completed)
        except BaseException as error:  # noqa: BLE001 - told to the main thread
            self.error = error
        self._bell.ring()


class _Bell:
    """Wakes the main thread. A counter in the kernel: safe from any thread and from a signal handler."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def ring(self) -> None:
        """Wake it, now or at its next wait."""
        with suppress(BlockingIOError):
            os.eventfd_write(self._fd, 1)

    def wait(self, seconds: float) -> None:
        """Until it rings, at most so long."""
        ready, _, _ = select.select([self._fd], [], [], max(0.0, seconds))
        if ready:
            with suppress(BlockingIOError):
                os.eventfd_read(self._fd)
