"""What is read from a document, from the engine to the writers: frozen, typed, in pixels of the source.

Nobody takes a figure out of a dictionary: a document becomes one only where JSON is written, and comes from
one only where JSON is read (`outputs.sidecar`).
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ocr_watcher.job import Stamp

Point: TypeAlias = tuple[float, float]
Polygon: TypeAlias = tuple[Point, ...]
Box: TypeAlias = tuple[float, float, float, float]
ReadFrom: TypeAlias = Literal["pixels", "text_layer"]


def box_around(polygon: Polygon) -> Box:
    """Upright rectangle around a polygon: left, top, right, bottom, in the polygon's pixels."""
    xs, ys = zip(*polygon, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def line_text(text: str) -> str:
    """Make of any text what `Line.text` may be, or an empty one: no surrogates, no control characters.

    Line breaks become blanks, so that one line here is one line of the joined text.
    """
    valid = text.encode("utf-8", "ignore").decode("utf-8")
    return "".join(" " if unicodedata.category(c) in {"Cc", "Zl", "Zp"} else c for c in valid).strip()


@dataclass(frozen=True)
class Word:
    """One word of a line; fields as in `Line`. Its polygon begins at the top left of the text itself."""

    text: str
    score: float
    polygon: Polygon

    @property
    def box(self) -> Box:
        """Upright rectangle around the polygon."""
        return box_around(self.polygon)


@dataclass(frozen=True)
class Line:
    """One line of text.

    Attributes:
        text: Not empty, free of control characters, encodes to UTF-8.
        score: The recogniser's mean probability, 0 to 1.
        polygon: Normally four points (x, y), clockwise from the top left of the text; more around curved
            text. Pixels of the page that the line is part of.
        words: Where they were asked for, in the order of the text.
    """

    text: str
    score: float
    polygon: Polygon
    words: tuple[Word, ...] = ()

    @property
    def box(self) -> Box:
        """Upright rectangle around the polygon."""
        return box_around(self.polygon)


@dataclass(frozen=True)
class PageError:
    """Why a page could not be read: a code of the error records, and a sentence."""

    code: str
    message: str


@dataclass(frozen=True)
class Page:
    """One page.

    Attributes:
        index: Position in the document, from 0.
        width_px: Width of the source page as a viewer shows it, that is after EXIF orientation. A page of a
            PDF is measured at 300 dpi. 0 where the page could not be read (`error`), and so is the height.
        height_px: Height of the same.
        scale: Size of what the engine saw / size of the source, along the longer side; at most 1. 1 where
            nobody had to look.
        lines: In reading order; polygons in pixels of the source page.
        text: What a person would type (`ocr.order.text_of`): each row on a line, a tab between its pieces.
        limited: It was read smaller than the settings say, for want of memory.
        read_from: By looking at it, or out of a PDF's text layer.
        turned_deg: Clockwise turn that makes the text upright: 0, 90, 180 or 270.
        dpi: Pixels an inch, where the file says it.
        error: Why it has no lines, where other pages of the document have.
    """

    index: int
    width_px: int
    height_px: int
    scale: float
    lines: tuple[Line, ...]
    text: str
    limited: bool = False
    read_from: ReadFrom = "pixels"
    turned_deg: int = 0
    dpi: float | None = None
    error: PageError | None = None


@dataclass(frozen=True)
class Source:
    """The file that was read. `sha256` is None where its bytes were never read whole."""

    name: str
    stamp: Stamp
    sha256: str | None


@dataclass(frozen=True)
class Output:
    """A further output of a document: its format, its file name, and what its bytes are."""

    format: str
    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class EngineFacts:
    """What read a document: names and versions."""

    name: str
    provider: str
    model: str
    paddleocr: str
    ocr_watcher: str


@dataclass(frozen=True)
class Timing:
    """How long a document took (s): waiting for its turn, decoding, OCR, and from complete to written."""

    queued_s: float
    load_s: float
    ocr_s: float
    total_s: float


@dataclass(frozen=True)
class MemoryUse:
    """Resident memory of the process (MiB): before the document, after it, and at the process's highest."""

    rss_before_mb: float
    rss_after_mb: float
    rss_peak_mb: float


@dataclass(frozen=True)
class Document:
    """Everything that was read from one file, and how.

    `pages` can be gone through more than once. Of a long document they come from the state folder one by one,
    so that memory does not grow with their number. `warnings` are codes: `page_limited`, `page_failed`,
    `output_skipped`.
    """

    source: Source
    pages: Iterable[Page]
    engine: EngineFacts
    timing: Timing
    memory: MemoryUse
    warnings: tuple[str, ...] = ()
    outputs: tuple[Output, ...] = ()
