"""How each API says that a request is not done: one table, by the path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web

from ocr_watcher.http import paddlex
from ocr_watcher.http.compatible import LOG_ID

if TYPE_CHECKING:
    from ocr_watcher.http.problems import Problem


def response(request: web.Request, problem: Problem) -> web.Response:
    """The answer in the shape of the API that was called."""
    make = next((make for path, make in _BY_PATH if request.path.startswith(path)), _native)
    return make(request, problem)


def _words(problem: Problem) -> str:
    return f"{problem}. {problem.hint}" if problem.hint else str(problem)


def _json(body: object, problem: Problem) -> web.Response:
    return web.json_response(body, status=problem.status, headers=problem.headers)


def _native(_request: web.Request, problem: Problem) -> web.Response:
    return _json(problem.as_json(), problem)


def _ocr(request: web.Request, problem: Problem) -> web.Response:
    if "form" in request.content_type:  # RapidOCR API's, which is FastAPI's
        return _json({"detail": _words(problem)}, problem)
    log_id = request.get(LOG_ID) or paddlex.new_log_id()
    return _json({"logId": log_id, "errorCode": problem.status, "errorMsg": _words(problem)}, problem)


def _jobs(_request: web.Request, problem: Problem) -> web.Response:
    return _json({"code": problem.status, "msg": _words(problem), "data": None}, problem)


def _tika(_request: web.Request, problem: Problem) -> web.Response:
    return web.Response(text=_words(problem) + "\n", status=problem.status, headers=problem.headers)


_BY_PATH: Final = (
    ("/ocr", _ocr),
    ("/health", _ocr),
    ("/api/v2/ocr/", _jobs),
    ("/tika", _tika),
    ("/rmeta", _tika),
)
