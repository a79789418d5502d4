"""The jobs in the spool as a list: found in the folder, and looked at again when something happened in it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ocr_watcher import names
from ocr_watcher.http.folders import Entry
from ocr_watcher.inbox import ticket

if TYPE_CHECKING:
    from ocr_watcher.http.spool import Spool
    from ocr_watcher.inbox.ticket import Ticket

# The kernel's clock for files ticks every 4 ms: a folder that changed just now is looked at again.
_TICK_NS: Final = 20_000_000
EVERYBODY: Final = "*"
"""Stands for all owners; theirs are digests."""


@dataclass(frozen=True)
class Received:
    """A job: its ticket, and when it came or got its record (ns since 1970)."""

    ticket: Ticket
    changed_ns: int
    has_ended: bool


@dataclass
class Jobs:
    """All of them, by their ids. `version` grows with every change. Calls of the operating system block."""

    spool: Spool
    version: int = 0
    by_id: dict[str, Received] = field(default_factory=dict)
    _by_stem: dict[str, Received] = field(default_factory=dict)
    _seen_ns: int = 0

    def look(self) -> None:
        """Look into the folder, where it has changed since."""
        try:
            changed_ns = os.stat(self.spool.folder).st_mtime_ns
            if changed_ns == self._seen_ns:
                return
            # What happens while it is read is seen the next time.
            self._seen_ns = changed_ns if time.time_ns() - changed_ns > _TICK_NS else 0
            found = _listed(str(self.spool.folder))
        except OSError:
            return
        known = {}
        for stem, record in found.items():
            before = self._by_stem.get(stem)
            if before is not None and before.has_ended == bool(record):
                known[stem] = before
            elif (now := self._received(stem, record, before)) is not None:
                known[stem] = now
        if known != self._by_stem:
            self._by_stem = known
            self.by_id = {one.ticket.id: one for one in known.values()}
            self.version += 1

    def entries(self, owner: str | None, ids: frozenset[str]) -> list[Entry]:
        """Those that `owner` sent (`EVERYBODY`, or None: nobody's), and those with these ids."""
        return [
            Entry(one.changed_ns, job)
            for job, one in self.by_id.items()
            if owner in (EVERYBODY, one.ticket.owner) or job in ids
        ]

    def _received(self, stem: str, record: str, before: Received | None) -> Received | None:
        folder = self.spool.folder
        made = before.ticket if before is not None else ticket.of_document(str(folder / stem))
        if made is None:
            return None
        try:
            status = os.lstat(folder / (record or made.document))
        except OSError:
            return None
        return Received(made, status.st_mtime_ns if record else status.st_ctime_ns, bool(record))


def _listed(folder: str) -> dict[str, str]:
    """The stems of all jobs, and the name of the record of each, "" where there is none. Raises OSError."""
    found: dict[str, str] = {}
    recorded: dict[str, str] = {}
    with os.scandir(folder) as items:
        for item in items:
            stem = names.stem_in(item.name)
            if stem is None:
                continue
            if names.is_record(item.name):
                recorded[stem] = item.name
            elif item.name == names.ticket_of(stem):
                found[stem] = ""
    return {stem: recorded.get(stem, "") for stem in found}
