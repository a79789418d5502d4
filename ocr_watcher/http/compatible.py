"""APIs that clients speak already: PaddleX serving's and RapidOCR API's on `/ocr`, Apache Tika's on `/tika`.

They answer when the record is there. Where the wait is over before, they say 504, and where it will be.
"""

from __future__ import annotations

import asyncio
import html
import json
from typing import TYPE_CHECKING, Final

from aiohttp import web

from ocr_watcher import __version__
from ocr_watcher.http import paddlex, results, uploads
from ocr_watcher.http.bodies import Body
from ocr_watcher.http.embedded import Base64Decoder, FormParser, JsonParser
from ocr_watcher.http.problems import Problem, bad_request
from ocr_watcher.http.service import Wishes
from ocr_watcher.inbox.records import RecordState
from ocr_watcher.outputs import reading

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocr_watcher.http.paddlex import Parameters
    from ocr_watcher.http.service import Service
    from ocr_watcher.http.spool import Job

LOG_ID: Final = web.RequestKey("log_id", str)
_JSON: Final = "application/json"
_FORM: Final = "application/x-www-form-urlencoded"
_MULTIPART: Final = "multipart/form-data"


async def finished(service: Service, job: Job) -> None:
    """Wait for the record of a job. Raises `Problem` 422 where it failed, 504 where the wait is over."""
    state = await service.wait(job, service.settings.wait_s)
    if state is RecordState.FAILED:
        error = results.error_of(job)
        raise Problem(422, str(error["code"]), str(error["message"]), hint=str(error["hint"]))
    if state is not RecordState.DONE:
        raise Problem(
            504,
            "still_reading",
            f"the document is not read yet; its result will be at /v1/jobs/{job.id}/result",
            hint="Raise http.wait_s if the client waits longer, or use /v1/jobs.",
            headers={"Location": f"/v1/jobs/{job.id}"},
        )


class OcrApi:
    """`POST /ocr`: PaddleX serving's as JSON, RapidOCR API's as a form."""

    def __init__(self, service: Service, parameters: Parameters) -> None:
        self._service = service
        self._parameters = parameters

    def routes(self) -> list[web.RouteDef]:
        """What it answers."""
        return [web.post("/ocr", self.ocr), web.get("/health", self.health)]

    async def health(self, _request: web.Request) -> web.StreamResponse:
        """PaddleX's: the server is there."""
        return web.json_response({"logId": paddlex.new_log_id(), "errorCode": 0, "errorMsg": "Healthy"})

    async def ocr(self, request: web.Request) -> web.StreamResponse:
        """Take a document in whatever form it comes."""
        if request.content_type == _JSON:
            return await self._as_paddlex(request)
        if request.content_type in (_FORM, _MULTIPART):
            return await self._as_rapidocr(request)
        raise Problem(
            415,
            "unsupported_request",
            "the body is neither JSON nor a form",
            hint="POST the file itself to /v1/ocr; /ocr takes JSON as PaddleX, and forms as RapidOCR API.",
        )

    async def _as_paddlex(self, request: web.Request) -> web.StreamResponse:
        body = Body(request, self._service.settings.max_body_mb, base64=True)
        async with self._service.receive(request) as receipt:
            parser = JsonParser("file")
            try:
                fields = await uploads.take_embedded(receipt, body, parser)
            finally:
                log_id = request[LOG_ID] = paddlex.log_id_of(parser.fields)
            if not parser.found:
                raise Problem(422, "bad_parameter", "file is missing: the document in base64")
            options = self._parameters.check(fields)
            job = await receipt.finish(wishes=Wishes(("overlay",) if options.overlay else ()))
        await finished(self._service, job)
        return await results.send(
            request, lambda: paddlex.answer(job, self._parameters, options, log_id), _JSON
        )

    async def _as_rapidocr(self, request: web.Request) -> web.StreamResponse:
        if request.content_type == _MULTIPART:
            job = await self._rapidocr_multipart(request)
        else:
            job = await self._rapidocr_form(request)
        await finished(self._service, job)
        return await results.send(request, lambda: _rapidocr_lines(job), _JSON)

    async def _rapidocr_multipart(self, request: web.Request) -> Job:
        body = Body(request, self._service.settings.max_body_mb, base64=True)
        async with self._service.receive(request) as receipt:
            name: str | None = None
            async for part in body.parts():
                if part.name == "image_file" and name is None:
                    name = part.filename or ""
                    async for block in body.part_blocks(part):
                        await receipt.add(block)
                elif part.name == "image_data" and name is None:
                    name = ""
                    decoder = Base64Decoder("image_data")
                    async for block in body.part_blocks(part):
                        await receipt.add(decoder.feed(block))
                    await receipt.add(decoder.end())
            if name is None:
                raise _no_image()
            return await receipt.finish(name)

    async def _rapidocr_form(self, request: web.Request) -> Job:
        # Each + and / of base64 may be three characters here.
        body = Body(request, self._service.settings.max_body_mb, base64=True)
        async with self._service.receive(request) as receipt:
            parser = FormParser("image_data")
            await uploads.take_embedded(receipt, body, parser)
            if not parser.found:
                raise _no_image()
            return await receipt.finish()


def _no_image() -> Problem:
    return bad_request("there is neither image_file nor image_data", hint="curl -F image_file=@scan.png")


def _rapidocr_lines(job: Job) -> Iterator[bytes]:
    """RapidOCR API's answer: an object of lines by number, of all pages."""
    yield b"{"
    number = 0
    with open(job.record, "rb") as file:
        for page in reading.pages(file):
            for line in page.lines:
                value = {
                    "rec_txt": line.text,
                    "dt_boxes": [list(point) for point in line.polygon],
                    "score": f"{line.score:.4f}",
                }
                piece = f'"{number}": {json.dumps(value, ensure_ascii=False)}'
                yield (b", " if number else b"") + piece.encode("utf-8", "replace")
                number += 1
    yield b"}"


class TikaApi:
    """Apache Tika's: a document in, its text out."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[web.RouteDef]:
        """What it answers."""
        return [
            web.get("/tika", self.hello),
            web.put("/tika", self.tika),
            web.put("/tika/text", self.text),
            web.post("/tika/form", self.tika),
            web.post("/tika/form/text", self.text),
            web.put("/rmeta", self.recursive),
            web.put("/rmeta/text", self.recursive_text),
            web.post("/rmeta/form", self.recursive),
            web.post("/rmeta/form/text", self.recursive_text),
        ]

    async def hello(self, _request: web.Request) -> web.StreamResponse:
        """What clients look for before they send anything."""
        return web.Response(text=f"This is Tika Server (ocr-watcher {__version__}). Please PUT\n")

    async def tika(self, request: web.Request) -> web.StreamResponse:
        """The text as `Accept` wants it: plain, HTML, or in a JSON object."""
        accept = request.headers.get("Accept", "*/*").lower()
        job = await self._read(request)
        if "json" in accept:
            return await results.send(request, lambda: _tika_json(job, _html_pieces(job)), _JSON)
        if "html" in accept or "xml" in accept:
            return await _send_or_204(request, job, _html_pieces(job), "text/html; charset=utf-8")
        return await _send_or_204(request, job, _text_pieces(job), "text/plain; charset=utf-8")

    async def text(self, request: web.Request) -> web.StreamResponse:
        """The text in a JSON object."""
        job = await self._read(request)
        return await results.send(request, lambda: _tika_json(job, _text_pieces(job)), _JSON)

    async def recursive(self, request: web.Request) -> web.StreamResponse:
        """A list of one object: an image has no documents in it."""
        job = await self._read(request)
        return await results.send(request, lambda: _listed(_tika_json(job, _html_pieces(job))), _JSON)

    async def recursive_text(self, request: web.Request) -> web.StreamResponse:
        """The same with plain text."""
        job = await self._read(request)
        return await results.send(request, lambda: _listed(_tika_json(job, _text_pieces(job))), _JSON)

    async def _read(self, request: web.Request) -> Job:
        body = Body(request, self._service.settings.max_body_mb)
        async with self._service.receive(request) as receipt:
            if request.content_type == _MULTIPART:
                form = await uploads.take_form(receipt, body, None)
                name = form.name
            else:
                await uploads.take_body(receipt, body)
                name = uploads.name_of(request)
            job = await receipt.finish(name)
        await finished(self._service, job)
        return job


async def _send_or_204(
    request: web.Request, job: Job, pieces: Iterator[bytes], media_type: str
) -> web.StreamResponse:
    """204 where there is no text."""
    if not await asyncio.to_thread(_has_text, job):
        return web.Response(status=204)
    return await results.send(request, lambda: pieces, media_type)


def _has_text(job: Job) -> bool:
    with open(job.record, "rb") as file:
        return any(page.lines for page in reading.pages(file))


def _text_pieces(job: Job) -> Iterator[bytes]:
    with open(job.record, "rb") as file:
        for page in reading.pages(file):
            yield page.text.encode("utf-8", "replace") + b"\n"


def _html_pieces(job: Job) -> Iterator[bytes]:
    title = html.escape(job.ticket.name)
    yield f"<html><head><title>{title}</title></head><body>".encode("utf-8", "replace")
    with open(job.record, "rb") as file:
        for page in reading.pages(file):
            text = html.escape(page.text)
            yield f'<div class="page"><p>{text}</p></div>\n'.encode("utf-8", "replace")
    yield b"</body></html>"


def _tika_json(job: Job, content: Iterator[bytes]) -> Iterator[bytes]:
    about = {
        "Content-Type": results.MEDIA_TYPES.get(job.extension, "application/octet-stream"),
        "X-TIKA:Parsed-By": [f"ocr-watcher {__version__}"],
        **({"resourceName": job.ticket.name} if job.ticket.name else {}),
    }
    yield json.dumps(about, ensure_ascii=False).encode("utf-8", "replace")[:-1] + b', "X-TIKA:content": "'
    for piece in content:
        yield json.dumps(piece.decode("utf-8"), ensure_ascii=False).encode()[1:-1]
    yield b'"}'


def _listed(pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield b"["
    yield from pieces
    yield b"]"
