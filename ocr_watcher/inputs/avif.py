"""AVIF; of a sequence the first picture."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ocr_watcher.inputs.boxes import has_end
from ocr_watcher.inputs.helped import HelpedFamily
from ocr_watcher.inputs.helper_process import Kind

if TYPE_CHECKING:
    from ocr_watcher.inputs.helped import Header

_MARK = re.compile(rb".{4}ftypavi[fs]", re.DOTALL)
# The general brand of the container comes first in some files, the brand of the codec among the others.
_GENERAL = re.compile(rb".{4}ftypmi[af]1", re.DOTALL)
_BRANDS_BYTES = 256


def _sniff(head: bytes) -> bool:
    if _MARK.match(head):
        return True
    return _GENERAL.match(head) is not None and b"avif" in head[16:_BRANDS_BYTES]


def _bytes_per_pixel(header: Header, _target: tuple[int, int]) -> float:
    """As measured, see docs/memory.md: 9.1 (4:2:0) to 10.9 (4:4:4), with transparency up to 15.2."""
    return 15.5 if header.bands == 4 else 11.0


AVIF = HelpedFamily("AVIF", Kind("picture", ("PIL",), "pillow"), _sniff, has_end, _bytes_per_pixel)
