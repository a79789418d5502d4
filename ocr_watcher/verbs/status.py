"""`status`: what the service is doing, told beside a running daemon or without one.

What is done, failed and waiting is counted on the disk, which is the truth; what only the process
knows comes from the file that it keeps in its state folder (`health.StatusFile`), its memory from
`/proc`. Reads only. Imports `lock`, `health`, `watch` and `sidecar`.
"""

from __future__ import annotations

import stat
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from ocr_watcher import names
from ocr_watcher.inbox import records, scan
from ocr_watcher.inbox.ready import Rules
from ocr_watcher.inbox.records import RecordState
from ocr_watcher.job import Stamp
from ocr_watcher.log import one_line
from ocr_watcher.memory import Memory
from ocr_watcher.service import lock
from ocr_watcher.service.health import StatusFile

if TYPE_CHECKING:
    from ocr_watcher.config import Settings


@dataclass
class Files:
    """The images in the inboxes by what their records say; `retrying` of the waiting ones failed before."""

    found: int = 0
    done: int = 0
    failed: int = 0
    waiting: int = 0
    retrying: int = 0


# A file system that does not answer for so long (s) is not waited for.
_PATIENCE_S = 5.0


class _Count(threading.Thread):
    """Counts the images of one inbox, in a thread of its own: its file system may not answer."""

    def __init__(self, settings: Settings, inbox: Path) -> None:
        super().__init__(daemon=True)
        self.inbox = inbox
        self.files = Files()
        self.troubles: list[str] = []
        self.seen_at = time.monotonic()
        self._settings = settings

    def clock(self) -> float:
        self.seen_at = time.monotonic()
        return self.seen_at

    def trouble(self, folder: str, error: OSError) -> None:
        self.troubles.append(f"cannot list {folder}: {error.strerror}")

    def run(self) -> None:
        watch, files = self._settings.watch, self.files
        out_of_reach: list[str] = []
        for item in scan.walk(
            str(self.inbox),
            Rules.of(watch.extensions, watch.ignore, watch.settle_s),
            recursive=watch.recursive,
            trouble=self.trouble,
            clock=self.clock,
        ):
            if isinstance(item, scan.OutOfReach):
                out_of_reach.append(item.path)
            elif isinstance(item, scan.Found) and stat.S_ISREG(item.status.st_mode):
                state = RecordState.OPEN
                if item.records:
                    state = records.lookup(item.path, Stamp.of(item.status))
                files.found += 1
                files.done += state is RecordState.DONE
                files.failed += state is RecordState.FAILED
                files.waiting += state not in (RecordState.DONE, RecordState.FAILED)
                files.retrying += state in (RecordState.RETRY, RecordState.BLOCKED)
        if out_of_reach:
            self.troubles.append(
                f"not read, {names.OUT_OF_REACH}: {len(out_of_reach)}, the first {out_of_reach[0]}"
            )


def count(settings: Settings) -> tuple[Files, list[str]]:
    """Count the images in every inbox; also what could not be counted, in words."""
    counts = [_Count(settings, inbox) for inbox in settings.watch.inbox]
    files, troubles = Files(), []
    for one in counts:
        one.start()
    for one in counts:
        while one.is_alive() and time.monotonic() - one.seen_at < _PATIENCE_S:
            one.join(0.05)
        troubles += one.troubles
        if one.is_alive():
            troubles.append(f"{one.inbox} does not answer: its files are not counted")
            continue
        for name, number in vars(one.files).items():
            setattr(files, name, getattr(files, name) + number)
    return files, troubles


def collect(settings: Settings) -> dict[str, Any]:
    """Everything `status --json` says; amounts of memory are MiB, times ISO 8601 in UTC.

    Raises `UnavailableError` where the state folder may not be read.
    """
    pid = lock.running(settings.state_dir)
    told = StatusFile(settings.state_dir / names.STATUS).read()
    live = pid is not None and told.get("pid") == pid
    files, troubles = count(settings)
    document: dict[str, Any] = {
        "running": pid is not None,
        "pid": pid,
        "config": str(settings.source) if settings.source else None,
        "inbox": [names.printable(str(inbox)) for inbox in settings.watch.inbox],
        **{
            key: told.get(key) if live else None
            for key in (
                "version",
                "engine",
                "model",
                "started_at",
                "updated_at",
                "since_start",
                "queue",
                "inboxes_hung",
                "in_hand",
            )
        },
        **_memory(pid, told if live else {}),
        "soft_limit_mb": settings.memory.soft_limit_mb,
        "rss_limit_mb": settings.memory.rss_limit_mb,
        "files": vars(files),
        "last_error": told.get("last_error"),
        "last_exit": told.get("last_exit"),
        "troubles": troubles,
    }
    return document


def _memory(pid: int | None, told: dict[str, Any]) -> dict[str, float | None]:
    """Resident memory now where the process can be seen from here, else as it last said."""
    figures = {key: told.get(key) for key in ("rss_mb", "peak_rss_mb")}
    try:
        # The number alone could be another process's: a container counts its own.
        if pid is not None and abs(psutil.Process(pid).create_time() - told.get("process_started", 0)) < 1:
            now = Memory(Path(f"/proc/{pid}/status")).figures()
            figures = {"rss_mb": now.rss_mb, "peak_rss_mb": now.peak_rss_mb}
    except (psutil.Error, OSError):
        pass
    return figures


def in_words(document: dict[str, Any]) -> list[str]:
    """The same for a person, a line each."""
    lines = [_headline(document)]
    if document["rss_mb"] is not None:
        lines.append(
            f"memory       RSS {document['rss_mb']:.0f} MiB, peak {document['peak_rss_mb']:.0f}; "
            f"warns at {document['soft_limit_mb']}, restarts at {document['rss_limit_mb']}"
        )
    queue = document["queue"]
    if queue is not None:
        reading = document["in_hand"]
        lines.append(
            f"queue        {queue['size']} of {queue['max_size']}, {queue['settling']} settling; "
            + (f"reading {one_line(reading['path'])}, since {_time(reading['since'])}" if reading else "idle")
        )
    config = document["config"] or "built-in defaults; -c names a configuration"
    lines.append(f"inbox        {', '.join(map(one_line, document['inbox']))} ({one_line(config)})")
    lines += [
        f"trouble      the service gets no answer from {one_line(inbox)}"
        for inbox in document["inboxes_hung"] or ()
    ]
    files = document["files"]
    again = f" ({files['retrying']} of them tried again after a failure)" if files["retrying"] else ""
    lines.append(
        f"files        {files['found']}: {files['done']} done, {files['failed']} failed, "
        f"{files['waiting']} waiting{again}"
    )
    if document["since_start"] is not None:
        since = document["since_start"]
        lines.append(f"since start  {since['done']} done, {since['failed']} failed")
    error = document["last_error"]
    if error is not None:
        what = f"{one_line(error['path'])}: {error['code']}: {one_line(error['message'])}"
        lines.append(f"last error   {_time(error['at'])} {what}")
    left = document["last_exit"]
    if left is not None:
        lines.append(f"last exit    {_time(left['at'])} code {left['exit_code']}: {one_line(left['reason'])}")
    lines += [f"trouble      {one_line(trouble)}" for trouble in document["troubles"]]
    return lines


def _headline(document: dict[str, Any]) -> str:
    if not document["running"]:
        return "ocr-watcher is not running"
    if document["started_at"] is None:
        # `once` holds the same lock and reports to its terminal; a daemon says more once it is ready.
        return (
            f"ocr-watcher is running (process {document['pid']}): starting, or draining the inbox by `once`"
        )
    return (
        f"ocr-watcher {document['version']} is running (process {document['pid']}) since "
        f"{_time(document['started_at'])}, {document['engine']}, {document['model']}"
    )


def _time(stamp: str) -> str:
    """Local time to the second."""
    return datetime.fromisoformat(stamp).astimezone().strftime("%Y-%m-%d %H:%M:%S")
