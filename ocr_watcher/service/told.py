"""What the daemon tells of itself, for `ocr-watcher status`: one JSON object in the state folder.

Typed on both sides: the daemon writes it, `status` reads it, and nobody takes a figure out of a dictionary.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from dataclasses import fields as dataclass_fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True)
class QueueState:
    """Files in the queue, how many it holds, and files that settle or wait for their next try.

    `failed` are those known to have an error record; `oldest` is since when the first waits (ISO 8601).
    """

    size: int
    max_size: int
    settling: int
    failed: int = 0
    oldest: str | None = None


@dataclass(frozen=True)
class InHand:
    """The page that is being read, from 1, of how many where that is known, and since when (ISO 8601)."""

    path: str
    page: int
    since: str
    pages: int | None = None


@dataclass(frozen=True)
class SinceStart:
    """Files that ended with a record since the process started."""

    done: int = 0
    failed: int = 0


@dataclass(frozen=True)
class LastError:
    """How the last file that failed did so, and when (ISO 8601)."""

    path: str
    code: str
    message: str
    at: str


@dataclass(frozen=True)
class LastExit:
    """How a process ended, and when (ISO 8601)."""

    reason: str
    exit_code: int
    at: str


@dataclass(frozen=True)
class Total:
    """A number that outlives processes; see `jobs.totals`. Of recycles, the label is the kind of reason."""

    name: str
    label: str
    value: float


@dataclass(frozen=True)
class Told:
    """Everything. None where it is not known yet; amounts of memory are MiB, times ISO 8601 in UTC.

    `spool` is that of the HTTP server, where the daemon watches one.
    """

    pid: int | None = None
    process_started: float = 0.0
    version: str | None = None
    started_at: str | None = None
    engine: str | None = None
    model: str | None = None
    last_error: LastError | None = None
    last_exit: LastExit | None = None
    queue: QueueState | None = None
    inboxes_hung: tuple[str, ...] = ()
    in_hand: InHand | None = None
    since_start: SinceStart | None = None
    rss_mb: float | None = None
    peak_rss_mb: float | None = None
    updated_at: str | None = None
    spool: str | None = None
    totals: tuple[Total, ...] = ()
    recycles: tuple[Total, ...] = ()
    soft_limit_mb: int | None = None
    rss_limit_mb: int | None = None


@dataclass(frozen=True)
class StatusFile:
    """The file. Never flushed to the disk: after a power loss there is nothing in it that matters."""

    path: Path

    def read(self) -> Told:
        """What was last told; nothing where nothing was, or it cannot be understood."""
        try:
            fields = json.loads(self.path.read_bytes())
            return _told(fields) if isinstance(fields, dict) else Told()
        except (OSError, ValueError, TypeError):
            return Told()

    def write(self, told: Told) -> None:
        """Tell this now. Where the state folder cannot be written, nothing happens: the log says it all."""
        fresh = self.path.with_name(self.path.name + ".tmp")
        with suppress(OSError):
            fields = asdict(told)
            for name in ("totals", "recycles"):
                fields[name] = [list(total.values()) for total in fields[name]]
            fresh.write_text(json.dumps(fields), "utf-8", "surrogatepass")
            os.replace(fresh, self.path)


# Which of the fields are objects of their own.
_PARTS = {
    "last_error": LastError,
    "last_exit": LastExit,
    "queue": QueueState,
    "in_hand": InHand,
    "since_start": SinceStart,
}


def _told(fields: Mapping[str, object]) -> Told:
    """From JSON: what this version knows of it. Raises TypeError."""
    known: dict[str, Any] = {name: value for name, value in fields.items() if name in vars(Told())}
    for name, kind in _PARTS.items():
        part = known.get(name)
        if isinstance(part, dict):
            allowed = {field.name for field in dataclass_fields(kind)}
            known[name] = kind(**{key: value for key, value in part.items() if key in allowed})
    for name in ("totals", "recycles"):
        if name in known:
            known[name] = tuple(Total(str(at), str(label), float(value)) for at, label, value in known[name])
    known["inboxes_hung"] = tuple(known.get("inboxes_hung") or ())
    return Told(**known)
