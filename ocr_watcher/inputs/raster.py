"""What the families of images have in common: the file is read whole, Pillow decodes, pages come out small.

Everything that comes in may be hostile. What leaves is a `Picture` or a `FileError`, never a decoder's own
exception, and pixels are decoded only after the header was held against the limits.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from PIL import Image

from ocr_watcher.errors import (
    FileError,
    OutOfMemoryError,
    TooManyPixelsError,
    TruncatedError,
    UnreadableError,
    UnsupportedFormatError,
)
from ocr_watcher.inputs import pillow
from ocr_watcher.inputs.base import DecodeLimits, Encoded, Picture
from ocr_watcher.inputs.limits import MIB, check_budget, check_pixels, fit, read_whole
from ocr_watcher.inputs.shrink import Raster, shrink, to_bgr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from PIL.ImageFile import ImageFile

    from ocr_watcher.inputs.base import PageText

# What decoding takes beside the stored pixels: read buffers and bands of about a megapixel.
_DECODE_SHARE = 1.15
# Decoders keep a few rows beside the picture, which counts where a row is a hundred million pixels long.
_ROWS = 3

# -- what a family says about itself -------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """What a family finds in a file's bytes before any decoder sees them.

    Attributes:
        frames: The frames that are pages, in Pillow's count from 0. With one frame it is the first.
        max_image_pixels: For `pillow.out_of_the_way`, where opening an image already allocates pixels.
    """

    frames: Sequence[int] = (0,)
    max_image_pixels: int | None = None


@dataclass(frozen=True)
class Block:
    """A part of a page that is decoded in one piece beside it: width and height, bytes of its buffer."""

    size: tuple[int, int]
    size_bytes: int


@dataclass(frozen=True)
class Cost:
    """What decoding a page takes, by its header: bytes per pixel of the page, and its largest block."""

    bytes_per_pixel: float
    block: Block | None = None


@dataclass(frozen=True, eq=False)
class Decoded:
    """Pixels of a page; `white_is_zero` as `shrink` wants it."""

    pixels: Image.Image | Raster
    white_is_zero: bool = False


def begins_with(*marks: bytes) -> Callable[[bytes], bool]:
    """Make a `sniff` for a family whose files begin with one of these marks."""

    def sniff(head: bytes) -> bool:
        return any(mark.startswith(head[: len(mark)]) for mark in marks)

    return sniff


def one_frame(_data: bytes, _limits: DecodeLimits) -> Layout:
    """Find nothing that matters: the file is its first frame."""
    return Layout()


def stored(image: ImageFile, _data: bytes, _size: tuple[int, int]) -> Cost:
    """Estimate the cost where a decoder has little beside the pixels that it fills."""
    return Cost(pillow.stored_bytes(image.mode) * _DECODE_SHARE)


def load(image: ImageFile, _data: bytes) -> Decoded:
    """Decode by Pillow."""
    image.load()
    return Decoded(image)


def _never(_data: bytes) -> Encoded | None:
    """Say that no other file may hold these bytes."""
    return None


@dataclass(frozen=True)
class RasterFamily:
    """A family of images (see `inputs.base.Family`), told by what it does differently from the others.

    Attributes:
        name: The format's name, which is Pillow's too.
        sniff: As in `Family`.
        has_end: Whether a file (whole, as bytes) that does not decode has at least its end, by the format's
            own end mark or length: if not, it was cut off.
        inspect: Look at a file's bytes before any decoder does. Raises `FileError` for a structure that would
            take a decoder gigabytes or hours.
        cost: An upper estimate for the page at hand, after it was told to decode at reduced scale if it can.
            Takes the image, the file's bytes, and width and height of the page.
        decode: Decode the page at hand.
        encoded: Give the one picture in a file's bytes, as `OpenDocument.encoded`, without its orientation.
    """

    name: str
    sniff: Callable[[bytes], bool]
    has_end: Callable[[bytes], bool]
    inspect: Callable[[bytes, DecodeLimits], Layout] = one_frame
    cost: Callable[[ImageFile, bytes, tuple[int, int]], Cost] = stored
    decode: Callable[[ImageFile, bytes], Decoded] = load
    encoded: Callable[[bytes], Encoded | None] = _never

    def max_file_bytes(self, limits: DecodeLimits) -> int:
        """See `Family`."""
        return limits.max_file_bytes

    def open(self, file: BinaryIO, limits: DecodeLimits) -> RasterDocument:
        """See `Family`; the file is no longer than `limits.max_file_bytes`."""
        return RasterDocument(self, file, limits)


# -- an open file --------------------------------------------------------------------------------


class RasterDocument:
    """See `inputs.base.OpenDocument`.

    The bytes of a file of several pages are kept until it is closed. Those of other files are kept until the
    page is decoded: if it is asked for again, the file is read again.
    """

    layered = None

    def __init__(self, family: RasterFamily, file: BinaryIO, limits: DecodeLimits) -> None:
        self._family = family
        self._file = file
        self._limits = limits
        self._data = b""
        self._decoded: int | None = None  # the frame that `_image` is at, once its pixels were taken
        self._image: ImageFile | None = None
        self._image, self._frames = self._open()

    @property
    def pages(self) -> int:
        """How many there are."""
        return len(self._frames)

    @property
    def has_separate_pages(self) -> bool:
        """See `OpenDocument`."""
        return False

    def page_text(self, _index: int, _limits: DecodeLimits) -> PageText | None:
        """See `OpenDocument`."""
        return None

    def picture(self, index: int, limits: DecodeLimits) -> Picture:
        """See `OpenDocument`."""
        frame = self._frames[index]
        several = len(self._frames) > 1
        what = f"page {frame + 1} of the file" if several else "the file"
        # Pillow does not decode the frame that it is at a second time.
        image = self._image if self._decoded != frame else None
        image = image or self._open()[0]
        data = self._data
        # What fails is opened again, and so is what has one page: decoders keep pictures of their own.
        self._image, self._decoded = None, None
        if not several:
            self._data = b""
        try:
            if several:
                with _decoder(self._family, data, what):
                    image.seek(frame)
            picture = _picture(self._family, image, data, limits, what)
        finally:
            pillow.release(image)  # an error that is handled somewhere still refers to it
        if several:
            self._image, self._decoded = image, frame
        return picture

    def encoded(self, index: int) -> Encoded | None:
        """See `OpenDocument`."""
        if len(self._frames) > 1 or index > 0 or self._family.encoded is _never:
            return None
        image, _ = self._open()
        data, self._data = self._data, b""
        with _decoder(self._family, data, "the file"):
            encoded = self._family.encoded(data)
            if encoded is None or encoded.kind != "jpeg":  # a PNG is only given where it has no orientation
                return encoded
            orientation = pillow.orientation(image)  # of a PNG it would be decoded for that
        return replace(encoded, orientation=orientation) if isinstance(orientation, int) else encoded

    def close(self) -> None:
        """See `OpenDocument`."""
        self._image, self._decoded, self._data = None, None, b""

    def _open(self) -> tuple[ImageFile, Sequence[int]]:
        """Read the file unless its bytes are there, and open it; also gives the frames that are pages."""
        data = self._data = self._data or read_whole(self._file, self._limits)
        layout = self._family.inspect(data, self._limits)
        with _decoder(self._family, data, "the file", max_image_pixels=layout.max_image_pixels):
            return pillow.open_image(data, self._family.name), layout.frames


def _picture(family: RasterFamily, image: ImageFile, data: bytes, limits: DecodeLimits, what: str) -> Picture:
    """Decode the frame at hand and bring it to size; frees the full-size pixels as soon as it can."""
    width, height = image.size
    check_pixels(width, height, limits=limits, what=what)
    target = fit(width, height, limits)
    with _decoder(family, data, what):
        # A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that is no smaller than wanted.
        drafted = image.draft(None, target) if target != (width, height) else None
        cost = family.cost(image, data, (width, height))
    _check_cost(width, height, cost, limits=limits, what=what)
    with _decoder(family, data, what):
        decoded = family.decode(image, data)
        turn = _turn(image)
    if drafted is None:
        # Only now is the size certain: Pillow turns a TIFF upright while it loads it.
        width, height = decoded.pixels.size
        target = fit(width, height, limits)
    extent = drafted[1][2:] if drafted is not None else (width, height)
    with pillow.out_of_the_way(what):
        small = shrink(
            decoded.pixels,
            extent,
            target,
            white_is_zero=decoded.white_is_zero,
            decoder=partial(_decoder, family, data, what),
        )
        del decoded
        pillow.release(image)
        if turn is not None:
            small = small.transpose(turn)
        bgr = to_bgr(small)
    if turn in pillow.QUARTER_TURNS:
        width, height = height, width
    return Picture(bgr, width, height)


def _check_cost(width: int, height: int, cost: Cost, *, limits: DecodeLimits, what: str) -> None:
    block_mb, beside = 0.0, ""
    if cost.block is not None:
        check_pixels(*cost.block.size, limits=limits, what=f"a tile of {what}")
        block_mb = cost.block.size_bytes / MIB
        beside = f" and a strip or tile of {block_mb:.0f} MiB"
    check_budget(
        width * (height + _ROWS) * cost.bytes_per_pixel / MIB + block_mb,
        f"{width * height / 1e6:.1f} megapixels of {cost.bytes_per_pixel:.1f} bytes{beside}",
        limits=limits,
        what=what,
    )


def _turn(image: ImageFile) -> Image.Transpose | None:
    """Give what turns a loaded image upright; broken EXIF means that it already is."""
    try:
        # After loading, because PNG may keep its EXIF behind the pixels.
        return pillow.UPRIGHT.get(pillow.orientation(image))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - as with any decoder, anything may come out of hostile bytes
        return None


# -- what decoders raise -------------------------------------------------------------------------


@contextmanager
def _decoder(
    family: RasterFamily, data: bytes, what: str, *, max_image_pixels: int | None = None
) -> Iterator[None]:
    """Run calls that interpret the file's bytes: everything they raise leaves as a `FileError`."""
    with pillow.out_of_the_way(what, max_image_pixels=max_image_pixels):
        try:
            yield
        except (FileError, MemoryError):
            raise
        except Exception as error:
            raise _file_error(error, family, data, what) from error


def _file_error(error: Exception, family: RasterFamily, data: bytes, what: str) -> FileError:
    """Translate whatever a decoder raised."""
    reason = f"{family.name} decoder: {error or type(error).__name__}"
    if isinstance(error, Image.DecompressionBombError):
        return TooManyPixelsError(f"{what} holds a picture that is larger than its header says: {error}")
    if pillow.NO_MEMORY.search(reason):
        return OutOfMemoryError(f"there is not enough memory to decode {what} ({reason})")
    if isinstance(error, EOFError) or pillow.CUT_OFF.search(reason) or not family.has_end(data):
        return TruncatedError(f"{what} ends before its image does ({reason})")
    # A KeyError is Pillow looking up a compression that it does not know.
    if pillow.NOT_SUPPORTED.search(reason) or isinstance(error.__cause__ or error, KeyError):
        return UnsupportedFormatError(f"{what} is of a kind that cannot be decoded ({reason})")
    return UnreadableError(f"{what} is damaged ({reason})")
