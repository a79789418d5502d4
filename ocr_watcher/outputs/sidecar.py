"""A document as JSON, and back: the one place where what was read becomes dictionaries.

`SCHEMA` in `sidecar.schema.json` is the contract. A document is written in pieces, page by page, so that one
of thousands of pages takes no more memory than one of one.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from importlib import resources
from typing import TYPE_CHECKING, Any

from ocr_watcher.document import Line, Page, PageError, Word
from ocr_watcher.inbox.records import SCHEMA
from ocr_watcher.names import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ocr_watcher.document import Document, Polygon, Source
    from ocr_watcher.errors import FileError


def schema() -> dict[str, Any]:
    """The JSON Schema of both records, as shipped with the package."""
    text = resources.files(__package__).joinpath("sidecar.schema.json").read_text("utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def now(ago_s: float = 0.0) -> str:
    """The wall clock (`ago_s` seconds ago) as records and logs write it: UTC, milliseconds."""
    return (
        (datetime.now(UTC) - timedelta(seconds=ago_s))
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )


def milliseconds(seconds: float) -> int:
    """A duration as records and logs give it."""
    return max(0, round(seconds * 1000))


# -- writing -----------------------------------------------------------------------------------


def document_json(document: Document) -> Iterator[bytes]:
    """The sidecar of `document`, in pieces; goes through its pages twice, since `text` comes before them."""
    head = {"schema": SCHEMA, "status": "ok", "source": _source(document.source)}
    yield _bytes(head)[:-1] + b', "text": "'
    for number, page in enumerate(document.pages):
        yield (b"\\n" if number else b"") + _bytes(page.text)[1:-1]
    yield b'", "pages": ['
    for number, page in enumerate(document.pages):
        yield (b", " if number else b"") + _bytes(page_dict(page))
    tail = {
        "engine": vars(document.engine),
        "timing_ms": {
            key.removesuffix("_s"): milliseconds(value) for key, value in vars(document.timing).items()
        },
        "memory_mb": {key.removesuffix("_mb"): value for key, value in vars(document.memory).items()},
        **({"warnings": document.warnings} if document.warnings else {}),
        "finished_at": now(),
    }
    yield b"], " + _bytes(tail)[1:] + b"\n"


def error_json(source: Source, error: FileError, *, attempts: int, will_retry: bool) -> bytes:
    """The error record of `source`; `will_retry` says that the cause lies outside the file."""
    about: dict[str, Any] = {
        "code": error.code,
        "message": printable(str(error)),
        "hint": printable(error.hint),
        "attempts": attempts,
    }
    if will_retry:
        about["will_retry"] = True
    record = {
        "schema": SCHEMA,
        "status": "failed",
        "source": _source(source),
        "error": about,
        "finished_at": now(),
    }
    return _bytes(record) + b"\n"


def page_dict(page: Page) -> dict[str, Any]:
    """One page of a sidecar; coordinates are rounded to a tenth of a pixel."""
    fields: dict[str, Any] = {
        "index": page.index,
        "width_px": page.width_px,
        "height_px": page.height_px,
        "scale": page.scale,
        "read_from": page.read_from,
        "turned_deg": page.turned_deg,
        "text": page.text,
        "lines": [_line(line) for line in page.lines],
    }
    if page.dpi is not None:
        fields["dpi"] = round(page.dpi, 1)
    if page.error is not None:
        fields["error"] = vars(page.error)
    return fields


def _source(source: Source) -> dict[str, Any]:
    return {
        "name": printable(source.name),
        "size_bytes": source.stamp.size_bytes,
        "mtime_ns": source.stamp.mtime_ns,
        "sha256": source.sha256,
    }


def _line(line: Line) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "text": line.text,
        "score": round(line.score, 4),
        "polygon": _rounded(line.polygon),
        "box": _box(line.polygon),
    }
    if line.words:
        fields["words"] = [
            {"text": word.text, "score": round(word.score, 4), "box": _box(word.polygon)}
            for word in line.words
        ]
    return fields


def _rounded(polygon: Polygon) -> list[list[float]]:
    return [[round(x, 1), round(y, 1)] for x, y in polygon]


def _box(polygon: Polygon) -> list[float]:
    """Left, top, right, bottom."""
    xs, ys = zip(*_rounded(polygon), strict=True)
    return [min(xs), min(ys), max(xs), max(ys)]


def _bytes(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")


# -- reading -----------------------------------------------------------------------------------


def page_of(fields: Mapping[str, Any]) -> Page:
    """A page from its JSON object, as `page_dict` made it. Raises KeyError, TypeError or ValueError."""
    return Page(
        index=int(fields["index"]),
        width_px=int(fields["width_px"]),
        height_px=int(fields["height_px"]),
        scale=float(fields["scale"]),
        lines=tuple(_line_of(line) for line in fields["lines"]),
        read_from="text_layer" if fields.get("read_from") == "text_layer" else "pixels",
        turned_deg=int(fields.get("turned_deg", 0)),
        dpi=float(fields["dpi"]) if "dpi" in fields else None,
        error=PageError(str(error["code"]), str(error["message"]))
        if (error := fields.get("error"))
        else None,
    )


def _line_of(fields: Mapping[str, Any]) -> Line:
    return Line(
        text=str(fields["text"]),
        score=float(fields["score"]),
        polygon=tuple((float(x), float(y)) for x, y in fields["polygon"]),
        words=tuple(_word_of(word) for word in fields.get("words", ())),
    )


def _word_of(fields: Mapping[str, Any]) -> Word:
    left, top, right, bottom = (float(value) for value in fields["box"])
    corners = ((left, top), (right, top), (right, bottom), (left, bottom))
    return Word(str(fields["text"]), float(fields["score"]), corners)
