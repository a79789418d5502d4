"""A searchable PDF of any document: one of its pictures; where it is a PDF itself, that with text added."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ocr_watcher.errors import FileError
from ocr_watcher.outputs.base import words_of
from ocr_watcher.outputs.pdf import PdfWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocr_watcher.document import Box, Line, Page
    from ocr_watcher.outputs.base import About, Pictures, Writer


def searchable(about: About, pictures: Pictures) -> Writer:
    """Make the writer for a document."""
    return LayerWriter(about, pictures) if pictures.are_of_a_pdf else PdfWriter(about, pictures)


class LayerWriter:
    """See `base.Writer`. Pages whose text is in the file stay as they are, as does everything else in it.

    Until the end only text is kept, compressed: 1 to 4 kB a page.
    """

    def __init__(self, about: About, pictures: Pictures) -> None:
        self._pictures = pictures
        self._text = PdfWriter(about, None)
        self._layer = bytearray()
        self._pages: list[int] = []

    def begin(self) -> Iterator[bytes]:
        """Nothing yet."""
        self._add(self._text.begin())
        yield from ()

    def page(self, page: Page) -> Iterator[bytes]:
        """Nothing yet."""
        lines = self._missing(page) if page.read_from == "pixels" and page.lines else ()
        if lines:
            self._add(self._text.page(replace(page, lines=lines)))
            self._pages.append(page.index)
        yield from ()

    def end(self) -> Iterator[bytes]:
        """The whole document."""
        self._add(self._text.end())
        yield from self._pictures.with_layer(bytes(self._layer), self._pages)

    def _add(self, pieces: Iterator[bytes]) -> None:
        for piece in pieces:
            self._layer += piece

    def _missing(self, page: Page) -> tuple[Line, ...]:
        """The lines that the page does not have in its own text: nobody wants to copy them twice."""
        try:
            own = self._pictures.own_text(page.index)
        except FileError as error:
            if error.transient:
                raise
            return page.lines
        places: dict[str, list[Box]] = {}
        for line in own:
            for word in words_of(line):
                places.setdefault(_plain(word.text), []).append(word.box)
        return tuple(line for line in page.lines if not _is_among(line, places))


def _plain(text: str) -> str:
    """What of a word is compared: neither punctuation, which is easily misread, nor capitals."""
    return "".join(filter(str.isalnum, text.casefold()))


def _is_among(line: Line, places: dict[str, list[Box]]) -> bool:
    """Whether every word of a line is among words of these places, where it stands."""
    words = [(plain, word.box) for word in words_of(line) if (plain := _plain(word.text))]
    return bool(words) and all(
        any(_holds_middle(place, box) for place in places.get(plain, ())) for plain, box in words
    )


def _holds_middle(place: Box, box: Box) -> bool:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return place[0] <= x <= place[2] and place[1] <= y <= place[3]
