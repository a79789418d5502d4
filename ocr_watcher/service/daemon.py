"""The service from start to exit code: start-up, loop, shutdown.

The main thread tells figures and looks after the others: a keeper for each inbox, and the one consumer. It
touches no inbox itself, so that it always answers. Signal handlers only set flags.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from ocr_watcher import __version__, log, names
from ocr_watcher.errors import ExitCode, JobTimeoutError, ServiceError
from ocr_watcher.inbox.keeper import Habits, Keeper
from ocr_watcher.inbox.places import Places
from ocr_watcher.inbox.ready import rules_of
from ocr_watcher.inbox.timing import Bell, Timer
from ocr_watcher.inputs import table
from ocr_watcher.jobs.lanes import Lanes
from ocr_watcher.service import assembly, reread
from ocr_watcher.service.config_watch import ConfigWatch
from ocr_watcher.service.health import Notifier
from ocr_watcher.service.lock import hold_lock
from ocr_watcher.service.reporter import Load, Reporter
from ocr_watcher.service.retries import Retries
from ocr_watcher.service.signals import Signals, name_of
from ocr_watcher.service.suspension import Suspensions
from ocr_watcher.service.told import StatusFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ocr_watcher.config import Settings
    from ocr_watcher.job import Job, Outcome
    from ocr_watcher.jobs.supervision import InFlight, Supervision
    from ocr_watcher.service.assembly import Assembly, MakeEngine
    from ocr_watcher.service.claims import Claims
    from ocr_watcher.service.lock import Hold

# A stop request finishes the page in hand for this long; the rest of the 10 s that a stop may take
# is for closing down.
_STOP_DEADLINE_S = 9.0
# The keepers may take so long of it to end. One whose inbox hangs does not end at all.
_KEEPER_DEADLINE_S = 2.0
# How often the threads are looked after. An idle wake-up costs about 20 µs.
_LOOK_AFTER_S = 1.0
# How often to look whether the configuration file was changed: one stat.
_CONFIG_S = 2.0
# A deep tree takes seconds to watch, and its files are found by the scan: ready does not wait for longer.
_WATCHING_S = 2.0
# Whoever waits without the bell looks so often whether a signal came.
_SIGNALS_S = 0.1
# Consumers that wait for an inbox that hangs, each with a page's memory.
_MAX_RETIRED = 4
# An inbox that has not answered for so long is said to hang. A disk that sleeps takes up to 10 s to answer.
_HUNG_S = 15.0


class Daemon:
    """The service. `run` is called once."""

    def __init__(
        self,
        settings: Settings,
        make_engine: MakeEngine,
        load_config: Callable[[], Settings | None] = lambda: None,
    ) -> None:
        """`load_config` loads the configuration anew; raises `ServiceError` if it is wrong."""
        self._settings = settings
        self._make_engine = make_engine
        self._load_config = load_config
        self._config_watch = ConfigWatch(settings, load_config)
        # Looked at before it is read: what is asked for between the two is seen again.
        self._wish = reread.version(settings.state_dir)
        self._log = log.get()
        self._bell = Bell()
        self._stop_reason = ""
        self._exit_code = ExitCode.OK
        self._signals = Signals(self._on_signal, self._on_hangup, self._on_other_signal)
        self._on_terminal = sys.stderr.isatty()
        self._reload = False
        self._other_signals: list[int] = []
        self._suspensions = Suspensions()  # of the loop: begun anew there
        self._jobs = _lanes(settings)
        self._completions: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._keepers: tuple[Keeper, ...] = ()
        self._hung: set[Path] = set()
        self._supervision: Supervision | None = None
        self._notifier = Notifier(os.environ, time.monotonic)
        self._reporter = Reporter(
            settings, StatusFile(settings.state_dir / names.STATUS), self._notifier, self._log
        )

    # -- life ----------------------------------------------------------------------------------

    def run(self) -> ExitCode:
        """Work until a signal or a reason to restart; returns the exit code. Raises `ServiceError`."""
        with self._signals.handled():
            self._log.info("daemon.starting", version=__version__, pid=os.getpid(), **self._facts())
            with hold_lock(self._settings) as hold, self._telling_the_end():
                self._keepers = self._open_inboxes(hold.claims)
                parts = self._start_up(hold)
                try:
                    self._loop(parts)
                except BaseException:
                    self._forgive(parts)
                    raise
                self._shut_down(parts)
        self._log.info("daemon.exiting", reason=self._stop_reason, exit_code=int(self._exit_code))
        return self._exit_code

    def _open_inboxes(self, claims: Claims) -> tuple[Keeper, ...]:
        """A keeper for each inbox, which has opened it; one that does not answer is not waited for long."""
        watch = self._settings.watch
        habits = Habits(
            rules_of(self._settings),
            watch.mode,
            watch.recursive,
            watch.poll_interval_s,
            watch.rescan_interval_s,
            self._settings.queue.max_size,
        )
        places = Places.of(self._settings)
        wish = reread.requested(self._settings)
        kept = [(inbox, habits, places) for inbox in watch.inbox]
        if self._settings.http is not None and self._settings.http.via == "daemon":
            spool = assembly.make_spool(self._settings.http.spool, "http.spool")
            kept.append((spool, assembly.spool_habits(self._settings), Places()))
        if self._settings.cluster.is_on:
            spool = assembly.make_spool(self._settings.cluster.spool, "cluster.spool")
            kept.append((spool, assembly.bridge_habits(self._settings), Places()))
        keepers = tuple(
            Keeper(
                inbox,
                its_habits,
                claim=partial(claims.add, recursive=its_habits.recursive),
                offer=self._offer,
                still_busy=self._still_busy,
                wake=self._bell.ring,
                log=self._log,
                places=its_places,
                kind_of=table.kind_of,
                reread=wish if inbox in watch.inbox else None,
            )
            for inbox, its_habits, its_places in kept
        )
        for keeper in keepers:
            keeper.start()
        for keeper in self._wait_for(keepers, Keeper.wait_until_open, _HUNG_S):
            self._tell_hung(keeper, _HUNG_S)
        return keepers

    def _wait_for(
        self, keepers: tuple[Keeper, ...], is_done: Callable[[Keeper, float], bool], seconds: float
    ) -> list[Keeper]:
        """Wait for what keepers begin with; returns those that were late, or none if told to stop."""
        deadline = time.monotonic() + seconds
        late = []
        for keeper in keepers:
            while not is_done(keeper, min(_SIGNALS_S, deadline - time.monotonic())):
                if self._stop_reason:
                    return []
                if time.monotonic() >= deadline:
                    late.append(keeper)
                    break
        return late

    def _start_up(self, hold: Hold) -> _Parts:
        """Load the engine, start watching, start the consumer."""
        settings = self._settings
        with self._signals.held_back():
            work = assembly.build(
                settings,
                self._make_engine,
                queue_depth=self._jobs.qsize,
                others_wait=lambda: not self._jobs.empty(),
                somebody_hurries=self._jobs.hurries,
            )
        self._reporter.totals_from(work.journal.totals)
        consumer = _Consumer(work, self._jobs, self._completed, self._bell)
        self._supervision = work.supervision
        for keeper in self._keepers:
            keeper.go()
        consumer.start()
        if settings.http is not None:
            Retries(settings, settings.http.spool, self._log).start()
        self._wait_for(self._keepers, Keeper.wait_until_watching, _WATCHING_S)
        self._log.info(
            "daemon.ready",
            engine=work.engine.name,
            provider=work.engine.provider,
            model=work.engine.model,
            rss_mb=work.memory.rss_mb(),
        )
        self._notifier.ready()
        return _Parts(work, hold, consumer, _Timers.of(settings, time.monotonic()))

    def _loop(self, parts: _Parts) -> None:
        """The main thread's work until there is a reason to stop. It never touches an inbox."""
        self._suspensions = Suspensions()
        waited_s = 0.0
        while not self._stop_reason:
            suspended_s = self._suspensions.tick(waited_s)
            if suspended_s:
                self._log.info("daemon.suspended", seconds=round(suspended_s, 1))
            try:
                wake_at = self._tick(parts)
            except MemoryError:  # the job in hand may have taken all there is, under memory.hard_limit_mb
                wake_at = time.monotonic() + 1
            waited_s = max(0.0, wake_at - time.monotonic())
            if not self._stop_reason:
                self._bell.wait(waited_s)

    def _tick(self, parts: _Parts) -> float:
        """Do everything that is due; returns when to come again."""
        load = self._load()
        self._take_completions()  # after `load`: of what is not busy any more, the end is counted
        self._take_signals(parts)
        recycle = parts.work.supervision.recycle_reason
        if recycle:
            self._stop(recycle, ExitCode.RECYCLE)
            return 0.0
        now = time.monotonic()
        self._reporter.note_load(load)
        if parts.timers.look_after.is_due(now):
            self._look_after(parts)
            self._reporter.status_line(load, parts.work.memory)
            self._tell(parts, also_figures=False)
        if parts.timers.config.is_due(now):
            self._look_at_config()
            self._look_for_wish()
        if parts.timers.stats.is_due(now):
            self._tell(parts)
            self._reporter.stats(load, parts.work.memory, queued=self._jobs.qsize())
        self._notifier.beat()  # only ever reached after all of the above
        return parts.timers.next()

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
        self._jobs.close()
        for keeper in self._keepers:
            keeper.stop()
        while parts.consumer.is_alive() and time.monotonic() < deadline and self._signals.count < 2:
            parts.consumer.join(0.05)
        if parts.consumer.is_alive():
            self._abandon(parts, self._forgive(parts))
        deadline = min(deadline, time.monotonic() + _KEEPER_DEADLINE_S)
        for keeper in self._keepers:
            keeper.join(max(0.0, deadline - time.monotonic()))
        self._take_completions()
        self._tell(parts)
        work.close()

    def _forgive(self, parts: _Parts) -> str | None:
        """The page in hand is not finished, and that is not the file's fault; returns its path, if any."""
        in_flight = parts.work.supervision.in_flight
        if in_flight is None:
            return None
        parts.work.journal.forgive(in_flight.path)
        return in_flight.path

    def _abandon(self, parts: _Parts, path: str | None) -> None:
        """Leave without waiting for the consumer: its file is done again by the next start.

        A consumer that waits for a file system ends when that answers, and the process not before: the next
        one must be able to start all the same.
        """
        self._log.warning(
            "daemon.abandoned", path=path, message="not finished in time: the next start does it"
        )
        self._reporter.end(self._stop_reason, self._exit_code)
        self._log.info("daemon.exiting", reason=self._stop_reason, exit_code=int(self._exit_code))
        log.flush()
        parts.hold.release()
        os._exit(int(self._exit_code))

    # -- what a tick does ----------------------------------------------------------------------

    def _take_completions(self) -> None:
        with suppress(queue.Empty):
            while True:
                self._reporter.count(self._completions.get_nowait())

    def _take_signals(self, parts: _Parts) -> None:
        while self._other_signals:
            number = self._other_signals.pop(0)
            self._log.info("signal.ignored", signal=name_of(number))
        if not self._reload:
            return
        self._reload = False
        try:
            self._load_config()
        except ServiceError as error:
            self._config_watch.note_told()
            self._log.error("config.rejected", message=str(error), hint=error.hint)
            return
        self._log.info(
            "config.changed", applied=True, message="the configuration is right: starting afresh with it"
        )
        parts.work.supervision.request_recycle("SIGHUP")

    def _look_at_config(self) -> None:
        """Say once that the configuration file was changed."""
        change = self._config_watch.look()
        if change is None:
            return
        apply = f"`systemctl reload ocr-watcher` or `kill -HUP {os.getpid()}` applies it."
        if self._on_terminal:
            apply = "Stop this with Ctrl-C and start it again."
        say = self._log.warning if change.mistakes else self._log.info
        say(
            "config.changed",
            config=str(self._settings.source),
            applied=False,
            message=f"it was changed, and cannot be used: {change.mistakes}"
            if change.mistakes
            else "it was changed; this process goes on with what it was started with",
            hint=f"Correct it first. {apply}" if change.mistakes else apply,
        )

    def _look_for_wish(self) -> None:
        """Read older results again, where somebody has asked for that since the start."""
        seen = reread.version(self._settings.state_dir)
        if seen == self._wish:
            return
        self._wish = seen
        wish = reread.requested(self._settings)
        if wish is None:
            return
        self._log.info("reread.requested", settings=wish.settings)
        for keeper in self._keepers:
            if keeper.inbox in self._settings.watch.inbox:
                keeper.read_again(wish)

    def _look_after(self, parts: _Parts) -> None:
        """Notice what would otherwise sit there doing nothing."""
        supervision = parts.work.supervision
        if not parts.consumer.is_alive() and not supervision.recycle_reason:
            self._thread_died("consumer", parts.consumer.error)
        for keeper in self._keepers:
            if not keeper.is_alive():
                self._thread_died("keeper", keeper.error)
            elif not keeper.observes:
                self._thread_died("observer", None)
            else:
                self._look_for_signs_of_life(keeper)
        supervision.note_hung(frozenset(self._hung))
        in_flight = supervision.in_flight
        if in_flight is None:
            return
        took_s = self._took_s(in_flight.since)
        if took_s > _HUNG_S and self._is_in_a_hung_inbox(in_flight.path):
            self._replace_consumer(parts, in_flight)
        elif took_s > self._settings.ocr.job_timeout_s:
            self._give_up_hung(parts, in_flight)

    def _thread_died(self, thread: str, error: BaseException | None) -> None:
        self._log.error("daemon.thread_died", thread=thread, exc_info=error)
        self._stop(f"the {thread} thread died", ExitCode.BUG)

    def _look_for_signs_of_life(self, keeper: Keeper) -> None:
        silent_s = self._took_s(keeper.seen_at)
        if silent_s > _HUNG_S and keeper.inbox not in self._hung:
            self._tell_hung(keeper, silent_s)
        elif silent_s <= _HUNG_S and keeper.inbox in self._hung:
            self._hung.discard(keeper.inbox)
            self._log.info("watch.inbox_answers", inbox=str(keeper.inbox))

    def _tell_hung(self, keeper: Keeper, silent_s: float) -> None:
        self._hung.add(keeper.inbox)
        self._log.error(
            "watch.inbox_hung",
            inbox=str(keeper.inbox),
            seconds=round(silent_s),
            hint="Its file system does not answer: is the server there? Other inboxes are worked on; "
            "this one goes on by itself.",
        )

    def _is_in_a_hung_inbox(self, path: str) -> bool:
        return any(path.startswith(f"{inbox}{os.sep}") for inbox in self._hung)

    def _took_s(self, since: float) -> float:
        """How long ago that monotonic time (s) is, without the time in which the process stood still."""
        now = time.monotonic()
        return now - since - self._suspensions.within(since, now)

    def _replace_consumer(self, parts: _Parts, in_flight: InFlight) -> None:
        """The consumer waits for an inbox that hangs: let another one go on with the others."""
        if not parts.work.supervision.retire(parts.consumer):
            return  # it is in the engine, and comes back
        parts.work.journal.forgive(in_flight.path)  # not the file's fault
        self._log.warning(
            "daemon.consumer_replaced",
            path=in_flight.path,
            message="its inbox does not answer: other files are read meanwhile",
        )
        parts.retired.append(parts.consumer)
        parts.consumer = _Consumer(parts.work, self._jobs, self._completed, self._bell)
        parts.consumer.start()
        parts.retired = [consumer for consumer in parts.retired if consumer.is_alive()]
        if len(parts.retired) > _MAX_RETIRED:
            self._stop("too many files in hand in inboxes that hang", ExitCode.RECYCLE)

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
        self._abandon(parts, in_flight.path)

    def _load(self) -> Load:
        """What the keepers have to do."""
        return Load(
            busy=sum(keeper.busy for keeper in self._keepers),
            waiting=sum(keeper.waiting for keeper in self._keepers),
            more=any(keeper.may_find_more for keeper in self._keepers),
            failed=sum(keeper.failed for keeper in self._keepers),
            oldest_at=min((job.queued_at for job in self._jobs.waiting()), default=None),
            hung=tuple(str(keeper.inbox) for keeper in self._keepers if keeper.inbox in self._hung),
        )

    def _tell(self, parts: _Parts, *, also_figures: bool = True) -> None:
        self._reporter.tell(
            self._load(),
            parts.work.supervision,
            parts.work.memory,
            queued=self._jobs.qsize(),
            config_changed=self._config_watch.differs,
            also_figures=also_figures,
        )

    # -- between the threads -------------------------------------------------------------------

    def _completed(self, job: Job, outcome: Outcome) -> None:
        """Called by the consumer."""
        self._completions.put(outcome)
        for keeper in self._keepers:
            if keeper.inbox == job.root:
                keeper.completed(job, outcome)
            else:
                keeper.room()
        self._bell.ring()

    def _offer(self, job: Job) -> bool:
        """Called by the keepers."""
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            return False
        say = self._log.debug if job.redelivered else self._log.info
        say("file.queued", path=job.path, queue_depth=self._jobs.qsize())
        return True

    def _still_busy(self) -> set[str]:
        """The files that are queued or in hand. Called by the keepers."""
        busy = {job.path for job in self._jobs.waiting()}
        in_flight = self._supervision.in_flight if self._supervision is not None else None
        return busy | {in_flight.path} if in_flight is not None else busy

    def _stop(self, reason: str, code: ExitCode) -> None:
        if not self._stop_reason:
            self._stop_reason, self._exit_code = reason, code

    def _on_signal(self, number: int) -> None:
        self._stop(name_of(number), ExitCode.OK)
        self._bell.ring()

    def _on_hangup(self) -> None:
        # The terminal is being closed: somebody has left, as with Ctrl-C. Elsewhere it asks to look at the
        # configuration again.
        if self._on_terminal:
            self._stop("SIGHUP", ExitCode.OK)
        else:
            self._reload = True
        self._bell.ring()

    def _on_other_signal(self, number: int) -> None:
        self._other_signals.append(number)
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
            "inbox": [str(inbox) for inbox in settings.watch.inbox],
            "config": str(settings.source) if settings.source else None,
            "engine": settings.ocr.engine,
            "model": settings.ocr.model,
            "soft_limit_mb": settings.memory.soft_limit_mb,
            "rss_limit_mb": settings.memory.rss_limit_mb,
        }


def _lanes(settings: Settings) -> Lanes:
    http = settings.http
    if http is None:
        return Lanes(settings.queue.max_size)
    return Lanes(settings.queue.max_size, spool=http.spool, spool_size=http.max_waiting)


# -- what it is made of --------------------------------------------------------------------------


@dataclass
class _Parts:
    """What is alive while the daemon is, beside the keepers."""

    work: Assembly
    hold: Hold
    consumer: _Consumer
    timers: _Timers
    retired: list[_Consumer] = field(default_factory=list)


@dataclass
class _Timers:
    look_after: Timer
    stats: Timer
    config: Timer

    @classmethod
    def of(cls, settings: Settings, now: float) -> _Timers:
        return cls(
            look_after=Timer(_LOOK_AFTER_S, now),
            stats=Timer(settings.memory.stats_interval_s, now),
            config=Timer(_CONFIG_S, now + _CONFIG_S),
        )

    def next(self) -> float:
        """When the first of them is due."""
        return min(self.look_after.next_at, self.stats.next_at, self.config.next_at)


class _Consumer(threading.Thread):
    """The thread of the one worker; what ends it is kept for the log."""

    def __init__(
        self,
        work: Assembly,
        jobs: Lanes,
        completed: Callable[[Job, Outcome], None],
        bell: Bell,
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
