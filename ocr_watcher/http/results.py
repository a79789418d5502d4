"""What a client gets: the record, or a format that is made of it, piece by piece."""

from __future__ import annotations

import asyncio
import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiohttp import web

from ocr_watcher.http.problems import Problem, not_found
from ocr_watcher.outputs import reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ocr_watcher.http.spool import Job

# What is sent in one piece, with its length; more goes out piece by piece.
_WHOLE_BYTES: Final = 1 << 20
_BLOCK_BYTES: Final = 1 << 16
# The head of a record, with the name of its document in it.
_NAME = re.compile(rb'\{"schema": "[^"]*", "status": "[a-z]+", "source": \{"name": ("(?:[^"\\]|\\.)*")')


@dataclass(frozen=True)
class Format:
    """How a format is sent: its media type, and the extension for a name."""

    media_type: str
    extension: str


FORMATS: Final = {
    "json": Format("application/json; charset=utf-8", ".json"),
    "txt": Format("text/plain; charset=utf-8", ".txt"),
}

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


def text_pieces(path: str) -> Iterator[bytes]:
    """The text of a record, with a line end."""
    with open(path, "rb") as file:
        text = json.load(file)["text"]
    yield text.encode("utf-8", "replace") + b"\n"


def pieces_of(job: Job, kind: str) -> Iterator[bytes]:
    """A format of a finished job, a key of `FORMATS`."""
    return record_pieces(job.record, job.ticket.name) if kind == "json" else text_pieces(job.record)


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


def size_of(path: str) -> int:
    """How many bytes a file has; 0 where there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def no_such_format(kind: str) -> Problem:
    """400: a format that does not exist."""
    return Problem(
        400, "unknown_format", f"there is no format {kind!r}", hint=f"One of {', '.join(FORMATS)}."
    )
