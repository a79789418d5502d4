"""TIFF and BigTIFF: every frame is a page, but for reduced copies of one before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import ExifTags
from PIL.TiffImagePlugin import TiffImageFile

from ocr_watcher.errors import UnreadableError
from ocr_watcher.inputs import directories, pillow
from ocr_watcher.inputs.directories import MAX_FRACTIONS, MAX_NUMBERS, Directory, offsets_of
from ocr_watcher.inputs.raster import Block, Cost, Decoded, Layout, RasterFamily, begins_with, load, stored

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from PIL.ImageFile import ImageFile

    from ocr_watcher.inputs.base import DecodeLimits

# A TIFF of ten megabytes can hold a hundred thousand directories that share one picture.
MAX_PAGES = 10_000
# In all directories together: a hundred for each of so many pages. Pillow takes 6 s to read them.
MAX_TAGS = 1 << 20
# A strip for every row and plane of a page of 65,536 rows in four planes; or tiles of 16 x 16, the smallest
# that TIFF allows, over 67 megapixels. Pillow makes 330 bytes of Python objects of each.
MAX_STRIPS = 1 << 18

# A page may have so many times the strips that cover it, and so many more. Pillow decodes them all, one over
# the other: 200,000 that each cover all of a bilevel page of 79 megapixels but a row take 45 minutes.
_STRIP_FACTOR, _STRIP_EXCESS = 2, 8

_TAG = ExifTags.Base
_TILE_OFFSETS = int(_TAG.TileOffsets)
_STRIP_OFFSETS = int(_TAG.StripOffsets)
_YCBCR = 6  # as PhotometricInterpretation
_WHITE_IS_ZERO = 0  # as PhotometricInterpretation
_PLANES_APART = 2  # as PlanarConfiguration


# -- what Pillow would make of the directories ---------------------------------------------------


def _inspect(data: bytes, _limits: DecodeLimits) -> Layout:
    """Find the pages, and refuse directories that Pillow would make gigabytes of objects of."""
    pillow.silence_libtiff()
    layout = directories.Layout.of(data)
    offsets = offsets_of(data, MAX_PAGES)
    if len(offsets) > MAX_PAGES:
        raise UnreadableError(
            f"the TIFF has more than {MAX_PAGES} pages",
            hint=f"Split the file into parts of at most {MAX_PAGES} pages.",
        )
    reduced, tags = [], 0
    for number, at in enumerate(offsets, 1):
        page = Directory.read(data, at, layout)
        what = f"page {number} of the file" if len(offsets) > 1 else "the file"
        tags += page.entries
        _check_count(tags, MAX_TAGS, f"{what} and those before it have {{}} tags")
        _check_page(page, what)
        # Those below, Pillow reads for a file of one page only.
        for part in (page, *_below(page)) if len(offsets) == 1 else (page,):
            _check_values(part, what)
        reduced.append(bool((page.integer(_TAG.NewSubfileType) or 0) & 1))
    return Layout(_frames(reduced))


def _below(page: Directory) -> Iterator[Directory]:
    """Give the directories that Pillow reads with a page's own: EXIF, GPS and interoperability."""
    exif = _part(page, ExifTags.IFD.Exif)
    for part in (exif, _part(page, ExifTags.IFD.GPSInfo), _part(exif, ExifTags.IFD.Interop)):
        if part is not None:
            yield part


def _part(directory: Directory | None, pointer: int) -> Directory | None:
    at = directory.integer(pointer) if directory is not None else None
    return Directory.read(directory.data, at, directory.layout) if directory and at and at > 0 else None


def _check_page(directory: Directory, what: str) -> None:
    strips = max(directory.count(_STRIP_OFFSETS), directory.count(_TILE_OFFSETS))
    _check_count(strips, MAX_STRIPS, f"{what} has {{}} strips or tiles")
    needed = _strips_needed(directory)
    if needed is not None:
        at_most = needed * _STRIP_FACTOR + _STRIP_EXCESS
        _check_count(strips, at_most, f"{what} has {{}} strips or tiles where {needed} cover it")


def _check_values(directory: Directory, what: str) -> None:
    _check_count(directory.numbers, MAX_NUMBERS, f"{what} has {{}} numbers in its tags")
    _check_count(directory.fractions, MAX_FRACTIONS, f"{what} has {{}} fractions in its tags")


def _check_count(count: int, at_most: int, message: str) -> None:
    if count > at_most:
        raise UnreadableError(
            f"{message.format(count)}; the limit is {at_most}",
            hint="Save it again with larger strips or tiles, and without its metadata.",
        )


def _strips_needed(directory: Directory) -> int | None:
    """Give how many strips or tiles cover the page; None where Pillow does not decode more than these.

    It leaves compressed ones to libtiff, and takes the last of those that cover the whole page.
    """
    width, height = directory.integer(_TAG.ImageWidth), directory.integer(_TAG.ImageLength)
    if not width or not height or (directory.integer(_TAG.Compression) or 1) != 1:
        return None
    across, down = width, directory.integer(_TAG.RowsPerStrip) or height
    if not directory.count(_STRIP_OFFSETS):
        across, down = directory.integer(_TAG.TileWidth) or 0, directory.integer(_TAG.TileLength) or 0
    if min(width, height, across, down) < 1:
        return None
    blocks = -(-width // across) * -(-height // down)
    if directory.integer(_TAG.PlanarConfiguration) == _PLANES_APART:
        return blocks * max(1, directory.integer(_TAG.SamplesPerPixel) or 1)
    return blocks if blocks > 1 else None


def _frames(reduced: Sequence[bool]) -> Sequence[int]:
    """Give the frames that are pages: one of reduced resolution is left out once a full page was seen."""
    first_full = reduced.index(False) if False in reduced else len(reduced)
    return [frame for frame, is_reduced in enumerate(reduced) if frame <= first_full or not is_reduced] or (
        0,
    )


# -- decoding ------------------------------------------------------------------------------------


def _cost(image: ImageFile, data: bytes, size: tuple[int, int]) -> Cost:
    """As measured, see docs/memory.md: RGB 4.5, with orientation 8.1."""
    bytes_per_pixel = stored(image, data, size).bytes_per_pixel
    if isinstance(image, TiffImageFile) and image.tag_v2.get(_TAG.Orientation, 1) != 1:
        bytes_per_pixel *= 2  # turned at full size by Pillow
    return Cost(bytes_per_pixel, _block(image))


def _block(image: ImageFile) -> Block | None:
    """Give the strip or tile of the page at hand, where libtiff decodes it.

    A tile may be larger than its page, and all of it is decoded: 1.5 GiB for a page of 16 x 16 pixels.
    """
    if not isinstance(image, TiffImageFile) or "libtiff" not in pillow.codecs_of(image):
        return None
    tags = image.tag_v2
    width, height = int(tags[_TAG.ImageWidth]), int(tags[_TAG.ImageLength])
    if _TAG.TileWidth in tags:
        size = (int(tags[_TAG.TileWidth]), int(tags.get(_TAG.TileLength, 0)))
    else:
        size = (width, max(1, min(int(tags.get(_TAG.RowsPerStrip, height)), height)))
    bits = sum(tags.get(_TAG.BitsPerSample, (1,)))
    if tags.get(_TAG.PlanarConfiguration, 1) == _PLANES_APART:
        bits = max(tags.get(_TAG.BitsPerSample, (1,)))
    elif tags.get(_TAG.PhotometricInterpretation) == _YCBCR:
        bits = 32  # libtiff gives it as RGBA
    return Block(size, size[0] * size[1] * bits // 8)


def _decode(image: ImageFile, data: bytes) -> Decoded:
    decoded = load(image, data)
    # Up to eight bits Pillow inverts that itself.
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    return Decoded(decoded.pixels, tags.get(_TAG.PhotometricInterpretation) == _WHITE_IS_ZERO)


def _has_end(data: bytes) -> bool:
    # Most writers put the directory behind the pixels: a file that was cut off has lost it.
    found = offsets_of(data, MAX_PAGES)
    return bool(found) and max(found) + 2 <= len(data)


TIFF = RasterFamily(
    "TIFF",
    sniff=begins_with(b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"),
    has_end=_has_end,
    inspect=_inspect,
    cost=_cost,
    decode=_decode,
)
