"""`ocr-watcher dispatch`: watches the shared folders and offers their documents to the broker.

What is in front of the daemon's queue is in front of the broker here: a keeper for each root watches, scans,
lets files settle and reads records. No document is opened. The main thread alone speaks to the broker; it
touches no root, so it always answers.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import psutil

from ocr_watcher import __version__, log, memory, names
from ocr_watcher.cluster import metrics, roots
from ocr_watcher.cluster.broker import (
    DISPATCH,
    ENDED_ASIDE,
    HEARTBEAT,
    OFFLINE,
    RETURNED,
    SUCCEEDED,
    BrokerError,
    Event,
    Herald,
    Listener,
    Sender,
    make_app,
)
from ocr_watcher.cluster.courier import End
from ocr_watcher.cluster.hosts import Beat, DispatchBeat, Hosts, as_fields, from_fields
from ocr_watcher.cluster.message import Message
from ocr_watcher.cluster.metrics import Count, Gauge
from ocr_watcher.cluster.window import Window
from ocr_watcher.errors import ExitCode
from ocr_watcher.inbox.intake import lstat
from ocr_watcher.inbox.keeper import Habits, Keeper
from ocr_watcher.inbox.places import Places
from ocr_watcher.inbox.ready import rules_of
from ocr_watcher.inbox.records import RecordState
from ocr_watcher.inbox.timing import Bell, Timer
from ocr_watcher.job import Outcome, Stamp
from ocr_watcher.service.health import Notifier
from ocr_watcher.service.lock import hold_lock
from ocr_watcher.service.signals import Signals

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ocr_watcher.config import Settings
    from ocr_watcher.job import Job
    from ocr_watcher.service.claims import Claims

_TICK_S: Final = 1.0
# How often lost jobs are looked for, and records of jobs whose end nobody told.
_LOOK_S: Final = 2.0
# A share is not to be asked all the time: a look at the records pauses for so many times what it took.
_LOOK_FACTOR: Final = 5.0
# Before the first message: so long it is listened who has what in hand already. More than two heartbeats.
_LISTEN_S: Final = 5.0
# An inbox that has not answered for so long is said to hang.
_HUNG_S: Final = 15.0
# How long nothing is sent after the broker failed.
_BROKER_PAUSE_S: Final = 1.0
# Of what imports and scans leave behind, a fifth of the memory is given back.
_TRIM_S: Final = 10.0
_KEEPER_DEADLINE_S: Final = 2.0
_MIB: Final = 1 << 20


class Dispatch:
    """The service. `run` is called once."""

    def __init__(
        self,
        settings: Settings,
        metrics_at: tuple[str, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`metrics_at` is the host and port where figures are served, if anywhere."""
        self._settings = settings
        self._metrics_at = metrics_at
        self._clock = clock
        self._log = log.get()
        self._app = make_app(settings)
        self._names = {root: name for name, root in settings.cluster.roots.items()}
        self._places = Places.of_roots(settings)
        self._shares: dict[Path, str] = {}
        self._bell = Bell()
        self._stop_reason = ""
        self._exit_code = ExitCode.OK
        self._signals = Signals(self._on_signal, self._bell.ring)
        self._hosts = Hosts(clock)
        self._window = Window(settings.queue.max_size, clock)
        self._ends: queue.SimpleQueue[tuple[str, Outcome]] = queue.SimpleQueue()
        self._sender = Sender(self._app)
        self._listener = Listener(self._app, self._hear)
        self._herald = Herald(self._app, f"dispatch@{socket.gethostname()}", self._tell)
        self._keepers: tuple[Keeper, ...] = ()
        self._hung: set[Path] = set()
        self._broker_works = True
        self._queued: dict[str, int] = {}
        self._process = psutil.Process()
        self._notifier = Notifier(os.environ, clock)
        self.sent = self.done = self.failed = self.lost = 0

    # -- life ----------------------------------------------------------------------------------

    def run(self) -> ExitCode:
        """Work until a signal; returns the exit code. Raises `ServiceError`."""
        settings = self._settings
        memory.use_one_heap()
        with self._signals.handled():
            self._log.info(
                "dispatch.starting",
                version=__version__,
                pid=os.getpid(),
                roots={name: str(root) for name, root in settings.cluster.roots.items()},
                window=settings.queue.max_size,
            )
            with hold_lock(settings.model_copy(update={"state_dir": _state_of(settings)})) as hold:
                if self._metrics_at is not None:
                    metrics.serve("ocrwatcher_dispatch", self._figures, self._metrics_at)
                self._listener.start()
                self._herald.start()
                self._open_roots(hold.claims)
                self._begin()
                self._loop()
                self._shut_down()
        self._log.info("dispatch.exiting", reason=self._stop_reason, exit_code=int(self._exit_code))
        return self._exit_code

    def _open_roots(self, claims: Claims) -> None:
        """A keeper for each root, which has opened it; one that does not answer is not waited for long."""
        watch = self._settings.watch
        habits = Habits(
            rules_of(self._settings),
            watch.mode,
            watch.recursive,
            watch.poll_interval_s,
            watch.rescan_interval_s,
            self._settings.queue.max_size,
        )
        self._keepers = tuple(
            Keeper(
                root,
                habits,
                claim=partial(self._claim, claims),
                offer=self._offer,
                still_busy=self._window.still_busy,
                wake=self._bell.ring,
                log=self._log,
                places=self._places,
            )
            for root in self._settings.cluster.roots.values()
        )
        for keeper in self._keepers:
            keeper.start()
        for keeper in self._keepers:
            if not keeper.wait_until_open(_HUNG_S):
                self._tell_hung(keeper, _HUNG_S)

    def _claim(self, claims: Claims, root: Path) -> None:
        """Called by the keepers: no other process of this machine works on it, and it has its mark."""
        claims.add(root, recursive=self._settings.watch.recursive)
        # Once: where it is unmounted later, its mount point must not get a mark of its own.
        if not self._shares.get(root):
            self._shares[root] = roots.mark(root, *self._places.trees)

    def _begin(self) -> None:
        """Empty the queues, then hear who has what in hand: the scan offers everything else again."""
        while not self._stop_reason:
            try:
                purged = self._sender.purge(self._names.values())
            except BrokerError as error:
                self._tell_broker(error)
                self._bell.wait(_BROKER_PAUSE_S)
            else:
                self._tell_broker(None)
                break
        deadline = self._clock() + _LISTEN_S
        while not self._stop_reason and (self._listened_s() < _LISTEN_S or self._clock() < deadline):
            self._bell.wait(_BROKER_PAUSE_S)
        if self._stop_reason:
            return
        for keeper in self._keepers:
            keeper.go()
            threading.Thread(target=self._look_at_records, args=(keeper.inbox,), daemon=True).start()
        self._log.info("dispatch.ready", purged=purged, hosts=[host.name for host in self._hosts.present()])
        self._notifier.ready()

    def _listened_s(self) -> float:
        """How long it was listened without a break."""
        since = self._listener.since
        return 0.0 if since is None else self._clock() - since

    def _loop(self) -> None:
        """The main thread's work until there is a reason to stop. It never touches a root."""
        look = Timer(_LOOK_S, self._clock())
        look_after = Timer(_TICK_S, self._clock())
        trim = Timer(_TRIM_S, self._clock())
        while not self._stop_reason:
            self._take_ends()
            now = self._clock()
            if look_after.is_due(now):
                self._look_after()
            if trim.is_due(now):
                memory.trim()
            try:
                if look.is_due(now):
                    self._look_for_lost()
                self._send()
                self._tell_broker(None)
            except BrokerError as error:
                self._tell_broker(error)
            self._notifier.beat()
            if not self._stop_reason:
                self._bell.wait(_TICK_S if self._broker_works else _BROKER_PAUSE_S)

    def _shut_down(self) -> None:
        self._notifier.stopping()
        self._listener.stop()
        self._herald.stop()
        for keeper in self._keepers:
            keeper.stop()
        for keeper in self._keepers:
            keeper.join(_KEEPER_DEADLINE_S)
        self._sender.close()

    # -- what a turn of the loop does ------------------------------------------------------------

    def _send(self) -> None:
        """Send what is to be sent and has room in the broker. Raises `BrokerError`."""
        unsent = self._window.unsent()
        if not unsent:
            return
        held = dict(self._hosts.in_hand())
        queued = self._sender.queued({message.root for message in unsent})
        for message in unsent:
            if message.id not in held:
                # What an earlier dispatcher sent, or the broker delivers again, takes of the same room.
                if queued[message.root] >= self._settings.queue.max_size:
                    continue
                self._sender.send(message)
                queued[message.root] += 1
                self.sent += 1
            self._window.sent(message.id)

    def _look_for_lost(self) -> None:
        """Give back to their inbox what neither broker nor bridge has. Raises `BrokerError`."""
        # Always: so it is known whether the broker answers.
        self._queued = queued = self._sender.queued(self._names.values())
        if self._listened_s() < _LISTEN_S:
            return  # nothing was heard yet: nobody is known to have anything
        for job in self._window.look(self._hosts.in_hand(), queued):
            self.lost += 1
            self._log.info("job.lost", path=job.path, message="no host has it: it is offered again")
            self._tell_keepers(job, Outcome.RESETTLE)

    def _take_ends(self) -> None:
        with suppress(queue.Empty):
            while True:
                task, outcome = self._ends.get_nowait()
                job = self._window.ended(task)
                if job is None:
                    continue
                self.done += outcome is Outcome.DONE
                self.failed += outcome is Outcome.FAILED
                self._log.info("job.ended", path=job.path, outcome=outcome.value)
                self._tell_keepers(job, outcome)

    def _tell_keepers(self, job: Job, outcome: Outcome) -> None:
        for keeper in self._keepers:
            if keeper.inbox == job.root:
                keeper.completed(job, outcome)
            else:
                keeper.room()

    def _look_after(self) -> None:
        for keeper in self._keepers:
            if not keeper.is_alive():
                self._log.error("dispatch.thread_died", thread="keeper", exc_info=keeper.error)
                self._stop("the keeper thread died", ExitCode.BUG)
            elif not keeper.observes:
                self._log.error("dispatch.thread_died", thread="observer")
                self._stop("the observer thread died", ExitCode.BUG)
            else:
                self._look_for_signs_of_life(keeper)
        hosts = self._hosts.present()
        self._notifier.status(
            f"{self.done} done, {self.failed} failed, {len(self._window)} in the window; {len(hosts)} hosts"
        )

    def _look_for_signs_of_life(self, keeper: Keeper) -> None:
        silent_s = self._clock() - keeper.seen_at
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
            hint="Its file system does not answer: is the server there? It goes on by itself.",
        )

    def _tell_broker(self, error: BrokerError | None) -> None:
        if error is not None and self._broker_works:
            self._log.error(
                "broker.away", message=str(error), hint="Is it running? Work goes on as soon as it answers."
            )
        elif error is None and not self._broker_works:
            self._log.info("broker.answers")
        self._broker_works = error is None

    # -- other threads ---------------------------------------------------------------------------

    def _offer(self, job: Job) -> bool:
        """Called by the keepers."""
        message = Message.of(job, self._names[job.root], self._shares.get(job.root, ""))
        if not self._window.offer(job, message):
            return False
        self._log.debug("file.queued", path=job.path)
        self._bell.ring()
        return True

    def _look_at_records(self, root: Path) -> None:
        """A thread for each root: find the ends that nobody told, by the records and the documents."""
        while not self._stop_reason:
            began = self._clock()
            for task, job in self._window.jobs():
                if job.root == root and (outcome := self._outcome(job)) is not None:
                    self._ends.put((task, outcome))
                    self._bell.ring()
            time.sleep(max(_LOOK_S, _LOOK_FACTOR * (self._clock() - began)))

    def _outcome(self, job: Job) -> Outcome | None:
        """How a job has ended, by what is on the disk; None where it has not."""
        status = lstat(job.path)
        if status is None:
            return Outcome.GONE
        if Stamp.of(status) != job.stamp:
            return Outcome.RESETTLE
        state = self._places.lookup(job.path, job.stamp)
        if state is RecordState.DONE:
            return Outcome.DONE
        return Outcome.FAILED if state is RecordState.FAILED else None

    def _hear(self, event: Mapping[str, Any]) -> None:
        """Called by the listener."""
        kind, host = event.get("type"), str(event.get("hostname", ""))
        if kind == HEARTBEAT and (beat := from_fields(Beat, event)) is not None:
            self._hosts.hear(host, beat)
        elif kind == OFFLINE:
            self._hosts.leave(host)
        elif kind == RETURNED:
            self._window.returned(str(event.get("uuid")))
        elif kind in (SUCCEEDED, ENDED_ASIDE):
            # Celery tells the representation of what the task returned.
            outcome = str(event.get("outcome", "") or event.get("result", "")).strip("'\"")
            with suppress(ValueError):  # "": it goes on without the broker
                self._ends.put((str(event.get("uuid")), End(outcome).outcome))
                self._bell.ring()

    def _tell(self) -> list[Event]:
        """Called by the herald."""
        beat = DispatchBeat(
            roots=tuple(self._names.values()),
            window=len(self._window),
            window_size=self._settings.queue.max_size,
            queued=sum(self._queued.values()),
            waiting=sum(keeper.waiting for keeper in self._keepers),
            sent=self.sent,
            done=self.done,
            failed=self.failed,
            lost=self.lost,
            rss_mb=round(self._process.memory_info().rss / _MIB, 1),
            wall_s=time.time(),
        )
        return [Event(DISPATCH, as_fields(beat))]

    def _figures(self) -> list[Gauge | Count]:
        """Called by the server of metrics."""
        waiting = {self._names[keeper.inbox]: keeper.waiting for keeper in self._keepers}
        ended = {"ok": self.done, "failed": self.failed}
        return [
            Gauge("broker_up", "Whether the broker answers", {"": self._broker_works}),
            Gauge("hosts", "Bridges that were heard within 30 s", {"": len(self._hosts.present())}),
            Gauge("window_jobs", "Jobs that were offered and have not ended", {"": len(self._window)}),
            Gauge("window_capacity", "queue.max_size", {"": self._settings.queue.max_size}),
            Gauge("held_jobs", "Of these, those that a host has", {"": self._window.held()}),
            Gauge("queue_messages", "Messages in the broker", dict(self._queued), "root"),
            Gauge("files_waiting", "Files that settle or wait for their next try", waiting, "root"),
            Count("messages", "Messages that were sent", {"": self.sent}),
            Count("files", "Documents that ended with a record", ended, "outcome"),
            Count("lost_jobs", "Jobs that were offered again because no host had them", {"": self.lost}),
        ]

    def _stop(self, reason: str, code: ExitCode) -> None:
        if not self._stop_reason:
            self._stop_reason, self._exit_code = reason, code

    def _on_signal(self, number: int) -> None:
        self._stop(signal.Signals(number).name, ExitCode.OK)
        self._bell.ring()


def _state_of(settings: Settings) -> Path:
    """The dispatcher's own state folder: the daemon of this host has the other one."""
    return settings.state_dir.with_name(settings.state_dir.name + names.DISPATCH_SUFFIX)
