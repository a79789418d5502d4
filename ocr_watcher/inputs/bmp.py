"""BMP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocr_watcher.inputs import pillow
from ocr_watcher.inputs.raster import Cost, RasterFamily, begins_with, stored

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile


def _cost(image: ImageFile, data: bytes, size: tuple[int, int]) -> Cost:
    """As measured, see docs/memory.md: run-length 3.0."""
    cost = stored(image, data, size)
    if "bmp_rle" in pillow.codecs_of(image):  # unpacked in Python, and copied
        return Cost(3 * cost.bytes_per_pixel)
    return cost


def _has_end(data: bytes) -> bool:
    return max(26, int.from_bytes(data[2:6], "little")) <= len(data)


BMP = RasterFamily("BMP", sniff=begins_with(b"BM"), has_end=_has_end, cost=_cost)
