"""The application: all routes, and the one place that turns what goes wrong into an answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from aiohttp import ClientError, web

from ocr_watcher import __version__
from ocr_watcher.http.native import NativeApi
from ocr_watcher.http.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from structlog.typing import FilteringBoundLogger

    from ocr_watcher.http.gate import Gate
    from ocr_watcher.http.guard import Guards
    from ocr_watcher.http.service import Service

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_HEADERS: Final = {
    "Server": f"ocr-watcher/{__version__}",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "sandbox; default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
# They tell nothing of any document.
OPEN: Final = frozenset({"/", "/livez", "/readyz", "/health", "/openapi.json"})


def make(service: Service, gate: Gate, guards: Guards, log: FilteringBoundLogger) -> web.Application:
    """Put the application together."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        guard = guards.of(request.transport)
        if guard is not None:
            guard.request_begins()
        try:
            gate.check(request, is_open=request.path in OPEN)
            response = await handler(request)
        except Problem as problem:
            response = _shown(problem)
        except web.HTTPException as error:
            response = _shown(_of_http(error))
        except (ConnectionError, ClientError):
            response = web.Response(status=499)  # nobody is there to see it
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("http.bug", method=request.method, route=_route_of(request))
            response = _shown(Problem(500, "bug", "something went wrong on the server", hint="See its log."))
        if guard is not None:
            guard.request_ends()
        if not response.prepared:
            for name, value in _HEADERS.items():
                response.headers.setdefault(name, value)
        log.debug("http.request", method=request.method, route=_route_of(request), status=response.status)
        return response

    app = web.Application(middlewares=[answer])
    app.add_routes([web.get("/livez", _livez), web.get("/readyz", _readyz(service))])
    app.add_routes(NativeApi(service).routes())
    return app


async def _livez(_request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


def _readyz(service: Service) -> Handler:
    async def readyz(_request: web.Request) -> web.Response:
        service.admit()
        return web.Response(text="ok\n")

    return readyz


def _shown(problem: Problem) -> web.Response:
    return web.json_response(problem.as_json(), status=problem.status, headers=problem.headers)


def _of_http(error: web.HTTPException) -> Problem:
    if isinstance(error, web.HTTPMethodNotAllowed):
        return Problem(405, "method_not_allowed", error.text or "", headers={"Allow": error.headers["Allow"]})
    return Problem(error.status, error.reason.lower().replace(" ", "_"), error.text or error.reason)


def _route_of(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return "" if resource is None else resource.canonical
