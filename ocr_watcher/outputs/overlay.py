"""The first page with boxes around its lines and the order they are read in: to see what was read."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocr_watcher.document import Page
    from ocr_watcher.outputs.base import About, Pictures

_MAX_SIDE_PX: Final = 1600
_QUALITY: Final = 85
_BOX, _ORDER, _NUMBER = (200, 0, 0), (0, 130, 0), (0, 0, 200)


class OverlayWriter:
    """See `base.Writer`."""

    def __init__(self, _about: About, pictures: Pictures) -> None:
        self._pictures = pictures
        self._drawn = False

    def begin(self) -> Iterator[bytes]:
        """Nothing."""
        yield from ()

    def page(self, page: Page) -> Iterator[bytes]:
        """The picture, of the first page that has one."""
        if self._drawn or not page.width_px:
            return
        self._drawn = True
        bgr = self._pictures.picture(page.index, _MAX_SIDE_PX).bgr
        image = Image.fromarray(np.ascontiguousarray(bgr[:, :, ::-1]))
        _draw(image, page)
        made = io.BytesIO()
        image.save(made, "JPEG", quality=_QUALITY)
        yield made.getvalue()

    def end(self) -> Iterator[bytes]:
        """A grey dot where there was no picture, since an empty file is no JPEG."""
        if not self._drawn:
            made = io.BytesIO()
            Image.new("L", (1, 1), 128).save(made, "JPEG")
            yield made.getvalue()


def _draw(image: Image.Image, page: Page) -> None:
    pen = ImageDraw.Draw(image)
    across, down = image.width / page.width_px, image.height / page.height_px
    font = ImageFont.load_default(size=max(10, max(image.size) // 100))
    before: tuple[float, float] | None = None
    for number, line in enumerate(page.lines, 1):
        polygon = [(x * across, y * down) for x, y in line.polygon]
        pen.polygon(polygon, outline=_BOX)
        left, top, right, bottom = line.box
        middle = ((left + right) / 2 * across, (top + bottom) / 2 * down)
        if before is not None:
            pen.line([before, middle], fill=_ORDER)
        before = middle
        pen.text(polygon[0], str(number), fill=_NUMBER, font=font, anchor="ld")
