"""The errands of a bridge that nobody waits for: set aside because they take long, or found after a restart.

For each root a thread looks after them: it puts their records back, and finds out whether the share is there.
So a share that hangs holds up only what is about it.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from ocr_watcher.cluster.courier import CutOffError, End, is_over
from ocr_watcher.cluster.spool import SpoolError
from ocr_watcher.inbox.timing import Timer

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from ocr_watcher.cluster.courier import Courier
    from ocr_watcher.cluster.spool import Errand

# How often the spool is looked at, the share, and the documents on it.
_LOOK_S: Final = 1.0
_LOOK_AT_SHARE_S: Final = 2.0
_LOOK_AT_ORIGINALS_S: Final = 5.0


class Aside:
    """The errands. Safe to use from any thread: who takes one out is the only one to have it."""

    def __init__(self) -> None:
        self._errands: dict[str, Errand] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._errands)

    def put(self, errand: Errand) -> None:
        """Set it aside."""
        with self._lock:
            self._errands[errand.message.id] = errand

    def take(self, task: str) -> Errand | None:
        """Have it back; None where it is not here."""
        with self._lock:
            return self._errands.pop(task, None)

    def tasks(self, root: str | None = None) -> list[str]:
        """The identities of all of them, or of those of one root."""
        with self._lock:
            return [task for task, one in self._errands.items() if root in (None, one.message.root)]


class ShareKeeper(threading.Thread):
    """Looks after one root and the errands of it."""

    def __init__(
        self,
        root: str,
        courier: Courier,
        aside: Aside,
        *,
        ended: Callable[[Errand, End], None],
        log: FilteringBoundLogger,
    ) -> None:
        """`ended` is called when a record was put back, or nothing was left to do."""
        super().__init__(name=f"share {root}", daemon=True)
        self.root = root
        self.obstacle = ""  # why no jobs of it can be done, in words
        self._obstacle_since = 0.0
        self.share = ""  # the identity that it must have, as the last job told
        self.probe = ""  # what is seen of the file of `doctor`, see `roots.probe_of`
        self.seen_at = time.monotonic()
        self._courier = courier
        self._aside = aside
        self._ended = ended
        self._log = log
        self._ends = threading.Event()

    def run(self) -> None:
        """Look, until told to stop."""
        now = time.monotonic()
        share, originals = Timer(_LOOK_AT_SHARE_S, now), Timer(_LOOK_AT_ORIGINALS_S, now)
        while not self._ends.wait(_LOOK_S):
            now = self.seen_at = time.monotonic()
            if share.is_due(now):
                self._look_at_share()
            with_originals = originals.is_due(now)
            for task in self._aside.tasks(self.root):
                self._look_after(task, with_originals=with_originals)

    def stop(self) -> None:
        """End; it is a daemon thread, so nobody waits for it."""
        self._ends.set()

    def is_silent(self, seconds: float) -> bool:
        """Whether a call on the share has not come back for so long."""
        return time.monotonic() - self.seen_at > seconds

    def is_away(self, seconds: float) -> bool:
        """Whether the share hangs, or there was something else in the way, for so long."""
        in_the_way = bool(self.obstacle) and time.monotonic() - self._obstacle_since > seconds
        return in_the_way or self.is_silent(seconds)

    def note(self, obstacle: str) -> None:
        """Something is in the way; or nothing is, where it is empty."""
        if not self.obstacle:
            self._obstacle_since = time.monotonic()
        self.obstacle = obstacle

    def _look_at_share(self) -> None:
        try:
            self._courier.see(self.root, self.share)
        except CutOffError as error:
            self.note(str(error))
        else:
            self.note("")
        self.probe = self._courier.probe(self.root)

    def _look_after(self, task: str, *, with_originals: bool) -> None:
        errand = self._aside.take(task)
        if errand is None:
            return  # the worker has it again
        end: End | None = None
        try:
            if is_over(errand.state()):
                end = self._courier.deliver(errand)
            elif with_originals and not self._courier.is_current(errand.message):
                end = self._courier.deliver(errand)  # without a record: it only clears the spool
        except (CutOffError, SpoolError) as error:
            self._log.debug("job.waits", path=errand.message.below, message=str(error))
        if end is None:
            self._aside.put(errand)
        else:
            self._ended(errand, end)
