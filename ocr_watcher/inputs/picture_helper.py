"""A picture that Pillow decodes in the helper process: AVIF, JPEG 2000, HEIC.

Runs in the helper: standard library, Pillow and Pillow's plug-ins only, all of them imported before the
process is confined. Requests are `{"do": "open", "format": name}` and
`{"do": "draw", "width": w, "height": h}`.
"""

from __future__ import annotations

import io
import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from PIL import (
    AvifImagePlugin,
    ExifTags,
    Image,
    ImageFile,
    ImageSequence,
    Jpeg2KImagePlugin,
    TiffImagePlugin,
)

from ocr_watcher.inputs import pillow, shrink
from ocr_watcher.inputs.messages import RefusalError

if TYPE_CHECKING:
    import ctypes

    from ocr_watcher.inputs.helper import Answer

try:
    import pillow_heif
except ImportError:  # an extra; where it is missing, nothing asks for it
    pillow_heif = None

# Imported here because Pillow imports them when it needs them, and then nothing can be imported any more.
_NEEDED_LATER = (ExifTags, ImageFile, ImageSequence, TiffImagePlugin)
_CODESTREAM = b"\xff\x4f\xff\x51"
_CODING_STYLE, _START_OF_TILE = 0xFF52, 0xFF90


def serve(document: ctypes.Array[ctypes.c_char], shared: ctypes.Array[ctypes.c_char]) -> Answer:
    """Give what answers requests about a document, see `helper`."""
    Image.MAX_IMAGE_PIXELS = None  # the parent decides, by the header
    Image.init()
    # A thread more costs memory, and one cannot be started here.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    if pillow_heif is not None:
        pillow_heif.register_heif_opener(
            thumbnails=False, depth_images=False, aux_images=False, decode_threads=1
        )
    opened: list[_Opened] = []

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        try:
            if request["do"] == "open":
                opened[:] = [_Opened(document.raw, request["format"])]
                return opened[0].facts()
            return opened.pop().draw((request["width"], request["height"]), shared)
        except (RefusalError, MemoryError):
            raise
        except Exception as error:  # anything may come out of hostile bytes
            raise RefusalError(str(error) or type(error).__name__) from error

    return answer


class _Opened:
    """A picture whose header was read."""

    def __init__(self, data: bytes, format_name: str) -> None:
        self._data = data
        self._image = Image.OPEN[format_name][0](io.BytesIO(data), "")

    def facts(self) -> dict[str, Any]:
        """Give what a parent wants to know before it has it decoded."""
        image = self._image
        dpi = image.info.get("dpi")
        return {
            "size": image.size,
            "bands": len(image.getbands()),
            "levels": self._levels() if isinstance(image, Jpeg2KImagePlugin.Jpeg2KImageFile) else 0,
            "dpi": dpi[0] if isinstance(dpi, tuple) and len(set(dpi)) == 1 else None,
        }

    def _levels(self) -> int:
        """How often a JPEG 2000 can be halved while it is decoded."""
        at = self._data.find(_CODESTREAM) + 2
        while 2 <= at < len(self._data) - 10:
            marker, length = (int.from_bytes(self._data[at + n : at + n + 2], "big") for n in (0, 2))
            if marker == _CODING_STYLE:
                return min(self._data[at + 9], 32)
            if marker == _START_OF_TILE:
                break
            at += 2 + length
        return 0

    def draw(self, target: tuple[int, int], shared: ctypes.Array[ctypes.c_char]) -> dict[str, Any]:
        """Decode and bring to `target` (width, height, before it is turned upright): BGR, row by row."""
        image = self._image
        if isinstance(image, Jpeg2KImagePlugin.Jpeg2KImageFile):
            image.reduce = min(self._levels(), halvings(image.size, target))
        image.load()
        small = shrink.shrink(_shallow(image), image.size, target, white_is_zero=False, decoder=nullcontext)
        turn = pillow.UPRIGHT.get(pillow.orientation(image))
        if turn is not None:
            small = small.transpose(turn)
        content = small.convert("RGB").tobytes("raw", "BGR")
        memoryview(shared).cast("B")[: len(content)] = content
        return {"size": small.size, "turned": turn in pillow.QUARTER_TURNS}


def halvings(size: tuple[int, int], target: tuple[int, int]) -> int:
    """How often a picture can be halved and still be no smaller than wanted."""
    return max(0, int(math.log2(min(has / wants for has, wants in zip(size, target, strict=True)))))


def _shallow(image: Image.Image) -> Image.Image:
    """Bring a picture of 16 bits to eight, as `shrink` does where it may use NumPy."""
    if image.mode not in shrink.DEEP:
        return image
    _, high = image.getextrema()
    white = (1 << int(high).bit_length()) - 1 if isinstance(high, int | float) else 1
    return image.convert("I").point(lambda value: value * (255 / max(1, white)) + 0).convert("L")
