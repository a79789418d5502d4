"""The server's own API under `/v1`: a document in, its record out, at once or by a job's address."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from aiohttp import web

from ocr_watcher.http import results, uploads
from ocr_watcher.http.bodies import Body
from ocr_watcher.http.problems import Problem, bad_request
from ocr_watcher.http.service import Wishes, address
from ocr_watcher.inbox.records import RecordState

if TYPE_CHECKING:
    from ocr_watcher.http.service import Service
    from ocr_watcher.http.spool import Job

_FILE_FIELD: Final = "file"


class NativeApi:
    """Handlers of the native API."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[web.RouteDef]:
        """What it answers."""
        return [
            web.post("/v1/ocr", self.ocr),
            web.post("/v1/jobs", self.create),
            web.get("/v1/jobs/{id}", self.job),
            web.delete("/v1/jobs/{id}", self.delete),
            web.get("/v1/jobs/{id}/result", self.result),
        ]

    # -- handlers ------------------------------------------------------------------------------

    async def ocr(self, request: web.Request) -> web.StreamResponse:
        """Take a document in and answer with its record, or with 202 when the wait is over."""
        kind = self._format(request)
        wait_s = self._wait_s(request, default=self._service.settings.wait_s)
        job = await self._take_in(request, Wishes(_made(kind)))
        state = await self._service.wait(job, wait_s)
        if state is RecordState.DONE:
            response = await results.send_format(request, job, kind)
        elif state is RecordState.FAILED:
            response = await self._send_error(request, job)
        else:
            return self._accepted(job, state)
        response.headers["Content-Location"] = address(job)
        return response

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Take a document in and answer with its job's address."""
        kinds = request.query["format"].split(",") if "format" in request.query else []
        for kind in kinds:
            _check_format(kind)
        wishes = Wishes(tuple(dict.fromkeys(made for kind in kinds for made in _made(kind))))
        return self._accepted(await self._take_in(request, wishes), RecordState.OPEN)

    async def job(self, request: web.Request) -> web.StreamResponse:
        """How a job stands; with `wait`, not before it has ended or so long."""
        job = await self._service.find(request.match_info["id"])
        state = await self._service.wait(job, self._wait_s(request, default=0.0))
        return web.json_response(self._service.describe(job, state))

    async def result(self, request: web.Request) -> web.StreamResponse:
        """The result of a job in one of the formats."""
        kind = self._format(request)
        job = await self._service.find(request.match_info["id"])
        state = await self._service.wait(job, self._wait_s(request, default=0.0))
        if state is RecordState.FAILED:
            return await self._send_error(request, job)
        if state is not RecordState.DONE:
            raise Problem(
                409,
                "not_ready",
                "the document is not read yet",
                hint="Ask again later, or with ?wait=SECONDS.",
                headers={"Retry-After": "1"},
            )
        return await results.send_format(request, job, kind)

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """Forget a job: its document, its result."""
        await self._service.remove(await self._service.find(request.match_info["id"]))
        return web.Response(status=204)

    # -- parts ---------------------------------------------------------------------------------

    async def _take_in(self, request: web.Request, wishes: Wishes) -> Job:
        body = Body(request, self._service.settings.max_body_mb)
        async with self._service.receive(request) as receipt:
            if request.content_type == "multipart/form-data":
                form = await uploads.take_form(receipt, body, _FILE_FIELD)
                return await receipt.finish(form.name, wishes)
            await uploads.take_body(receipt, body)
            return await receipt.finish(uploads.name_of(request), wishes)

    def _accepted(self, job: Job, state: RecordState) -> web.Response:
        headers = {"Location": address(job), "Retry-After": "1"}
        return web.json_response(self._service.describe(job, state), status=202, headers=headers)

    async def _send_error(self, request: web.Request, job: Job) -> web.StreamResponse:
        return await results.send(
            request,
            lambda: results.record_pieces(job.error_record, job.ticket.name),
            results.FORMATS["json"].media_type,
            status=422,
        )

    @staticmethod
    def _format(request: web.Request) -> str:
        kind = request.query.get("format", "json")
        _check_format(kind)
        return kind

    def _wait_s(self, request: web.Request, *, default: float) -> float:
        """How long to wait: what was asked for, and no longer than `http.wait_s`."""
        text = request.query.get("wait")
        if text is None:
            return default
        try:
            wait_s = float(text)
        except ValueError:
            wait_s = math.nan
        if not 0 <= wait_s < math.inf:
            raise bad_request(f"wait is no number of seconds: {text[:40]!r}")
        return min(wait_s, self._service.settings.wait_s)


def _check_format(kind: str) -> None:
    if kind not in results.FORMATS:
        raise results.no_such_format(kind[:40])


def _made(kind: str) -> tuple[str, ...]:
    """What the daemon is told of a format that is wanted."""
    return () if kind == "json" else (kind,)
