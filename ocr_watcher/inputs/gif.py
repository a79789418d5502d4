"""GIF; of an animation the first picture."""

from __future__ import annotations

import struct
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from ocr_watcher.errors import UnreadableError
from ocr_watcher.inputs import pillow
from ocr_watcher.inputs.limits import check_pixels
from ocr_watcher.inputs.raster import Cost, Layout, RasterFamily, begins_with, stored

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL.ImageFile import ImageFile

    from ocr_watcher.inputs.base import DecodeLimits


# Blocks of comments and the like before the first picture. Pillow makes an object of each: three million of
# two bytes take 430 MiB. Ten megabytes in blocks of 255 bytes, as writers cut them, are 40,000.
MAX_BLOCKS = 1_000_000

_EXTENSION, _COMMENT, _APPLICATION, _PICTURE, _END = 0x21, 0xFE, 0xFF, 0x2C, 0x3B


def _blocks(data: bytes) -> Iterator[int]:
    """Walk to the first picture as Pillow does; yields where each block or stray byte before it ends."""
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    while (mark := data[at]) not in (_PICTURE, _END):
        at += 1
        if mark != _EXTENSION:
            yield at
            continue
        kind = data[at]
        is_loop = kind == _APPLICATION and data.startswith(b"NETSCAPE2.0", at + 2)
        first = at + 1
        at = first + 1 + data[first]
        yield at
        if is_loop:  # Pillow reads one more, which may be the end
            at += 1 + data[at]
            yield at
        # Where the first one is the end, Pillow looks for another, but not in a comment.
        length = data[first] if kind == _COMMENT else 1
        while length:
            length = data[at]
            at += 1 + length
            if length:  # the empty one, which ends them, is none
                yield at


def _has_more_blocks(data: bytes) -> bool:
    try:
        return next(islice(_blocks(data), MAX_BLOCKS, None), None) is not None
    except IndexError:  # it ends before its first picture
        return False


def _inspect(data: bytes, limits: DecodeLimits) -> Layout:
    """Opening a GIF may already allocate its first frame, and that may be larger than the screen."""
    if len(data) < 10:
        return Layout()
    width, height = struct.unpack_from("<HH", data, 6)
    # A screen of nothing is no damage: the frame may be larger.
    check_pixels(width or 1, height or 1, limits=limits, what="the file")
    if _has_more_blocks(data):
        raise UnreadableError(
            f"the GIF has more than {MAX_BLOCKS} blocks before its first picture",
            hint="Save it again without its comments.",
        )
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
