"""PDF: opened and drawn by a helper process, because what a page takes shows in no header.

A page comes as the text that the file itself has of it, or as a picture, drawn straight at the size wanted. A
page that makes the helper take too much memory or time is tried once more at half the size.
"""

from __future__ import annotations

import io
import math
import os
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO

from ocr_watcher.document import Line, Word, box_around, line_text
from ocr_watcher.errors import (
    EncryptedError,
    FileError,
    HeavyPageError,
    OutOfMemoryError,
    OutputNotPossibleError,
    ShortOfMemoryError,
    SlowPageError,
    TooManyPagesError,
    TruncatedError,
    UnreadableError,
    UnsupportedFormatError,
)
from ocr_watcher.inputs.base import DecodeLimits, Encoded, PageText, Picture
from ocr_watcher.inputs.helper_process import (
    Budget,
    Helper,
    HelperEndedError,
    Kind,
    Protection,
    descriptor_of,
)
from ocr_watcher.inputs.limits import MIB, check_size, fit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ocr_watcher.document import Polygon

DPI = 300
"""Pages are measured at this resolution, pixels an inch."""

_MARK = b"%PDF-"
_END = b"%%EOF"
_END_WITHIN_BYTES = 2048  # of the end of the file; some writers append to it

# PDFium keeps a little of every page that it was asked for: 8 MiB after a thousand.
_PAGES_A_HELPER = 300
_KIND = Kind("pdf", ("pypdfium2_raw",), "pypdfium2")
# Resident memory that a helper may have (MiB). Text takes 23, a scan 70, a picture of 400 megapixels 100, a
# progressive JPEG of A4 at 600 dpi up to 238. Between two looks at it a helper gains up to 30 more, and up
# to 60 on a busy machine.
_MAX_RSS_MB = 320.0
# However little memory is left, a helper may have this much (MiB): enough for nearly every page.
_LEAST_RSS_MB = 100.0
# For adding text: what a helper has before (27), and an allowance (MiB). It has the file in memory, the copy
# that it parses, and what it makes.
_LAYER_KIND = Kind("pdf_layer", ("lxml", "packaging", "pikepdf"), "pikepdf")
_LAYER_RSS_MB = 100.0
_COPIES_OF_FILE = 6
_PART_BYTES = 1 << 20
_MAX_GROWTH = 4
# A page that took too much, or ended the helper, is tried again at half the side, in half the time.
_TRIES = (1, 2)

_MALFORMED = (KeyError, TypeError, ValueError, OverflowError)


class PdfFamily:
    """See `inputs.base.Family`."""

    name = "PDF"

    def sniff(self, head: bytes) -> bool:
        """See `Family`. As in other programs, the mark may stand behind a few bytes of something else."""
        return _MARK in head or _MARK.startswith(head)

    def max_file_bytes(self, limits: DecodeLimits) -> int:
        """See `Family`."""
        return limits.pdf.max_file_bytes

    def open(self, file: BinaryIO, limits: DecodeLimits) -> PdfDocument:
        """See `Family`."""
        hint = "Raise pdf.max_file_mb, or split the file."
        check_size(file, limits, at_most=limits.pdf.max_file_bytes, hint=hint)
        return PdfDocument(file, limits)


PDF = PdfFamily()


class PdfDocument:
    """See `inputs.base.OpenDocument`. The file itself is read by the helper, through its descriptor."""

    has_separate_pages = True

    def __init__(self, file: BinaryIO, limits: DecodeLimits) -> None:
        self._file = file
        self._limits = limits
        self._helper: Helper | None = None
        self._asked = 0  # pages that this helper was asked for
        self._killed: HelperEndedError | None = None  # what ended the helper over the page at hand, ...
        self._killed_over: int | None = None  # ... and which page that is
        try:
            self.pages = self._open(_shared_bytes(limits))
        except HelperEndedError as ended:
            raise _failed("opening the file", ended) from ended

    def close(self) -> None:
        """See `OpenDocument`."""
        helper, self._helper = self._helper, None
        if helper is not None:
            helper.close()

    def page_text(self, index: int, limits: DecodeLimits) -> PageText | None:
        """See `OpenDocument`."""
        if limits.pdf.text == "ocr" or self._killed_over == index:
            return None
        what = self._what(index)
        try:
            width_px, height_px = self._size_px(index, limits, what)
            request = {"do": "text", "page": index, "always": limits.pdf.text == "layer"}
            answer = self._ask(request, limits, what)
        except HelperEndedError as ended:
            if limits.pdf.text == "layer" or ended.why == "killed":
                raise _failed(what, ended) from ended
            # The picture may still be had: `picture` takes this for its first try.
            self._killed, self._killed_over = ended, index
            return None
        if answer.get("lines") is None:
            return None
        try:
            lines, turned_deg = _lines(answer["lines"], width_px, height_px)
        except _MALFORMED as error:
            raise UnreadableError(f"{what} is damaged: its text layer makes no sense") from error
        return PageText(width_px, height_px, lines, turned_deg, DPI)

    def picture(self, index: int, limits: DecodeLimits) -> Picture:
        """See `OpenDocument`."""
        what = self._what(index)
        ended = self._killed if self._killed_over == index else None
        self._killed, self._killed_over = None, None
        for divisor in _TRIES if ended is None else _TRIES[1:]:
            smaller = replace(
                limits,
                max_side_px=max(1, limits.max_side_px // divisor),
                max_page_pixels=limits.max_page_pixels / divisor**2,
            )
            try:
                return self._draw(index, smaller, what, seconds=limits.pdf.page_timeout_s / divisor)
            except HelperEndedError as error:
                short = error.why == "memory" and _rss_mb(limits) < _rss_mb(limits, ever=True)
                if short or error.why == "killed":
                    raise ShortOfMemoryError(f"{what}: {error}") from error
                ended = error
        raise _failed(f"{what}, at half the size too", ended)

    def encoded(self, _index: int) -> Encoded | None:
        """See `OpenDocument`: there may be more on a page than a picture."""
        return None

    @property
    def layered(self) -> PdfDocument:
        """See `OpenDocument`."""
        return self

    def own_text(self, index: int, limits: DecodeLimits) -> tuple[Line, ...]:
        """See `inputs.base.Layered`."""
        found = self.page_text(index, replace(limits, pdf=replace(limits.pdf, text="layer")))
        return () if found is None else found.lines

    def with_layer(self, layer: bytes, pages: Sequence[int], limits: DecodeLimits) -> Iterator[bytes]:
        """See `inputs.base.Layered`. Another helper does it, which has PDF objects but draws nothing."""
        self.close()
        size_bytes = self._file.seek(0, os.SEEK_END)
        if not pages:
            self._file.seek(0)
            yield from iter(lambda: self._file.read(_PART_BYTES), b"")
            return
        with descriptor_of(self._file) as descriptor:
            helper = Helper(_LAYER_KIND, descriptor, max(len(layer), _PART_BYTES))
        file_mb = (size_bytes + len(layer)) / MIB
        budget = Budget(limits.pdf.page_timeout_s, _LAYER_RSS_MB + _COPIES_OF_FILE * file_mb)
        most = _MAX_GROWTH * size_bytes + 2 * len(layer) + _PART_BYTES
        try:
            helper.put(layer)
            passwords = list(limits.pdf.passwords)
            request = {"do": "add", "size": len(layer), "pages": list(pages), "passwords": passwords}
            left = min(most, _size_in(helper.ask(request, budget)))
            at = 0
            while left > 0:
                part = helper.content(_size_in(helper.ask({"do": "take", "at": at}, budget)))
                at, left = at + len(part), left - len(part)
                yield part[: len(part) + min(0, left)]
        except HelperEndedError as ended:
            raise OutputNotPossibleError(f"no text can be added to the PDF: {ended}") from ended
        finally:
            helper.close()

    @property
    def protection(self) -> Protection:
        """Which of the kernel's filters hold in the helper."""
        return self._helper.protection if self._helper is not None else Protection()

    # -- asking --------------------------------------------------------------------------------

    def _draw(self, index: int, limits: DecodeLimits, what: str, *, seconds: float) -> Picture:
        width_px, height_px = self._size_px(index, limits, what)
        width, height = fit(width_px, height_px, limits)
        request = {"do": "draw", "page": index, "width": width, "height": height}
        self._ask(request, limits, what, seconds=seconds, shared_bytes=3 * width * height)
        assert self._helper is not None  # noqa: S101 - it has just answered
        return Picture(self._helper.pixels(width, height), width_px, height_px, DPI)

    def _size_px(self, index: int, limits: DecodeLimits, what: str) -> tuple[int, int]:
        answer = self._ask({"do": "size", "page": index}, limits, what)
        try:
            width_px, height_px = (max(1, round(float(side) * DPI / 72)) for side in answer["size_pt"])
        except _MALFORMED as error:
            raise UnreadableError(f"{what} is damaged: it has no size") from error
        return width_px, height_px

    def _ask(
        self,
        request: dict[str, Any],
        limits: DecodeLimits,
        what: str,
        *,
        seconds: float | None = None,
        shared_bytes: int = 0,
    ) -> dict[str, Any]:
        """Have the helper answer; start another one where there is none, or it has done enough.

        Raises `HelperEndedError` where it ends over the request, `FileError` where the answer is an error.
        """
        begins = request["do"] == "size"
        if self._helper is not None and (
            (begins and self._asked >= _PAGES_A_HELPER) or self._helper.shared_bytes < shared_bytes
        ):
            self.close()
        if self._helper is None:
            self._open(max(shared_bytes, _shared_bytes(self._limits)))
        helper = self._helper
        assert helper is not None  # noqa: S101 - `_open` sets it
        self._asked += begins
        budget = Budget(limits.pdf.page_timeout_s if seconds is None else seconds, _rss_mb(limits))
        try:
            answer = helper.ask(request, budget)
        except HelperEndedError:
            self._helper = None
            raise
        if "error" in answer:
            raise self._error(str(answer["error"]), what)
        return answer

    def _open(self, shared_bytes: int) -> int:
        """Start a helper and have it open the file; gives the number of pages."""
        pdf = self._limits.pdf
        with descriptor_of(self._file) as descriptor:
            helper = Helper(_KIND, descriptor, shared_bytes)
        try:
            answer = helper.ask(
                {"do": "open", "passwords": list(pdf.passwords)}, Budget(pdf.page_timeout_s, _MAX_RSS_MB)
            )
            if "error" in answer:
                raise self._error(str(answer["error"]), "the file")
            pages = int(answer["pages"])
            if pages > pdf.max_pages:
                raise TooManyPagesError(f"the PDF has {pages} pages; the limit is {pdf.max_pages}")
        except BaseException:
            helper.close()
            raise
        self._helper, self._asked = helper, 0
        return pages

    # -- what went wrong -----------------------------------------------------------------------

    def _what(self, index: int) -> str:
        return f"page {index + 1} of the file" if self.pages > 1 else "the file"

    def _error(self, code: str, what: str) -> FileError:
        """Translate an error that the helper answered with."""
        error: FileError = UnreadableError(f"{what} is damaged")
        match code:
            case "password" | "security":
                error = self._encrypted(code)
            case "memory":
                error = OutOfMemoryError(f"there is not enough memory to decode {what}")
            case "xfa":
                error = UnsupportedFormatError(
                    "the PDF is a dynamic XFA form, which only Adobe's programs show",
                    hint="Open it in Adobe Reader, and print it to a PDF.",
                )
            case "no_pages":
                error = UnreadableError("the PDF has no pages")
            case "size":
                error = UnreadableError(f"{what} is damaged: it has no size")
            case _ if what == "the file" and not self._has_end():
                error = TruncatedError("the PDF ends before its document does")
        return error

    def _encrypted(self, code: str) -> FileError:
        if code == "security":
            return EncryptedError(
                "the PDF is protected in a way that is not known here",
                hint="Open it in the program that protected it, and save it without protection.",
            )
        known = ", which is none of those in pdf.passwords" if self._limits.pdf.passwords else ""
        return EncryptedError(f"the PDF asks for a password{known}")

    def _has_end(self) -> bool:
        try:
            size_bytes = self._file.seek(0, os.SEEK_END)
            self._file.seek(max(0, size_bytes - _END_WITHIN_BYTES))
            return _END in self._file.read(_END_WITHIN_BYTES)
        except OSError:
            return True


def _size_in(answer: dict[str, Any]) -> int:
    """How many bytes the helper has made, or gives."""
    if "error" in answer:
        raise OutputNotPossibleError(f"no text can be added to the PDF: {str(answer['error'])[:200]}")
    try:
        size_bytes = int(answer["size"])
    except _MALFORMED as error:
        raise OutputNotPossibleError("no text can be added to the PDF") from error
    if size_bytes < 1:
        raise OutputNotPossibleError("no text can be added to the PDF: nothing comes of it")
    return size_bytes


def _failed(what: str, ended: HelperEndedError | None) -> FileError:
    message = f"{what}: {ended}"
    match ended.why if ended is not None else "":
        case "memory":
            return HeavyPageError(message)
        case "time":
            return SlowPageError(message)
        case "killed":
            return ShortOfMemoryError(message)
    return UnreadableError(message)


def _rss_mb(limits: DecodeLimits, *, ever: bool = False) -> float:
    """How much memory a helper may have now, or in a fresh process on an idle machine (MiB)."""
    left_mb = limits.max_decode_mb_ever if ever else limits.max_decode_mb
    return min(_MAX_RSS_MB, max(_LEAST_RSS_MB, left_mb))


def _shared_bytes(limits: DecodeLimits) -> int:
    """Size of the largest picture within the limits."""
    return max(3, 3 * int(min(limits.max_side_px**2, limits.max_page_pixels)))


# -- the text layer ------------------------------------------------------------------------------


def _lines(found: Any, width_px: int, height_px: int) -> tuple[tuple[Line, ...], int]:  # noqa: ANN401 - not to be trusted
    """Make lines of what the helper answered, and tell how the page is to be turned.

    Raises one of `_MALFORMED`: whoever has taken the helper over may answer anything.
    """
    lines, quarters = [], Counter[int]()
    for words, quarter in found:
        made = [
            Word(text, 1.0, _corners(box, int(quarter), width_px, height_px))
            for raw, box in words
            if (text := line_text(str(raw)))
        ]
        if made:
            text = " ".join(word.text for word in made)
            boxes = [box_around(word.polygon) for word in made]
            around = (
                min(box[0] for box in boxes),
                min(box[1] for box in boxes),
                max(box[2] for box in boxes),
                max(box[3] for box in boxes),
            )
            lines.append(Line(text, 1.0, _corners(around, int(quarter), width_px, height_px), tuple(made)))
            quarters[int(quarter) % 4] += len(text)
    turned = quarters.most_common(1)[0][0] if quarters else 0
    return tuple(lines), -90 * turned % 360


def _corners(box: Any, quarter: int, width_px: int, height_px: int) -> Polygon:  # noqa: ANN401 - as above
    """Corners of a box clockwise from the top left of its text, which runs as `pdf_text.Character` says."""
    left, top, right, bottom = (float(edge) for edge in box)
    if not all(map(math.isfinite, (left, top, right, bottom))):
        raise ValueError("a box without bounds")
    left, right = (min(max(edge, 0.0), float(width_px)) for edge in (left, right))
    top, bottom = (min(max(edge, 0.0), float(height_px)) for edge in (top, bottom))
    corners = ((left, top), (right, top), (right, bottom), (left, bottom))
    return corners[quarter % 4 :] + corners[: quarter % 4]


# -- for `doctor` ----------------------------------------------------------------------------------

# PDFium finds the objects without a table of them.
_SMALLEST = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
    b"2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 72 72]>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
)


def try_out() -> Protection:
    """Draw an empty page, and tell how the helper is confined. Raises `FileError` where that fails."""
    limits = DecodeLimits(len(_SMALLEST), 1_000_000, 72)
    document = PDF.open(io.BytesIO(_SMALLEST), limits)
    try:
        document.picture(0, limits)
        return document.protection
    finally:
        document.close()
