"""`status`: what the service is doing, told beside a running daemon or without one.

What is done, failed and waiting is counted on the disk, which is the truth; what only the process
knows comes from the file that it keeps in its state folder (`service.told`), its memory from `/proc`.
Reads only.
"""

from __future__ import annotations

import queue
import stat
import threading
import time
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import psutil

from ocr_watcher import names
from ocr_watcher.inbox import records, scan, unwanted
from ocr_watcher.inbox.places import Places
from ocr_watcher.inbox.ready import Rules
from ocr_watcher.inbox.records import RecordState
from ocr_watcher.inbox.unwanted import Unwanted
from ocr_watcher.job import Stamp
from ocr_watcher.log import one_line
from ocr_watcher.memory import Memory
from ocr_watcher.service import lock, reread
from ocr_watcher.service.told import StatusFile, Told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ocr_watcher.cluster.overview import ClusterStatus, HostStatus
    from ocr_watcher.config import Settings
    from ocr_watcher.inbox.records import RecordedError
    from ocr_watcher.service.told import InHand, LastError, LastExit, QueueState, SinceStart


@dataclass
class Files:
    """The images in the inboxes by what their records say; `retrying` of the waiting ones failed before."""

    found: int = 0
    done: int = 0
    failed: int = 0
    waiting: int = 0
    retrying: int = 0


@dataclass(frozen=True)
class ServiceStatus:
    """Everything that is known of a service; amounts of memory are MiB, times ISO 8601 in UTC.

    What only a running daemon can tell is None without one. `unwanted` are the files in the inboxes that are
    never read because of their names, by extension ("": none). `config_changed` is as in `Told`. Of what is
    done, `outdated` files were read with other settings or another model, and of `unknown_settings` files
    that is not known.
    """

    running: bool
    pid: int | None
    config: str | None
    inbox: tuple[str, ...]
    version: str | None
    engine: str | None
    model: str | None
    started_at: str | None
    updated_at: str | None
    since_start: SinceStart | None
    queue: QueueState | None
    inboxes_hung: tuple[str, ...]
    in_hand: InHand | None
    rss_mb: float | None
    peak_rss_mb: float | None
    soft_limit_mb: int
    rss_limit_mb: int
    files: Files
    last_error: LastError | None
    last_exit: LastExit | None
    troubles: tuple[str, ...]
    unwanted: dict[str, int]
    config_changed: bool
    outdated: int
    unknown_settings: int
    cluster: ClusterStatus | None = None

    def as_json(self) -> dict[str, Any]:
        """What `status --json` prints."""
        return asdict(self)


@dataclass(frozen=True)
class FailedFile:
    """A file that failed, or whose next try is waited for."""

    path: str
    error: RecordedError


def collect(settings: Settings, cluster: ClusterStatus | None = None) -> ServiceStatus:
    """Look at a service; `cluster` is what was heard of the hosts.

    Raises `UnavailableError` where the state folder may not be read.
    """
    pid = lock.running(settings.state_dir)
    told = StatusFile(settings.state_dir / names.STATUS).read()
    now = told if pid is not None and told.pid == pid else Told()
    counted = count(settings)
    rss_mb, peak_rss_mb = _memory(pid, now)
    return ServiceStatus(
        running=pid is not None,
        pid=pid,
        config=str(settings.source) if settings.source else None,
        inbox=tuple(names.printable(str(inbox)) for inbox in settings.watch.inbox),
        version=now.version,
        engine=now.engine,
        model=now.model,
        started_at=now.started_at,
        updated_at=now.updated_at,
        since_start=now.since_start,
        queue=now.queue,
        inboxes_hung=now.inboxes_hung,
        in_hand=now.in_hand,
        rss_mb=rss_mb,
        peak_rss_mb=peak_rss_mb,
        soft_limit_mb=settings.memory.soft_limit_mb,
        rss_limit_mb=settings.memory.rss_limit_mb,
        files=counted.files,
        last_error=told.last_error,
        last_exit=told.last_exit,
        troubles=tuple(counted.troubles),
        unwanted=counted.unwanted,
        config_changed=now.config_changed,
        outdated=counted.outdated,
        unknown_settings=counted.unknown_settings,
        cluster=cluster,
    )


@dataclass
class Counted:
    """What is in the inboxes.

    `files` are the images; `unwanted`, `outdated` and `unknown_settings` as in `ServiceStatus`; `troubles`
    what could not be counted, in words.
    """

    files: Files = field(default_factory=Files)
    unwanted: dict[str, int] = field(default_factory=dict)
    outdated: int = 0
    unknown_settings: int = 0
    troubles: list[str] = field(default_factory=list)


def count(settings: Settings) -> Counted:
    """Count what is in every inbox."""
    counted = Counted()
    files, key = counted.files, reread.key(settings)
    looks: list[_Look[tuple[RecordState, str]]] = []
    for state, read_with in _look(
        settings, counted.troubles, lambda _, state, read_with: (state, read_with), looks
    ):
        files.found += 1
        files.done += state is RecordState.DONE
        files.failed += state is RecordState.FAILED
        files.waiting += state not in (RecordState.DONE, RecordState.FAILED)
        files.retrying += state in (RecordState.RETRY, RecordState.BLOCKED)
        counted.outdated += state is RecordState.DONE and read_with not in ("", key)
        counted.unknown_settings += state is RecordState.DONE and not read_with
    for look in looks:
        for extension, number in look.unwanted.counts.items():
            counted.unwanted[extension] = counted.unwanted.get(extension, 0) + number
    return counted


def failed(settings: Settings) -> Iterator[FailedFile]:
    """Every file that failed, or that is tried again after a failure, and why; from the records."""
    places = Places.of(settings)

    def failure(path: str, state: RecordState, _read_with: str) -> FailedFile | None:
        if state in (RecordState.OPEN, RecordState.DONE):
            return None
        error = records.read_error(places.with_records(path))
        return None if error is None else FailedFile(path, error)  # None: it went just now

    yield from _look(settings, [], failure)


# -- what is on the disk ---------------------------------------------------------------------------

_Seen = TypeVar("_Seen")
_See: TypeAlias = "Callable[[str, RecordState, str], _Seen | None]"
# A file system that does not answer for so long (s) is not waited for.
_PATIENCE_S = 5.0
# What was seen goes from thread to thread in pieces of so many files.
_PIECE = 256


def _look(
    settings: Settings,
    troubles: list[str],
    see: _See[_Seen],
    looks: list[_Look[_Seen]] | None = None,
) -> Iterator[_Seen]:
    """What `see` makes of every image in the inboxes and of what its records say, None left out.

    It is given the path, and what `records.look` says. The threads that look are added to `looks`.
    """
    started = [_Look(settings, inbox, see) for inbox in settings.watch.inbox]
    for look in started:
        look.start()
    for look in started:
        yield from look.seen(troubles)
    if looks is not None:
        looks += started


class _Look(threading.Thread, Generic[_Seen]):
    """Looks at the images of one inbox, in a thread of its own: its file system may not answer."""

    def __init__(self, settings: Settings, inbox: Path, see: _See[_Seen]) -> None:
        super().__init__(daemon=True)
        self._settings = settings
        self._inbox = inbox
        self._see = see
        self.unwanted = Unwanted()
        self._answered_at = time.monotonic()
        self._pieces: queue.Queue[list[_Seen]] = queue.Queue(16)
        self._troubles: list[str] = []
        self._out_of_reach: list[str] = []
        self._error: BaseException | None = None

    def seen(self, troubles: list[str]) -> Iterator[_Seen]:
        """As it is found. What could not be looked at is added to `troubles`, in words."""
        waited_since = time.monotonic()
        while self.is_alive() or not self._pieces.empty():
            try:
                piece = self._pieces.get(timeout=0.05)
            except queue.Empty:
                if time.monotonic() - max(waited_since, self._answered_at) > _PATIENCE_S:
                    troubles += [*self._troubles, f"{self._inbox} does not answer: not all is counted"]
                    return
            else:
                yield from piece
                waited_since = time.monotonic()
        if self._error is not None:
            raise self._error
        troubles += self._troubles
        if self._out_of_reach:
            first = self._out_of_reach[0]
            troubles.append(f"not read, {names.OUT_OF_REACH}: {len(self._out_of_reach)}, the first {first}")

    def run(self) -> None:
        """Walk the inbox."""
        try:
            self._walk()
        except BaseException as error:  # noqa: BLE001 - raised where the thread was started
            self._error = error

    def _walk(self) -> None:
        watch, places = self._settings.watch, Places.of(self._settings)
        piece: list[_Seen] = []
        for item in scan.walk(
            str(self._inbox),
            Rules.of(watch.extensions, watch.ignore, watch.settle_s),
            recursive=watch.recursive,
            trouble=self._trouble,
            clock=self._clock,
            has_record=places.has_record,
            unwanted=self.unwanted,
        ):
            if isinstance(item, scan.OutOfReach):
                self._out_of_reach.append(item.path)
            elif isinstance(item, scan.Found) and stat.S_ISREG(item.status.st_mode):
                state, read_with = RecordState.OPEN, ""
                if item.records:
                    state, read_with = records.look(places.with_records(item.path), Stamp.of(item.status))
                what = self._see(item.path, state, read_with)
                if what is not None:
                    piece.append(what)
            if len(piece) == _PIECE:
                self._pieces.put(piece)
                piece = []
        self._pieces.put(piece)

    def _clock(self) -> float:
        self._answered_at = time.monotonic()
        return self._answered_at

    def _trouble(self, folder: str, error: OSError) -> None:
        self._troubles.append(f"cannot list {folder}: {error.strerror}")


# -- what the process tells ------------------------------------------------------------------------


def _memory(pid: int | None, told: Told) -> tuple[float | None, float | None]:
    """Resident memory now and at its highest; as last told where the process cannot be seen from here."""
    try:
        # The number alone could be another process's: a container counts its own.
        if pid is not None and abs(psutil.Process(pid).create_time() - told.process_started) < 1:
            now = Memory(Path(f"/proc/{pid}/status")).figures()
            return now.rss_mb, now.peak_rss_mb
    except (psutil.Error, OSError):
        pass
    return told.rss_mb, told.peak_rss_mb


# -- in words --------------------------------------------------------------------------------------


def in_words(status: ServiceStatus) -> list[str]:
    """The same for a person, a line each."""
    lines = [_headline(status)]
    if status.rss_mb is not None and status.peak_rss_mb is not None:
        lines.append(
            f"memory       RSS {status.rss_mb:.0f} MiB, peak {status.peak_rss_mb:.0f}; "
            f"warns at {status.soft_limit_mb}, restarts at {status.rss_limit_mb}"
        )
    if status.queue is not None:
        queue = status.queue
        lines.append(
            f"queue        {queue.size} of {queue.max_size}, {queue.settling} settling or to be tried again; "
            f"{_reading(status.in_hand)}"
        )
    config = status.config or "built-in defaults; -c names a configuration"
    lines.append(f"inbox        {', '.join(map(one_line, status.inbox))} ({one_line(config)})")
    if status.config_changed:
        lines.append("             changed since the start: `systemctl reload`, or stop and start it")
    lines += [
        f"trouble      the service gets no answer from {one_line(inbox)}" for inbox in status.inboxes_hung
    ]
    files = status.files
    again = f" ({files.retrying} of them tried again after a failure)" if files.retrying else ""
    why = "; `status --failed` says why" if files.failed or files.retrying else ""
    lines.append(
        f"files        {files.found}: {files.done} done, {files.failed} failed, "
        f"{files.waiting} waiting{again}{why}"
    )
    if status.outdated:
        lines.append(
            f"outdated     {status.outdated} done with other settings or another model; "
            "`retry --outdated` has them read again"
        )
    if status.unwanted:
        lines.append(
            f"not read     {sum(status.unwanted.values())} with names that are not in watch.extensions: "
            f"{unwanted.in_words(status.unwanted)}"
        )
    if status.since_start is not None:
        lines.append(f"since start  {status.since_start.done} done, {status.since_start.failed} failed")
    if status.last_error is not None:
        error = status.last_error
        what = f"{one_line(error.path)}: {error.code}: {one_line(error.message)}"
        lines.append(f"last error   {_time(error.at)} {what}")
    if status.last_exit is not None:
        left = status.last_exit
        lines.append(f"last exit    {_time(left.at)} code {left.exit_code}: {one_line(left.reason)}")
    lines += [f"trouble      {one_line(trouble)}" for trouble in status.troubles]
    if status.cluster is not None:
        lines += _cluster_in_words(status.cluster)
    return lines


def _cluster_in_words(cluster: ClusterStatus) -> list[str]:
    if cluster.trouble:
        return [f"cluster      {one_line(cluster.trouble)}"]
    queued = ", ".join(f"{root} {count}" for root, count in (cluster.queued or {}).items())
    lines = [f"cluster      in the broker: {queued}"]
    lines += [
        f"dispatch     {one_line(one.name)}: {', '.join(one.roots)}; "
        f"{one.window} of {one.window_size} in hand, {one.done} done, {one.failed} failed, "
        f"{one.lost} offered again; RSS {one.rss_mb:.0f} MiB"
        for one in cluster.dispatchers
    ] or ["trouble      no dispatcher was heard: nothing new is offered to the hosts"]
    lines += [f"host         {_host_in_words(host)}" for host in cluster.hosts] or [
        "trouble      no host was heard"
    ]
    return lines


def _host_in_words(host: HostStatus) -> str:
    daemon = "its daemon is away"
    if host.daemon:
        daemon = f"RSS {host.rss_mb:.0f} of {host.rss_limit_mb} MiB, {host.queue} queued"
    closed = "".join(f"; takes nothing of {one_line(why)}" for why in host.closed)
    return f"{one_line(host.name)}: {host.in_hand} in hand, {host.done} jobs ended; {daemon}{closed}"


def failed_in_words(failure: FailedFile) -> list[str]:
    """A file that failed, for a person: what, why, what to do."""
    error = failure.error
    how = "is tried again" if error.will_retry else "failed"
    lines = [f"{one_line(failure.path)}: {how}: {error.code}: {one_line(error.message)}"]
    return [*lines, f"  {one_line(error.hint)}"] if error.hint else lines


def _reading(in_hand: InHand | None) -> str:
    if in_hand is None:
        return "idle"
    page = f", page {in_hand.page} of {in_hand.pages}" if in_hand.pages and in_hand.pages > 1 else ""
    return f"reading {one_line(in_hand.path)}{page}, since {_time(in_hand.since)}"


def _headline(status: ServiceStatus) -> str:
    if not status.running:
        return "ocr-watcher is not running"
    if status.started_at is None:
        # `once` holds the same lock and reports to its terminal; a daemon says more once it is ready.
        return f"ocr-watcher is running (process {status.pid}): starting, or draining the inbox by `once`"
    return (
        f"ocr-watcher {status.version} is running (process {status.pid}) since "
        f"{_time(status.started_at)}, {status.engine}, {status.model}"
    )


def _time(stamp: str) -> str:
    """Local time to the second, with its distance from UTC."""
    return datetime.fromisoformat(stamp).astimezone().isoformat(" ", "seconds")
