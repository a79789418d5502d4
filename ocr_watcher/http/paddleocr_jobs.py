"""The jobs API that PaddleOCR 3.7's own client speaks (`PADDLEOCR_BASE_URL`): `/api/v2/ocr/jobs`.

Taken from `paddleocr/_api_client`. The client fetches the result without its key, so the address of a result
is as unguessable as a job's id.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from ocr_watcher.http import paddlex, results, uploads
from ocr_watcher.http.bodies import Body
from ocr_watcher.http.gate import owner_of
from ocr_watcher.http.paddlex import Options
from ocr_watcher.http.problems import Problem, bad_request, not_found
from ocr_watcher.http.service import Wishes
from ocr_watcher.inbox.records import RecordState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ocr_watcher.http.paddlex import Parameters
    from ocr_watcher.http.service import Service
    from ocr_watcher.http.spool import Job

JOBS: Final = "/api/v2/ocr/jobs"
RESULTS: Final = "/api/v2/ocr/results"
_STATES: Final = {"waiting": "pending", "reading": "running", "done": "done", "failed": "failed"}
# The models of `paddleocr._api_client.models` that read text; the others make Markdown of a layout.
_MODELS: Final = ("PP-OCRv5", "PP-OCRv5-latin", "PP-OCRv6")
_MAX_BATCH: Final = 256


class PaddleOcrJobs:
    """Handlers of the jobs API."""

    def __init__(self, service: Service, parameters: Parameters) -> None:
        self._service = service
        self._parameters = parameters

    def routes(self) -> list[web.RouteDef]:
        """What it answers."""
        return [
            web.post(JOBS, self.create),
            web.get(JOBS + "/batch/{batch}", self.batch),
            web.get(JOBS + "/{id}", self.job),
            web.get(RESULTS + "/{id}.jsonl", self.result),
        ]

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Take a document in."""
        if request.content_type != "multipart/form-data":
            raise bad_request(
                "the document must come with the request, as multipart/form-data",
                hint="Use file_path: this server fetches no address.",
            )
        body = Body(request, self._service.settings.max_body_mb)
        async with self._service.receive(request) as receipt:
            form = await uploads.take_form(receipt, body, "file")
            batch = form.fields.get("batchId", "")
            options = self._check(form.fields, batch)
            job = await receipt.finish(form.name, Wishes(batch=batch, min_score=options.min_score))
        return _data({"jobId": job.id})

    async def job(self, request: web.Request) -> web.StreamResponse:
        """How a job stands."""
        job = await self._service.find(request.match_info["id"])
        state = await self._service.wait(job, 0)
        return _data(self._describe(request, job, state))

    async def batch(self, request: web.Request) -> web.StreamResponse:
        """How the jobs stand that one client put together."""
        batch = request.match_info["batch"]
        jobs = await asyncio.to_thread(self._service.spool.batch, batch, owner_of(request))
        if not jobs:
            raise not_found()
        described = [self._describe(request, job, await self._service.wait(job, 0)) for job in jobs]
        return _data({"batchId": batch, "extractResult": described})

    async def result(self, request: web.Request) -> web.StreamResponse:
        """The pages of a finished job, one a line."""
        job = await self._service.find(request.match_info["id"])
        if await self._service.wait(job, 0) is not RecordState.DONE:
            raise not_found()
        options = Options(job.ticket.min_score)
        return await results.send(
            request, lambda: paddlex.lines(job, self._parameters, options), "application/jsonl"
        )

    def _check(self, fields: Mapping[str, str], batch: str) -> Options:
        """Raise `Problem` 400 for what cannot be done; 422 would be no invalid request to this client."""
        model = fields.get("model", _MODELS[0])
        if model not in _MODELS:
            raise bad_request(f"the model {model[:80]} is not served", hint=f"One of {', '.join(_MODELS)}.")
        if fields.get("pageRanges"):
            raise bad_request("pageRanges cannot be set: all pages are read", hint="Split the document.")
        if len(batch) > _MAX_BATCH or not batch.isprintable():
            raise bad_request("batchId is too long, or not printable")
        try:
            options = json.loads(fields.get("optionalPayload") or "{}")
        except (ValueError, RecursionError):
            options = None
        if not isinstance(options, dict):
            raise bad_request("optionalPayload is no JSON object")
        try:
            return self._parameters.check(options)
        except Problem as problem:
            raise bad_request(str(problem), hint=problem.hint) from None

    def _describe(self, request: web.Request, job: Job, state: RecordState) -> dict[str, Any]:
        status = self._service.status(job, state)
        described: dict[str, Any] = {"jobId": job.id, "state": _STATES[status.word]}
        if status.pages is not None and status.page is not None:
            described["extractProgress"] = _progress(status.pages, status.page - 1, job, None)
        if state is RecordState.DONE:
            pages = results.pages_of(job)
            described["extractProgress"] = _progress(pages, pages, job, job.ended_s())
            described["resultUrl"] = {"jsonUrl": f"{_origin(request)}{RESULTS}/{job.id}.jsonl"}
        elif state is RecordState.FAILED:
            error = results.error_of(job)
            described["errorMsg"] = f"{error['code']}: {error['message']} {error['hint']}".strip()
        return described


def _data(data: dict[str, Any]) -> web.Response:
    return web.json_response({"code": 0, "msg": "Success", "data": data})


def _progress(total: int, done: int, job: Job, ended_s: float | None) -> dict[str, Any]:
    end = None if ended_s is None else datetime.fromtimestamp(ended_s, UTC).isoformat(timespec="milliseconds")
    return {
        "totalPages": total,
        "extractedPages": done,
        "startTime": job.ticket.received_at,
        "endTime": end,
    }


def _origin(request: web.Request) -> str:
    """How the client reached us, also through a proxy that adds TLS."""
    scheme = request.headers.get("X-Forwarded-Proto", request.scheme)
    return f"{'https' if scheme == 'https' else 'http'}://{request.host}"
