"""`ocr-watcher bridge`: takes jobs from the broker, hands them to this host's daemon, puts the records back.

A Celery worker with one task at a time, in the main thread, which loads no model and opens no image. What
happens to the daemon (a recycle, a hang, a crash) stays on this host: the document waits in the spool. A job
that takes long is set aside: acknowledged, and looked after by a thread, while the next one is taken.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import psutil
from celery import bootsteps
from celery.exceptions import Reject
from celery.worker import state as worker_state

from ocr_watcher import __version__, log, names
from ocr_watcher.cluster.broker import TASK, Herald, make_app, queue_of
from ocr_watcher.cluster.courier import Courier, CutOff, End
from ocr_watcher.cluster.hosts import Beat
from ocr_watcher.cluster.message import Message
from ocr_watcher.cluster.spool import Errand, Spool
from ocr_watcher.errors import ExitCode, UnavailableError
from ocr_watcher.inbox.ready import rules_of
from ocr_watcher.inbox.records import RecordState
from ocr_watcher.service import lock
from ocr_watcher.service.health import Notifier
from ocr_watcher.service.signals import Signals
from ocr_watcher.service.told import StatusFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from ocr_watcher.config import Settings

# The broker delivers again after cluster.visibility_timeout_s, by the clock of whichever host looks. Half of it
# is far enough below for clocks that are a quarter of an hour apart.
_DEADLINE_SHARE: Final = 0.5
# How long others wait for a document before it is set aside: as long as the daemon itself reads one before it
# lets others go first.
_PATIENCE_S: Final = 60.0
# How often the spool is looked at while a document is read, and while one was set aside.
_LOOK_S: Final = 0.02
_LOOK_ASIDE_S: Final = 1.0
# How often the original is looked at meanwhile.
_LOOK_AT_ORIGINAL_S: Final = 5.0
# A daemon that starts afresh takes 3 to 10 s. One that is away for longer gets no further jobs.
_DAEMON_AWAY_S: Final = 30.0
# How often a share that is away, or the daemon, is looked at again.
_LOOK_AGAIN_S: Final = 2.0
# A call on a share that has not come back for so long hangs: what it is about counts as nobody's.
_SHARE_HUNG_S: Final = 60.0
_STOP_DEADLINE_S: Final = 8.0
_MIB: Final = 1 << 20


class Bridge:
    """The service. `run` is called once."""

    def __init__(self, settings: Settings, name: str | None = None) -> None:
        """`name` is by what the others know this host; its host name where there is none."""
        self._settings = settings
        self._log = log.get()
        self.name = f"bridge@{name or socket.gethostname()}"
        self._app = make_app(settings)
        self._spool = Spool(settings.cluster.spool)
        self._courier = Courier(settings.cluster.roots, self._spool, rules_of(settings))
        self._deadline_s = settings.cluster.visibility_timeout_s * _DEADLINE_SHARE
        self._daemon = _Daemon(settings)
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._aside: dict[str, Errand] = {}
        self._in_hand = ""  # the task that the worker waits for
        self._on_share_since: float | None = None
        self._closed: dict[str, str] = {}  # roots of which no jobs are taken, and why
        self._ended: dict[str, int] = {}
        self._consumer: Any = None
        self._process = psutil.Process()
        self._notifier = Notifier(os.environ, time.monotonic)
        self._signals = Signals(self._on_signal, lambda: None)
        self._stop_reason = ""

    # -- life ----------------------------------------------------------------------------------

    def run(self) -> ExitCode:
        """Work until a signal; returns the exit code. Raises `ServiceError`."""
        with self._signals.handled():
            self._log.info(
                "bridge.starting",
                version=__version__,
                pid=os.getpid(),
                name=self.name,
                roots={name: str(root) for name, root in self._settings.cluster.roots.items()},
                spool=str(self._spool.folder),
            )
            self._spool.open()
            herald = Herald(self._app, self.name, self._beat, self._facts)
            try:
                self._take_over()
                herald.start()
                self._herald = herald
                threading.Thread(target=self._look_after_the_rest, name="aside", daemon=True).start()
                self._work()
            finally:
                herald.stop()
                self._spool.close()
        self._log.info("bridge.exiting", reason=self._stop_reason, exit_code=0)
        return ExitCode.OK

    def _take_over(self) -> None:
        """Go on with what an earlier bridge left in the spool. Raises `UnavailableError`."""
        try:
            for errand in self._spool.errands():
                if not errand.has_document() and errand.state() is RecordState.OPEN:
                    self._spool.end(errand)  # broken off while it was copied
                else:
                    self._aside[errand.message.id] = errand
        except OSError as error:
            raise UnavailableError(f"cannot read the spool {self._spool.folder}: {error.strerror}") from error
        if self._aside:
            self._log.info("bridge.resumed", jobs=len(self._aside))

    def _work(self) -> None:
        """Be a Celery worker until told to stop."""
        bridge = self

        @self._app.task(name=TASK, bind=True, acks_late=True, ignore_result=True)
        def read(task: Any, fields: dict[str, Any]) -> str:
            return bridge.do(task, fields)

        class Valve(bootsteps.StartStopStep):
            """Takes jobs only while they can be done."""

            requires = ("celery.worker.consumer.tasks:Tasks",)

            def start(self, parent: Any) -> None:
                bridge._consumer = parent
                for root in bridge._closed:
                    parent.cancel_task_queue(queue_of(root))
                bridge._ready()

            def register_with_event_loop(self, parent: Any, hub: Any) -> None:  # noqa: ARG002 - Celery's call
                hub.call_repeatedly(1.0, bridge._tick)

        self._app.steps["consumer"].add(Valve)
        worker_state.should_stop = None
        worker = self._app.WorkController(
            hostname=self.name,
            pool="solo",
            concurrency=1,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,  # the herald's, which also beats while a document is waited for
            task_events=True,
        )
        worker.start()

    def _ready(self) -> None:
        self._notifier.ready()
        self._log.info("bridge.ready", name=self.name)

    def _on_signal(self, number: int) -> None:
        self._stop_reason = self._stop_reason or signal.Signals(number).name
        self._stopping.set()
        worker_state.should_stop = 0

    # -- one job -------------------------------------------------------------------------------

    def do(self, task: Any, fields: dict[str, Any]) -> str:
        """The task. Returns how it ended; "" where it goes on without the broker.

        Raises Celery's `Reject`: the message goes back, or away where it is none.
        """
        try:
            message = Message.from_dict(fields)
        except (ValueError, KeyError, TypeError) as error:
            self._log.error("job.rejected", message=f"not a job: {error}")
            raise Reject(str(error), requeue=False) from error
        began = time.monotonic()
        self._in_hand = message.id
        try:
            end = self._fetch_and_wait(message, began)
        except (CutOff, OSError) as error:
            self._close(message.root, str(error))
            raise Reject(str(error), requeue=True) from error
        finally:
            self._in_hand = ""
            self._on_share_since = None
        if end is None:
            return ""
        self._tell(message, end, time.monotonic() - began)
        return end.value

    def _fetch_and_wait(self, message: Message, began: float) -> End | None:
        """From the share to the record; None where it is set aside."""
        if not self._daemon.works() or self._stopping.is_set():
            raise CutOff("the daemon of this host is away")
        with self._lock:
            errand = self._aside.pop(message.id, None)
        if errand is None:
            self._on_share_since = time.monotonic()
            brought = self._courier.fetch(message)
            self._on_share_since = None
            if isinstance(brought, End):
                return brought
            errand = brought
        try:
            return self._wait(errand, began + min(_PATIENCE_S, self._deadline_s))
        except BaseException:
            with self._lock:
                self._aside[message.id] = errand
            raise

    def _wait(self, errand: Errand, until: float) -> End | None:
        look_at_original = time.monotonic() + _LOOK_AT_ORIGINAL_S
        while True:
            now = time.monotonic()
            if errand.state() in (RecordState.DONE, RecordState.FAILED):
                return self._deliver(errand)
            if now >= look_at_original:
                look_at_original = now + _LOOK_AT_ORIGINAL_S
                if not self._is_current(errand):
                    self._spool.end(errand)
                    return End.CHANGED
                if not self._daemon.works():
                    self._spool.end(errand)
                    raise CutOff("the daemon of this host is away")
            if now >= until or self._must_stop(now):
                with self._lock:
                    self._aside[errand.message.id] = errand
                return None
            self._notifier.beat()
            time.sleep(_LOOK_S)

    def _must_stop(self, now: float) -> bool:
        if not self._stopping.is_set():
            return False
        self._stop_at = getattr(self, "_stop_at", None) or now + _STOP_DEADLINE_S
        return now >= self._stop_at

    def _is_current(self, errand: Errand) -> bool:
        self._on_share_since = time.monotonic()
        try:
            return self._courier.is_current(errand.message)
        except CutOff:
            return True  # it is delivered when the share is back
        finally:
            self._on_share_since = None

    def _deliver(self, errand: Errand) -> End | None:
        """Put the record back; where the share does not take it now, it is set aside."""
        self._on_share_since = time.monotonic()
        try:
            return self._courier.deliver(errand)
        except (CutOff, OSError) as error:
            self._close(errand.message.root, str(error))
            with self._lock:
                self._aside[errand.message.id] = errand
            return None
        finally:
            self._on_share_since = None

    def _tell(self, message: Message, end: End, took_s: float) -> None:
        self._ended[end.value] = self._ended.get(end.value, 0) + 1
        self._log.info("job.ended", path=message.below, outcome=end.value, took_ms=round(took_s * 1000))

    # -- what was set aside ----------------------------------------------------------------------

    def _look_after_the_rest(self) -> None:
        """A thread: deliver what was set aside, as soon as the daemon is through with it."""
        while not self._stopping.wait(_LOOK_ASIDE_S):
            with self._lock:
                waiting = list(self._aside.values())
            for errand in waiting:
                self._look_after(errand)

    def _look_after(self, errand: Errand) -> None:
        task = errand.message.id
        with self._lock:
            if self._aside.pop(task, None) is None:
                return  # the worker has it again
        keep = True
        try:
            if errand.state() in (RecordState.DONE, RecordState.FAILED):
                end = self._courier.deliver(errand)
            elif not self._courier.is_current(errand.message):
                self._spool.end(errand)
                end = End.CHANGED
            else:
                end = None
            if end is not None:
                keep = False
                self._tell(errand.message, end, 0.0)
                self._herald.tell_ended(task, end.value)
        except (CutOff, OSError) as error:
            self._log.debug("job.waits", path=errand.message.below, message=str(error))
        finally:
            if keep:
                with self._lock:
                    self._aside[task] = errand

    # -- whether jobs are taken ------------------------------------------------------------------

    def _close(self, root: str, why: str) -> None:
        """Take no further jobs of a root for now. In the worker's thread."""
        if root in self._closed:
            return
        self._closed[root] = why
        self._log.error(
            "bridge.closed", root=root, message=why, hint="Other hosts go on; so does this one, when it can."
        )
        if self._consumer is not None:
            self._consumer.cancel_task_queue(queue_of(root))

    def _tick(self) -> None:
        """Called by the worker's loop every second, between two jobs."""
        self._notifier.beat()
        works = self._daemon.works()
        self._notifier.status(
            f"{sum(self._ended.values())} jobs, {len(self._aside)} set aside; "
            f"daemon {'works' if works else 'is away'}"
        )
        for root in self._settings.cluster.roots:
            why = self._obstacle(root, works=works)
            if why and root not in self._closed:
                self._close(root, why)
            elif not why and root in self._closed:
                del self._closed[root]
                self._log.info("bridge.opened", root=root)
                self._consumer.add_task_queue(queue_of(root))

    def _obstacle(self, root: str, *, works: bool) -> str:
        if not works:
            return "the daemon of this host is away"
        return ""

    # -- what it tells ---------------------------------------------------------------------------

    def _beat(self) -> Beat:
        told = self._daemon.told()
        tasks = [self._in_hand] if self._in_hand and not self._hangs() else []
        with self._lock:
            tasks += self._aside
        return Beat(
            tasks=tuple(tasks),
            daemon=self._daemon.works(),
            queue=told.queue.size if told.queue is not None else 0,
            rss_mb=told.rss_mb or 0.0,
            bridge_rss_mb=round(self._process.memory_info().rss / _MIB, 1),
            roots=tuple(root for root in self._settings.cluster.roots if root not in self._closed),
            done=sum(self._ended.values()),
            rss_limit_mb=self._settings.memory.rss_limit_mb,
            wall_s=time.time(),
        )

    def _hangs(self) -> bool:
        since = self._on_share_since
        return since is not None and time.monotonic() - since > _SHARE_HUNG_S

    def _facts(self) -> dict[str, Any]:
        return {
            "active": int(bool(self._in_hand)),
            "processed": sum(self._ended.values()),
            "loadavg": [round(load, 2) for load in os.getloadavg()],
            **worker_state.SOFTWARE_INFO,
        }


class _Daemon:
    """The daemon of this host, as its state folder tells."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._state_dir = settings.state_dir
        self._file = StatusFile(settings.state_dir / names.STATUS)
        self._clock = clock
        self._seen_at = clock()  # it may be starting, as we are

    def works(self) -> bool:
        """Whether it runs, or was seen to within the time that a restart takes."""
        with suppress(UnavailableError):
            if lock.running(self._state_dir) is not None:
                self._seen_at = self._clock()
        return self._clock() - self._seen_at < _DAEMON_AWAY_S

    def told(self) -> Any:
        """What it last told."""
        return self._file.read()
