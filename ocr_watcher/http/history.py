"""What the daemon's memory was: read from its log once, and from its status file from then on.

The last hour in short steps, the last day in long ones; each step keeps its highest figure.
"""

from __future__ import annotations

import json
import os
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from ocr_watcher.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ocr_watcher.service.told import Told

# So much of the end of the log is read when the server starts: an hour of a file a second.
_LOG_BYTES: Final = 2 << 20
_MAX_MARKS: Final = 100
SPANS_S: Final = {3600: 5, 86_400: 120}
"""Spans that are kept (s), and the step of each (s)."""


@dataclass(frozen=True)
class Mark:
    """A start of the process: when (s since 1970), and why, where it was on purpose."""

    at_s: float
    reason: str | None


@dataclass
class _Steps:
    """The highest figure (MiB) of each step, the latest last."""

    span_s: int
    step_s: int
    points: deque[tuple[int, float]] = field(init=False)

    def __post_init__(self) -> None:
        self.points = deque(maxlen=self.span_s // self.step_s)

    def note(self, at_s: float, rss_mb: float) -> None:
        step = int(at_s // self.step_s) * self.step_s
        if self.points and step < self.points[-1][0]:
            return  # the clock was set back
        if self.points and self.points[-1][0] == step:
            rss_mb = max(rss_mb, self.points.pop()[1])
        self.points.append((step, rss_mb))


class History:
    """The figures and the starts."""

    def __init__(self) -> None:
        self._spans = {span_s: _Steps(span_s, step_s) for span_s, step_s in SPANS_S.items()}
        self._marks: deque[Mark] = deque(maxlen=_MAX_MARKS)
        self._updated_at: str | None = None
        self._started_at: str | None = None

    def read_log(self, file: Path) -> None:
        """Take in what the end of the log tells. Reads from the disk."""
        reason: str | None = None
        for event in _events(file):
            with suppress(KeyError, TypeError, ValueError):
                at_s = _seconds(str(event["timestamp"]))
                name = event["event"]
                if name == "daemon.exiting":
                    reason = str(event["reason"]) if event["exit_code"] == ExitCode.RECYCLE else None
                elif name == "daemon.starting":
                    self._marks.append(Mark(at_s, reason))
                    reason = None
                elif name in ("memory.stats", "ocr.done", "daemon.ready"):
                    self._note(at_s, float(event["rss_mb"]))

    def look(self, told: Told, *, running: bool) -> None:
        """Take in what the daemon tells now; costs nothing where it has told nothing new."""
        if not running:
            return
        if told.started_at is not None and told.started_at != self._started_at:
            began, self._started_at = _seconds(told.started_at), told.started_at
            # The log's line and the status file tell of the same start with a moment between them.
            if not self._marks or began - self._marks[-1].at_s > 1:
                left = told.last_exit
                on_purpose = left is not None and left.exit_code == ExitCode.RECYCLE
                self._marks.append(Mark(began, left.reason if left is not None and on_purpose else None))
        if told.updated_at is not None and told.rss_mb is not None and told.updated_at != self._updated_at:
            self._updated_at = told.updated_at
            self._note(_seconds(told.updated_at), told.rss_mb)

    def _note(self, at_s: float, rss_mb: float) -> None:
        for steps in self._spans.values():
            steps.note(at_s, rss_mb)

    def as_json(self, span_s: int, now_s: float) -> dict[str, Any]:
        """The figures of a span, a key of `SPANS_S`, and the starts within it; times in s since 1970."""
        since_s = now_s - span_s
        return {
            "span_s": span_s,
            "step_s": SPANS_S[span_s],
            "points": [[at_s, rss_mb] for at_s, rss_mb in self._spans[span_s].points if at_s >= since_s],
            "starts": [[mark.at_s, mark.reason] for mark in self._marks if mark.at_s >= since_s],
            "now": round(now_s, 3),
        }


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _events(file: Path) -> Iterator[dict[str, Any]]:
    """The last lines of a log, as far as they are whole lines of JSON."""
    try:
        with open(file, "rb") as log:
            size = os.fstat(log.fileno()).st_size
            log.seek(max(0, size - _LOG_BYTES))
            lines = log.read(_LOG_BYTES).splitlines()
    except OSError:
        return
    for line in lines[1:] if size > _LOG_BYTES else lines:
        with suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict):
                yield event
