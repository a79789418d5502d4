"""The application: all routes, and the one place that turns what goes wrong into an answer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from aiohttp import ClientError, web

from ocr_watcher import __version__
from ocr_watcher.http import metrics, shapes
from ocr_watcher.http.about import About
from ocr_watcher.http.bodies import MIB
from ocr_watcher.http.compatible import OcrApi, TikaApi
from ocr_watcher.http.events import Events
from ocr_watcher.http.files import FilesApi
from ocr_watcher.http.native import NativeApi
from ocr_watcher.http.paddleocr_jobs import RESULTS, PaddleOcrJobs
from ocr_watcher.http.paddlex import Parameters
from ocr_watcher.http.page import STATIC, Page
from ocr_watcher.http.problems import Problem, too_large

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from structlog.typing import FilteringBoundLogger

    from ocr_watcher.config import Settings
    from ocr_watcher.http.about import Collect
    from ocr_watcher.http.gate import Gate
    from ocr_watcher.http.guard import Guards
    from ocr_watcher.http.history import History
    from ocr_watcher.http.listing import Listing
    from ocr_watcher.http.service import Service

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

HEADERS: Final = {
    "Server": f"ocr-watcher/{__version__}",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "sandbox; default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
"""In every answer: nothing of it is kept, framed, guessed at, or run."""
# They tell nothing of any document, or only to who knows a job's id.
_OPEN: Final = frozenset({"/", "/livez", "/readyz", "/health", "/openapi.json"})
_OPEN_BELOW: Final = (RESULTS + "/", STATIC + "/")
_TAKING: Final = ("POST", "PUT")
# A document that cannot be read is answered, not rejected.
_REJECTIONS: Final = frozenset({400, 401, 403, 408, 413, 415, 429, 503, 507})
_BUG: Final = Problem(500, "bug", "something went wrong on the server", hint="See its log.")


class App:
    """Answers requests: the gate, a handler, and what went wrong."""

    def __init__(
        self,
        settings: Settings,
        service: Service,
        *,
        gate: Gate,
        guards: Guards,
        shows_folders: bool,
        collect: Collect,
        listing: Listing,
        history: History,
        log: FilteringBoundLogger,
    ) -> None:
        self._service = service
        self._listing = listing
        self._history = history
        self._http = service.settings
        self._shows_folders = shows_folders
        self._collect = collect
        self._log_file = settings.logging.file
        self._gate = gate
        self._guards = guards
        self._log = log
        self._parameters = Parameters(settings)
        self._metrics = metrics.Metrics(service.daemon, service.waiting, service.settings.max_waiting)

    def make(self) -> web.Application:
        """Put the application together."""
        app = web.Application(middlewares=[self._answer])
        folders = self._shows_folders
        for api in (
            Page(),
            About(self._service, self._metrics, self._collect, folders=folders),
            Events(
                self._service,
                self._log_file,
                listing=self._listing,
                history=self._history,
                folders=folders,
            ),
            FilesApi(
                self._service,
                self._listing,
                needs_key=self._gate.needs_key,
                folders=folders,
            ),
            NativeApi(self._service),
            OcrApi(self._service, self._parameters),
            TikaApi(self._service),
            PaddleOcrJobs(self._service, self._parameters),
        ):
            for route in api.routes():
                if route.method in _TAKING:
                    route.kwargs["expect_handler"] = self._before_body
                route.register(app.router)
        return app

    async def _before_body(self, request: web.Request) -> web.StreamResponse | None:
        """Refuse a client that asks before it sends a body (`Expect: 100-continue`), or let it go on."""
        if request.headers.get("Expect", "").lower() != "100-continue":
            raise web.HTTPExpectationFailed
        try:
            self._gate.check(request, is_open=_is_open(request.path))
            length_bytes = request.content_length or 0
            if length_bytes > 2 * self._http.max_body_mb * MIB:  # base64 takes a third more
                raise too_large(self._http.max_body_mb)
            self._service.admit(length_bytes)
        except Problem as problem:
            self._metrics.rejected(problem.code)
            response = shapes.response(request, problem)
            response.force_close()
            return response
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
        return None

    @web.middleware
    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        began = time.monotonic()
        guard = self._guards.of(request.transport)
        if guard is not None:
            guard.request_begins()
        try:
            response = await self._answer_or_problem(request, handler)
        finally:
            if guard is not None:
                guard.request_ends()
        if not response.prepared:
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
        route, took_s = _route_of(request), time.monotonic() - began
        self._metrics.answered(route, request.method, response.status, took_s)
        self._log.debug(
            "http.request",
            method=request.method,
            route=route,
            status=response.status,
            took_ms=round(took_s * 1000),
        )
        return response

    async def _answer_or_problem(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self._gate.check(request, is_open=_is_open(request.path))
            return await handler(request)
        except Problem as problem:
            if problem.status in _REJECTIONS:
                self._metrics.rejected(problem.code)
            return shapes.response(request, problem)
        except web.HTTPException as error:
            return shapes.response(request, _of_http(error))
        except (ConnectionError, ClientError):
            return web.Response(status=499)  # nobody is there to see it
        except Exception:  # noqa: BLE001 - one request must not end the others
            self._log.exception("http.bug", method=request.method, route=_route_of(request))
            return shapes.response(request, _BUG)


def _is_open(path: str) -> bool:
    return path in _OPEN or path.startswith(_OPEN_BELOW)


def _of_http(error: web.HTTPException) -> Problem:
    if isinstance(error, web.HTTPMethodNotAllowed):
        return Problem(405, "method_not_allowed", error.text or "", headers={"Allow": error.headers["Allow"]})
    return Problem(error.status, error.reason.lower().replace(" ", "_"), error.text or error.reason)


def _route_of(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return "" if resource is None else resource.canonical
