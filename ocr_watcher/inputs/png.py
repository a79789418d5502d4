"""PNG; of an animation the first picture."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from ocr_watcher.errors import UnreadableError
from ocr_watcher.inputs.raster import Layout, RasterFamily, begins_with

if TYPE_CHECKING:
    from ocr_watcher.inputs.base import DecodeLimits

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXELS = frozenset({b"IDAT", b"fdAT"})
_PACKED = frozenset({b"iCCP", b"zTXt", b"iTXt"})

# Pillow unpacks up to 1 MiB of each packed chunk: a thousand take 3 s, and ten megabytes have room for ten
# thousand. As many are libpng's own limit where it is built for safety (PNG_USER_CHUNK_CACHE_MAX).
MAX_PACKED_CHUNKS = 128
# Pillow keeps every other chunk as Python objects, 300 bytes each; an image has a few dozen.
MAX_CHUNKS = 100_000


def _inspect(data: bytes, _limits: DecodeLimits) -> Layout:
    """Count the chunks that are not pixels, up to the end of the image."""
    at, chunks, packed = len(_SIGNATURE), 0, 0
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        if name == b"IEND":
            break
        chunks += name not in _PIXELS
        packed += name in _PACKED
        at += length + 12
    if chunks > MAX_CHUNKS or packed > MAX_PACKED_CHUNKS:
        raise UnreadableError(
            f"the PNG has more than {MAX_CHUNKS} chunks, or {MAX_PACKED_CHUNKS} of compressed text",
            hint="Save it again without its metadata.",
        )
    return Layout()


PNG = RasterFamily(
    "PNG",
    sniff=begins_with(_SIGNATURE),
    has_end=lambda data: b"IEND" in data,
    inspect=_inspect,
)
