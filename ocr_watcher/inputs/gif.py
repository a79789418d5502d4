"""GIF; of an animation the first picture."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING

from ocr_watcher.inputs import pillow
from ocr_watcher.inputs.limits import check_pixels
from ocr_watcher.inputs.raster import Cost, Layout, RasterFamily, begins_with, stored

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

    from ocr_watcher.inputs.base import DecodeLimits


def _inspect(data: bytes, limits: DecodeLimits) -> Layout:
    """Opening a GIF may already allocate its first frame, and that may be larger than the screen."""
    if len(data) < 10:
        return Layout()
    width, height = struct.unpack_from("<HH", data, 6)
    # A screen of nothing is no damage: the frame may be larger.
    check_pixels(width or 1, height or 1, limits=limits, what="the file")
    return Layout(max_image_pixels=-(-limits.max_pixels // 2))


def _cost(image: ImageFile, data: bytes, size: tuple[int, int]) -> Cost:
    """As measured, see docs/memory.md: 1.4."""
    cost = stored(image, data, size)
    return replace(cost, bytes_per_pixel=cost.bytes_per_pixel + pillow.keeps_background(image))


GIF = RasterFamily(
    "GIF",
    sniff=begins_with(b"GIF87a", b"GIF89a"),
    has_end=lambda data: data.rstrip(b"\0").endswith(b";"),
    inspect=_inspect,
    cost=_cost,
)
