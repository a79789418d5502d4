"""The composition root: wires the rooms together, and lives the life of the service.

The main thread notices and settles files, rescans, logs figures and watches over the other two
threads: the observer's and the one consumer's. Signal handlers only set flags. The engine comes
in as a factory, so that tests run the real daemon on a fake one.
"""

from __future__ import annotations

import os
import queue
import select
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import psutil

from ocr_watcher import __version__, log, memory, names
from ocr_watcher.errors import (
    ExitCode,
    FileError,
    JobTimeoutError,
    OutOfMemoryError,
    ServiceError,
    UnavailableError,
    VanishedError,
)
from ocr_watcher.inbox import access, watch
from ocr_watcher.inbox.intake import Intake
from ocr_watcher.inbox.ready import Rules
from ocr_watcher.inputs.base import DecodeLimits
from ocr_watcher.job import Job, Outcome
from ocr_watcher.jobs.journal import Journal
from ocr_watcher.jobs.worker import Failure, Worker
from ocr_watcher.ocr import engine, models
from ocr_watcher.outputs import commit, sidecar
from ocr_watcher.service.health import Counters, Notifier, StatusFile
from ocr_watcher.service.lock import hold_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ocr_watcher.config import Settings

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

MakeEngine: TypeAlias = "Callable[[Settings], engine.Engine]"

# A stop request finishes the file in hand for this long; the rest of the 10 s that a stop may take
# is for closing down.
_STOP_DEADLINE_S = 9.0
# How long one slice of a scan may keep the main thread from events and signals.
_SCAN_SLICE_S = 0.02
# How often the threads and the inboxes are looked after. An idle wake-up costs about 20 µs.
_LOOK_AFTER_S = 1.0


# -- parts that the other verbs share ------------------------------------------------------------------


def unreadable_hint(error: FileError) -> str:
    """What to do where not even a test image can be read."""
    if isinstance(error, OutOfMemoryError):
        return error.hint
    return "Check ocr.model, and each of ocr.params: without them, and with a model of the store, it reads."


def make_engine(settings: Settings) -> engine.Engine:
    """Load the configured engine. Raises `ServiceError`."""
    memory.use_one_heap()
    memory.apply_environment(settings.memory.env)
    ocr = settings.ocr
    _, notes = engine.translate_params(ocr.params)
    for note in notes:
        log.get().info("config.note", message=note)
    spec = models.resolve(ocr.model, ocr.model_store, ocr.engine, ocr.lang)
    return engine.create(
        ocr.engine, spec, ocr.threads, ocr.params, provider=ocr.provider, precision=ocr.precision
    )


def check_inboxes(settings: Settings) -> None:
    """Every inbox is a folder that may be read and written. Raises `UnavailableError`."""
    for inbox in settings.watch.inbox:
        access.check_inbox(inbox)


@dataclass(frozen=True)
class Line:
    """What takes one image from the queue to its sidecar, ready to work."""

    engine: engine.Engine
    journal: Journal
    memory: memory.Memory
    worker: Worker
    rules: Rules
    max_attempts: int

    def close(self) -> None:
        """Release the engine and the journal."""
        self.engine.close()
        self.journal.close()


def build_line(settings: Settings, make_engine: MakeEngine) -> Line:
    """Load the engine and build everything behind the queue. Raises `ServiceError`."""
    probe = memory.Memory()
    reader = make_engine(settings)
    try:
        reader.warm_up()
    except FileError as error:
        raise UnavailableError(
            f"the engine cannot read a test image: {error}", hint=unreadable_hint(error)
        ) from error
    probe.settle()
    limits = settings.memory
    guard = memory.Guard(
        memory.Limits(limits.soft_limit_mb, limits.rss_limit_mb, limits.max_jobs, limits.hard_limit_mb),
        log.get(),
    )
    guard.start(probe.rss_mb(), probe.data_mb())
    memory.set_ceiling(limits.hard_limit_mb, probe.data_mb())
    with suppress(OSError):  # the journal says so itself where it cannot be written
        settings.state_dir.mkdir(parents=True, exist_ok=True)
    journal = Journal(settings.state_dir / "journal.sqlite3", log.get())
    worker = Worker(
        reader,
        DecodeLimits(
            max_file_bytes=int(settings.image.max_file_mb * (1 << 20)),
            max_pixels=int(settings.image.max_megapixels * 1_000_000),
            max_side_px=settings.image.max_side_px,
        ),
        min_score=settings.ocr.min_score,
        max_attempts=settings.retry.max_attempts,
        journal=journal,
        memory=probe,
        guard=guard,
        log=log.get(),
    )
    rules = Rules.of(settings.watch.extensions, settings.watch.ignore, settings.watch.settle_s)
    return Line(reader, journal, probe, worker, rules, settings.retry.max_attempts)


class Scan:
    """One pass over the inboxes, done in slices; feeds the intake and counts."""

    def __init__(self, settings: Settings, rules: Rules, intake: Intake) -> None:
        self._settings = settings
        self._rules = rules
        self._intake = intake
        self._steps = self._walk()
        self._troubled = False
        self.started = time.monotonic()
        self._unchanged = self._others = self._done = 0

    def advance(self, until: float) -> bool:
        """Go on until monotonic time `until` (s); True when the pass is complete."""
        for _ in self._steps:
            if time.monotonic() >= until:
                return False
        if not self._troubled:
            self._intake.forget_gone(self._unchanged)
        return True

    def _walk(self) -> Iterator[None]:
        for inbox in self._settings.watch.inbox:
            for item in watch.scan(
                str(inbox),
                self._rules,
                recursive=self._settings.watch.recursive,
                is_leftover=names.is_leftover,
                record_names=names.records_of,
                is_current=self._is_current,
                trouble=self._trouble,
            ):
                if isinstance(item, watch.Found):
                    self._others += 1
                    self._done += self._intake.found(item)
                elif item is not None:
                    removed = commit.remove_leftover(item.folder, os.path.basename(item.path))
                    log.get().info("file.leftover", path=item.path, removed=removed)
                yield

    def _is_current(self, path: str, status: os.stat_result) -> bool:
        if not self._intake.knows(path, status):
            return False
        self._unchanged += 1
        return True

    def _trouble(self, folder: str, error: OSError) -> None:
        self._troubled = True
        if not isinstance(error, FileNotFoundError):
            log.get().warning("scan.trouble", path=folder, message=f"cannot list it: {error.strerror}")

    @property
    def current(self) -> int:
        """Files that were done already, or have failed for good."""
        return self._unchanged + self._done

    def figures(self) -> dict[str, Any]:
        """What `scan.done` says."""
        return {
            "found": self._unchanged + self._others,
            "queued": self._intake.busy + self._intake.waiting,
            "current": self.current,
            "duration_ms": round((time.monotonic() - self.started) * 1000),
        }


@dataclass(frozen=True)
class _Parts:
    """What is alive while the daemon is."""

    line: Line
    intake: Intake
    events: watch.Events
    watcher: watch.Watcher
    consumer: threading.Thread
    started: float


# -- the daemon --------------------------------------------------------------------------------


class Daemon:
    """The service from start to exit code."""

    def __init__(self, settings: Settings, make_engine: MakeEngine) -> None:
        self._settings = settings
        self._make_engine = make_engine
        self._log = log.get()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stop_reason = ""
        self._exit_code = ExitCode.OK
        self._signals = 0
        self._completions: queue.SimpleQueue[tuple[Job, Outcome]] = queue.SimpleQueue()
        self._jobs: queue.Queue[Job | None] = queue.Queue(settings.queue.max_size)
        self._consumer_error: BaseException | None = None
        self._counters = Counters()
        self._notifier = Notifier(os.environ, time.monotonic)
        self._status_file = StatusFile(settings.state_dir / "status.json")
        self._status: dict[str, Any] = {}

    # -- life ----------------------------------------------------------------------------------

    def run(self) -> ExitCode:
        """Work until a signal or a reason to restart; returns the exit code. Raises `ServiceError`."""
        old = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        try:
            self._log.info("daemon.starting", version=__version__, pid=os.getpid(), **self._facts())
            check_inboxes(self._settings)
            with hold_lock(self._settings):
                self._begin_status()
                try:
                    self._live()
                except ServiceError as error:
                    self._end_status(str(error), error.exit_code)
                    raise
                except BaseException as error:
                    self._end_status(f"unexpected {type(error).__name__}: {error}", ExitCode.BUG)
                    raise
                self._end_status(self._stop_reason, self._exit_code)
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
        self._log.info("daemon.exiting", reason=self._stop_reason, exit_code=int(self._exit_code))
        return self._exit_code

    def _live(self) -> None:
        settings = self._settings
        # Paddle installs signal handlers of its own while it is imported, and they end the process.
        # A request to stop that comes meanwhile waits until ours are back.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            line = build_line(settings, self._make_engine)
        finally:
            for number in _SIGNALS:
                signal.signal(number, self._on_signal)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        intake = Intake(
            settings.watch.inbox,
            line.rules,
            queue_size=settings.queue.max_size,
            offer=self._offer,
            clock=time.monotonic,
            log=self._log,
        )
        events = watch.Events(self._ring)
        watcher = watch.Watcher(
            settings.watch.inbox,
            settings.watch.mode,
            recursive=settings.watch.recursive,
            events=events,
            log=self._log,
        )
        consumer = threading.Thread(target=self._consume, args=(line.worker,), name="consumer", daemon=True)
        watcher.start()  # before the first scan: nothing may fall between the two
        consumer.start()
        parts = _Parts(line, intake, events, watcher, consumer, time.monotonic())
        self._log.info(
            "daemon.ready",
            engine=line.engine.name,
            provider=line.engine.provider,
            model=line.engine.model,
            rss_mb=line.memory.rss_mb(),
        )
        self._notifier.ready()
        self._loop(parts)
        self._shut_down(parts)

    def _loop(self, parts: _Parts) -> None:
        """The main thread's work until there is a reason to stop."""
        while not self._stop_reason:
            try:
                self._turns(parts)
            except MemoryError:
                # The job in hand may have taken all there is, under memory.hard_limit_mb. What was
                # lost of the settling files is on the disk.
                parts.intake.start_over()
                self._log.warning("daemon.out_of_memory", message="looking at the inbox again in a second")
                time.sleep(1)

    def _turns(self, parts: _Parts) -> None:
        """Turns short enough for signals."""
        settings, line, intake = self._settings, parts.line, parts.intake
        scan: Scan | None = Scan(settings, line.rules, intake)
        first = True
        next_scan = next_stats = next_look = time.monotonic()
        while not self._stop_reason:
            self._take(parts.events, intake)
            if line.worker.recycle:
                self._stop(line.worker.recycle, ExitCode.RECYCLE)
                return
            now = time.monotonic()
            if scan is not None and scan.advance(now + _SCAN_SLICE_S):
                self._report(scan, first=first)
                scan, first = None, False
                pause = settings.watch.rescan_interval_s
                if parts.watcher.polls:
                    pause = min(pause, settings.watch.poll_interval_s)
                next_scan = time.monotonic() + pause
            due = intake.step()  # after the scan, so that what it found is waited for and no longer
            if now >= next_look:
                next_look = now + _LOOK_AFTER_S
                if parts.watcher.ensure():
                    intake.rescan_due = True
                self._look_after(parts)
                self._notifier.status(self._in_words(parts))
                self._tell_status(parts, also_figures=now >= next_stats)
            if now >= next_stats:
                next_stats = now + settings.memory.stats_interval_s
                self._stats(parts)
            if parts.events.lost:
                parts.events.lost = False
                intake.rescan_due = True
            # A rescan for want of room waits until there is some again.
            if scan is None and (now >= next_scan or (intake.rescan_due and intake.has_room)):
                intake.rescan_due = False
                scan = Scan(settings, line.rules, intake)
            self._notifier.beat()  # only ever reached after all of the above
            wake_at = min(next_scan, next_stats, next_look, due if due is not None else next_look)
            self._sleep(0.0 if scan is not None else wake_at - time.monotonic())

    def _shut_down(self, parts: _Parts) -> None:
        """Stop intake, finish the file in hand, close down; gives up on the file at the deadline."""
        line, consumer = parts.line, parts.consumer
        self._notifier.stopping()
        deadline = time.monotonic() + _STOP_DEADLINE_S
        in_hand = line.worker.in_hand
        self._log.info("daemon.stopping", reason=self._stop_reason, in_hand=in_hand.path if in_hand else None)
        with suppress(queue.Full):  # then it wakes up for a job, and sees that it is to stop
            self._jobs.put_nowait(None)
        parts.watcher.stop()
        while consumer.is_alive() and time.monotonic() < deadline and self._signals < 2:
            consumer.join(0.05)
        if consumer.is_alive():
            in_hand = line.worker.in_hand
            if in_hand is not None:
                line.journal.forgive(in_hand.path)  # not the file's fault
            self._abandon(in_hand.path if in_hand else None)
        self._take(parts.events, parts.intake)
        self._tell_status(parts, also_figures=True)
        line.close()

    def _abandon(self, path: str | None) -> None:
        """Leave without waiting for the consumer: its file is done again by the next start."""
        self._log.warning(
            "daemon.abandoned", path=path, message="not finished in time: the next start does it"
        )
        self._end_status(self._stop_reason, self._exit_code)
        self._log.info("daemon.exiting", reason=self._stop_reason, exit_code=int(self._exit_code))
        log.flush()
        os._exit(int(self._exit_code))

    # -- the main thread's turns ---------------------------------------------------------------

    def _take(self, events: watch.Events, intake: Intake) -> None:
        with suppress(queue.Empty):
            while True:
                job, outcome = self._completions.get_nowait()
                intake.completed(job, outcome)
                self._count(outcome)
        for event in events.drain():
            if event.kind == "file":
                intake.notice(event.path, closed=event.closed)
            elif event.kind == "deleted":
                intake.notice_record_removed(event.path)
            else:
                intake.rescan_due = True

    def _count(self, outcome: Outcome) -> None:
        self._counters.done += outcome is Outcome.DONE
        self._counters.failed += outcome is Outcome.FAILED

    def _in_words(self, parts: _Parts) -> str:
        """The line that `systemctl status` shows."""
        count = self._counters
        return (
            f"{count.done} done, {count.failed} failed, "
            f"{parts.intake.busy} queued, {parts.intake.waiting} waiting; "
            f"RSS {parts.line.memory.rss_mb():.0f} of {self._settings.memory.rss_limit_mb} MiB"
        )

    # -- what `ocr-watcher status` reads ---------------------------------------------------------

    def _begin_status(self) -> None:
        before = self._status_file.read()
        self._status = {
            "pid": os.getpid(),
            "process_started": psutil.Process().create_time(),
            "version": __version__,
            "started_at": sidecar.now(),
            "engine": self._settings.ocr.engine,
            "model": self._settings.ocr.model,
            # of the process before this one: what went wrong outlives a restart
            "last_error": before.get("last_error"),
            "last_exit": before.get("last_exit"),
        }
        self._status_file.write(self._status)

    def _tell_status(self, parts: _Parts, *, also_figures: bool) -> None:
        """Write the status file where something changed; with `also_figures` in any case."""
        worker = parts.line.worker
        in_hand, error = worker.in_hand, worker.last_error
        status = {
            **self._status,
            "queue": {
                "size": self._jobs.qsize(),
                "max_size": self._settings.queue.max_size,
                "settling": parts.intake.waiting,
            },
            "in_hand": None
            if in_hand is None
            else {
                "path": names.printable(in_hand.path),
                "page": in_hand.page + 1,
                "since": sidecar.now(time.monotonic() - in_hand.since),
            },
            "since_start": {"done": self._counters.done, "failed": self._counters.failed},
        }
        if error is not None and error.code != VanishedError.code:
            status["last_error"] = {**vars(error), "path": names.printable(error.path)}
        if also_figures or status != self._status:
            figures = parts.line.memory.figures()
            status |= {
                "rss_mb": figures.rss_mb,
                "peak_rss_mb": figures.peak_rss_mb,
                "updated_at": sidecar.now(),
            }
            self._status = status
            self._status_file.write(status)

    def _end_status(self, reason: str, code: ExitCode) -> None:
        self._status["last_exit"] = {"reason": reason, "exit_code": int(code), "at": sidecar.now()}
        self._status_file.write(self._status)

    def _report(self, scan: Scan, *, first: bool) -> None:
        figures = scan.figures()
        say = self._log.info if first or figures["queued"] else self._log.debug
        say("scan.done", **figures)

    def _look_after(self, parts: _Parts) -> None:
        """Notice what would otherwise sit there doing nothing."""
        if not parts.consumer.is_alive() and not parts.line.worker.recycle:
            self._log.error("daemon.thread_died", thread="consumer", exc_info=self._consumer_error)
            self._stop("the consumer thread died", ExitCode.BUG)
        elif not parts.watcher.is_alive():
            self._log.error("daemon.thread_died", thread="observer")
            self._stop("the observer thread died", ExitCode.BUG)
        in_hand = parts.line.worker.in_hand
        if in_hand is not None and time.monotonic() - in_hand.since > self._settings.ocr.job_timeout_s:
            self._hung(parts, in_hand.path, in_hand.page)

    def _hung(self, parts: _Parts, path: str, page: int) -> None:
        """A page takes too long. No thread can be stopped from outside, so the process goes."""
        timeout = self._settings.ocr.job_timeout_s
        message = f"page {page + 1} took longer than ocr.job_timeout_s ({timeout:g} s)"
        parts.line.journal.failed(path, JobTimeoutError.code, message)
        parts.line.worker.last_error = Failure(path, JobTimeoutError.code, message, sidecar.now())
        self._tell_status(parts, also_figures=True)
        self._log.error("ocr.failed", path=path, code=JobTimeoutError.code, will_retry=True, message=message)
        self._stop("a job hung", ExitCode.RECYCLE)
        self._abandon(path)

    def _stats(self, parts: _Parts) -> None:
        figures = parts.line.memory.figures()
        limits = self._settings.memory
        self._log.info(
            "memory.stats",
            rss_mb=figures.rss_mb,
            peak_rss_mb=figures.peak_rss_mb,
            available_mb=figures.available_mb,
            soft_limit_mb=limits.soft_limit_mb,
            rss_limit_mb=limits.rss_limit_mb,
            jobs=self._counters.jobs,
            queue_depth=self._jobs.qsize(),
            waiting=parts.intake.waiting,
            uptime_s=round(time.monotonic() - parts.started),
        )

    # -- between the threads -------------------------------------------------------------------

    def _consume(self, worker: Worker) -> None:
        try:
            worker.run(self._jobs, self._completed, lambda: bool(self._stop_reason))
        except BaseException as error:  # noqa: BLE001 - told to the main thread, which exits for it
            self._consumer_error = error
        self._ring()

    def _completed(self, job: Job, outcome: Outcome) -> None:
        self._completions.put((job, outcome))
        self._ring()

    def _offer(self, job: Job) -> bool:
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            return False
        self._log.info("file.queued", path=job.path, queue_depth=self._jobs.qsize())
        return True

    def _stop(self, reason: str, code: ExitCode) -> None:
        if not self._stop_reason:
            self._stop_reason, self._exit_code = reason, code

    def _on_signal(self, number: int, _frame: object) -> None:
        self._signals += 1
        self._stop(signal.Signals(number).name, ExitCode.OK)
        self._ring()

    def _ring(self) -> None:
        # A counter in the kernel: safe from any thread and from a signal handler.
        with suppress(BlockingIOError):
            os.eventfd_write(self._bell, 1)

    def _sleep(self, seconds: float) -> None:
        ready, _, _ = select.select([self._bell], [], [], max(0.0, seconds))
        if ready:
            with suppress(BlockingIOError):
                os.eventfd_read(self._bell)

    def _facts(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "inbox": [str(inbox) for inbox in settings.watch.inbox],
            "config": str(settings.source) if settings.source else None,
            "engine": settings.ocr.engine,
            "model": settings.ocr.model,
            "soft_limit_mb": settings.memory.soft_limit_mb,
            "rss_limit_mb": settings.memory.rss_limit_mb,
        }
