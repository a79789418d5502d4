"""What every API does with a document: take it in, wait for its record, find its job again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Self

from ocr_watcher.http import content, results
from ocr_watcher.http.bodies import MIB
from ocr_watcher.http.gate import owner_of
from ocr_watcher.http.problems import Problem, bad_request, not_found, too_large
from ocr_watcher.http.spool import as_problem
from ocr_watcher.inbox.records import RecordState
from ocr_watcher.inbox.ticket import Ticket
from ocr_watcher.names import printable
from ocr_watcher.outputs.sidecar import now

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from ocr_watcher.config import HttpSettings
    from ocr_watcher.http.daemon_state import DaemonState
    from ocr_watcher.http.spool import Job, Spool, Upload
    from ocr_watcher.http.waiting import Waiting

# Written in blocks that are worth a thread's call.
_BLOCK_BYTES: Final = 1 << 17
_MAX_NAME: Final = 1024


@dataclass(frozen=True)
class Status:
    """How a job stands: `waiting`, `reading`, `done` or `failed`; `place` in the line and `page` from 1."""

    word: str
    place: int | None = None
    page: int | None = None
    pages: int | None = None


def address(job: Job) -> str:
    """Where a job is."""
    return f"/v1/jobs/{job.id}"


@dataclass(frozen=True)
class Wishes:
    """What a client asks for with its document."""

    formats: tuple[str, ...] = ()
    batch: str = ""
    min_score: float = 0.0


class Service:
    """The server's state, shared by all handlers."""

    def __init__(
        self,
        settings: HttpSettings,
        *,
        spool: Spool,
        waiting: Waiting,
        daemon: DaemonState,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`headers` go into every answer."""
        self.settings = settings
        self.spool = spool
        self.waiting = waiting
        self.daemon = daemon
        self.stopping = asyncio.Event()
        self.headers = headers
        self._committing = 0

    # -- taking in -----------------------------------------------------------------------------

    def admit(self, length_bytes: int = 0) -> None:
        """Raise `Problem` 429, 503 or 507 where no document is taken in now."""
        problem = self.daemon.problem()
        if problem is not None:
            raise problem
        self._check_room()
        self.spool.check_space(length_bytes)

    def _check_room(self) -> None:
        if len(self.waiting) + self._committing >= self.settings.max_waiting:
            self.waiting.look()  # some may have ended since
        if len(self.waiting) + self._committing >= self.settings.max_waiting:
            wait_s = self.waiting.pace.retry_after_s(self.settings.max_waiting)
            raise Problem(
                429,
                "too_many_waiting",
                f"{len(self.waiting)} documents wait already",
                hint=f"Send it again in {wait_s} seconds, or raise http.max_waiting.",
                headers={"Retry-After": str(wait_s)},
            )

    def receive(self, request: web.Request) -> Receipt:
        """Begin to take in a document. Raises `Problem`."""
        self.admit(request.content_length or 0)
        return Receipt(self, owner_of(request))

    async def hand_over(self, upload: Upload, made: Ticket) -> Job:
        """Give a whole document to the daemon. Raises `Problem`."""
        self.admit()  # others may have been quicker
        self._committing += 1
        try:
            job = await asyncio.to_thread(upload.commit, made)
        except OSError as error:
            raise as_problem(error) from error
        finally:
            self._committing -= 1
        self.waiting.add([job])
        return job

    # -- looking -------------------------------------------------------------------------------

    async def find(self, job: str) -> Job:
        """The job of this name. Raises `Problem` 404."""
        found = await asyncio.to_thread(self.spool.find, job)
        if found is None:
            raise not_found()
        return found

    async def wait(self, job: Job, seconds: float) -> RecordState:
        """The state of a job when it has ended, or after that time, or when the server stops."""
        if seconds > 0:
            waits = asyncio.ensure_future(self.waiting.wait(job.id, seconds))
            stops = asyncio.ensure_future(self.stopping.wait())
            try:
                await asyncio.wait((waits, stops), return_when=asyncio.FIRST_COMPLETED)
            finally:
                waits.cancel()
                stops.cancel()
        return await asyncio.to_thread(self.spool.state, job)

    def status(self, job: Job, state: RecordState) -> Status:
        """How a job stands."""
        if state is RecordState.DONE:
            return Status("done")
        if state is RecordState.FAILED:
            return Status("failed")
        page = self.daemon.page_of(job)
        if page is not None:
            return Status("reading", page=page[0], pages=page[1])
        return Status("waiting", place=self.waiting.place(job.id))

    def describe(self, job: Job, state: RecordState) -> dict[str, Any]:
        """A job as the native API shows it. Raises `Problem` 404 where it went just now."""
        status = self.status(job, state)
        described: dict[str, Any] = {
            "id": job.id,
            "status": status.word,
            "name": job.ticket.name,
            "received_at": job.ticket.received_at,
            "links": {"self": address(job), "result": f"{address(job)}/result"},
        }
        for key in ("place", "page", "pages"):
            if (value := getattr(status, key)) is not None:
                described[key] = value
        if status.word == "failed":
            described["error"] = results.error_of(job)
        return described

    async def describe_or_gone(self, job: str) -> dict[str, Any]:
        """The same by its id; `gone` where there is no such job any more."""
        try:
            found = await self.find(job)
            return self.describe(found, await self.wait(found, 0))
        except Problem:
            return {"id": job[:100], "status": "gone"}

    async def remove(self, job: Job) -> None:
        """Remove a job and everything of it."""
        await asyncio.to_thread(self.spool.remove, job)
        self.waiting.forget(job.id)


@dataclass
class Receipt:
    """A document that comes in. Use it in an `async with`: what was not finished is removed."""

    service: Service
    owner: str
    received_bytes: int = 0
    _upload: Upload | None = None
    _head: bytes = b""
    _extension: str | None = None
    _block: bytearray = field(default_factory=bytearray)

    async def __aenter__(self) -> Self:
        self._upload = await asyncio.to_thread(self.service.spool.begin)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._upload is not None:
            await asyncio.to_thread(self._upload.close)

    async def add(self, block: bytes) -> None:
        """Take the next bytes. Raises `Problem` 413, 415 or 507."""
        if not block:
            return
        self.received_bytes += len(block)
        limit_mb = self.service.settings.max_body_mb
        if self.received_bytes > limit_mb * MIB:
            raise too_large(limit_mb)
        if self._extension is None:
            self._head += block[: content.HEAD_BYTES - len(self._head)]
            if len(self._head) == content.HEAD_BYTES:
                self._know()
        self._block += block
        if len(self._block) >= _BLOCK_BYTES:
            await self._write()

    async def finish(self, name: str = "", wishes: Wishes = Wishes()) -> Job:
        """Hand it to the daemon. Raises `Problem`."""
        if not self.received_bytes:
            raise bad_request("the document is empty", hint="Send the bytes of an image or a PDF.")
        extension = self._extension or self._know()
        if self._block:
            await self._write()
        if self._upload is None:
            raise RuntimeError("finish is called within the block")
        made = Ticket(
            id=self._upload.id,
            document=self._upload.stem + extension,
            name=printable(name)[:_MAX_NAME],
            formats=wishes.formats,
            received_at=now(),
            batch=wishes.batch,
            min_score=wishes.min_score,
            owner=self.owner,
        )
        return await self.service.hand_over(self._upload, made)

    def _know(self) -> str:
        self._extension = content.extension_of(self._head)
        if self._extension is None:
            raise Problem(
                415,
                "unsupported_format",
                "the document is no image or PDF",
                hint="Send PNG, JPEG, TIFF, BMP, WebP, GIF, PDF, AVIF, JPEG 2000 or HEIC. "
                "The content decides, not its name or Content-Type.",
            )
        return self._extension

    async def _write(self) -> None:
        block, self._block = bytes(self._block), bytearray()
        if self._upload is None:
            return
        try:
            await asyncio.to_thread(self._upload.write, block)
        except OSError as error:
            raise as_problem(error) from error
