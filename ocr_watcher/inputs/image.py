"""Turns the bytes of an image file into small BGR pages, whatever the bytes are.

May import `errors`, NumPy and Pillow. Everything that comes in may be hostile: what leaves is a
`Page` or a `FileError`, never a decoder's own exception, and pixels are decoded only after the
header was held against the limits. Must never go by the file's name, write anything, or keep a
full-size picture alive while a page is being read by somebody else.
"""

from __future__ import annotations

import ctypes
import io
import math
import os
import re
import struct
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, BinaryIO, Literal

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from ocr_watcher.errors import (
    AccessError,
    FileError,
    FileTooLargeError,
    MemoryBudgetError,
    OutOfMemoryError,
    TooManyPixelsError,
    TruncatedError,
    UnreadableError,
    UnsupportedFormatError,
)
from ocr_watcher.inputs.base import DecodeLimits, OpenDocument, Picture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray
    from PIL.ImageFile import ImageFile

# The only decoders that ever see the bytes. MPO, a phone's several pictures in one JPEG, comes with JPEG.
ALLOWED_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")

# A TIFF of ten megabytes can hold a hundred thousand directories that share one picture.
MAX_PAGES = 10_000

# A progressive JPEG has about ten scans; 3,000 on 64 megapixels fit into 300 kB and take minutes.
MAX_JPEG_SCANS = 100
# Ten megabytes of metadata are 160 segments.
MAX_JPEG_SEGMENTS = 1000
# A marker, not counting those without a length of their own: restarts, and what is no marker at all.
_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)

# Word F1 on scanned receipts brought to 1024 px, PP-OCRv6 small / tiny: BILINEAR 0.941 / 0.883, LANCZOS
# 0.940 / 0.882, BICUBIC 0.938 / 0.879: level, and BILINEAR takes two thirds of BICUBIC's time.
_RESAMPLE = Image.Resampling.BILINEAR

# A picture is first averaged down by a whole number, to no less than this many times its final size.
# Neither a larger gap nor none at all, nor a JPEG drafted at twice the size, raised F1 beyond its noise.
_GAP = 2.0

# Pixels converted at a time: bounds the copies that a change of mode costs.
_BAND_PIXELS = 1 << 20

_MIB = 1 << 20

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
)

_STRANGERS = (
    (rb"%PDF-", "a PDF document"),
    (rb"%!PS", "a PostScript document"),
    (rb"PK\x03\x04", "a ZIP archive or an Office document"),
    (rb".{4}ftyp(heic|heix|heim|heis|hevc|hevx|mif1|msf1)", "a HEIC photo"),
    (rb".{4}ftypavi[fs]", "an AVIF image"),
    (rb".{4}ftyp", "a video"),
    (rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "a JPEG XL image"),
    (rb"8BPS", "a Photoshop document"),
    (rb"AT&TFORM", "a DjVu document"),
    (rb"\x00\x00\x01\x00", "an icon"),
    (rb"\x1f\x8b|7z\xbc\xaf\x27\x1c|Rar!", "a compressed archive"),
    (rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!DOCTYPE svg[^>]*>\s*)?<svg", "an SVG drawing"),
    (rb"\s*(<!--.*?-->\s*)?<(!DOCTYPE html|html|head|body)", "an HTML page"),
    (rb"\s*<\?xml", "an XML document"),
)

# What Pillow's sentences have in common where the file is sound but of a kind it does not decode.
_NOT_SUPPORTED = re.compile(
    r"unsupported|not (yet )?supported|not available|cannot handle|unknown (pixel mode|data organization)",
    re.IGNORECASE,
)
# "Missing dimensions" is how a TIFF directory behind the end of the file shows.
_CUT_OFF = re.compile(r"truncated|end of file|only got|missing dimensions", re.IGNORECASE)
_NO_MEMORY = re.compile(r"out of memory", re.IGNORECASE)

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_QUARTER_TURNS = frozenset(
    {
        Image.Transpose.TRANSPOSE,
        Image.Transpose.ROTATE_270,
        Image.Transpose.TRANSVERSE,
        Image.Transpose.ROTATE_90,
    }
)

_SIXTEEN_BIT = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
_DEEP = _SIXTEEN_BIT | {"I", "F"}
_GREY = frozenset({"1", "L"})


def _directories(data: bytes) -> list[int]:
    """Give the offsets of a TIFF's page directories in order, up to one more than `MAX_PAGES`.

    Ends where they form a loop. The last one may lie behind the end of a file that was cut off. Pillow
    would count them too, but it reads every tag of every page for it: 0.3 ms a page.
    """
    order: Literal["big", "little"] = "big" if data.startswith(b"M") else "little"
    link, count_bytes, entry_bytes = (8, 8, 20) if b"+" in data[2:4] else (4, 2, 12)

    def number(at: int, length: int) -> int:
        return int.from_bytes(data[at : at + length], order)

    found: dict[int, None] = {}
    while (at := number(link, 8 if count_bytes == 8 else 4)) and at not in found and len(found) <= MAX_PAGES:
        found[at] = None
        link = at + count_bytes + number(at, count_bytes) * entry_bytes
    return list(found)


def _whole_tiff(data: bytes) -> bool:
    # Most writers put the directory behind the pixels: a file that was cut off has lost it.
    found = _directories(data)
    return bool(found) and max(found) + 2 <= len(data)


# Whether a file that does not decode has at least its end, by its format's own end mark or length.
_WHOLE: dict[str, Callable[[bytes], bool]] = {
    "PNG": lambda data: b"IEND" in data,
    "JPEG": lambda data: b"\xff\xd9" in data[-1024:],  # phones append a little of their own
    "GIF": lambda data: data.rstrip(b"\0").endswith(b";"),
    "WEBP": lambda data: int.from_bytes(data[4:8], "little") + 8 <= len(data),
    "BMP": lambda data: max(26, int.from_bytes(data[2:6], "little")) <= len(data),
    "TIFF": _whole_tiff,
}


def open_document(file: BinaryIO, limits: DecodeLimits) -> OpenDocument:
    """Open an image file: all pages of a TIFF, the first picture of anything else.

    The file is read whole (it is no longer than `limits.max_file_bytes`), from its start; closing it is the
    caller's. One read instead of many small ones means that a file that changes meanwhile, or a share that
    goes away, cannot harm a decoder.

    Raises:
        AccessError: The operating system refuses the bytes.
        FileTooLargeError: More bytes than allowed.
        TruncatedError: Empty, or it ends before its image does.
        UnsupportedFormatError: Not one of `ALLOWED_FORMATS`, or a kind of one that is not decoded.
        TooManyPixelsError: By the header.
        UnreadableError: Everything else that is wrong with the bytes.
    """
    return _Opened(file, limits)


class _Opened:
    """See `OpenDocument`."""

    def __init__(self, file: BinaryIO, limits: DecodeLimits) -> None:
        self._file = file
        self._limits = limits
        self._data = _read(file, limits)
        self._image: ImageFile | None = None
        self._image, self._frames = _open(self._data, limits)

    @property
    def pages(self) -> int:
        return len(self._frames)

    def picture(self, index: int, limits: DecodeLimits) -> Picture:
        frame = self._frames[index]
        what = f"page {frame + 1} of the file" if len(self._frames) > 1 else "the file"
        if self._image is None:
            self._data = _read(self._file, self._limits)
            self._image, _ = _open(self._data, self._limits)
        image, data = self._image, self._data
        if len(self._frames) > 1:
            with _decoder(data, what):
                image.seek(frame)
        else:
            # WebP's decoder keeps full-size pictures of its own; the next call opens it again.
            self._image, self._data = None, b""
        return _page(image, limits, data, what)

    def close(self) -> None:
        self._image, self._data = None, b""


def _read(file: BinaryIO, limits: DecodeLimits) -> bytes:
    try:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if size > limits.max_file_bytes:
            raise FileTooLargeError(
                f"the file has {_mib(size)} MiB; the limit is {_mib(limits.max_file_bytes)} MiB"
            )
        data = file.read(size)
    except OSError as error:
        raise AccessError(f"the file cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise OutOfMemoryError("there is not enough memory to read the file") from error
    if not data:
        raise TruncatedError("the file is empty")
    return data


def _mib(size: int) -> str:
    return f"{math.ceil(size / _MIB * 100) / 100:.2f}"  # rounded up: one byte too many must show


def _open(data: bytes, limits: DecodeLimits) -> tuple[ImageFile, list[int]]:
    """Open an image without decoding it; also give the frames that are its pages."""
    kind = _kind(data)
    if kind is None:
        raise _stranger(data)
    guard = None
    if kind == "GIF" and len(data) >= 10:
        # Opening a GIF may already allocate its first frame, and that may be larger than the screen.
        width, height = struct.unpack_from("<HH", data, 6)
        # A screen of nothing is no damage: the frame may be larger.
        _check_pixels(width or 1, height or 1, limits=limits, what="the file")
        guard = -(-limits.max_pixels // 2)  # Pillow refuses more than twice this
    if kind == "TIFF":
        _silence_libtiff()
    elif kind == "JPEG":
        _check_jpeg(data)
    with _decoder(data, "the file", max_image_pixels=guard):
        try:
            image = Image.open(io.BytesIO(data), formats=ALLOWED_FORMATS)
        except UnidentifiedImageError:
            # Image.open() swallows the reason; the format's own factory raises it.
            Image.OPEN[kind][0](io.BytesIO(data), "")
            raise
    count = len(_directories(data)) if kind == "TIFF" else 1
    frames = []
    if count > MAX_PAGES:
        raise UnreadableError(
            f"the TIFF has more than {MAX_PAGES} pages",
            hint=f"Split the file into parts of at most {MAX_PAGES} pages.",
        )
    full_page_seen = False
    for frame in range(count):
        thumbnail = False
        if count > 1:
            with _decoder(data, f"page {frame + 1} of the file"):
                image.seek(frame)
                thumbnail = _is_thumbnail(image)
        if not (thumbnail and full_page_seen):
            frames.append(frame)
        full_page_seen = full_page_seen or not thumbnail
    return image, frames


def _check_jpeg(data: bytes) -> None:
    """Refuse a JPEG whose structure would take hours, by walking its markers as libjpeg does.

    Every scan goes over every pixel, and may have a few bytes only; EXIF in many segments is put together
    by Pillow one by one, each time copying what is there.
    """
    at, scans, segments = 2, 0, 0
    while (marker := _JPEG_MARKER.search(data, at)) is not None and marker[1] != b"\xd9":
        segments += 1
        scans += marker[1] == b"\xda"
        if scans > MAX_JPEG_SCANS or segments > MAX_JPEG_SEGMENTS:
            raise UnreadableError(
                f"the JPEG has more than {MAX_JPEG_SCANS} scans or {MAX_JPEG_SEGMENTS} segments",
                hint="Save it again as a baseline JPEG.",
            )
        at = marker.end() + max(2, int.from_bytes(data[marker.end() : marker.end() + 2], "big"))


@cache
def _silence_libtiff() -> None:
    """Keep libtiff from printing: it writes its complaints about a file to standard error, past the log.

    What is wrong still comes back through Pillow as an exception. The handlers belong to the libtiff that
    Pillow is linked with, found through Pillow's own module; without one nothing is set and nothing printed.
    """
    linked = ctypes.CDLL(Image.core.__file__)  # type: ignore[attr-defined]
    for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
        setter = getattr(linked, name, None)
        if setter is not None:
            setter(None)


def _is_thumbnail(image: ImageFile) -> bool:
    """Tell whether the TIFF page at hand is a reduced-resolution copy (NewSubfileType, bit 0)."""
    kind = image.tag_v2.get(ExifTags.Base.NewSubfileType) if isinstance(image, TiffImageFile) else None
    return isinstance(kind, int) and bool(kind & 1)


def _check_pixels(width: int, height: int, *, limits: DecodeLimits, what: str) -> None:
    if width < 1 or height < 1:  # Pillow looks at a TIFF's first page only
        raise UnreadableError(f"{what} is damaged: its header says {width} x {height} pixels")
    if width * height > limits.max_pixels:
        raise TooManyPixelsError(
            f"{what} is {width} x {height} pixels, {width * height / 1e6:.1f} megapixels; "
            f"the limit is {limits.max_pixels / 1e6:.1f} megapixels"
        )


def _page(image: ImageFile, limits: DecodeLimits, data: bytes, what: str) -> Picture:
    """Decode the frame at hand and bring it to size; leaves no full-size pixels behind in `image`."""
    width, height = image.size
    _check_pixels(width, height, limits=limits, what=what)
    target = _fit(width, height, limits)
    with _decoder(data, what):
        # A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that is no smaller than wanted.
        drafted = image.draft(None, target) if target != (width, height) else None
        cost = _bytes_per_pixel(image, drafted, data)
        block = _tiff_block(image)
    if block is not None:
        _check_pixels(*block.size, limits=limits, what=f"a tile of {what}")
    _check_budget(width, height, cost, block, limits=limits, what=what)
    source: ImageFile | _Raster = image
    with _decoder(data, what):
        if image.format == "WEBP" and not _is_animation(data):
            source = _webp(data) or image
        if source is image:
            image.load()
        turn = _turn(image)
    if drafted is None:
        # Only now is the size certain: Pillow turns a TIFF upright while it loads it.
        width, height = source.size
        target = _fit(width, height, limits)
    extent = drafted[1][2:] if drafted is not None else (width, height)
    with _pillow(what):
        small = _shrink(source, extent, target, partial(_decoder, data, what))
        if source is image:
            image.thumbnail((1, 1), Image.Resampling.NEAREST, reducing_gap=None)  # frees its full-size pixels
        del source
        if turn is not None:
            small = small.transpose(turn)
        small = small if small.mode == "RGB" else small.convert("RGB")
        # Pillow swaps red and blue several times faster than NumPy.
        flat = np.frombuffer(bytearray(small.tobytes("raw", "BGR")), np.uint8)
        bgr = flat.reshape(small.height, small.width, 3)
    if turn in _QUARTER_TURNS:
        width, height = height, width
    return Picture(bgr, width, height)


# Bytes that Pillow keeps for a pixel, by mode; every other mode has four.
_STORED: Mapping[str, float] = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
# What decoding takes beside the stored pixels: read buffers and bands of about a megapixel.
_DECODE_SHARE = 1.15
# Decoders keep a few rows beside the picture, which counts where a row is a hundred million pixels long.
_ROWS = 3
# TIFF's PhotometricInterpretation of YCbCr.
_YCBCR = 6


def _bytes_per_pixel(image: ImageFile, drafted: object, data: bytes) -> float:
    """What decoding the page at hand takes, in bytes per pixel of the source; an upper estimate.

    Measured as peak RSS over 100-megapixel files: PNG RGBA and TIFF RGB 4.5, 16-bit PNG 2.5, GIF 1.4,
    run-length BMP 3.0, TIFF with orientation 8.1, baseline JPEG at reduced scale 0.35, progressive JPEG
    3.1 (4:2:0) to 6.1 (4:4:4); over 16-megapixel files: WebP 8.9 to 9.6, with transparency 10.3, animated
    18.3.
    """
    stored = _STORED.get(image.mode, 4) * _DECODE_SHARE
    if image.format == "WEBP":
        if _is_animation(data):
            return 18.5
        return 11 if image.mode == "RGBA" else 10
    if isinstance(image, TiffImageFile) and image.tag_v2.get(ExifTags.Base.Orientation, 1) != 1:
        return 2 * stored  # turned at full size by Pillow
    if any(tile.codec_name == "bmp_rle" for tile in image.tile):
        return 3 * stored  # unpacked in Python, and copied
    if image.format in {"JPEG", "MPO"}:
        # All coefficients, two bytes each, before the first pixel.
        coefficients = 2 * len(image.getbands()) if image.info.get("progressive") else 0
        return coefficients + (0.4 if drafted is not None else stored)
    return stored


@dataclass(frozen=True)
class _Block:
    """The strip or tile that libtiff decodes in one piece: pixels, and bytes of its buffer."""

    size: tuple[int, int]
    size_bytes: int


def _tiff_block(image: ImageFile) -> _Block | None:
    """Give the block of the TIFF page at hand, where libtiff decodes it.

    A tile may be larger than its page, and all of it is decoded: 1.5 GiB for a page of 16 x 16 pixels.
    """
    if not isinstance(image, TiffImageFile) or not any(tile.codec_name == "libtiff" for tile in image.tile):
        return None
    tags, base = image.tag_v2, ExifTags.Base
    width, height = int(tags[base.ImageWidth]), int(tags[base.ImageLength])
    if base.TileWidth in tags:
        size = (int(tags[base.TileWidth]), int(tags.get(base.TileLength, 0)))
    else:
        size = (width, max(1, min(int(tags.get(base.RowsPerStrip, height)), height)))
    bits = sum(tags.get(base.BitsPerSample, (1,)))
    if tags.get(base.PlanarConfiguration, 1) == 2:
        bits = max(tags.get(base.BitsPerSample, (1,)))
    elif tags.get(base.PhotometricInterpretation) == _YCBCR:
        bits = 32  # libtiff gives it as RGBA
    return _Block(size, size[0] * size[1] * bits // 8)


def _check_budget(
    width: int, height: int, cost: float, block: _Block | None, *, limits: DecodeLimits, what: str
) -> None:
    block_mb = block.size_bytes / _MIB if block is not None else 0.0
    needed_mb = width * (height + _ROWS) * cost / _MIB + block_mb
    if needed_mb > limits.max_decode_mb:
        beside = f" and a strip or tile of {block_mb:.0f} MiB" if block is not None else ""
        raise MemoryBudgetError(
            f"decoding {what} takes about {needed_mb:.0f} MiB ({width * height / 1e6:.1f} megapixels of "
            f"{cost:.1f} bytes{beside}); "
            f"{max(0.0, limits.max_decode_mb):.0f} MiB are left of the memory limits"
        )


def _fit(width: int, height: int, limits: DecodeLimits) -> tuple[int, int]:
    ratio = min(
        1.0, limits.max_side_px / max(width, height), math.sqrt(limits.max_page_pixels / (width * height))
    )
    return max(1, round(width * ratio)), max(1, round(height * ratio))


def _turn(image: ImageFile) -> Image.Transpose | None:
    """Give what turns a loaded image upright; broken EXIF means that it already is."""
    try:
        # After loading, because PNG may keep its EXIF behind the pixels.
        return _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - as with any decoder, anything may come out of hostile bytes
        return None


@dataclass(frozen=True, eq=False)
class _Raster:
    """Decoded pixels outside Pillow: uint8, (height, width, 3 or 4), blue first."""

    pixels: NDArray[np.uint8]

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def mode(self) -> str:
        return "RGB" if self.pixels.shape[2] == 3 else "RGBA"

    def crop(self, box: tuple[int, int, int, int]) -> Image.Image:
        left, top, right, bottom = box
        order = [2, 1, 0, 3][: self.pixels.shape[2]]
        return Image.fromarray(self.pixels[top:bottom, left:right, order])


def _is_animation(webp: bytes) -> bool:
    """Tell whether a WebP says that it is an animation, which may be of one frame."""
    return webp[12:16] == b"VP8X" and bool(webp[20] & 2)


def _webp(data: bytes) -> _Raster | None:
    """Decode a WebP by OpenCV, to the same values in a third of the memory.

    Pillow decodes every one as an animation. None where OpenCV does not; Pillow then says why.
    """
    import cv2  # noqa: PLC0415 - heavy, and most files are no WebP

    cv2.setLogLevel(0)  # it would print what it does not decode to standard error, past the log
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(str(error)) from error
        return None
    return _Raster(pixels) if pixels is not None and pixels.ndim == 3 else None


def _shrink(
    image: Image.Image | _Raster,
    extent: tuple[float, float],
    target: tuple[int, int],
    decoder: Callable[[], AbstractContextManager[None]],
) -> Image.Image:
    """Bring a loaded image to mode L or RGB and to `target` (width, height) in two steps.

    First, band by band so that no second full-size picture ever exists, convert and average down by
    whole numbers; then resample the rest. `extent` is the part of the image that holds the picture:
    a JPEG decoded at reduced scale is a fraction of a pixel smaller than its whole pixels.
    """
    width, height = image.size
    across, down = (max(1, int(has / wants / _GAP)) for has, wants in zip(extent, target, strict=True))
    levels, grey = (0.0, 0.0), False
    if isinstance(image, Image.Image):
        # Nothing to convert, nothing to average: no copy before the one that is wanted.
        if across == down == 1 and image.mode in {"L", "RGB"} and not image.has_transparency_data:
            return image.resize(target, _RESAMPLE, box=(0.0, 0.0, *extent))
        levels = _levels(image) if image.mode in _DEEP else levels
        grey = image.mode in _DEEP or (image.mode in _GREY and not image.has_transparency_data)
    reduced = Image.new("L" if grey else "RGB", (-(-width // across), -(-height // down)))
    for left, top, band in _bands(image, across, down):
        with decoder():  # palettes and transparency are the file's own words
            part = _plain(band, levels)
        reduced.paste(part.reduce((across, down)), (left // across, top // down))
    return reduced.resize(target, _RESAMPLE, box=(0.0, 0.0, extent[0] / across, extent[1] / down))


def _bands(image: Image.Image | _Raster, across: int, down: int) -> Iterator[tuple[int, int, Image.Image]]:
    """Cut an image into bands of about `_BAND_PIXELS`; yields (first column, first row, band).

    Bands are multiples of `across` columns and `down` rows, and as wide as the image unless so few of
    its rows are too many pixels: a row may have a hundred million.
    """
    width, height = image.size
    columns = min(width, across * max(1, _BAND_PIXELS // (across * down)))
    rows = down * max(1, _BAND_PIXELS // (columns * down))
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            yield left, top, image.crop((left, top, min(left + columns, width), min(top + rows, height)))


def _plain(band: Image.Image, levels: tuple[float, float]) -> Image.Image:
    """Convert to L or RGB, what is transparent becoming white; `levels` as from `_levels`."""
    if band.mode in _DEEP:
        return _eight_bit(band, levels)
    if band.mode == "La":
        band = band.convert("LA")  # the only conversion it has
    if band.has_transparency_data:
        band = band.convert("RGBA")
        paper = Image.new("RGB", band.size, "white")
        paper.paste(band, mask=band)
        return paper
    return band.convert("L" if band.mode in _GREY else "RGB")


def _levels(image: Image.Image) -> tuple[float, float]:
    """Give the values that stand for black and white in an image of more than eight bits.

    16 bits: 0 and the largest value of the smallest bit depth that holds every pixel. So a full
    range is divided by 257, and the 10 or 12 bits that many scanners put into 16 do not come out
    black; unlike a stretch from the smallest to the largest value, it does not turn the grain of an
    empty page into a picture. For I and F nothing says what white is: the smallest and largest value.
    """
    low, high = math.inf, -math.inf
    for _, _, band in _bands(image, 1, 1):
        values = np.asarray(band)
        values = values[np.isfinite(values)]
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    if low > high:  # nothing but NaN and infinity
        low = high = 0.0
    if image.mode in _SIXTEEN_BIT:
        low, high = 0.0, float((1 << int(high).bit_length()) - 1)
    if isinstance(image, TiffImageFile) and image.tag_v2.get(ExifTags.Base.PhotometricInterpretation) == 0:
        low, high = high, low  # white is zero: up to eight bits Pillow inverts that itself
    return low, high


def _eight_bit(band: Image.Image, levels: tuple[float, float]) -> Image.Image:
    values = np.asarray(band).astype(np.float64)
    black, white = levels
    if black == white:  # a blank page
        grey = np.full(values.shape, 255.0)
    else:
        grey = np.nan_to_num(np.clip((values - black) * (255.0 / (white - black)), 0.0, 255.0))
    transparent = band.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255.0
    return Image.fromarray(np.rint(grey).astype(np.uint8))


@contextmanager
def _pillow(what: str, *, max_image_pixels: int | None = None) -> Iterator[None]:
    """Run calls into Pillow with its globals out of the way; want of memory leaves as OutOfMemoryError.

    Pillow's own limit against decompression bombs is a module global of fixed size: it would warn
    about, or refuse, what the user has allowed. It is set aside for the duration of the block and put
    back, so that other users of Pillow in this process keep it; likewise the warning filters, because
    Pillow warns about every oddity in a file. Neither is safe against a second thread doing the same,
    which is why the blocks are short and one thread decodes.
    """
    usual = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.MAX_IMAGE_PIXELS = max_image_pixels
        try:
            yield
        except MemoryError as error:
            raise OutOfMemoryError(f"there is not enough memory to decode {what}") from error
        finally:
            Image.MAX_IMAGE_PIXELS = usual


@contextmanager
def _decoder(data: bytes, what: str, *, max_image_pixels: int | None = None) -> Iterator[None]:
    """Run calls that interpret the file's bytes: everything they raise leaves as a `FileError`."""
    with _pillow(what, max_image_pixels=max_image_pixels):
        try:
            yield
        except (FileError, MemoryError):
            raise
        except Exception as error:
            raise _file_error(error, data, what) from error


def _file_error(error: Exception, data: bytes, what: str) -> FileError:
    """Translate whatever a decoder raised."""
    kind = _kind(data)
    reason = f"{kind} decoder: {error or type(error).__name__}"
    if isinstance(error, Image.DecompressionBombError):
        return TooManyPixelsError(f"{what} holds a picture that is larger than its header says: {error}")
    if _NO_MEMORY.search(reason):
        return OutOfMemoryError(f"there is not enough memory to decode {what} ({reason})")
    if isinstance(error, EOFError) or _CUT_OFF.search(reason) or not (kind and _WHOLE[kind](data)):
        return TruncatedError(f"{what} ends before its image does ({reason})")
    # A KeyError is Pillow looking up a compression that it does not know.
    if _NOT_SUPPORTED.search(reason) or isinstance(error.__cause__ or error, KeyError):
        return UnsupportedFormatError(f"{what} is of a kind that cannot be decoded ({reason})")
    return UnreadableError(f"{what} is damaged ({reason})")


def _kind(data: bytes) -> str | None:
    """Tell which of the allowed formats the first bytes announce, even where the file ends within them."""
    for magic, kind in _MAGIC:
        if magic.startswith(data[: len(magic)]):
            return kind
    if b"RIFF".startswith(data[:4]) and b"WEBP".startswith(data[8:12]):
        return "WEBP"
    return None


def _stranger(data: bytes) -> FileError:
    """Name what the content looks like, for a file of none of the allowed formats."""
    start = data[:1024]
    if not start.strip(b"\0"):
        return TruncatedError("the file begins with zero bytes only: its copy was probably interrupted")
    for pattern, name in _STRANGERS:
        if re.match(pattern, start, re.DOTALL | re.IGNORECASE):
            return UnsupportedFormatError(f"this is {name}, not an image that can be read")
    try:
        text = start.decode("utf-8", errors="strict" if len(data) <= len(start) else "ignore")
    except UnicodeDecodeError:
        text = "\0"
    if all(character.isprintable() or character.isspace() for character in text):
        return UnsupportedFormatError("this is text, not an image")
    return UnsupportedFormatError("this is no image of a known format")
