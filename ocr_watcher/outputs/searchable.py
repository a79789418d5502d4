"""A searchable PDF of any document: one of its pictures; where it is a PDF itself, that with text added."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocr_watcher.outputs.pdf import PdfWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocr_watcher.document import Page
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
        if page.read_from == "pixels" and page.lines:
            self._add(self._text.page(page))
            self._pages.append(page.index)
        yield from ()

    def end(self) -> Iterator[bytes]:
        """The whole document."""
        self._add(self._text.end())
        yield from self._pictures.with_layer(bytes(self._layer), self._pages)

    def _add(self, pieces: Iterator[bytes]) -> None:
        for piece in pieces:
            self._layer += piece
