"""What goes on, as server-sent events: a snapshot first, so that whoever connects again has missed nothing.

Jobs are told to those only who know their ids. Of files that came by folder, the daemon's log tells.
"""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from ocr_watcher.http.problems import Problem, bad_request

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ocr_watcher.http.service import Service
    from ocr_watcher.service.told import Told

# How often is looked at what may have changed while somebody listens.
_LOOK_S: Final = 0.5
# A comment now and then, so that proxies keep the connection; most give up after 60 s.
_BEAT_S: Final = 15.0
# A listener that takes nothing for so long is gone.
_TAKEN_S: Final = 30.0
_MAX_LISTENERS: Final = 64
_MAX_JOBS: Final = 100
# Of the log lines of folder files.
_TOLD_EVENTS: Final = frozenset({"file.queued", "ocr.done", "ocr.failed", "file.quarantined"})
_TOLD_FIELDS: Final = (
    "timestamp",
    "event",
    "path",
    "pages",
    "lines",
    "ocr_ms",
    "code",
    "message",
    "will_retry",
)
_MAX_TAIL_BYTES: Final = 1 << 18


@dataclass
class LogTail:
    """New lines of the daemon's log, which is renamed and begun anew now and then."""

    path: Path
    _inode: int = 0
    _at: int = -1

    def skip(self) -> None:
        """Begin at the end."""
        with suppress(OSError):
            status = os.stat(self.path)
            self._inode, self._at = status.st_ino, status.st_size

    def events(self) -> Iterator[dict[str, Any]]:
        """What was logged since the last call, as far as it is whole lines of JSON."""
        try:
            with open(self.path, "rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._at:
                    self._inode, self._at = status.st_ino, 0
                self._at = max(self._at, status.st_size - _MAX_TAIL_BYTES)
                file.seek(self._at)
                text = file.read(_MAX_TAIL_BYTES)
        except OSError:
            return
        whole = text.rfind(b"\n") + 1
        self._at += whole
        for line in text[:whole].splitlines():
            with suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict):
                    yield event


def told_of_folders(event: dict[str, Any], spool: str) -> dict[str, Any] | None:
    """What is passed on of a log line: of a file that came by folder, or nothing."""
    path = event.get("path")
    if event.get("event") not in _TOLD_EVENTS or not isinstance(path, str) or path.startswith(spool + os.sep):
        return None
    return {key: event[key] for key in _TOLD_FIELDS if key in event}


def state_now(told: Told, *, running: bool, waiting: int, spool: str, folders: bool) -> dict[str, Any]:
    """What the daemon does, in short. Names of folder files only where these are shown."""
    in_hand = asdict(told.in_hand) if running and told.in_hand is not None else None
    if in_hand is not None:
        path = in_hand["path"]
        by_http = path.startswith(spool + os.sep)
        in_hand["path"] = path if folders and not by_http else None
        in_hand["by_http"] = by_http
    return {
        "running": running,
        "queue": asdict(told.queue) if running and told.queue is not None else None,
        "in_hand": in_hand,
        "since_start": asdict(told.since_start) if running and told.since_start is not None else None,
        "rss_mb": told.rss_mb if running else None,
        "jobs_waiting": waiting,
    }


class Events:
    """The handler of `/v1/events`."""

    def __init__(self, service: Service, log_file: Path, *, folders: bool) -> None:
        self._service = service
        self._log_file = log_file
        self._folders = folders
        self._listeners = 0

    def routes(self) -> list[web.RouteDef]:
        """What it answers."""
        return [web.get("/v1/events", self.handle)]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Tell what happens until the client goes."""
        jobs = request.query.getall("job", [])
        if len(jobs) > _MAX_JOBS:
            raise bad_request(f"there are more than {_MAX_JOBS} jobs")
        if self._listeners >= _MAX_LISTENERS:
            raise Problem(503, "too_many_listeners", "too many listen already", headers={"Retry-After": "10"})
        self._listeners += 1
        try:
            return await self._tell(request, jobs)
        finally:
            self._listeners -= 1

    async def _tell(self, request: web.Request, jobs: list[str]) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no", **self._service.headers}
        )
        tail = LogTail(self._log_file)
        tail.skip()
        await response.prepare(request)
        state, known = self._state(), await self._jobs(jobs)
        await response.write(
            b"retry: 2000\n" + _event("snapshot", {"status": state, "jobs": list(known.values())})
        )
        quiet_s = 0.0
        while not self._service.stopping.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._service.stopping.wait()
            news = bytearray()
            now, before = self._state(), state
            if now != before:
                news += _event("status", now)
                state = now
            for job, described in (await self._jobs(jobs)).items():
                if described != known.get(job):
                    known[job] = described
                    news += _event("job", described)
            if self._folders:
                for event in tail.events():
                    shown = told_of_folders(event, str(self._service.spool.folder))
                    if shown is not None:
                        news += _event("file", shown)
            quiet_s = 0.0 if news else quiet_s + _LOOK_S
            if not news and quiet_s >= _BEAT_S:
                news += b": still here\n\n"
                quiet_s = 0.0
            if news:
                async with asyncio.timeout(_TAKEN_S):
                    await response.write(bytes(news))
        await response.write_eof()
        return response

    def _state(self) -> dict[str, Any]:
        daemon = self._service.daemon
        return state_now(
            daemon.told,
            running=daemon.running,
            waiting=len(self._service.waiting),
            spool=str(self._service.spool.folder),
            folders=self._folders,
        )

    async def _jobs(self, jobs: list[str]) -> dict[str, dict[str, Any]]:
        return {job: await self._service.describe_or_gone(job) for job in jobs}


def _event(name: str, data: dict[str, Any]) -> bytes:
    text = json.dumps(data, ensure_ascii=False)
    return f"event: {name}\ndata: {text}\n\n".encode("utf-8", "replace")
