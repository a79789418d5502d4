"""All that depends on how Pillow works inside: its globals, what it keeps of an image, its words for errors.

Everything here was seen in Pillow 13.0.0; with another version, look at it again. Pillow's documented
functions are called where they are needed.
"""

from __future__ import annotations

import ctypes
import io
import re
import warnings
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from PIL import ExifTags, Image, UnidentifiedImageError

from ocr_watcher.errors import OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from PIL.ImageFile import ImageFile

# What Pillow's sentences have in common where the file is sound but of a kind it does not decode.
NOT_SUPPORTED = re.compile(
    r"unsupported|not (yet )?supported|not available|cannot handle|unknown (pixel mode|data organization)",
    re.IGNORECASE,
)
# "Missing dimensions" is how a TIFF directory behind the end of the file shows.
CUT_OFF = re.compile(r"truncated|end of file|only got|missing dimensions", re.IGNORECASE)
NO_MEMORY = re.compile(r"out of memory", re.IGNORECASE)

# Bytes that Pillow keeps for a pixel, by mode; every other mode has four.
_STORED_BYTES: Mapping[str, int] = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}

# Bytes of an EXIF value that are looked at; an orientation is a number of two.
_MAX_ORIENTATION_BYTES = 64

UPRIGHT: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture upright, by EXIF's orientation."""

QUARTER_TURNS = frozenset(
    {
        Image.Transpose.TRANSPOSE,
        Image.Transpose.ROTATE_270,
        Image.Transpose.TRANSVERSE,
        Image.Transpose.ROTATE_90,
    }
)
"""Those that swap width and height."""


@contextmanager
def out_of_the_way(what: str, *, max_image_pixels: int | None = None) -> Iterator[None]:
    """Run calls into Pillow with its globals out of the way; want of memory leaves as OutOfMemoryError.

    Pillow's own limit against decompression bombs is a module global of fixed size: it would warn
    about, or refuse, what the user has allowed. It is set to `max_image_pixels` for the duration of the
    block (Pillow refuses more than twice that) and put back, so that other users of Pillow in this process
    keep it; likewise the warning filters, because Pillow warns about every oddity in a file. Neither is safe
    against a second thread doing the same, which is why the blocks are short and one thread decodes.
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


def open_image(data: bytes, format_name: str) -> ImageFile:
    """Open an image of a format by Pillow's name for it; raises whatever Pillow raises."""
    try:
        return Image.open(io.BytesIO(data), formats=(format_name,))
    except UnidentifiedImageError:
        # Image.open() swallows the reason; the format's own factory raises it.
        Image.OPEN[format_name][0](io.BytesIO(data), "")
        raise


def release(image: ImageFile) -> None:
    """Free the pixels of an image that stays open, whether or not they were decoded to the end.

    Pillow makes new ones when it has moved to a frame and decodes it.
    """
    image._im = None  # noqa: SLF001 - nothing that is public frees them


def stored_bytes(mode: str) -> int:
    """Bytes that Pillow keeps for a pixel of an image of this mode."""
    return _STORED_BYTES.get(mode, 4)


def codecs_of(image: ImageFile) -> set[str]:
    """Names of the codecs that are going to decode an image which was opened."""
    return {tile.codec_name for tile in image.tile}


def orientation(image: ImageFile) -> object:
    """EXIF's orientation of an image, whatever its type is; 1, which is upright, where there is none.

    Pillow makes a tuple of a value's numbers, or of its fractions 250 bytes each: an orientation that is
    longer than any can be counts as none.
    """
    exif = image.getexif()
    directory = exif._info  # noqa: SLF001 - what was read and not yet made numbers of
    read = directory._tagdata if directory is not None else {}  # noqa: SLF001
    if len(read.get(ExifTags.Base.Orientation, b"")) > _MAX_ORIENTATION_BYTES:
        return 1
    return exif.get(ExifTags.Base.Orientation, 1)


def keeps_background(image: ImageFile) -> bool:
    """Tell whether a GIF that was opened already keeps what lies behind its first frame: a byte a pixel."""
    return getattr(image, "dispose", None) is not None


@cache
def silence_libtiff() -> None:
    """Keep libtiff from printing: it writes its complaints about a file to standard error, past the log.

    What is wrong still comes back through Pillow as an exception. The handlers belong to the libtiff that
    Pillow is linked with, found through Pillow's own module; without one nothing is set and nothing printed.
    """
    linked = ctypes.CDLL(Image.core.__file__)  # type: ignore[attr-defined]
    for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
        setter = getattr(linked, name, None)
        if setter is not None:
            setter(None)
