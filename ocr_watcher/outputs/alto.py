"""ALTO 4.4: the text with its layout, as libraries and archives keep it.

https://www.loc.gov/standards/alto/
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocr_watcher.names import printable
from ocr_watcher.ocr import order
from ocr_watcher.outputs import xml
from ocr_watcher.outputs.base import around, blocks_of, pixel_box, with_blanks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocr_watcher.document import Line, Page, Word
    from ocr_watcher.outputs.base import About, Pictures, PixelBox

_HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<alto xmlns="http://www.loc.gov/standards/alto/ns-v4#" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" \
xsi:schemaLocation="http://www.loc.gov/standards/alto/ns-v4# \
http://www.loc.gov/standards/alto/v4/alto-4-4.xsd" SCHEMAVERSION="4.4">
 <Description>
  <MeasurementUnit>pixel</MeasurementUnit>
  <sourceImageInformation>
   <fileName>{name}</fileName>
{identity}  </sourceImageInformation>
  <Processing ID="ocr">
   <processingCategory>contentGeneration</processingCategory>
   <processingStepDescription>optical character recognition</processingStepDescription>
   <processingSoftware>
    <softwareName>{software}</softwareName>
    <softwareVersion>{version}</softwareVersion>
   </processingSoftware>
  </Processing>
 </Description>
 <Layout>
"""


class AltoWriter:
    """See `base.Writer`. A block is a `TextBlock`, a piece of a row a `TextLine`."""

    def __init__(self, about: About, _pictures: Pictures) -> None:
        self._about = about

    def begin(self) -> Iterator[bytes]:
        """The description."""
        source = self._about.source
        software, _, version = self._about.producer.partition(" ")
        identity = f"   <fileIdentifier>sha256:{source.sha256}</fileIdentifier>\n" if source.sha256 else ""
        yield _HEAD.format(
            name=xml.text(printable(source.name)),
            identity=identity,
            software=xml.text(software),
            version=xml.text(version),
        ).encode()

    def page(self, page: Page) -> Iterator[bytes]:
        """One `Page`."""
        number = page.index + 1
        size = f'WIDTH="{page.width_px}" HEIGHT="{page.height_px}"'
        yield f'  <Page ID="page_{number}" PHYSICAL_IMG_NR="{number}" {size}>\n'.encode()
        yield f'   <PrintSpace HPOS="0" VPOS="0" {size}>\n'.encode()
        for block_number, block in enumerate(blocks_of(page), 1):
            yield _block(f"{number}_{block_number}", order.lines_of([block]), page).encode()
        yield b"   </PrintSpace>\n  </Page>\n"

    def end(self) -> Iterator[bytes]:
        """The end of the layout."""
        yield b" </Layout>\n</alto>\n"


def _block(number: str, lines: tuple[Line, ...], page: Page) -> str:
    boxes = [pixel_box(line.box, page) for line in lines]
    inside = "".join(
        _line(f"{number}_{line_number}", line, box, page)
        for line_number, (line, box) in enumerate(zip(lines, boxes, strict=True), 1)
    )
    return f'    <TextBlock ID="block_{number}" {_place(around(boxes))}>\n{inside}    </TextBlock>\n'


def _line(number: str, line: Line, box: PixelBox, page: Page) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in line.polygon)
    return (
        f'     <TextLine ID="line_{number}" {_place(box)}>\n'
        f'      <Shape><Polygon POINTS="{points}"/></Shape>\n'
        f"{_strings(number, line, page)}     </TextLine>\n"
    )


def _strings(number: str, line: Line, page: Page) -> str:
    """The words, and a space between two where the text has a blank there."""
    return "".join(
        _string(f"{number}_{word_number}", word, page) + ("      <SP/>\n" if blank_follows else "")
        for word_number, (word, blank_follows) in enumerate(with_blanks(line), 1)
    )


def _string(number: str, word: Word, page: Page) -> str:
    return (
        f'      <String ID="word_{number}" {_place(pixel_box(word.box, page))} WC="{word.score:.4f}" '
        f"CONTENT={xml.attribute(word.text)}/>\n"
    )


def _place(box: PixelBox) -> str:
    return f'HPOS="{box.left}" VPOS="{box.top}" WIDTH="{box.width}" HEIGHT="{box.height}"'
