"""Where candidate paths come from: operating-system events through watchdog, and a scan of the folders.

Events make it quick, the scan makes it complete: events get lost (queue overflow, network mounts,
folders that appear while a watch is being added), so every promise rests on the scan and none on
an event. Knows names and folders, never contents.
"""

from __future__ import annotations

import errno
import os
import queue
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)

from ocr_watcher.inbox.inotify import Unwatched, make_observer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from structlog.typing import FilteringBoundLogger
    from watchdog.observers.api import BaseObserver, ObservedWatch


# File systems whose other writers raise no events here.
NETWORK_FILE_SYSTEMS = frozenset(
    {"9p", "acfs", "afs", "beegfs", "ceph", "cifs", "davfs", "fuse", "fuseblk", "gfs2", "glusterfs", "gpfs"}
    | {"lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "prl_fs", "pvfs2", "smb", "smb2", "smb3"}
    | {"smbfs", "vboxsf", "virtiofs", "vmhgfs"}
)
# Event types worth waking up for. No FileModifiedEvent: a large copy raises thousands, and a
# waiting file is looked at again anyway.
_EVENTS: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileClosedEvent,
    FileMovedEvent,
    FileDeletedEvent,
    DirCreatedEvent,
    DirMovedEvent,
]
# Bound on events not yet looked at; beyond it a rescan is due instead.
_MAX_EVENTS = 8192


# -- which way to watch ------------------------------------------------------------------------


def file_system_of(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """The type of the file system that holds `path` ("ext4", "nfs4", "fuse.sshfs"); "" where unknown."""
    try:
        device = path.stat().st_dev
        rows = mounts.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return ""
    number = f"{os.major(device)}:{os.minor(device)}"
    best, found = -1, ""
    for row in rows:
        before, _, after = row.partition(" - ")
        fields = before.split()
        if len(fields) < 5 or not after:
            continue
        # Octal escapes: the kernel writes a blank in a mount point as \040.
        point = fields[4].encode("latin-1", "backslashreplace").decode("unicode_escape")
        # btrfs and overlayfs give files another device number than the mount has: then the
        # longest mount point above the path decides.
        if fields[2] == number or path.is_relative_to(point):
            weight = len(point) + (100_000 if fields[2] == number else 0)
            if weight >= best:
                best, found = weight, after.split()[0]
    return found


def is_network(file_system: str) -> bool:
    """Whether other machines can write there without an event here."""
    return file_system.partition(".")[0] in NETWORK_FILE_SYSTEMS


def choose_mode(mode: str, inbox: Path) -> tuple[Literal["native", "polling"], str]:
    """What `watch.mode` means for this inbox, and why, in words."""
    if mode == "polling":
        return "polling", "watch.mode is polling"
    if mode == "native":
        return "native", "watch.mode is native"
    kind = file_system_of(inbox)
    if is_network(kind):
        return "polling", f"{kind} delivers no events for remote writes"
    return "native", f"{kind or 'file system'} delivers events"


# -- events ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    """Something happened at `path`: `closed` says that it is probably complete."""

    kind: Literal["file", "deleted", "folder"]
    path: str
    closed: bool = False


class Events:
    """A bounded mailbox between the observer's thread and the main loop."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._queue: queue.Queue[Event] = queue.Queue(_MAX_EVENTS)
        self._wake = wake
        self.lost = False

    def put(self, event: Event) -> None:
        """Never blocks: where there is no room the event is dropped and `lost` is set."""
        try:
            self._queue.put_nowait(event)
        except queue.Full:
            self.lost = True
        self._wake()

    def drain(self) -> Iterator[Event]:
        """Every event that is there now."""
        for _ in range(self._queue.qsize()):
            try:
                yield self._queue.get_nowait()
            except queue.Empty:
                return


class _Handler(FileSystemEventHandler):
    """Turns watchdog's events into ours. An exception here would kill the observer's thread silently."""

    def __init__(self, events: Events, log: FilteringBoundLogger) -> None:
        self._events = events
        self._log = log

    def dispatch(self, event: FileSystemEvent) -> None:
        try:
            self._translate(event)
        except Exception:  # noqa: BLE001 - see the class
            self._log.exception("watch.event_failed", seen=repr(event))
            self._events.lost = True

    def _translate(self, event: FileSystemEvent) -> None:
        source = os.fsdecode(event.src_path)
        match event:
            case DirMovedEvent() | DirCreatedEvent():
                self._events.put(Event("folder", os.fsdecode(event.dest_path) or source))
            case FileMovedEvent():
                # A rename publishes a finished file.
                self._events.put(Event("deleted", source))
                self._events.put(Event("file", os.fsdecode(event.dest_path), closed=True))
            case FileDeletedEvent():
                self._events.put(Event("deleted", source))
            case FileCreatedEvent() | FileClosedEvent():
                self._events.put(Event("file", source, closed=isinstance(event, FileClosedEvent)))
            case _:  # types that were not asked for
                pass


class Watcher:
    """The observer of every inbox that is watched natively.

    `ensure()` is called on a timer: it watches an inbox again that was replaced or came back, and
    turns to polling where the system has no watches left.
    """

    def __init__(
        self,
        inboxes: tuple[Path, ...],
        mode: str,
        *,
        recursive: bool,
        events: Events,
        log: FilteringBoundLogger,
        make_observer: Callable[[Unwatched], BaseObserver] = make_observer,
    ) -> None:
        self._recursive = recursive
        self._log = log
        self._handler = _Handler(events, log)
        self._make_observer = make_observer
        self._observer: BaseObserver | None = None
        self._watches: dict[Path, tuple[ObservedWatch, tuple[int, int]]] = {}
        self._missing: set[Path] = set()
        # Told by the observer's threads: inboxes with a folder for which there was no watch, and why.
        self._partly: dict[str, str] = {}
        self.modes: dict[Path, Literal["native", "polling"]] = {}
        self._inboxes = inboxes
        self._mode = mode

    @property
    def polls(self) -> bool:
        """Whether any inbox relies on the scan alone."""
        return "polling" in self.modes.values()

    def start(self) -> None:
        """Start watching; logs `watch.started` for each inbox."""
        for inbox in self._inboxes:
            mode, reason = choose_mode(self._mode, inbox)
            self.modes[inbox] = mode
            if mode == "native":
                trouble = self._watch(inbox)
                if trouble:
                    self.modes[inbox], reason = "polling", trouble
            self._log.info("watch.started", inbox=str(inbox), mode=self.modes[inbox], reason=reason)
        self._poll_what_is_unwatched()

    def is_alive(self) -> bool:
        """False when a thread of the observer has died: nothing would be noticed any more."""
        return self._observer is None or self._observer.is_alive()

    def ensure(self) -> bool:
        """Check that every inbox is still the folder being watched; True where one changed (scan it)."""
        changed = False
        for inbox in self._inboxes:
            identity = _identity(inbox)
            if identity is None:
                if inbox not in self._missing:
                    self._missing.add(inbox)
                    self._log.error(
                        "watch.inbox_missing",
                        inbox=str(inbox),
                        hint="Is it unmounted? Create or mount it again: work goes on by itself.",
                    )
                continue
            returned = inbox in self._missing
            self._missing.discard(inbox)
            watch = self._watches.get(inbox)
            if self.modes[inbox] == "native" and (
                watch is None or watch[1] != identity or returned or not self._emits(watch[0])
            ):
                trouble = self._watch(inbox)
                if trouble:
                    self.modes[inbox] = "polling"
                self._log.info(
                    "watch.started",
                    inbox=str(inbox),
                    mode=self.modes[inbox],
                    reason=trouble or "the folder was replaced",
                )
                changed = True
            changed = changed or returned
        return self._poll_what_is_unwatched() or changed

    def stop(self) -> None:
        """Stop and join the observer's threads."""
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(2.0)
        self._observer = None

    def _unwatched(self, folder: str, error: Exception) -> None:
        """Called by the observer's threads: there is no watch for this folder."""
        for inbox in self._inboxes:
            if folder.startswith(f"{inbox}{os.sep}") and str(inbox) not in self._partly:
                self._partly[str(inbox)] = _no_watch(error)
                if not isinstance(error, OSError):
                    self._log.error("watch.trouble", inbox=str(inbox), exc_info=error)

    def _poll_what_is_unwatched(self) -> bool:
        """Turn to polling where not every folder has a watch; events of the others still come."""
        changed = False
        for inbox in self._inboxes:
            reason = self._partly.get(str(inbox))
            if reason is not None and self.modes.get(inbox) == "native":
                self.modes[inbox] = "polling"
                self._log.warning("watch.started", inbox=str(inbox), mode="polling", reason=reason)
                changed = True
        return changed

    def _emits(self, watch: ObservedWatch) -> bool:
        """Whether the emitter of a watch still runs: it ends by itself when its folder is removed.

        A folder made anew can have the old one's number, so the identity alone does not tell.
        """
        emitters = [] if self._observer is None else self._observer.emitters
        return any(emitter.watch is watch and emitter.is_alive() for emitter in emitters)

    def _watch(self, inbox: Path) -> str:
        """Watch `inbox`; returns what went wrong in words, empty when nothing did."""
        if self._observer is None:
            try:
                observer = self._make_observer(self._unwatched)
                observer.start()
            except (OSError, RuntimeError) as error:  # no instance of inotify left, or no thread
                return _no_watch(error)
            self._observer = observer
        old = self._watches.pop(inbox, None)
        try:
            if old is not None:
                self._observer.unschedule(old[0])
        except (KeyError, OSError):  # its emitter had stopped by itself
            pass
        identity = _identity(inbox)
        try:
            watch = self._observer.schedule(
                self._handler, str(inbox), recursive=self._recursive, event_filter=_EVENTS
            )
        except OSError as error:
            return _no_watch(error)
        except Exception as error:  # noqa: BLE001 - a bug of the observer's must not take the service with it
            self._log.exception("watch.trouble", inbox=str(inbox))
            return _no_watch(error)
        self._watches[inbox] = (watch, identity or (0, 0))
        return ""


def _no_watch(error: Exception) -> str:
    """Why a folder has no watch, and what to do: no watches left (ENOSPC), no instances left (EMFILE)."""
    if not isinstance(error, OSError):
        return f"inotify: {type(error).__name__}"
    if error.errno in {errno.ENOSPC, errno.EMFILE}:
        return f"inotify: {error.strerror}; raise fs.inotify.max_user_watches and max_user_instances"
    return f"inotify: {error.strerror}"


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = folder.stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISDIR(status.st_mode) else None
