"""What goes on, as server-sent events: a snapshot first, so that whoever connects again has missed nothing.

Jobs are told to those only who know their ids. Of files that came by folder, the daemon's log tells.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from ocr_watcher import __version__
from ocr_watcher.http.history import SPANS_S
from ocr_watcher.http.problems import Problem, bad_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ocr_watcher.http.history import History
    from ocr_watcher.http.listing import Listing
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
_JOB: Final = re.compile("[0-9a-f]{32}")
# Of the log lines of folder files.
_TOLD_EVENTS: Final = frozenset({"file.queued", "ocr.done", "ocr.failed", "file.quarantined"})
_TOLD_FIELDS: Final = (
    "timestamp",
    "event",
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


def told_of_folders(event: dict[str, Any], name_of: Callable[[str], str | None]) -> dict[str, Any] | None:
    """What is passed on of a log line: of a file that came by folder, or nothing.

    `name_of` gives what stands for a path, which is never passed on; None where it is in no inbox.
    """
    path = event.get("path")
    if event.get("event") not in _TOLD_EVENTS or not isinstance(path, str):
        return None
    name = name_of(path)
    if name is None:
        return None
    return {"path": name, **{key: event[key] for key in _TOLD_FIELDS if key in event}}


def state_now(
    told: Told, *, running: bool, waiting: int, spool: str, name_of: Callable[[str], str | None]
) -> dict[str, Any]:
    """What the daemon does, in short. `name_of` is that of `told_of_folders`."""
    in_hand = asdict(told.in_hand) if running and told.in_hand is not None else None
    if in_hand is not None:
        path = in_hand["path"]
        by_http = path.startswith(spool + os.sep)
        in_hand["path"] = None if by_http else name_of(path)
        in_hand["by_http"] = by_http
    left = told.last_exit
    return {
        "running": running,
        "version": told.version,
        "engine": told.engine,
        "model": told.model,
        "started_at": told.started_at if running else None,
        "updated_at": told.updated_at,
        "last_exit": None if left is None else {"exit_code": left.exit_code, "at": left.at},
        "queue": asdict(told.queue) if running and told.queue is not None else None,
        "in_hand": in_hand,
        "since_start": asdict(told.since_start) if running and told.since_start is not None else None,
        "rss_mb": told.rss_mb if running else None,
        "peak_rss_mb": told.peak_rss_mb if running else None,
        "soft_limit_mb": told.soft_limit_mb,
        "rss_limit_mb": told.rss_limit_mb,
        "recycles": {total.label: int(total.value) for total in told.recycles},
        "jobs_waiting": waiting,
    }


class Events:
    """Handlers of `/v1/events`, and of the same as one answer."""

    def __init__(
        self, service: Service, log_file: Path, *, listing: Listing, history: History, folders: bool
    ) -> None:
        self._service = service
        self._log_file = log_file
        self._listing = listing
        self._history = history
        self._folders = folders
        self._listeners = 0

    def routes(self) -> list[web.RouteDef]:
        """What it answers."""
        return [
            web.get("/v1/events", self.handle),
            web.get("/v1/overview", self.overview),
            web.get("/v1/memory", self.memory),
        ]

    async def overview(self, request: web.Request) -> web.Response:
        """The snapshot, for whoever cannot be told of events."""
        return web.json_response(await self._snapshot(jobs_asked(request)))

    async def memory(self, request: web.Request) -> web.Response:
        """What the daemon's memory was."""
        span = request.query.get("span_s", "3600")
        if span not in map(str, SPANS_S):
            raise bad_request(f"span_s is none of {', '.join(map(str, SPANS_S))}")
        self._history.look(self._service.daemon.told, running=self._service.daemon.running)
        return web.json_response(self._history.as_json(int(span), time.time()))

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Tell what happens until the client goes."""
        jobs = jobs_asked(request)
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
        first = await self._snapshot(jobs)
        state, listed = first["status"], first["files_version"]
        known = dict(zip(jobs, first["jobs"], strict=True))
        await response.write(b"retry: 2000\n" + _event("snapshot", first))
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
            if (version := await self._listing.look()) != listed:
                news += _event("files", {"version": version})
                listed = version
            news += self._news_of_folders(tail)
            quiet_s = 0.0 if news else quiet_s + _LOOK_S
            if not news and quiet_s >= _BEAT_S:
                news += b": still here\n\n"
                quiet_s = 0.0
            if news:
                async with asyncio.timeout(_TAKEN_S):
                    await response.write(bytes(news))
        await response.write_eof()
        return response

    def _news_of_folders(self, tail: LogTail) -> bytes:
        if not self._folders:
            return b""
        told = (told_of_folders(event, self._listing.name_of) for event in tail.events())
        return b"".join(_event("file", shown) for shown in told if shown is not None)

    async def _snapshot(self, jobs: list[str]) -> dict[str, Any]:
        settings = self._service.settings
        return {
            "now": time.time(),
            "server": __version__,
            "status": self._state(),
            "jobs": list((await self._jobs(jobs)).values()),
            "files_version": await self._listing.look(),
            "shows_folders": self._folders,
            "max_body_mb": settings.max_body_mb,
            "keep_s": settings.keep_s,
        }

    def _state(self) -> dict[str, Any]:
        daemon = self._service.daemon
        problem = daemon.problem()
        state = state_now(
            daemon.told,
            running=daemon.running,
            waiting=len(self._service.waiting),
            spool=str(self._service.spool.folder),
            name_of=self._listing.name_of,
        )
        if self._folders and daemon.running:
            state["inboxes_hung"] = [os.path.basename(inbox) for inbox in daemon.told.inboxes_hung]
        return {**state, "problem": None if problem is None else problem.as_json()["error"]}

    async def _jobs(self, jobs: list[str]) -> dict[str, dict[str, Any]]:
        return {job: await self._service.describe_or_gone(job) for job in jobs}


def jobs_asked(request: web.Request) -> list[str]:
    """The jobs that a client says it knows, each once. Raises `Problem` 400."""
    jobs = request.query.getall("job", [])
    if len(jobs) > _MAX_JOBS:
        raise bad_request(f"there are more than {_MAX_JOBS} jobs")
    if not all(map(_JOB.fullmatch, jobs)):
        raise bad_request("job is none that this server gave", hint="Ids have 32 hexadecimal digits.")
    return list(dict.fromkeys(jobs))


def _event(name: str, data: dict[str, Any]) -> bytes:
    text = json.dumps(data, ensure_ascii=False)
    return f"event: {name}\ndata: {text}\n\n".encode("utf-8", "replace")
