"""Handlers of `/v1/files`: the list of documents, each one's pages, pictures and results, and another try."""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from ocr_watcher import names
from ocr_watcher.errors import FileError
from ocr_watcher.http import results
from ocr_watcher.http.events import jobs_asked
from ocr_watcher.http.folders import FolderDocument, stamp_of
from ocr_watcher.http.gate import owner_of
from ocr_watcher.http.listing import EVERYBODY, MAX_ROWS, Asked
from ocr_watcher.http.problems import Problem, bad_request, not_found
from ocr_watcher.inbox.files import open_file, open_folder
from ocr_watcher.inbox.records import RecordState
from ocr_watcher.outputs import commit, reading, sidecar
from ocr_watcher.service import retries

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocr_watcher.http.listing import Listing
    from ocr_watcher.http.service import Service
    from ocr_watcher.http.spool import Job

_MAX_QUERY: Final = 200
_MAX_PAGE: Final = re.compile(r"[1-9]\d{0,6}")
_BLOCK_BYTES: Final = 1 << 16


class FilesApi:
    """The handlers."""

    def __init__(self, service: Service, listing: Listing, *, needs_key: bool, folders: bool) -> None:
        self._service = service
        self._listing = listing
        self._needs_key = needs_key
        self._folders = folders

    def routes(self) -> list[web.RouteDef]:
        """What it answers."""
        return [
            web.get("/v1/files", self.list),
            web.get("/v1/files/{id}", self.file),
            web.get("/v1/files/{id}/result", self.result),
            web.get("/v1/files/{id}/pages/{page}", self.page),
            web.get("/v1/files/{id}/pages/{page}/picture", self.picture),
            web.post("/v1/files/{id}/retry", self.retry),
        ]

    # -- handlers ------------------------------------------------------------------------------

    async def list(self, request: web.Request) -> web.Response:
        """The latest documents, or those that have some words in their name or text."""
        limit = request.query.get("limit", "50")
        if re.fullmatch(r"[1-9]\d{0,2}", limit) is None or int(limit) > MAX_ROWS:
            raise bad_request(f"limit is no number from 1 to {MAX_ROWS}")
        states = request.query.getall("state", [])
        if states not in ([], ["failed"]):
            raise bad_request("state can only be failed")
        asked = Asked(
            owner=self._owner(request),
            jobs=frozenset(jobs_asked(request)),
            query=request.query.get("q", "")[:_MAX_QUERY],
            failed=bool(states),
            before=request.query.get("before", ""),
            limit=int(limit),
        )
        return web.json_response(await self._listing.rows(asked))

    async def file(self, request: web.Request) -> web.Response:
        """One document: its row, and which formats there are of it."""
        key = request.match_info["id"]
        document = await self._listing.find(key)
        row = await self._listing.row(document, key)
        formats = await self._listing.run(lambda: _formats(document)) if row.state == "done" else []
        return web.json_response({**row.as_json(), "formats": formats})

    async def result(self, request: web.Request) -> web.StreamResponse:
        """The result in one of the formats."""
        kind = request.query.get("format", "json")
        if kind not in results.FORMATS:
            raise results.no_such_format(kind[:40])
        return await results.send_format(request, await self._finished(request), kind)

    async def page(self, request: web.Request) -> web.Response:
        """One page of the record, from 1."""
        document, number = await self._finished(request), _page_of(request)
        found = await self._listing.run(lambda: _read_page(document.record, number))
        if found is None:
            raise not_found()
        return web.json_response(found)

    async def picture(self, request: web.Request) -> web.StreamResponse:
        """What a page looks like: the daemon's preview, or the document itself where a browser shows it."""
        document, number = await self._listing.find(request.match_info["id"]), _page_of(request)
        preview = await self._listing.run(lambda: self._preview(document, number))
        if preview is not None:
            return web.FileResponse(preview, headers={"Content-Type": "image/jpeg"})
        if number != 1 or document.extension not in names.SHOWN_BY_BROWSERS:
            raise Problem(
                404,
                "no_picture",
                "there is no picture of this page",
                hint="Browsers do not show its format, and a preview was not made or not kept.",
            )
        return await results.send(
            request, lambda: _original(document), results.MEDIA_TYPES[document.extension]
        )

    async def retry(self, request: web.Request) -> web.Response:
        """Have a document that failed read again."""
        key = request.match_info["id"]
        document = await self._listing.find(key)
        row = await self._listing.row(document, key)
        if row.state not in ("failed", "retrying"):
            raise Problem(
                409, "not_failed", "the document has not failed", hint="Its result is there, or will be."
            )
        try:
            if isinstance(document, FolderDocument):
                is_asked = await asyncio.to_thread(retries.ask, self._service.spool.folder, document.path)
            else:
                is_asked = await asyncio.to_thread(_forget, document)
                self._service.waiting.add([document])
        except (OSError, FileError) as error:
            raise Problem(
                503,
                "spool_unavailable",
                f"the spool cannot be written: {error}",
                hint="See the server's log.",
            ) from error
        if not is_asked:
            raise Problem(
                429,
                "too_many_retries",
                "too many are to be tried again already",
                hint="Is the daemon running?",
            )
        return web.json_response(replace(row, state="waiting", error=None).as_json(), status=202)

    # -- parts ---------------------------------------------------------------------------------

    def _owner(self, request: web.Request) -> str | None:
        """Whose jobs are listed: those of the key; without keys, all to whom the folders are shown too."""
        if self._needs_key:
            return owner_of(request)
        return EVERYBODY if self._folders else None

    async def _finished(self, request: web.Request) -> Job | FolderDocument:
        """The document that is asked for. Raises `Problem` 404, 409 (it is not read), 422 (it failed)."""
        document = await self._listing.find(request.match_info["id"])
        state = await self._listing.run(lambda: _state(document))
        if state is RecordState.DONE:
            return document
        if state is RecordState.FAILED:
            raise Problem(422, "failed", "the document could not be read", hint="Its entry says why.")
        raise Problem(409, "not_ready", "the document is not read yet", hint="Ask again later.")

    def _preview(self, document: Job | FolderDocument, number: int) -> Path | None:
        stamp = stamp_of(document.path)
        if stamp is None:
            raise not_found()
        if isinstance(document, FolderDocument):
            own = names.previews_of(document.origin, stamp, in_spool=False)
        else:
            own = names.previews_of(document.path, stamp, in_spool=True)
        path = self._service.spool.folder / names.PREVIEWS / own / names.preview_of(number - 1)
        return path if path.is_file() else None


def _state(document: Job | FolderDocument) -> RecordState:
    stamp = stamp_of(document.path)
    return RecordState.OPEN if stamp is None else document.state(stamp)


def _page_of(request: web.Request) -> int:
    text = request.match_info["page"]
    if _MAX_PAGE.fullmatch(text) is None:
        raise bad_request("pages are numbers from 1")
    return int(text)


def _read_page(record: str, number: int) -> dict[str, Any] | None:
    """A page of a record as JSON, its words too; None where there is none. Raises `Problem` 404."""
    try:
        with open(record, "rb") as file:
            for count, page in enumerate(reading.pages(file), 1):
                if count == number:
                    return sidecar.page_dict(page)
    except (OSError, ValueError, KeyError, TypeError):
        raise not_found() from None
    return None


def _formats(document: Job | FolderDocument) -> list[str]:
    """What there is of a finished document: what is made of its record, and what the daemon made."""
    return [
        kind
        for kind, made in results.FORMATS.items()
        if not made.shows or os.path.isfile(document.output(kind))
    ]


def _original(document: Job | FolderDocument) -> Iterator[bytes]:
    """The bytes of a document, opened without following links beneath its folder. Raises OSError."""
    root = Path(document.tree.root) if isinstance(document, FolderDocument) else Path(document.path).parent
    *parts, name = os.path.relpath(document.path, root).split(os.sep)
    try:
        with open_folder(root, tuple(parts)) as folder, open_file(folder, name) as file:
            while block := file.read(_BLOCK_BYTES):
                yield block
    except FileError as error:
        raise FileNotFoundError(str(error)) from error


def _forget(job: Job) -> bool:
    """Forget the failure of a job. Raises `FileError` or OSError."""
    folder = os.open(os.path.dirname(job.path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        commit.forget_failure(folder, os.path.basename(job.path))
    finally:
        os.close(folder)
    return True
