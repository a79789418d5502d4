"""The body of a request as it comes in: counted against the limit, and not waited for too long.

Nothing is kept: whoever reads it takes block after block.
"""

from __future__ import annotations

import asyncio
import time
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from aiohttp import BodyPartReader, ClientPayloadError, web
from aiohttp.http_exceptions import HttpProcessingError

from ocr_watcher.http.problems import Problem, bad_request, too_large, too_slow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterator

    from aiohttp import MultipartReader

    from ocr_watcher.http.embedded import Parser

MIB: Final = 1 << 20
# What may come between two blocks (s). A phone that changes its cell is silent for a few seconds.
_SILENCE_S: Final = 15.0
# After this time (s) a sender must have been this fast (bytes/s): a modem was.
_GRACE_S: Final = 30.0
_LEAST_BYTES_PER_S: Final = 4096
# What surrounds a document in its body: the heads of parts, short members.
_AROUND_BYTES: Final = 1 << 17
_MAX_PARTS: Final = 32
_MAX_FIELD_BYTES: Final = 1 << 16
_BLOCK_BYTES: Final = 1 << 16
# What aiohttp raises over a body that is not what its head says.
_MALFORMED: Final = (
    ValueError,
    AssertionError,
    HttpProcessingError,
    web.RequestPayloadError,
    ClientPayloadError,
)

_T = TypeVar("_T")


@dataclass(frozen=True)
class Part:
    """A part of a form: its field, and what the client calls the file in it; None where it does not say."""

    reader: BodyPartReader
    name: str | None
    filename: str | None

    @classmethod
    def of(cls, reader: BodyPartReader) -> Part:
        """What a part's head says; nothing where that is not understood."""
        with quietly():
            return cls(reader, reader.name, reader.filename)


@contextmanager
def quietly() -> Iterator[None]:
    """Without the warnings that aiohttp has for heads it cannot read: they would fill the log."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Body:
    """One body. Raises `Problem` 400, 408 and 413 while it is read."""

    def __init__(self, request: web.Request, max_body_mb: float, *, base64: bool = False) -> None:
        """`base64`: the document is in base64, which takes a third more.

        Raises `Problem` 413 or 415 where the head of the request says that nobody will read it.
        """
        self._request = request
        self._max_mb = max_body_mb
        document_bytes = int(max_body_mb * MIB)
        self._max_bytes = (document_bytes * 4 // 3 if base64 else document_bytes) + _AROUND_BYTES
        self._began = time.monotonic()
        if request.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
            raise Problem(
                415,
                "unsupported_encoding",
                "the body is compressed",
                hint="Send it without Content-Encoding.",
            )
        if (request.content_length or 0) > self._max_bytes:
            raise too_large(max_body_mb)

    async def blocks(self) -> AsyncIterator[bytes]:
        """The bytes as they come."""
        while block := await self._next(self._request.content.readany()):
            yield block

    async def document_in(self, parser: Parser) -> AsyncIterator[bytes]:
        """The bytes of a document that is embedded in text; `parser.end` has the rest."""
        async for block in self.blocks():
            if document := parser.feed(block):
                yield document

    async def parts(self) -> AsyncIterator[Part]:
        """The parts of a multipart body. What is not read of one before the next is asked for is skipped."""
        reader = await self._multipart()
        for _ in range(_MAX_PARTS):
            found = await self._next(reader.next())
            if found is None:
                return
            if not isinstance(found, BodyPartReader):
                raise bad_request("a part of the body has parts of its own")
            part = Part.of(found)
            yield part
            async for _skipped in self.part_blocks(part):
                pass
        raise bad_request(f"the body has more than {_MAX_PARTS} parts")

    async def part_blocks(self, part: Part) -> AsyncIterator[bytes]:
        """The bytes of one part."""
        while not part.reader.at_eof():
            if block := await self._next(part.reader.read_chunk(_BLOCK_BYTES)):
                yield block

    async def part_text(self, part: Part) -> str:
        """A short field."""
        text = bytearray()
        async for block in self.part_blocks(part):
            text += block
            if len(text) > _MAX_FIELD_BYTES:
                raise bad_request(f"the field {part.name} is too long")
        return text.decode("utf-8", "replace")

    async def _multipart(self) -> MultipartReader:
        try:
            return await self._request.multipart()
        except _MALFORMED as error:
            raise bad_request(f"the body is not multipart/form-data: {error}") from None

    async def _next(self, reading: Awaitable[_T]) -> _T:
        """Wait for what comes next; count and time all of it."""
        try:
            async with asyncio.timeout(_SILENCE_S):
                piece = await reading
        except TimeoutError:
            raise too_slow() from None
        except _MALFORMED as error:
            raise bad_request(f"the body is broken: {str(error)[:200] or type(error).__name__}") from None
        received = self._request.content.total_bytes
        if received > self._max_bytes:
            raise too_large(self._max_mb)
        took_s = time.monotonic() - self._began
        if took_s > _GRACE_S and received < (took_s - _GRACE_S) * _LEAST_BYTES_PER_S:
            raise too_slow()
        return piece
