"""HEIC, the photos of phones, where `pillow-heif` is installed: an extra, because its wheels are GPLv2.

Without it a file still says what would read it.
"""

from __future__ import annotations

import importlib.util
import re
from typing import TYPE_CHECKING

from ocr_watcher.errors import UnsupportedFormatError
from ocr_watcher.inputs.boxes import has_end
from ocr_watcher.inputs.helped import HelpedFamily
from ocr_watcher.inputs.helper_process import Kind

if TYPE_CHECKING:
    from ocr_watcher.inputs.helped import Header

INSTALL = 'pip install "ocr-watcher[heic]"'
"""What brings the decoder. (In a checkout: `make heic`.)"""

# The brands of the codec, and the general one of the container.
_MARK = re.compile(rb".{4}ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", re.DOTALL)


def _sniff(head: bytes) -> bool:
    return _MARK.match(head) is not None


def _bytes_per_pixel(header: Header, _target: tuple[int, int]) -> float:
    """As measured, see docs/memory.md: 3 for grey, 8.2 for colours, with transparency 10.6."""
    return {1: 4.0, 2: 6.0, 3: 9.0, 4: 11.0}[header.bands]


def is_installed() -> bool:
    """Whether there is a decoder."""
    return importlib.util.find_spec("pillow_heif") is not None


def _check() -> None:
    if not is_installed():
        raise UnsupportedFormatError(
            "this is a HEIC photo, and what decodes it is not installed",
            hint=f"{INSTALL}, or `make heic`, and restart; its wheels are GPLv2. Or save the photo as JPEG.",
        )


HEIF = HelpedFamily(
    "HEIF",
    Kind("heif", ("PIL", "_pillow_heif", "pillow_heif"), "pillow-heif"),
    _sniff,
    has_end,
    _bytes_per_pixel,
    _check,
)
