"""PNG; of an animation the first picture."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from ocr_watcher.errors import UnreadableError
from ocr_watcher.inputs.base import Encoded
from ocr_watcher.inputs.raster import Layout, RasterFamily, begins_with

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocr_watcher.inputs.base import DecodeLimits

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXELS = frozenset({b"IDAT", b"fdAT"})
_PACKED = frozenset({b"iCCP", b"zTXt", b"iTXt"})

# Colour type -> values a pixel, of those without transparency.
_INDEXED = 3
_COMPONENTS = {0: 1, 2: 3, _INDEXED: 1}
# Transparency, an orientation, several pictures.
_MORE_THAN_PIXELS = frozenset({b"tRNS", b"eXIf", b"acTL"})
_TEXT = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_ORIENTED = (b"Raw profile type exif", b"Raw profile type APP1", b"XML:com.adobe.xmp")

# Pillow unpacks up to 1 MiB of each packed chunk: a thousand take 3 s, and ten megabytes have room for ten
# thousand. As many are libpng's own limit where it is built for safety (PNG_USER_CHUNK_CACHE_MAX).
MAX_PACKED_CHUNKS = 128
# Pillow keeps every other chunk as Python objects, 300 bytes each; an image has a few dozen.
MAX_CHUNKS = 100_000


def _inspect(data: bytes, _limits: DecodeLimits) -> Layout:
    """Count the chunks that are not pixels, up to the end of the image."""
    chunks, packed = 0, 0
    for name, _, _ in _chunks(data):
        chunks += name not in _PIXELS
        packed += name in _PACKED
    if chunks > MAX_CHUNKS or packed > MAX_PACKED_CHUNKS:
        raise UnreadableError(
            f"the PNG has more than {MAX_CHUNKS} chunks, or {MAX_PACKED_CHUNKS} of compressed text",
            hint="Save it again without its metadata.",
        )
    return Layout()


def _encoded(data: bytes) -> Encoded | None:
    """Take the pixels of a PNG as they are packed; None where they need more than to be unpacked."""
    width, height, bits, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    components = _COMPONENTS.get(colour)
    if components is None or interlaced:
        return None
    palette, dpi, pixels = None, None, []
    for name, at, length in _chunks(data):
        content = memoryview(data)[at : at + length]
        if name in _MORE_THAN_PIXELS or (name in _TEXT and bytes(content).startswith(_ORIENTED)):
            return None
        if name == b"IDAT":
            pixels.append(content)
        elif name == b"PLTE":
            palette = bytes(content)
        elif name == b"pHYs" and length == 9 and content[8] == 1:
            dpi = int.from_bytes(content[:4], "big") * 0.0254
    if colour == _INDEXED and not palette:
        return None
    return Encoded(
        "png",
        b"".join(pixels),
        width,
        height,
        components,
        bits,
        palette=palette if colour == _INDEXED else None,
        dpi=dpi,
    )


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and length of the content of every chunk, up to the end of the image."""
    at = len(_SIGNATURE)
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        if name == b"IEND":
            return
        yield name, at + 8, length
        at += length + 12


PNG = RasterFamily(
    "PNG",
    sniff=begins_with(_SIGNATURE),
    has_end=lambda data: b"IEND" in data,
    inspect=_inspect,
    encoded=_encoded,
)
