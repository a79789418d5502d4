"""What a client gets: the record, or a format that is made of it, piece by piece."""

from __future__ import annotations

import asyncio
import json
import os
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

from aiohttp import web

from ocr_watcher import __version__
from ocr_watcher.http.problems import Problem, not_found
from ocr_watcher.outputs import reading
from ocr_watcher.outputs.alto import AltoWriter
from ocr_watcher.outputs.base import NO_PICTURES, About
from ocr_watcher.outputs.hocr import HocrWriter
from ocr_watcher.outputs.tsv import TsvWriter
from ocr_watcher.outputs.txt import TextWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ocr_watcher.http.spool import Job
    from ocr_watcher.outputs.base import Pictures, Writer

# What is sent in one piece, with its length; more goes out piece by piece.
_WHOLE_BYTES: Final = 1 << 20
_BLOCK_BYTES: Final = 1 << 16
# The head of a record, with the name of its document in it.
_NAME = re.compile(rb'\{"schema": "[^"]*", "status": "[a-z]+", "source": \{"name": ("(?:[^"\\]|\\.)*")')


@dataclass(frozen=True)
class Format:
    """How a format is sent: its media type, and what makes it of a record.

    Where it `shows` the document, the daemon makes it, if it is asked for with the document.
    """

    media_type: str
    writer: Callable[[About, Pictures], Writer] | None = None
    shows: bool = False


FORMATS: Final = {
    "json": Format("application/json; charset=utf-8"),
    "txt": Format("text/plain; charset=utf-8", TextWriter),
    "hocr": Format("text/html; charset=utf-8", HocrWriter),
    "alto": Format("application/xml", AltoWriter),
    "tsv": Format("text/tab-separated-values; charset=utf-8", TsvWriter),
    "pdf": Format("application/pdf", shows=True),
    "overlay": Format("image/jpeg", shows=True),
}
"""By their names in `output.formats`, and the record."""

MEDIA_TYPES: Final = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".gif": "image/gif",
    ".bmp": "image/bmp",
    ".webp": "image/webp",
    ".tif": "image/tiff",
    ".jp2": "image/jp2",
    ".avif": "image/avif",
    ".heic": "image/heic",
    ".pdf": "application/pdf",
}
"""Of documents, by their extension in the spool."""


class Finished(Protocol):
    """A document with a record, wherever it came from."""

    @property
    def renamed(self) -> str:
        """What stands for its name in its results; "": its own."""

    @property
    def record(self) -> str:
        """The path of its sidecar."""

    def output(self, kind: str) -> str:
        """The path of a further output, which may not be there."""


def record_pieces(path: str, name: str) -> Iterator[bytes]:
    """A record with the name that the client gave its document. Raises OSError."""
    with open(path, "rb") as file:
        block = file.read(_BLOCK_BYTES)
        match = _NAME.match(block)
        if match is not None and name:
            shown = json.dumps(name, ensure_ascii=False).encode("utf-8", "backslashreplace")
            block = block[: match.start(1)] + shown + block[match.end(1) :]
        while block:
            yield block
            block = file.read(_BLOCK_BYTES)


def written_pieces(job: Finished, make: Callable[[About, Pictures], Writer]) -> Iterator[bytes]:
    """A format of a finished job that needs its record alone. Raises OSError."""
    with open(job.record, "rb") as file:
        source = reading.source(file)
        file.seek(0)
        pages = reading.count(file)
        if job.renamed:
            source = replace(source, name=job.renamed)
        writer = make(About(source, f"ocr-watcher {__version__}", pages), NO_PICTURES)
        yield from writer.begin()
        file.seek(0)
        for page in reading.pages(file):
            yield from writer.page(page)
        yield from writer.end()


async def send_format(request: web.Request, job: Finished, kind: str) -> web.StreamResponse:
    """Answer with a format of a finished job, a key of `FORMATS`. Raises `Problem` 404 and 409."""
    made = FORMATS[kind]
    if made.shows:
        if not await asyncio.to_thread(os.path.isfile, job.output(kind)):
            raise Problem(
                409,
                "not_made",
                f"the format {kind} was not asked for with the document, or cannot hold it",
                hint=f"Send the document with ?format={kind}.",
            )
        return web.FileResponse(job.output(kind), headers={"Content-Type": made.media_type})
    writer = made.writer
    if writer is None:
        return await send(request, lambda: record_pieces(job.record, job.renamed), made.media_type)
    return await send(request, lambda: written_pieces(job, writer), made.media_type)


async def send(
    request: web.Request, make: Callable[[], Iterator[bytes]], media_type: str, *, status: int = 200
) -> web.StreamResponse:
    """Answer with what `make` generates, in a thread. Raises `Problem` 404 where the record went just now."""
    loop = asyncio.get_running_loop()
    pieces = make()
    try:
        whole, is_all = await loop.run_in_executor(None, _take, pieces, _WHOLE_BYTES)
    except FileNotFoundError:
        raise not_found() from None
    if is_all:
        return web.Response(body=whole, status=status, headers={"Content-Type": media_type})
    response = web.StreamResponse(status=status, headers={"Content-Type": media_type})
    response.enable_chunked_encoding()
    await response.prepare(request)
    while whole:
        await response.write(whole)
        whole, _ = await loop.run_in_executor(None, _take, pieces, _BLOCK_BYTES)
    await response.write_eof()
    return response


def _take(pieces: Iterator[bytes], at_least: int) -> tuple[bytes, bool]:
    """The next bytes, and whether they are the last."""
    taken = bytearray()
    for piece in pieces:
        taken += piece
        if len(taken) > at_least:
            return bytes(taken), False
    return bytes(taken), True


def error_of(job: Job) -> dict[str, object]:
    """The error of a failed job: code, message, hint. Raises `Problem` 404."""
    try:
        with open(job.error_record, "rb") as file:
            error = json.load(file)["error"]
    except (OSError, ValueError, KeyError):
        raise not_found() from None
    return {key: str(error.get(key, "")) for key in ("code", "message", "hint")}


def pages_of(job: Job) -> int:
    """How many pages a finished job has. Raises `Problem` 404."""
    try:
        with open(job.record, "rb") as file:
            return reading.count(file)
    except (OSError, ValueError):
        raise not_found() from None


def no_such_format(kind: str) -> Problem:
    """400: a format that does not exist."""
    return Problem(
        400, "unknown_format", f"there is no format {kind!r}", hint=f"One of {', '.join(FORMATS)}."
    )
