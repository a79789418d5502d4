"""JPEG 2000, decoded at a reduced level where that is enough."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, BinaryIO

from ocr_watcher.inputs.helped import HelpedFamily, halved
from ocr_watcher.inputs.helper_process import Kind
from ocr_watcher.inputs.raster import begins_with

if TYPE_CHECKING:
    from ocr_watcher.inputs.helped import Header


_END, _END_WITHIN_BYTES = b"\xff\xd9", 1 << 16

_begins = begins_with(b"\x00\x00\x00\x0cjP  \x0d\x0a\x87\x0a", b"\xff\x4f\xff\x51")


def _sniff(head: bytes) -> bool:
    return bool(head.strip(b"\0")) and _begins(head)


def _has_end(file: BinaryIO) -> bool:
    """Tell whether the codestream has its end; metadata may stand behind it."""
    try:
        size_bytes = file.seek(0, os.SEEK_END)
        file.seek(max(0, size_bytes - _END_WITHIN_BYTES))
        return _END in file.read(_END_WITHIN_BYTES)
    except OSError:
        return True


def _bytes_per_pixel(header: Header, target: tuple[int, int]) -> float:
    """As measured, see docs/memory.md: 6.5 to 7 a band, 11 where one band has 16 bits; halved, a quarter."""
    bands = 11.5 if header.bands == 1 else 7.0 * header.bands
    return float(bands / 4 ** halved(header, target) + 0.5)


JPEG2000 = HelpedFamily(
    "JPEG2000",
    Kind("picture", ("PIL",), "pillow"),
    _sniff,
    _has_end,
    _bytes_per_pixel,
)
