"""What every kind of input has in common: limits, a family, an open document, a picture of a page."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ocr_watcher.document import Line, Polygon


@dataclass(frozen=True)
class PdfLimits:
    """What a PDF may cost, and how it is read: the `pdf` section of the configuration.

    Attributes:
        max_file_bytes: Bytes of the file.
        max_pages: Pages of the document.
        page_timeout_s: Seconds that opening the document, or decoding a page of it, may take.
        text: As `pdf.text`.
        passwords: Tried in their order.
    """

    max_file_bytes: int = 100 << 20
    max_pages: int = 2000
    page_timeout_s: float = 30.0
    text: Literal["auto", "layer", "ocr"] = "auto"
    passwords: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class DecodeLimits:
    """What a file may cost.

    Attributes:
        max_file_bytes: Bytes of the file, if it is an image.
        max_pixels: Pixels of one page, by its header.
        max_side_px: Longer side of the picture handed out.
        max_page_pixels: Pixels of the picture handed out: what the memory that is left allows.
        max_decode_mb: MiB that decoding may take now.
        max_decode_mb_ever: MiB that decoding could take in a fresh process on an idle machine: a page that
            needs more is refused for good, one that needs less is tried again later.
        decode_timeout_s: Seconds that a helper process may take over a picture.
        pdf: What holds for a PDF.
    """

    max_file_bytes: int
    max_pixels: int
    max_side_px: int
    max_page_pixels: float = math.inf
    max_decode_mb: float = math.inf
    max_decode_mb_ever: float = math.inf
    decode_timeout_s: float = 60.0
    pdf: PdfLimits = PdfLimits()


@dataclass(frozen=True, eq=False)  # arrays have no single truth value
class Picture:
    """One page, ready for the engine.

    Attributes:
        bgr: uint8, (height, width, 3), C-contiguous, blue first; upright, at most `max_side_px` long.
        width_px: Width of the source page as a viewer shows it, that is after EXIF orientation.
        height_px: Height of the same.
        dpi: Pixels of the source an inch, where the file says it.
    """

    bgr: NDArray[np.uint8]
    width_px: int
    height_px: int
    dpi: float | None = None

    @property
    def scale(self) -> float:
        """Size of `bgr` / size of the source along the longer side, to four significant digits; at most 1."""
        return float(f"{max(self.bgr.shape[:2]) / max(self.width_px, self.height_px):.4g}")

    def to_source(self, polygon: Polygon) -> Polygon:
        """Map points (x, y) of `bgr` to pixels of the source page.

        Each axis has its own exact ratio (sides are whole pixels, so the two differ a little); the
        result is clamped to 0..width_px and 0..height_px, the page's outer edges.
        """
        height, width = self.bgr.shape[:2]
        return tuple(
            (
                min(max(float(x) * self.width_px / width, 0.0), float(self.width_px)),
                min(max(float(y) * self.height_px / height, 0.0), float(self.height_px)),
            )
            for x, y in polygon
        )


@dataclass(frozen=True, repr=False)
class Encoded:
    """The picture of a page in the bytes that the file has for it, where other files may hold the same.

    Attributes:
        kind: `jpeg`: a whole JPEG file. `png`: the zlib stream of a PNG without interlacing and transparency,
            with its row filters.
        data: The bytes.
        width_px: Width as stored, before `orientation`.
        height_px: Height as stored.
        components: Values a pixel; 1 grey or an index into `palette`, 3 red, green, blue, 4 CMYK.
        bits: Bits a value.
        palette: Three bytes for each colour.
        inverted: 0 is white, as Adobe stores CMYK.
        orientation: As in EXIF, 1 to 8.
        dpi: Pixels an inch, where the file says so.
    """

    kind: Literal["jpeg", "png"]
    data: bytes
    width_px: int
    height_px: int
    components: int
    bits: int = 8
    palette: bytes | None = None
    inverted: bool = False
    orientation: int = 1
    dpi: float | None = None


@dataclass(frozen=True)
class PageText:
    """A page whose text is in the file, so that nobody has to look at it.

    Attributes:
        width_px: As in `Picture`.
        height_px: As in `Picture`.
        lines: In the order of the file, which is that of reading; score 1, polygons in pixels of the page.
        turned_deg: As in `document.Page`.
        dpi: As in `Picture`.
    """

    width_px: int
    height_px: int
    lines: tuple[Line, ...]
    turned_deg: int = 0
    dpi: float | None = None


class Layered(Protocol):
    """An open PDF, to a copy of which invisible text can be added."""

    def own_text(self, index: int, limits: DecodeLimits) -> tuple[Line, ...]:
        """Give the text that page `index` has, seen or not. Raises `FileError`."""

    def with_layer(self, layer: bytes, pages: Sequence[int], limits: DecodeLimits) -> Iterator[bytes]:
        """Give the document with text beneath what is on its pages, and otherwise as it is.

        Args:
            layer: A PDF with a page for each of `pages`, of the shape in which a viewer shows it.
            pages: Indices in their order. Where there are none, the bytes of the document are given.
            limits: What it may cost.

        Raises:
            OutputNotPossibleError: The document is damaged in a way in which it can be read, but not written.
            FileError: Whatever else is wrong.
        """


class OpenDocument(Protocol):
    """A file that was opened and whose structure was checked; nothing of it is decoded yet.

    Belongs to one thread. Between two calls no full-size pixels are kept.
    """

    @property
    def pages(self) -> int:
        """How many pages it has, at least 1."""

    @property
    def has_separate_pages(self) -> bool:
        """Whether a page that cannot be read says nothing of the others.

        In a TIFF it says that the file was cut off, or is one that no decoder should go on with.
        """

    def page_text(self, index: int, limits: DecodeLimits) -> PageText | None:
        """Give the text of page `index` where the file itself has it; None where `picture` is to be read.

        Raises:
            FileError: As `picture`.
        """

    def picture(self, index: int, limits: DecodeLimits) -> Picture:
        """Decode page `index` (from 0) and bring it to size. May be asked for any page, and again.

        Raises:
            TooManyPixelsError: By the header of the page; nothing of it was decoded.
            MemoryBudgetError: By its header it takes more than `max_decode_mb_ever`.
            ShortOfMemoryError: By its header it takes more than `max_decode_mb`, which will pass.
            OutOfMemoryError: Memory ran out while decoding.
            FileError: Whatever else is wrong with the page.
        """

    def encoded(self, index: int) -> Encoded | None:
        """Give the picture of page `index` as the file has it; None where it has none that others may hold.

        Raises:
            FileError: As `picture`.
        """

    @property
    def layered(self) -> Layered | None:
        """What adds text to the document as it is, where that is possible: it is a PDF."""

    def close(self) -> None:
        """Let go of everything but the file, which is the caller's."""


class Family(Protocol):
    """One row of the table in `inputs.table`: the files that one decoder opens."""

    @property
    def name(self) -> str:
        """What it is called in messages."""

    def sniff(self, head: bytes) -> bool:
        """Tell whether a file that begins with `head` is of this family.

        `head` is what there is of the first `inputs.table.HEAD_BYTES`, at least one byte. A file that ends
        within the family's mark is of the family too: it was cut off.
        """

    def max_file_bytes(self, limits: DecodeLimits) -> int:
        """Give how many bytes a file of this family may have."""

    def open(self, file: BinaryIO, limits: DecodeLimits) -> OpenDocument:
        """Open a file that `sniff` recognised. Where the file stands does not matter.

        How much of the file is read is the family's business.

        Raises:
            FileError: As `inputs.table.open_document`.
        """
