"""JPEG, decoded at reduced scale where that is enough; of the several pictures in a phone's MPO the first."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, NamedTuple

from ocr_watcher.errors import UnreadableError
from ocr_watcher.inputs import directories
from ocr_watcher.inputs.base import Encoded
from ocr_watcher.inputs.directories import MAX_FRACTIONS, MAX_NUMBERS
from ocr_watcher.inputs.raster import Cost, Layout, RasterFamily, begins_with, stored

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL.ImageFile import ImageFile

    from ocr_watcher.inputs.base import DecodeLimits

# A progressive JPEG has about ten scans; 3,000 on 64 megapixels fit into 300 kB and take minutes.
MAX_SCANS = 100
# Ten megabytes of metadata are 160 segments.
MAX_SEGMENTS = 1000

# Bytes between the segments in front of the first scan. Writers leave none, or a few to align; Pillow reads
# them one by one, nine million in 3 s.
MAX_FILL_BYTES = 1 << 20

# A marker, not counting those without a length of their own: restarts, and what is no marker at all.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)
_START_OF_SCAN, _END_OF_IMAGE = b"\xda", b"\xd9"
_APP0, _APP1, _APP14 = b"\xe0", b"\xe1", b"\xee"
_BASELINE_AND_PROGRESSIVE = frozenset({b"\xc0", b"\xc1", b"\xc2"})
_EXIF = b"Exif\0\0"

# Beside the pixels that come out: decoding 100 megapixels at an eighth takes 0.35 bytes for each of them.
_READ_BYTES = 0.35


# Densities beyond these are what cameras and editors write where they know nothing.
_LEAST_DPI, _MOST_DPI = 90.0, 2400.0


class _Segment(NamedTuple):
    fill_bytes: int  # in front of it; in front of all but the first scan, that may be pixels
    marker: bytes
    at: int  # of its content
    end: int


def _segments(data: bytes) -> Iterator[_Segment]:
    """Walk a JPEG's segments as libjpeg does, to the end of its first picture."""
    at = 2
    while (found := _MARKER.search(data, at)) is not None and found[1] != _END_OF_IMAGE:
        fill_bytes = found.start() - at
        at = found.end() + max(2, int.from_bytes(data[found.end() : found.end() + 2], "big"))
        yield _Segment(fill_bytes, found[1], found.end() + 2, at)


def _inspect(data: bytes, _limits: DecodeLimits) -> Layout:
    """Refuse a JPEG whose structure would take hours.

    Every scan goes over every pixel, and may have a few bytes only; EXIF in many segments is put together
    by Pillow one by one, each time copying what is there.
    """
    scans, fill_bytes, exif = 0, 0, []
    for count, (fill, marker, at, end) in enumerate(_segments(data), 1):
        fill_bytes += fill if scans == 0 else 0
        scans += marker == _START_OF_SCAN
        if fill_bytes > MAX_FILL_BYTES:
            raise UnreadableError(f"the JPEG has more than {MAX_FILL_BYTES} bytes between its segments")
        if scans > MAX_SCANS or count > MAX_SEGMENTS:
            raise UnreadableError(
                f"the JPEG has more than {MAX_SCANS} scans or {MAX_SEGMENTS} segments",
                hint="Save it again as a baseline JPEG.",
            )
        if marker == _APP1 and data.startswith(_EXIF, at):
            exif.append(data[at + len(_EXIF) : end])
    if len(exif) > 1:  # a single segment holds no more than 64 KiB
        _check_exif(b"".join(exif))
    return Layout()


def _check_exif(exif: bytes) -> None:
    """Refuse EXIF that Pillow, which looks for the resolution in it, would make a million objects of."""
    layout = directories.Layout.of(exif)
    directory = directories.Directory.read(exif, layout.number(exif, 4, 4), layout)
    if directory.numbers > MAX_NUMBERS or directory.fractions > MAX_FRACTIONS:
        raise UnreadableError(
            f"the JPEG's EXIF has more than {MAX_NUMBERS} numbers or {MAX_FRACTIONS} fractions",
            hint="Save it again without its metadata.",
        )


def _cost(image: ImageFile, data: bytes, size: tuple[int, int]) -> Cost:
    """As measured, see docs/memory.md: at an eighth 0.35, progressive 3.1 (4:2:0) to 6.1 (4:4:4)."""
    components = len(image.getbands())
    # In several scans: all coefficients, two bytes each, before the first pixel.
    coefficients = 2 * components if _in_several_scans(image, data, components) else 0
    if image.size == size:
        return Cost(coefficients + stored(image, data, size).bytes_per_pixel)
    share = image.width * image.height / (size[0] * size[1])
    return Cost(coefficients + _READ_BYTES + share * stored(image, data, size).bytes_per_pixel)


def _in_several_scans(image: ImageFile, data: bytes, components: int) -> bool:
    """Tell whether it is progressive, or its first scan does not have all its components."""
    if image.info.get("progressive"):
        return True
    scans = (segment for segment in _segments(data) if segment.marker == _START_OF_SCAN)
    first = next(scans, None)
    return first is not None and data[first.at : first.at + 1] != bytes([components])


def _encoded(data: bytes) -> Encoded | None:
    """Find what a PDF says of a JPEG; None for those that its readers may not decode as Pillow does."""
    dpi, adobe = None, False
    for _, marker, at, end in _segments(data):
        if marker == _APP0 and data.startswith(b"JFIF\0", at):
            unit, density = data[at + 7], int.from_bytes(data[at + 8 : at + 10], "big")
            dpi = {1: 1.0, 2: 2.54}.get(unit, 0.0) * density
        elif marker == _APP14:
            adobe = adobe or data.startswith(b"Adobe", at)
        elif marker in _BASELINE_AND_PROGRESSIVE:
            bits, height, width, components = struct.unpack_from(">BHHB", data, at)
            names = data[at + 6 : end : 3]
            # Without Adobe's mark readers of PDF take these three for brightness and colour differences.
            is_rgb = names[:3] == b"RGB" and not adobe
            if bits != 8 or components not in {1, 3, 4} or is_rgb:
                return None
            return Encoded(
                "jpeg",
                data,
                width,
                height,
                components,
                inverted=adobe and components == 4,
                dpi=dpi if dpi and _LEAST_DPI <= dpi <= _MOST_DPI else None,
            )
    return None


JPEG = RasterFamily(
    "JPEG",
    sniff=begins_with(b"\xff\xd8\xff"),
    has_end=lambda data: b"\xff\xd9" in data[-1024:],  # phones append a little of their own
    inspect=_inspect,
    cost=_cost,
    encoded=_encoded,
)
