"""What the families have in common whose pictures Pillow decodes in a helper process.

The helper reads the header and tells what is in it. That is held against the limits as for any image; and
because a header may lie, the helper's memory and time are watched while it decodes.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from ocr_watcher.errors import (
    FileError,
    HeavyPageError,
    OutOfMemoryError,
    ShortOfMemoryError,
    SlowPageError,
    TruncatedError,
    UnreadableError,
)
from ocr_watcher.inputs.base import DecodeLimits, Encoded, PageText, Picture
from ocr_watcher.inputs.helper_process import Budget, Helper, HelperEndedError, Kind, descriptor_of
from ocr_watcher.inputs.limits import MIB, check_budget, check_pixels, check_size, fit

if TYPE_CHECKING:
    from collections.abc import Callable

# What a helper has before it decodes (22 to 39 MiB) and an allowance for what the estimate leaves out.
_BASE_MB = 64.0
_ALLOWANCE = 1.25
# The file is in memory twice, and once more in the decoder.
_COPIES_OF_FILE = 3

# What libavif, libheif and OpenJPEG say of a file that ends between two boxes.
_CUT_OFF = re.compile(r"truncated|end of file", re.IGNORECASE)
_MALFORMED = (KeyError, TypeError, ValueError)


@dataclass(frozen=True)
class Header:
    """What a helper told of a picture: pixels, bands, how often it can be halved, pixels an inch."""

    width_px: int
    height_px: int
    bands: int
    levels: int
    dpi: float | None


@dataclass(frozen=True)
class HelpedFamily:
    """A family of images (see `inputs.base.Family`) that a helper decodes.

    Attributes:
        name: The format's name, which is Pillow's too.
        kind: The helper.
        sniff: As in `Family`.
        has_end: Whether a file that does not decode has at least its end: if not, it was cut off.
        bytes_per_pixel: What decoding takes, by the header and the size that is wanted (width, height).
        check: Raises `FileError` where the decoder is not installed.
    """

    name: str
    kind: Kind
    sniff: Callable[[bytes], bool]
    has_end: Callable[[BinaryIO], bool]
    bytes_per_pixel: Callable[[Header, tuple[int, int]], float]
    check: Callable[[], None] = lambda: None

    def max_file_bytes(self, limits: DecodeLimits) -> int:
        """See `Family`."""
        return limits.max_file_bytes

    def open(self, file: BinaryIO, limits: DecodeLimits) -> HelpedDocument:
        """See `Family`."""
        size_bytes = check_size(file, limits)
        self.check()
        return HelpedDocument(self, file, size_bytes, limits)


class HelpedDocument:
    """See `inputs.base.OpenDocument`: one picture. Each time it is asked for, a helper decodes it anew."""

    has_separate_pages = False
    layered = None
    pages = 1

    def __init__(self, family: HelpedFamily, file: BinaryIO, size_bytes: int, limits: DecodeLimits) -> None:
        self._family = family
        self._file = file
        self._file_mb = size_bytes / MIB
        self._helper: Helper | None
        self._helper, self._header = self._open(limits)

    def close(self) -> None:
        """See `OpenDocument`."""
        helper, self._helper = self._helper, None
        if helper is not None:
            helper.close()

    def page_text(self, _index: int, _limits: DecodeLimits) -> PageText | None:
        """See `OpenDocument`."""
        return None

    def picture(self, _index: int, limits: DecodeLimits) -> Picture:
        """See `OpenDocument`."""
        header = self._header
        check_pixels(header.width_px, header.height_px, limits=limits, what="the file")
        width, height = fit(header.width_px, header.height_px, limits)
        takes_mb = self._check_budget((width, height), limits)
        if self._helper is not None and self._helper.shared_bytes < 3 * width * height:
            self.close()
        if self._helper is None:
            self._helper, self._header = self._open(limits)
        helper = self._helper
        try:
            request = {"do": "draw", "width": width, "height": height}
            answer = helper.ask(request, Budget(limits.decode_timeout_s, takes_mb))
            if "error" in answer:
                raise self._error(str(answer["error"]))
            return self._picture(helper, answer)
        except HelperEndedError as ended:
            raise _ended(ended) from ended
        finally:
            self.close()  # with what the decoder keeps

    def encoded(self, _index: int) -> Encoded | None:
        """See `OpenDocument`: no other file can hold these as they are."""
        return None

    def _picture(self, helper: Helper, answer: dict[str, Any]) -> Picture:
        try:
            width, height = (int(side) for side in answer["size"])
            if min(width, height) < 1 or 3 * width * height > helper.shared_bytes:
                raise ValueError("a size that was not asked for")
            sides = self._header.width_px, self._header.height_px
            width_px, height_px = sides[::-1] if answer["turned"] else sides
        except _MALFORMED as error:
            raise UnreadableError("the file is damaged") from error
        return Picture(helper.pixels(width, height), width_px, height_px, self._header.dpi)

    def _check_budget(self, target: tuple[int, int], limits: DecodeLimits) -> float:
        """Hold the estimate against the limits; gives how much the helper may have (MiB)."""
        header = self._header
        pixels = header.width_px * header.height_px
        each = self._family.bytes_per_pixel(header, target)
        needed_mb = pixels * each / MIB
        check_budget(
            needed_mb, f"{pixels / 1e6:.1f} megapixels of {each:.1f} bytes", limits=limits, what="the file"
        )
        return _BASE_MB + needed_mb * _ALLOWANCE + _COPIES_OF_FILE * self._file_mb

    def _open(self, limits: DecodeLimits) -> tuple[Helper, Header]:
        shared_bytes = max(3, 3 * int(min(limits.max_side_px**2, limits.max_page_pixels)))
        with descriptor_of(self._file) as descriptor:
            helper = Helper(self._family.kind, descriptor, shared_bytes)
        try:
            budget = Budget(limits.decode_timeout_s, 2 * _BASE_MB + _COPIES_OF_FILE * self._file_mb)
            answer = helper.ask({"do": "open", "format": self._family.name}, budget)
            if "error" in answer:
                raise self._error(str(answer["error"]))
            return helper, _header(answer)
        except HelperEndedError as ended:
            raise _ended(ended) from ended
        except BaseException:
            helper.close()
            raise

    def _error(self, reason: str) -> FileError:
        """Translate a decoder's own words."""
        if reason == "memory":
            return OutOfMemoryError("there is not enough memory to decode the file")
        told = f"{self._family.name} decoder: {' '.join(reason.split())[:200]}"
        if _CUT_OFF.search(reason) or not self._family.has_end(self._file):
            return TruncatedError(f"the file ends before its image does ({told})")
        return UnreadableError(f"the file is damaged ({told})")


def _header(answer: dict[str, Any]) -> Header:
    """Read what the helper told, which whoever has taken it over may have made up."""
    try:
        width_px, height_px = (int(side) for side in answer["size"])
        dpi = None if answer["dpi"] is None else float(answer["dpi"])
        if dpi is not None and not 1 <= dpi <= 100_000:
            dpi = None
        return Header(
            width_px, height_px, max(1, min(int(answer["bands"]), 4)), max(0, int(answer["levels"])), dpi
        )
    except _MALFORMED as error:
        raise UnreadableError("the file is damaged: its header makes no sense") from error


def _ended(ended: HelperEndedError) -> FileError:
    match ended.why:
        case "memory":
            return HeavyPageError(
                f"the file is larger than its header says: {ended}", hint="Save it again as a JPEG."
            )
        case "time":
            return SlowPageError(f"the file: {ended}", hint="Save it again as a JPEG.")
        case "killed":
            return ShortOfMemoryError(f"the file: {ended}")
    return UnreadableError(f"the file is damaged: {ended}")


def halved(header: Header, target: tuple[int, int]) -> int:
    """How often the helper will halve a picture while it decodes it; as `picture_helper.halvings`."""
    ratio = min(header.width_px / target[0], header.height_px / target[1])
    return max(0, min(header.levels, int(math.log2(max(1.0, ratio)))))
