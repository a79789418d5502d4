"""What the server tells of itself: alive, ready, status, figures, its description."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from aiohttp import web

from ocr_watcher.http import metrics, openapi

if TYPE_CHECKING:
    from collections.abc import Callable

    from ocr_watcher.http.metrics import Metrics
    from ocr_watcher.http.service import Service

Collect: TypeAlias = "Callable[[], dict[str, Any]]"
"""Gives what `status --json` prints; looks through the folders, so it may take a while."""

# A status is asked for by pages that refresh themselves. It may be so old (s), or so many times older than
# what it took: with 100,000 files in a folder that is seconds.
_FRESH_S: Final = 2.0
_FRESH_FACTOR: Final = 10.0
# What tells of files that came by folder.
_OF_FOLDERS: Final = ("inbox", "config", "files", "last_error", "troubles", "inboxes_hung")


class About:
    """Handlers of everything that takes no document."""

    def __init__(self, service: Service, figures: Metrics, collect: Collect, *, folders: bool) -> None:
        self._service = service
        self._figures = figures
        self._collect = collect
        self._folders = folders
        self._status: dict[str, Any] = {}
        self._until = 0.0
        self._collecting = asyncio.Lock()

    def routes(self) -> list[web.RouteDef]:
        """What it answers."""
        return [
            web.get("/livez", self.livez),
            web.get("/readyz", self.readyz),
            web.get("/metrics", self.metrics),
            web.get("/openapi.json", self.openapi),
            web.get("/v1/status", self.status),
        ]

    async def livez(self, _request: web.Request) -> web.Response:
        """The server answers."""
        return web.Response(text="ok\n")

    async def readyz(self, _request: web.Request) -> web.Response:
        """A document would be taken in now."""
        self._service.admit()
        return web.Response(text="ok\n")

    async def metrics(self, _request: web.Request) -> web.Response:
        """Figures for Prometheus."""
        return web.Response(body=self._figures.render(), headers={"Content-Type": metrics.CONTENT_TYPE})

    async def openapi(self, _request: web.Request) -> web.Response:
        """The description of all of it."""
        return web.json_response(openapi.description(self._service.settings))

    async def status(self, _request: web.Request) -> web.Response:
        """What `status --json` says; without names of files where folders are not shown."""
        async with self._collecting:
            if time.monotonic() >= self._until:
                began = time.monotonic()
                self._status = await asyncio.to_thread(self._collect)
                took_s = time.monotonic() - began
                self._until = time.monotonic() + max(_FRESH_S, _FRESH_FACTOR * took_s)
        shown = dict(self._status)
        if not self._folders:
            for key in _OF_FOLDERS:
                shown.pop(key, None)
            if shown.get("in_hand"):
                shown["in_hand"] = {**shown["in_hand"], "path": None}
        shown["http"] = {
            "waiting": len(self._service.waiting),
            "max_waiting": self._service.settings.max_waiting,
            "document_s": round(self._service.waiting.pace.document_s, 3),
        }
        return web.json_response(shown)
