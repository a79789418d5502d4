"""The ways in which a document may stand in a request: as its body, in a form, in base64."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp.multipart import content_disposition_filename, parse_content_disposition

from ocr_watcher.http.bodies import quietly
from ocr_watcher.http.problems import bad_request
from ocr_watcher.names import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from ocr_watcher.http.bodies import Body
    from ocr_watcher.http.embedded import FormParser, JsonParser
    from ocr_watcher.http.service import Receipt


@dataclass(frozen=True)
class Form:
    """A form without its document: what the client calls that, and the other fields."""

    name: str
    fields: Mapping[str, str] = field(default_factory=dict)


def name_of(request: web.Request) -> str:
    """What the client calls a document that is the body: `?name=`, or in Content-Disposition."""
    if name := request.query.get("name"):
        return name
    with quietly():
        _, parameters = parse_content_disposition(request.headers.get("Content-Disposition"))
        return content_disposition_filename(parameters) or ""


async def take_body(receipt: Receipt, body: Body) -> None:
    """The body is the document. Raises `Problem`."""
    async for block in body.blocks():
        await receipt.add(block)


async def take_form(receipt: Receipt, body: Body, file_field: str | None) -> Form:
    """A `multipart/form-data` with the document in `file_field` (None: in the one that has a file name).

    Raises `Problem`.
    """
    name: str | None = None
    fields: dict[str, str] = {}
    async for part in body.parts():
        is_file = part.filename is not None if file_field is None else part.name == file_field
        if not is_file:
            field_name = part.name or ""
            if field_name in fields:
                raise bad_request(f"the field {printable(field_name)!r} is there twice", hint="Send it once.")
            fields[field_name] = await body.part_text(part)
            continue
        if name is not None:
            raise bad_request("there are two files", hint="Send one a request.")
        name = part.filename or ""
        async for block in body.part_blocks(part):
            await receipt.add(block)
    if name is None:
        what = f"field `{file_field}`" if file_field is not None else "file"
        raise bad_request(f"there is no {what}", hint="curl -F file=@scan.png")
    return Form(name, fields)


async def take_embedded(receipt: Receipt, body: Body, parser: JsonParser | FormParser) -> dict[str, Any]:
    """A document in base64; returns what stands around it. Raises `Problem`."""
    async for block in body.blocks():
        await receipt.add(parser.feed(block))
    last, fields = parser.end()
    await receipt.add(last)
    return fields
