"""A document as JSON, and back: the one place where what was read becomes dictionaries.

`SCHEMA` in `sidecar.schema.json` is the contract. A document is written in pieces, page by page, so that one
of thousands of pages takes no more memory than one of one.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from importlib import resources
from typing import TYPE_CHECKING, Any

from ocr_watcher.document import Line, Page, PageError, Source, Word
from ocr_watcher.errors import OutputExistsError
from ocr_watcher.inbox.records import SCHEMA
from ocr_watcher.job import Stamp
from ocr_watcher.names import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ocr_watcher.document import Document, Output, Polygon
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


def document_json(document: Document, *, words: bool = True) -> Iterator[bytes]:
    """The sidecar of `document`, in pieces; goes through its pages twice, since `text` comes before them.

    Without `words`, lines have none. Outputs come early, since only the beginning is read to know them.
    """
    yield _head(_source(document.source), document.outputs)[:-1] + b', "text": "'
    for number, page in enumerate(document.pages):
        yield (b"\\n" if number else b"") + _bytes(page.text)[1:-1]
    yield b'", "pages": ['
    for number, page in enumerate(document.pages):
        yield (b", " if number else b"") + _bytes(page_dict(page, words=words))
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
    if isinstance(error, OutputExistsError) and error.kind:
        about["format"] = error.kind
    record = {
        "schema": SCHEMA,
        "status": "failed",
        "source": _source(source),
        "error": about,
        "finished_at": now(),
    }
    return _bytes(record) + b"\n"


def _head(source: Mapping[str, Any], outputs: Iterable[Output]) -> bytes:
    """The beginning of a sidecar as an object of its own."""
    head: dict[str, Any] = {"schema": SCHEMA, "status": "ok", "source": source}
    if listed := [vars(output) for output in outputs]:
        head["outputs"] = listed
    return _bytes(head)


def page_dict(page: Page, *, words: bool = True) -> dict[str, Any]:
    """One page of a sidecar; coordinates are rounded to a tenth of a pixel."""
    fields: dict[str, Any] = {
        "index": page.index,
        "width_px": page.width_px,
        "height_px": page.height_px,
        "scale": page.scale,
        "read_from": page.read_from,
        "turned_deg": page.turned_deg,
        "text": page.text,
        "lines": [_line(line, words=words) for line in page.lines],
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


def _line(line: Line, *, words: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "text": line.text,
        "score": round(line.score, 4),
        "polygon": _rounded(line.polygon),
        "box": _box(line.polygon),
    }
    if words and line.words:
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


def with_outputs(record: str, outputs: Sequence[Output]) -> Iterator[bytes]:
    """A sidecar as it was, but naming these outputs. Raises ValueError where it is none of ours."""
    decoder = json.JSONDecoder()
    start = record.index(_SOURCE) + len(_SOURCE)
    _, end = decoder.raw_decode(record, start)
    rest = end
    if record.startswith(_OUTPUTS, end):
        _, rest = decoder.raw_decode(record, end + len(_OUTPUTS))
    yield record[:end].encode()
    if outputs:
        yield _OUTPUTS.encode() + _bytes([vars(output) for output in outputs])
    yield record[rest:].encode()


# -- reading -----------------------------------------------------------------------------------

_SOURCE, _OUTPUTS = '"source": ', ', "outputs": '
_BETWEEN = re.compile(r"[\s,:]*")


def read(record: str, *, words: bool = True) -> tuple[Source, Iterator[Page]]:
    """What a sidecar is about, and its pages one by one; without `words`, which are most of it, in less time.

    Raises ValueError, KeyError or TypeError where it is no sidecar of ours: now, or on the way through pages.
    """
    if not record.startswith('{"schema": "ocr-watcher/'):
        raise ValueError("it is not a sidecar of ocr-watcher")
    fields, _ = json.JSONDecoder().raw_decode(record, record.index(_SOURCE) + len(_SOURCE))
    stamp = Stamp(int(fields["size_bytes"]), int(fields["mtime_ns"]))
    return Source(str(fields["name"]), stamp, fields["sha256"]), _pages(record, words=words)


def _pages(record: str, *, words: bool) -> Iterator[Page]:
    decoder = json.JSONDecoder()
    at = 1
    while True:
        key, at = decoder.raw_decode(record, _skip(record, at))
        at = _skip(record, at)
        if key == "pages":
            break
        _, at = decoder.raw_decode(record, at)
    at = _skip(record, at + 1)
    while not record.startswith("]", at):
        fields, at = decoder.raw_decode(record, at)
        yield page_of(fields, words=words)
        at = _skip(record, at)


def _skip(record: str, at: int) -> int:
    """Where the next value begins."""
    match = _BETWEEN.match(record, at)
    return at if match is None else match.end()


def page_of(fields: Mapping[str, Any], *, words: bool = True) -> Page:
    """A page from its JSON object, as `page_dict` made it. Raises KeyError, TypeError or ValueError."""
    return Page(
        index=int(fields["index"]),
        width_px=int(fields["width_px"]),
        height_px=int(fields["height_px"]),
        scale=float(fields["scale"]),
        lines=tuple(_line_of(line, words=words) for line in fields["lines"]),
        text=str(fields["text"]),
        read_from="text_layer" if fields.get("read_from") == "text_layer" else "pixels",
        turned_deg=int(fields.get("turned_deg", 0)),
        dpi=float(fields["dpi"]) if "dpi" in fields else None,
        error=PageError(str(error["code"]), str(error["message"]))
        if (error := fields.get("error"))
        else None,
    )


def _line_of(fields: Mapping[str, Any], *, words: bool) -> Line:
    return Line(
        text=str(fields["text"]),
        score=float(fields["score"]),
        polygon=tuple((float(x), float(y)) for x, y in fields["polygon"]),
        words=tuple(_word_of(word) for word in fields.get("words", ())) if words else (),
    )


def _word_of(fields: Mapping[str, Any]) -> Word:
    left, top, right, bottom = (float(value) for value in fields["box"])
    corners = ((left, top), (right, top), (right, bottom), (left, bottom))
    return Word(str(fields["text"]), float(fields["score"]), corners)
