"""WebP, decoded by OpenCV in a third of the memory that Pillow takes; of an animation the first picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ocr_watcher.inputs.raster import Cost, Decoded, RasterFamily, load
from ocr_watcher.inputs.shrink import Raster

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile


def _sniff(head: bytes) -> bool:
    return b"RIFF".startswith(head[:4]) and b"WEBP".startswith(head[8:12])


def _has_end(data: bytes) -> bool:
    return int.from_bytes(data[4:8], "little") + 8 <= len(data)


def _is_animation(data: bytes) -> bool:
    """Tell whether a WebP says that it is an animation, which may be of one frame."""
    return data[12:16] == b"VP8X" and bool(data[20] & 2)


def _cost(image: ImageFile, data: bytes, _size: tuple[int, int]) -> Cost:
    """As measured, see docs/memory.md: 8.9 to 9.6, with transparency 10.3, animated 18.3."""
    if _is_animation(data):
        return Cost(18.5)
    return Cost(11 if image.mode == "RGBA" else 10)


def _decode(image: ImageFile, data: bytes) -> Decoded:
    """Decode by OpenCV, to the same values; Pillow decodes every WebP as an animation.

    Where OpenCV does not, Pillow says why.
    """
    raster = None if _is_animation(data) else _by_opencv(data)
    return load(image, data) if raster is None else Decoded(raster)


def _by_opencv(data: bytes) -> Raster | None:
    import cv2  # noqa: PLC0415 - heavy, and most files are no WebP

    cv2.setLogLevel(0)  # it would print what it does not decode to standard error, past the log
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(str(error)) from error
        return None
    return Raster(pixels) if pixels is not None and pixels.ndim == 3 else None


WEBP = RasterFamily("WEBP", sniff=_sniff, has_end=_has_end, cost=_cost, decode=_decode)
