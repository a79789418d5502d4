"""The table that Tesseract writes for `tsv`: one row for each page, block, paragraph, line and word."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocr_watcher.ocr import order
from ocr_watcher.outputs.base import PixelBox, around, blocks_of, pixel_box, words_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocr_watcher.document import Page, Word
    from ocr_watcher.outputs.base import About, Pictures

COLUMNS = (
    *("level", "page_num", "block_num", "par_num", "line_num", "word_num"),
    *("left", "top", "width", "height", "conf", "text"),
)
_PAGE, _BLOCK, _PARAGRAPH, _LINE, _WORD = range(1, 6)


class TsvWriter:
    """See `base.Writer`. A block is one paragraph, and a line is a piece of a row."""

    def __init__(self, _about: About, _pictures: Pictures) -> None:
        pass

    def begin(self) -> Iterator[bytes]:
        """The names of the columns."""
        yield ("\t".join(COLUMNS) + "\n").encode()

    def page(self, page: Page) -> Iterator[bytes]:
        """All rows of a page."""
        number = page.index + 1
        yield _row(_PAGE, (number, 0, 0, 0, 0), PixelBox(0, 0, page.width_px, page.height_px))
        for block_number, block in enumerate(blocks_of(page), 1):
            lines = order.lines_of([block])
            boxes = [pixel_box(line.box, page) for line in lines]
            yield _row(_BLOCK, (number, block_number, 0, 0, 0), around(boxes))
            yield _row(_PARAGRAPH, (number, block_number, 1, 0, 0), around(boxes))
            for line_number, (line, box) in enumerate(zip(lines, boxes, strict=True), 1):
                yield _row(_LINE, (number, block_number, 1, line_number, 0), box)
                for word_number, word in enumerate(words_of(line), 1):
                    place = (number, block_number, 1, line_number, word_number)
                    yield _row(_WORD, place, pixel_box(word.box, page), word)

    def end(self) -> Iterator[bytes]:
        """Nothing."""
        yield from ()


def _row(level: int, place: tuple[int, ...], box: PixelBox, word: Word | None = None) -> bytes:
    """One row; what is no word has no confidence, which is -1, and no text."""
    confidence = -1 if word is None else round(100 * word.score, 6)
    numbers = (level, *place, box.left, box.top, box.width, box.height, f"{confidence:g}")
    return ("\t".join(map(str, numbers)) + f"\t{word.text if word else ''}\n").encode()
