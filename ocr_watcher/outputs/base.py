"""What writers have in common: the protocol, what they are given, and boxes in whole pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn, Protocol, cast

from ocr_watcher.document import Word
from ocr_watcher.errors import OutputError
from ocr_watcher.ocr import order, words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ocr_watcher.document import Box, Line, Page, Source
    from ocr_watcher.inputs.base import Encoded, Picture


class Pictures(Protocol):
    """What the pages of a document look like; asked for page by page, and nothing of it is kept."""

    def encoded(self, index: int) -> Encoded | None:
        """The picture of page `index` as the file has it, for a writer that can take it over unchanged.

        None where there is no such picture. Raises `FileError`.
        """

    def picture(self, index: int, max_side_px: int) -> Picture:
        """Page `index` decoded, at most so long. Raises `FileError`."""

    @property
    def are_of_a_pdf(self) -> bool:
        """Whether the document is a PDF, to which text can be added."""

    def own_text(self, index: int) -> tuple[Line, ...]:
        """What text page `index` of a PDF has, seen or not. Raises `FileError`."""

    def with_layer(self, layer: bytes, pages: Sequence[int]) -> Iterator[bytes]:
        """The PDF with text on some pages, see `inputs.base.Layered`."""


class _NoPictures:
    """Writers of text do not ask for pictures."""

    def __getattr__(self, name: str) -> NoReturn:
        raise OutputError(f"{name}: nothing is decoded here")


NO_PICTURES: Final = cast("Pictures", _NoPictures())
"""For formats that show no pictures, where there is no document to show."""


@dataclass(frozen=True)
class About:
    """What a writer is told of the document before its pages come.

    Attributes:
        source: The file that was read.
        producer: This program and its version, for formats that say what made them.
        pages: How many pages there are.
    """

    source: Source
    producer: str
    pages: int


class Writer(Protocol):
    """Generates one output of one document, as bytes in the order of the file.

    The same document gives the same bytes, whenever it is written. `page` may raise what `Pictures` raise.
    """

    def begin(self) -> Iterable[bytes]:
        """What comes before the first page."""

    def page(self, page: Page) -> Iterable[bytes]:
        """One page; they come in their order."""

    def end(self) -> Iterable[bytes]:
        """What comes after the last page."""


def blocks_of(page: Page) -> tuple[order.Block, ...]:
    """The lines of a page as blocks of rows, in the order of the page."""
    return order.as_given(page.lines) if page.read_from == "text_layer" else order.blocks(page.lines)


def words_of(line: Line) -> tuple[Word, ...]:
    """Words of a line; where they were not kept, at places estimated from its text."""
    return line.words or tuple(
        Word(span.text, span.score, order.part_of(line.polygon, span.start, span.end))
        for span in words.spans(line.text, line.score)
    )


def with_blanks(line: Line) -> Iterator[tuple[Word, bool]]:
    """Words of a line, and whether its text has a blank after each."""
    found = words_of(line)
    at = 0
    for number, word in enumerate(found):
        at = max(at, line.text.find(word.text, at)) + len(word.text)
        yield word, number + 1 < len(found) and line.text[at : at + 1].isspace()


@dataclass(frozen=True)
class PixelBox:
    """An upright rectangle in whole pixels; `right` and `bottom` are just outside, and both larger."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """How many pixels wide."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """How many pixels high."""
        return self.bottom - self.top


def pixel_box(box: Box, page: Page) -> PixelBox:
    """A box around `box`, on the page and of a pixel at least."""
    left = min(max(0, math.floor(box[0])), max(0, page.width_px - 1))
    top = min(max(0, math.floor(box[1])), max(0, page.height_px - 1))
    right = max(left + 1, min(math.ceil(box[2]), page.width_px))
    bottom = max(top + 1, min(math.ceil(box[3]), page.height_px))
    return PixelBox(left, top, right, bottom)


def around(boxes: Iterable[PixelBox]) -> PixelBox:
    """The smallest box that holds all of these, of which there is one at least."""
    lefts, tops, rights, bottoms = zip(*((b.left, b.top, b.right, b.bottom) for b in boxes), strict=True)
    return PixelBox(min(lefts), min(tops), max(rights), max(bottoms))
