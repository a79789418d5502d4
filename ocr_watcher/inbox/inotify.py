"""watchdog's inotify observer, for trees with thousands of levels, or with more folders than watches.

The one place that reaches into watchdog: everything it overrides was read in watchdog 7.1.0. There a tree is
walked by `os.walk`, which is recursive until Python 3.12, so that a thousand levels end in a RecursionError
and the observer's thread with it; a folder that cannot be watched is passed over in silence; and any mistake
over an event, as over a folder that is moved away and made anew, ends the thread that all inboxes need.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from watchdog.events import DirCreatedEvent, DirMovedEvent
from watchdog.observers.api import BaseObserver
from watchdog.observers.inotify import InotifyEmitter, InotifyObserver, InotifyWatchGroup
from watchdog.observers.inotify_c import (
    CallbackId,
    InotifyEvent,
    InotifyFD,
    Mask,
    WatchCallback,
    WatchDescriptor,
)
from watchdog.observers.inotify_move_event_grouper import GroupedInotifyEvent, PathedInotifyEvent

# Gone again: the watch of the folder above has told of that. Or too long a path: the scan leaves it out too.
_NO_MATTER = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})

Unwatched = Callable[[str, Exception], None]
"""Told a folder below an inbox for which there is no watch, and why. Called by the observer's threads.

OSError where the operating system refuses; anything else is a mistake over an event of the inbox itself.
"""


def make_observer(unwatched: Unwatched) -> BaseObserver:
    """An observer of trees of any depth. Raises OSError where the system has no inotify instance left."""
    return _Observer(unwatched)


@dataclass
class _Group(InotifyWatchGroup):
    """The watches of one inbox."""

    unwatched: Unwatched | None = None

    def on_event(self, event: InotifyEvent) -> None:
        """Something happened in a watched folder."""
        with self._surviving():
            super().on_event(event)

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        """A watched folder is gone."""
        with self._surviving():
            super().on_watch_deleted(wd)

    def on_queue_overflow(self) -> None:
        """Events were lost."""
        with self._surviving():
            super().on_queue_overflow()

    @contextmanager
    def _surviving(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - the reader's thread is everybody's
            if self.unwatched is not None:
                self.unwatched(os.path.join(os.fsdecode(self.path), ""), error)

    def _add_all_callbacks(self, path: bytes) -> None:
        """Watch a folder and all below it.

        What has its watch already was walked when it got it, and has told of everything made in it since: so
        a thousand nested folders are walked once, not once for the event of each.
        """
        pending = [path] if self._watch(path) and self.is_recursive else []
        while pending:
            try:
                with os.scandir(pending.pop()) as entries:
                    folders = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
            except OSError:
                continue  # gone, or not to be listed: the scan says so
            pending += filter(self._watch, folders)

    def _watch(self, path: bytes) -> bool:
        """Watch one folder; whether it has a watch that it did not have before."""
        try:
            wd = self._inotify_fd.add_callback(path, self.event_mask, self._callback, self._id)
        except OSError as error:
            if path == self.path:
                raise
            if self.unwatched is not None and error.errno not in _NO_MATTER:
                self.unwatched(os.fsdecode(path), error)
            return False
        known = self._active_callbacks_by_path.get(path) == wd
        self._active_callbacks_by_path[path] = wd
        self._active_callbacks_by_watch[wd] = path
        return not known

    def _remove_watch_internally(self, wd: WatchDescriptor) -> None:
        """Forget a watch. Its path may belong to another one by now, which may be forgotten as well."""
        path = self._active_callbacks_by_watch.pop(wd, None)
        if path is not None and self._active_callbacks_by_path.get(path) == wd:
            del self._active_callbacks_by_path[path]

    def _recursive_simulate(self, src_path: bytes) -> list[InotifyEvent]:  # noqa: ARG002 - watchdog's signature
        """No made-up events for what a new folder holds: its own event leads to a scan, which finds it."""
        return []


class _Emitter(InotifyEmitter):
    """Reads the events of one inbox."""

    def __init__(self, *args: Any, unwatched: Unwatched, **options: Any) -> None:  # noqa: ANN401 - watchdog's own
        super().__init__(*args, **options)
        self._unwatched = unwatched

    def on_thread_start(self) -> None:
        self._inotify = _Group(
            self._inotify_fd,
            os.fsencode(self.watch.path),
            is_recursive=self.watch.is_recursive,
            event_mask=self.get_event_mask_from_filter(),
            follow_symlink=self.watch.follow_symlink,
            unwatched=self._unwatched,
        )

    def build_and_queue_event(self, event: GroupedInotifyEvent, *, full_events: bool = False) -> None:
        """A folder that was moved in or about is one event: the scan that it leads to finds what is in it.

        watchdog makes up an event for everything in it, by `os.walk` again.
        """
        first, last = (event, event) if isinstance(event, PathedInotifyEvent) else event
        if not last.ev.is_directory or not last.ev.is_moved_to:
            super().build_and_queue_event(event, full_events=full_events)
        elif first is not last:
            self.queue_event(DirMovedEvent(os.fsdecode(first.path), os.fsdecode(last.path)))
        else:
            self.queue_event(DirCreatedEvent(os.fsdecode(last.path)))


class _WatchFD(InotifyFD):
    """The inotify instance that the emitters of one observer share."""

    def _add_callback(
        self, path: bytes, mask: Mask, callback: WatchCallback, id_: CallbackId
    ) -> WatchDescriptor:
        # A folder is met twice where it is made while the one above it is walked. watchdog warns of that with
        # everything that it watches in words: megabytes, where paths are long.
        watch = self._get_or_create_watch(path, mask)
        watch.callbacks[id_] = callback
        return watch.wd


class _Observer(InotifyObserver):
    def __init__(self, unwatched: Unwatched) -> None:
        self._inotify_fd = _WatchFD()
        self._inotify_fd.start()
        # Past InotifyObserver's own, which would make another instance and its usual emitter.
        BaseObserver.__init__(self, _Emitter, inotify_fd=self._inotify_fd, unwatched=unwatched)

    def is_alive(self) -> bool:
        """Whether its own thread and the reader's run. A dead emitter can be replaced, and does not count."""
        return super().is_alive() and self._inotify_fd.is_alive()
