"""`ocr-watcher bridge`: takes jobs from the broker, hands them to this host's daemon, puts the records back.

One job at a time, in the main thread, which loads no model and opens no image. What happens to the daemon (a
recycle, a hang, a crash) stays on this host: the document waits in the spool. A job that takes long is set
aside: acknowledged, and looked after by a thread, while the next one is taken.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import psutil

from ocr_watcher import __version__, log, memory, names
from ocr_watcher.cluster import metrics
from ocr_watcher.cluster.aside import Aside, ShareKeeper
from ocr_watcher.cluster.broker import (
    HEARTBEAT,
    OFFLINE,
    ONLINE,
    RETURNED,
    BrokerError,
    Event,
    Herald,
    Sender,
    make_app,
)
from ocr_watcher.cluster.courier import Courier, CutOffError, End, is_over
from ocr_watcher.cluster.guard import Guard, Signs
from ocr_watcher.cluster.hosts import HEARTBEAT_S, Beat, as_fields
from ocr_watcher.cluster.message import Message
from ocr_watcher.cluster.metrics import Count, Gauge
from ocr_watcher.cluster.spool import FOLDERS, Spool, SpoolError
from ocr_watcher.cluster.worker import NotTakenError, Worker, software
from ocr_watcher.errors import ExitCode, UnavailableError
from ocr_watcher.inbox.places import Places
from ocr_watcher.inbox.ready import rules_of
from ocr_watcher.service import lock
from ocr_watcher.service.health import Notifier
from ocr_watcher.service.signals import Signals
from ocr_watcher.service.told import StatusFile, Told

if TYPE_CHECKING:
    from collections.abc import Callable

    from ocr_watcher.cluster.spool import Errand
    from ocr_watcher.config import Settings

# The broker delivers again after cluster.visibility_timeout_s, by the clock of whichever host looks. Half of
# it is far enough below for clocks that are a quarter of an hour apart.
_DEADLINE_SHARE: Final = 0.5
# How long others wait for a document before it is set aside. The daemon lets others go first after 30 s.
_PATIENCE_S = 60.0
# How often the spool is looked at while a document is read, and the original meanwhile.
_LOOK_S: Final = 0.02
_LOOK_AT_ORIGINAL_S: Final = 5.0
# A daemon that starts afresh takes 3 to 10 s. One that is away for longer gets no further jobs.
_DAEMON_AWAY_S = 30.0
# How long nothing is taken after the spool took nothing.
_SPOOL_PAUSE_S: Final = 10.0
# What waits for a share that hangs, or is away, for so long counts as nobody's: another host may do it.
_SHARE_HUNG_S = 60.0
# The job in hand is waited for so long when the bridge is to stop.
_STOP_DEADLINE_S: Final = 8.0
_MIB: Final = 1 << 20


class Bridge:
    """The service. `run` is called once."""

    def __init__(
        self, settings: Settings, name: str | None = None, metrics_at: tuple[str, int] | None = None
    ) -> None:
        """`name` is by what the others know this host; its host name where there is none.

        `metrics_at` is the host and port where figures are served, if anywhere.
        """
        self._settings = settings
        self._metrics_at = metrics_at
        self._log = log.get()
        self.name = f"bridge@{name or socket.gethostname()}"
        app = make_app(settings)
        self._worker = Worker(app, self.name, do=self.do, ready=self._ready, tick=self._tick)
        self._herald = Herald(app, self.name, self._tell)
        self._notifier = Notifier(os.environ, time.monotonic)
        self._sender = Sender(app)
        self._guard = Guard(
            self._signs, queued=self._queued, beat=self._notifier.beat, restart=self._start_afresh
        )
        self._spool = Spool(settings.cluster.spool)
        self._courier = Courier(
            settings.cluster.roots, Places.of_roots(settings), self._spool, rules_of(settings)
        )
        self._aside = Aside()
        self._shares = {
            root: ShareKeeper(root, self._courier, self._aside, ended=self._ended_aside, log=self._log)
            for root in settings.cluster.roots
        }
        self._patience_s = min(_PATIENCE_S, settings.cluster.visibility_timeout_s * _DEADLINE_SHARE)
        self._daemon = Neighbour(settings)
        self._in_hand = ""  # the task that the worker waits for
        self._on_share_since: float | None = None
        self._spool_full_until = 0.0
        self._told: dict[str, str] = {}  # why no jobs of a root are taken, as the log says
        self._ends: Counter[End] = Counter()
        self._process = psutil.Process()
        self._signals = Signals(self._on_signal, lambda: None)
        self._stop_reason = ""
        self._stop_at: float | None = None
        self._leaves = False
        self._waited_s = 0.0
        self._begun = 0
        self._loop_at = time.monotonic()

    # -- life ----------------------------------------------------------------------------------

    def run(self) -> ExitCode:
        """Work until a signal; returns the exit code. Raises `ServiceError`."""
        memory.use_one_heap()
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
            try:
                if self._metrics_at is not None:
                    metrics.serve("ocrwatcher_bridge", self._figures, self._metrics_at)
                self._take_over()
                self._herald.tell_soon(Event(ONLINE, self._facts()))
                self._herald.start()
                self._guard.start()
                for share in self._shares.values():
                    share.start()
                self._worker.run()
            finally:
                self._leaves = True
                self._guard.stop()
                for share in self._shares.values():
                    share.stop()
                self._herald.tell_soon(Event(OFFLINE, self._facts()))
                self._herald.stop()
                self._spool.close()
        self._log.info("bridge.exiting", reason=self._stop_reason, exit_code=0)
        return ExitCode.OK

    def _take_over(self) -> None:
        """Go on with what an earlier bridge left in the spool. Raises `UnavailableError`."""
        try:
            for errand in self._spool.errands():
                if errand.has_document() or is_over(errand.state()):
                    self._aside.put(errand)
                else:
                    self._spool.end(errand)  # broken off while it was copied
        except SpoolError as error:
            raise UnavailableError(f"cannot read the spool {self._spool.folder}: {error}") from error
        if self._aside:
            self._log.info("bridge.resumed", jobs=len(self._aside))

    def _ready(self) -> None:
        memory.trim()  # of what the imports left behind
        self._notifier.ready()
        self._log.info("bridge.ready", name=self.name)

    def _on_signal(self, number: int) -> None:
        if not self._stop_reason:
            self._stop_reason = signal.Signals(number).name
            self._stop_at = time.monotonic() + _STOP_DEADLINE_S
        self._worker.stop()

    # -- one job -------------------------------------------------------------------------------

    def do(self, fields: dict[str, Any]) -> str:
        """Do one job; returns how it ended, or "" where it goes on without the broker.

        Raises `NotTakenError`.
        """
        try:
            message = Message.from_dict(fields)
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            self._log.error("job.rejected", message=f"not a job: {error}")
            raise NotTakenError(str(error), forget=True) from error
        began = time.monotonic()
        self._in_hand = message.id
        self._begun += 1
        try:
            end = self._carry(message, began)
        except NotTakenError:
            self._herald.tell_soon(Event(RETURNED, {"uuid": message.id}))
            raise
        finally:
            self._in_hand = ""
            self._on_share_since = None
        if end is None:
            return ""
        took_s = time.monotonic() - began
        self._waited_s += took_s
        self._count(message, end, took_ms=round(took_s * 1000))
        return end.value

    def _carry(self, message: Message, began: float) -> End | None:
        """From the share to the record; None where it is set aside. Raises `NotTakenError`."""
        share = self._shares.get(message.root)
        if share is None or not self._daemon.works() or self._stop_reason:
            raise NotTakenError("not now")
        share.share = message.share
        errand = self._aside.take(message.id)
        if errand is None:
            self._on_share_since = time.monotonic()
            try:
                errand, end = self._courier.fetch(message)
            except CutOffError as error:
                share.note(str(error))
                self._open_and_close()
                raise NotTakenError(str(error)) from error
            except SpoolError as error:
                # Given back it would come again at once, and it may be what is too large.
                self._log.warning("spool.trouble", path=message.below, message=str(error))
                self._spool_full_until = time.monotonic() + _SPOOL_PAUSE_S
                self._open_and_close()
                return End.RETRY
            finally:
                self._on_share_since = None
            if errand is None:
                return end
        end = self._wait(errand, began + self._patience_s)
        if end is None:
            self._aside.put(errand)
            self._open_and_close()
        return end

    def _wait(self, errand: Errand, until: float) -> End | None:
        """Wait for the record, and put it back; None where it is to be set aside. Raises `NotTakenError`."""
        look_at_original = time.monotonic() + _LOOK_AT_ORIGINAL_S
        while not is_over(errand.state()):
            now = time.monotonic()
            if now >= look_at_original:
                look_at_original = now + _LOOK_AT_ORIGINAL_S
                if (end := self._look_meanwhile(errand)) is not None:
                    return end
            if now >= until or (self._stop_at is not None and now >= self._stop_at):
                return None
            time.sleep(_LOOK_S)
        return self._on_share(lambda: self._courier.deliver(errand))

    def _look_meanwhile(self, errand: Errand) -> End | None:
        """Whether it is still worth waiting. Raises `NotTakenError`."""
        if not self._daemon.works():
            with suppress(SpoolError):
                self._spool.end(errand)
            raise NotTakenError("the daemon of this host is away")

        def clear_if_changed() -> End | None:
            if self._courier.is_current(errand.message):
                return None
            return self._courier.deliver(errand)  # without a record: it only clears the spool

        return self._on_share(clear_if_changed)

    def _on_share(self, act: Callable[[], End | None]) -> End | None:
        """Do something on a share; None where that is impossible now."""
        self._on_share_since = time.monotonic()
        try:
            return act()
        except (CutOffError, SpoolError) as error:
            self._log.warning("job.waits", message=str(error))
            return None
        finally:
            self._on_share_since = None

    def _count(self, message: Message, end: End, **more: object) -> None:
        self._ends[end] += 1
        self._log.info("job.ended", path=message.below, outcome=end.value, **more)

    def _ended_aside(self, errand: Errand, end: End) -> None:
        """Called by the keepers of the shares."""
        self._count(errand.message, end)
        self._herald.tell_ended(errand.message.id, end.value)

    # -- whether jobs are taken ------------------------------------------------------------------

    def _tick(self) -> None:
        """Called by the worker every second, between two jobs."""
        self._loop_at = time.monotonic()
        self._open_and_close()
        self._notifier.status(
            f"{self._ends.total()} jobs, {len(self._aside)} set aside; "
            f"daemon {'works' if self._daemon.works() else 'is away'}"
        )

    def _signs(self) -> Signs:
        """Called by the guard."""
        roots = tuple(root for root in self._shares if root not in self._told)
        return Signs(self._loop_at, self._begun, roots, bool(self._in_hand) or bool(self._stop_reason))

    def _queued(self, roots: tuple[str, ...]) -> dict[str, int] | None:
        """Called by the guard, which is the only one to use the sender."""
        try:
            return self._sender.queued(roots)
        except BrokerError:
            return None

    def _start_afresh(self, why: str) -> None:
        """Called by the guard. Nobody waits for the worker: the spool tells the next one what goes on."""
        self._log.error("bridge.exiting", reason=why, exit_code=int(ExitCode.RECYCLE))
        log.flush()
        os._exit(int(ExitCode.RECYCLE))

    def _open_and_close(self) -> None:
        """Take the jobs of a root exactly as long as they can be done. In the main thread."""
        for root in self._shares:
            why = self._obstacle(root)
            if why and root not in self._told:
                self._worker.close(root)
                self._log.warning(
                    "bridge.closed", root=root, message=why, hint="Other hosts go on; this one when it can."
                )
                self._told[root] = why
            elif not why and root in self._told:
                del self._told[root]
                self._worker.open(root)
                self._log.info("bridge.opened", root=root)

    def _obstacle(self, root: str) -> str:
        """Why no jobs of a root are taken now; empty where they are."""
        if not self._daemon.works():
            return "the daemon of this host is away"
        if time.monotonic() < self._spool_full_until:
            return "the spool takes nothing"
        if len(self._aside) >= FOLDERS - 1:
            return "too many long documents are being read"
        if self._shares[root].is_silent(_SHARE_HUNG_S):
            return "the share does not answer"
        return self._shares[root].obstacle

    # -- what it tells ---------------------------------------------------------------------------

    def _tell(self) -> list[Event]:
        """Called by the herald."""
        if self._leaves:
            return []
        return [Event(HEARTBEAT, {**self._facts(), **as_fields(self._beat())})]

    def _beat(self) -> Beat:
        told = self._daemon.told()
        since = self._on_share_since
        hangs = since is not None and time.monotonic() - since > _SHARE_HUNG_S
        in_hand = [self._in_hand] if self._in_hand and not hangs else []
        aside = [
            task
            for root, share in self._shares.items()
            if not share.is_away(_SHARE_HUNG_S)
            for task in self._aside.tasks(root)
        ]
        return Beat(
            tasks=(*in_hand, *aside),
            daemon=self._daemon.works(),
            queue=told.queue.size if told.queue is not None else 0,
            rss_mb=told.rss_mb or 0.0,
            rss_limit_mb=self._settings.memory.rss_limit_mb,
            bridge_rss_mb=round(self._process.memory_info().rss / _MIB, 1),
            roots=tuple(root for root in self._shares if root not in self._told),
            closed=tuple(f"{root}: {why}" for root, why in list(self._told.items())),
            probes=tuple(share.probe for share in self._shares.values() if share.probe),
            done=self._ends.total(),
            wall_s=time.time(),
        )

    def _figures(self) -> list[Gauge | Count]:
        """Called by the server of metrics."""
        taken = {root: root not in self._told for root in self._shares}
        ended = {end.value: self._ends[end] for end in End}
        return [
            Gauge("daemon_up", "Whether the daemon of this host works", {"": self._daemon.works()}),
            Gauge("takes_jobs", "Whether jobs of a root are taken now", taken, "root"),
            Gauge("in_hand_jobs", "Whether a job is waited for", {"": bool(self._in_hand)}),
            Gauge("aside_jobs", "Jobs that were set aside", {"": len(self._aside)}),
            Count("jobs", "Jobs that ended here", ended, "outcome"),
            Count("job_seconds", "Time that ended jobs were waited for", {"": self._waited_s}),
        ]

    def _facts(self) -> dict[str, Any]:
        return {
            "freq": HEARTBEAT_S,
            "active": int(bool(self._in_hand)),
            "processed": self._ends.total(),
            "loadavg": [round(load, 2) for load in os.getloadavg()],
            **software(),
        }


class Neighbour:
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

    def told(self) -> Told:
        """What it last told."""
        return self._file.read()
