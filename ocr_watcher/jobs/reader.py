"""Reads a document: decodes a page, has the engine read it, and reads it smaller where memory runs out.

Knows bytes and limits; no path, no journal, no folder. Any face of the program can use it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO

from ocr_watcher.document import Page
from ocr_watcher.errors import EngineLostError, FileError, OutOfMemoryError
from ocr_watcher.inputs import table
from ocr_watcher.ocr import order, orientation, result
from ocr_watcher.outputs.preview import RENDER_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from ocr_watcher.document import Line, Polygon
    from ocr_watcher.inputs.base import DecodeLimits, OpenDocument, PageText, Picture
    from ocr_watcher.ocr.engine import Engine
    from ocr_watcher.outputs.preview import Previews

# A page that runs out of memory is read again at half the side, then at a quarter: a sixteenth of the
# pixels. Text that survives less is not worth the time.
_SHRINKS = (1, 2, 4)


@dataclass(frozen=True)
class PageRead:
    """One page, and how long it took to decode and to read (s)."""

    page: Page
    load_s: float = 0.0
    ocr_s: float = 0.0


class Reader:
    """Turns files into pages of text. Belongs to one thread, as its engine does."""

    def __init__(
        self,
        engine: Engine,
        *,
        min_score: float,
        words: bool = False,
        give_back: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`give_back` returns freed memory to the system; `min_score` is `ocr.min_score`.

        With `words`, lines have their words.
        """
        self._engine = engine
        self._min_score = min_score
        self._words = words
        self._give_back = give_back
        self._clock = clock

    def read(self, file: BinaryIO, limits: DecodeLimits) -> Iterator[Page]:
        """Every page of a file, one after the other. Raises `FileError`."""
        opened = self.open(file, limits)
        try:
            for index in range(opened.pages):
                yield self.page(opened, index, limits).page
        finally:
            opened.close()

    def open(self, file: BinaryIO, limits: DecodeLimits) -> OpenDocument:
        """Open a document; the caller closes it. Raises `FileError`."""
        return table.open_document(file, limits)

    def max_file_bytes(self, file: BinaryIO, limits: DecodeLimits) -> int:
        """How many bytes a file may have, by its content."""
        return table.max_file_bytes(file, limits)

    def page(
        self,
        opened: OpenDocument,
        index: int,
        limits: DecodeLimits,
        *,
        shrunk: Callable[[int, str], None] = lambda _side_px, _why: None,
        previews: Previews | None = None,
    ) -> PageRead:
        """Read page `index`; only this page is made smaller where memory runs out.

        `shrunk` is told each size (longer side, px) that was too large, and what ran out. `previews` get what
        the page looks like.

        Raises:
            EngineLostError: the engine does not work any more after it ran out of memory.
            FileError: the page cannot be read.
        """
        last = ""
        for shrink in _SHRINKS:
            smaller = replace(
                limits,
                max_side_px=max(1, limits.max_side_px // shrink),
                max_page_pixels=limits.max_page_pixels / shrink**2,
            )
            try:
                return self._page(opened, index, smaller, limits.max_side_px, previews)
            except (OutOfMemoryError, MemoryError) as error:
                last = str(error) or "an allocation failed"
            # Outside the handler: the error's traceback would keep the pixels alive.
            self._give_back()
            shrunk(smaller.max_side_px, last)
            self._check_engine()
        raise OutOfMemoryError(f"{last} (also at a quarter of image.max_side_px)")

    def _page(
        self,
        opened: OpenDocument,
        index: int,
        limits: DecodeLimits,
        full_side_px: int,
        previews: Previews | None,
    ) -> PageRead:
        began = self._clock()
        text = opened.page_text(index, limits)
        if text is not None:
            if previews is not None and previews.wants_rendered(index):
                _render(opened, index, limits, previews)
            return PageRead(_page_of(text, index), self._clock() - began)
        picture = opened.picture(index, limits)
        loaded = self._clock()
        turn_deg = self._turn_deg(picture.bgr)
        raw = self._engine.read(orientation.turn(picture.bgr, turn_deg))
        arranged = order.blocks(
            _on_source(line, picture, turn_deg)
            for line in result.normalise(raw, words=self._words)
            if line.score >= self._min_score
        )
        if previews is not None:
            previews.add(index, picture.bgr)
        wanted_px = min(full_side_px, max(picture.width_px, picture.height_px))
        page = Page(
            index,
            picture.width_px,
            picture.height_px,
            picture.scale,
            order.lines_of(arranged),
            order.text_of(arranged),
            limited=max(picture.bgr.shape[:2]) < wanted_px,
            turned_deg=turn_deg,
            dpi=picture.dpi,
        )
        return PageRead(page, loaded - began, self._clock() - loaded)

    def _turn_deg(self, bgr: NDArray[np.uint8]) -> int:
        """How the page is to be turned, by a look at it and, where that says so, by reading."""
        proposed_deg = self._engine.turn_deg(bgr)
        return orientation.decide(bgr, proposed_deg, self._engine.read) if proposed_deg else 0

    def _check_engine(self) -> None:
        """After an allocation failed inside it, see that the engine still works."""
        try:
            self._engine.warm_up()
        except Exception as error:
            raise EngineLostError(f"the engine does not work after running out of memory: {error}") from error


def _render(opened: OpenDocument, index: int, limits: DecodeLimits, previews: Previews) -> None:
    """Decode a page for its preview alone. Where that cannot be, it has its text all the same."""
    quickly = replace(
        limits,
        decode_timeout_s=min(RENDER_S, limits.decode_timeout_s),
        pdf=replace(limits.pdf, page_timeout_s=min(RENDER_S, limits.pdf.page_timeout_s)),
    )
    try:
        previews.add(index, opened.picture(index, quickly).bgr)
    except (FileError, MemoryError):
        previews.render_no_more()


def _on_source(line: Line, picture: Picture, turn_deg: int) -> Line:
    """The same line in pixels of the source page; it was read on the picture turned by `turn_deg`."""
    height, width = picture.bgr.shape[:2]

    def there(polygon: Polygon) -> Polygon:
        return picture.to_source(orientation.turn_back(polygon, turn_deg, width, height))

    words = tuple(replace(word, polygon=there(word.polygon)) for word in line.words)
    return replace(line, polygon=there(line.polygon), words=words)


def _page_of(text: PageText, index: int) -> Page:
    """A page that nobody had to look at."""
    return Page(
        index,
        text.width_px,
        text.height_px,
        1.0,
        text.lines,
        order.text_of(order.as_given(text.lines)),
        read_from="text_layer",
        turned_deg=text.turned_deg,
        dpi=text.dpi,
    )
