"""hOCR 1.2: a web page of the text, whose elements say where on the page they stand.

http://kba.cloud/hocr-spec/1.2/
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocr_watcher.names import printable
from ocr_watcher.ocr import order
from ocr_watcher.outputs import xml
from ocr_watcher.outputs.base import around, blocks_of, pixel_box, with_blanks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocr_watcher.document import Line, Page
    from ocr_watcher.outputs.base import About, Pictures, PixelBox

_HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN" \
"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">
<html xmlns="http://www.w3.org/1999/xhtml">
 <head>
  <title>{title}</title>
  <meta http-equiv="Content-Type" content="text/html;charset=utf-8"/>
  <meta name="ocr-system" content={system}/>
  <meta name="ocr-number-of-pages" content="{pages}"/>
  <meta name="ocr-capabilities" content="ocr_page ocr_carea ocr_par ocr_line ocrx_word"/>
 </head>
 <body>
"""


class HocrWriter:
    """See `base.Writer`. A block is an `ocr_carea` with one paragraph; a line is a piece of a row."""

    def __init__(self, about: About, _pictures: Pictures) -> None:
        self._about = about
        self._image = printable(about.source.name)

    def begin(self) -> Iterator[bytes]:
        """The head."""
        yield _HEAD.format(
            title=xml.text(self._image),
            system=xml.attribute(self._about.producer),
            pages=self._about.pages,
        ).encode()

    def page(self, page: Page) -> Iterator[bytes]:
        """One `ocr_page`."""
        number = page.index + 1
        # A quote would end the name, and a semicolon the property.
        image = self._image.replace('"', "'").replace(";", ",")
        title = f'image "{image}"; bbox 0 0 {page.width_px} {page.height_px}; ppageno {page.index}'
        yield f'  <div class="ocr_page" id="page_{number}" title={xml.attribute(title)}>\n'.encode()
        for block_number, block in enumerate(blocks_of(page), 1):
            yield _block(f"{number}_{block_number}", order.lines_of([block]), page).encode()
        yield b"  </div>\n"

    def end(self) -> Iterator[bytes]:
        """The end of the body."""
        yield b" </body>\n</html>\n"


def _block(number: str, lines: tuple[Line, ...], page: Page) -> str:
    boxes = [pixel_box(line.box, page) for line in lines]
    title = _bbox(around(boxes))
    inside = "".join(
        _line(f"{number}_{line_number}", line, box, page)
        for line_number, (line, box) in enumerate(zip(lines, boxes, strict=True), 1)
    )
    return (
        f'   <div class="ocr_carea" id="block_{number}" title="{title}">\n'
        f'    <p class="ocr_par" id="par_{number}" title="{title}">\n{inside}    </p>\n   </div>\n'
    )


def _line(number: str, line: Line, box: PixelBox, page: Page) -> str:
    title = _bbox(box) + _baseline(line, box)
    inside = "".join(
        f'<span class="ocrx_word" id="word_{number}_{word_number}" '
        f'title="{_bbox(pixel_box(word.box, page))}; x_wconf {round(100 * word.score)}">'
        f"{xml.text(word.text)}</span>{' ' if blank_follows else ''}"
        for word_number, (word, blank_follows) in enumerate(with_blanks(line), 1)
    )
    return f'     <span class="ocr_line" id="line_{number}" title="{title}">{inside}</span>\n'


def _bbox(box: PixelBox) -> str:
    return f"bbox {box.left} {box.top} {box.right} {box.bottom}"


def _baseline(line: Line, box: PixelBox) -> str:
    """The lower edge of the text: its slope, and its height over the lower left corner of the box."""
    way = order.direction(line.polygon)
    if way is not order.Direction.RIGHT:
        return f"; textangle {way.counterclockwise_deg}"
    _, _, (right, bottom_right), (left, bottom_left) = order.corners(line.polygon)
    slope = (bottom_right - bottom_left) / (right - left) if right > left else 0.0
    offset = min(0, round(bottom_left - slope * (left - box.left) - box.bottom))
    return f"; baseline {slope:.4f} {offset}"
