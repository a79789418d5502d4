"""A searchable PDF: the picture of each page, and its text invisibly in place.

The picture's own bytes are taken over where a PDF may hold them (JPEG, most PNG); others are decoded and
saved as JPEG. The text is in a font that is never shown and whose codes are code points, so any script can be
searched, selected and copied. Objects are written as the pages come; nothing is kept but their offsets.
"""

from __future__ import annotations

import base64
import io
import math
import unicodedata
import zlib
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from ocr_watcher.inputs.base import Encoded
from ocr_watcher.ocr import order
from ocr_watcher.outputs.base import with_blanks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ocr_watcher.document import Line, Page, Point, Word
    from ocr_watcher.inputs.base import Picture
    from ocr_watcher.outputs.base import About, Pictures

# A picture that cannot be taken over is saved at this size at most: A4 at 175 dpi, 9 MiB while it is made.
_MAX_SIDE_PX: Final = 2048
_QUALITY: Final = 85
# Where nothing says how large a page is, its longer side is that of A4 (points). No side may be longer than
# the second figure (ISO 32000-1, annex C).
_A4_PT: Final = 842.0
_MAX_PT: Final = 14_400.0

# A TrueType font whose second glyph is a box 500 units wide, from -200 to 800 of 1000 an em; made by
# fontTools' FontBuilder. Nothing of it is shown, but PDFium finds no text whose glyphs have no height.
_FONT: Final = zlib.decompress(
    base64.b85decode(
        "c-muNWME)mV{l+#Vo*rWsZ3+eWBdUW0b!|()WnoTZf6T1I|qo(GJpcCVvKq~_7Wgg$;d6KVEn=W0xv+O<m4wOGVp@="
        "A3*%v#EJq27NF@23@3nCfdOO}5GSzpT#M(o`O3h|{DJ`k{I_8I!mI#fFazBL0YE*>3jcxbfY=5k8PPN`f<>5swn1c="
        "&`pK969RZ4W<qUZW?&E%R1{?Va)SBA9|@oo0B8Ipt^"
    )
)
_ALL_ARE_BOXES: Final = zlib.compress(b"\0\1" * 65536)  # CID -> glyph
_WIDTH: Final = 0.5  # of every glyph, in ems
# The baseline stands this far above the lower edge of a line's box; so the glyphs fill the box.
_DESCENT: Final = 0.2

(
    _CATALOG,
    _PAGES,
    _INFO,
    _TYPE0,
    _CID_FONT,
    _DESCRIPTOR,
    _FONT_FILE,
    _GLYPHS,
    _TO_UNICODE,
    _FIRST_FREE,
) = range(1, 11)


class PdfWriter:
    """See `base.Writer`. Without pictures it writes their text alone."""

    def __init__(self, about: About, pictures: Pictures | None) -> None:
        self._about = about
        self._pictures = pictures
        self._offsets: dict[int, int] = {}
        self._at = 0
        self._next = _FIRST_FREE
        self._page_objects: list[int] = []
        self._codes = _Codes()

    def begin(self) -> Iterator[bytes]:
        """The font, and who made the file."""
        yield self._count(b"%PDF-1.5\n%\xe2\xe3\xcf\xd3\n")
        yield self._object(_CATALOG, f"<</Type/Catalog/Pages {_PAGES} 0 R>>")
        yield self._object(_INFO, f"<</Producer {_text_string(self._about.producer)}>>")
        yield self._object(
            _TYPE0,
            f"<</Type/Font/Subtype/Type0/BaseFont/Invisible/Encoding/Identity-H"
            f"/DescendantFonts[{_CID_FONT} 0 R]/ToUnicode {_TO_UNICODE} 0 R>>",
        )
        yield self._object(
            _CID_FONT,
            "<</Type/Font/Subtype/CIDFontType2/BaseFont/Invisible"
            "/CIDSystemInfo<</Registry(Adobe)/Ordering(Identity)/Supplement 0>>"
            f"/FontDescriptor {_DESCRIPTOR} 0 R/DW {round(1000 * _WIDTH)}/CIDToGIDMap {_GLYPHS} 0 R>>",
        )
        yield from self._stream(_GLYPHS, "/Filter/FlateDecode", _ALL_ARE_BOXES)
        yield self._object(
            _DESCRIPTOR,
            "<</Type/FontDescriptor/FontName/Invisible/Flags 5/FontBBox[0 -200 500 800]/ItalicAngle 0"
            f"/Ascent 800/Descent -200/CapHeight 800/StemV 80/FontFile2 {_FONT_FILE} 0 R>>",
        )
        yield from self._stream(_FONT_FILE, f"/Length1 {len(_FONT)}", _FONT)

    def page(self, page: Page) -> Iterator[bytes]:
        """The picture, the text, the page."""
        encoded = None
        if self._pictures is not None and page.width_px and page.height_px:
            encoded = self._pictures.encoded(page.index)
            if encoded is None:
                encoded = _as_jpeg(self._pictures.picture(page.index, _MAX_SIDE_PX))
        size = _Size.of(page, encoded)
        content = []
        resources = f"/Font<</F {_TYPE0} 0 R>>"
        if encoded is not None:
            image = self._free()
            yield from self._image(image, encoded)
            resources += f"/XObject<</I {image} 0 R>>"
            content.append(f"q {_placed(encoded.orientation, size)} cm /I Do Q")
        content += ["BT 3 Tr", *(self._line(line, size) for line in page.lines), "ET"]
        stream, number = self._free(), self._free()
        yield from self._stream(
            stream, "/Filter/FlateDecode", zlib.compress("\n".join(content).encode("ascii"))
        )
        yield self._object(
            number,
            f"<</Type/Page/Parent {_PAGES} 0 R/MediaBox[0 0 {size.width_pt:.2f} {size.height_pt:.2f}]"
            f"/Resources<<{resources}>>/Contents {stream} 0 R>>",
        )
        self._page_objects.append(number)

    def end(self) -> Iterator[bytes]:
        """The list of pages, what codes mean, and where everything is."""
        kids = " ".join(f"{number} 0 R" for number in self._page_objects)
        yield self._object(_PAGES, f"<</Type/Pages/Count {len(self._page_objects)}/Kids[{kids}]>>")
        yield from self._stream(_TO_UNICODE, "/Filter/FlateDecode", zlib.compress(self._codes.to_unicode()))
        start = self._at
        rows = "".join(f"{self._offsets[number]:010d} 00000 n \n" for number in range(1, self._next))
        digest = self._about.source.sha256 or "0" * 64
        identity = f"<{digest[:32]}><{digest[32:]}>"
        yield (
            f"xref\n0 {self._next}\n0000000000 65535 f \n{rows}trailer\n"
            f"<</Size {self._next}/Root {_CATALOG} 0 R/Info {_INFO} 0 R/ID[{identity}]>>\n"
            f"startxref\n{start}\n%%EOF\n"
        ).encode("ascii")

    # -- objects -------------------------------------------------------------------------------

    def _free(self) -> int:
        self._next += 1
        return self._next - 1

    def _count(self, data: bytes) -> bytes:
        self._at += len(data)
        return data

    def _object(self, number: int, body: str) -> bytes:
        self._offsets[number] = self._at
        return self._count(f"{number} 0 obj\n{body}\nendobj\n".encode("ascii"))

    def _stream(self, number: int, about: str, data: bytes) -> Iterator[bytes]:
        self._offsets[number] = self._at
        yield self._count(f"{number} 0 obj\n<</Length {len(data)}{about}>>\nstream\n".encode("ascii"))
        yield self._count(data)
        yield self._count(b"\nendstream\nendobj\n")

    def _image(self, number: int, encoded: Encoded) -> Iterator[bytes]:
        about = (
            f"/Type/XObject/Subtype/Image/Width {encoded.width_px}/Height {encoded.height_px}"
            f"/BitsPerComponent {encoded.bits}/ColorSpace{_colours(encoded)}"
        )
        if encoded.kind == "jpeg":
            about += "/Filter/DCTDecode"
        else:
            about += (
                f"/Filter/FlateDecode/DecodeParms<</Predictor 15/Colors {encoded.components}"
                f"/BitsPerComponent {encoded.bits}/Columns {encoded.width_px}>>"
            )
        if encoded.inverted:
            about += f"/Decode[{' '.join(['1 0'] * encoded.components)}]"
        return self._stream(number, about, encoded.data)

    # -- text ----------------------------------------------------------------------------------

    def _line(self, line: Line, size: _Size) -> str:
        """Show the words of a line, each stretched with the blank behind it to where the next begins.

        So readers do not join what is apart, and a selection has no holes.
        """
        frame = _Frame.of([size.point(corner) for corner in order.corners(line.polygon)])
        parts = [f"/F {frame.height:.2f} Tf"]
        words = _placed_words(line, frame, size)
        if order.direction(line.polygon) is order.Direction.LEFT:
            parts.append(self._in_one(words, frame))
            return "\n".join(parts)
        ends = [max(after.start, word.start + 0.01) for word, after in pairwise(words)]
        for word, end in zip_longest(words, ends):
            text = word.text if end is None else f"{word.text} "
            width = (word.end if end is None else end) - word.start
            stretch = 100 * width / (len(text) * _WIDTH * frame.height)
            parts.append(f"{frame.matrix(word.start)} Tm {stretch:.2f} Tz <{self._codes.of(text)}> Tj")
        return "\n".join(parts)

    def _in_one(self, words: list[_PlacedWord], frame: _Frame) -> str:
        """Show all words of a line by one operator: where each begins is right, where it ends nearly so.

        For text on its head: what is shown word by word, PDFium puts in order from left to right. Where
        characters of a word are moved as well, it finds blanks between them.
        """
        texts = [f"{word.text} " for word in words[:-1]] + [words[-1].text]
        start, end = words[0].start, max(word.end for word in words)
        glyph = (end - start) / sum(map(len, texts))
        parts, at = [], start
        for word, text in zip(words, texts, strict=True):
            # In thousandths of the font's size, stretched, against the way of the text.
            parts.append(f"{(at - word.start) * 1000 * _WIDTH / glyph:.0f}<{self._codes.of(text)}>")
            at = word.start + glyph * len(text)
        stretch = 100 * glyph / (_WIDTH * frame.height)
        return f"{frame.matrix(start)} Tm {stretch:.2f} Tz [{''.join(parts)}] TJ"


# -- the page ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Size:
    """A page in points, with y upwards, and how many of them a pixel of the source has."""

    width_pt: float
    height_pt: float
    pt_per_px: float

    @classmethod
    def of(cls, page: Page, encoded: Encoded | None) -> _Size:
        width_px, height_px = page.width_px or 595, page.height_px or 842
        dpi = encoded.dpi if encoded is not None and encoded.dpi else page.dpi
        scale = 72 / dpi if dpi else _A4_PT / max(width_px, height_px)
        scale = min(scale, _MAX_PT / max(width_px, height_px))
        return cls(width_px * scale, height_px * scale, scale)

    def point(self, pixel: Point) -> Point:
        """A point of the source page on the PDF's."""
        return pixel[0] * self.pt_per_px, self.height_pt - pixel[1] * self.pt_per_px


@dataclass(frozen=True)
class _Frame:
    """A line of text: its lower left corner, the way it runs (unit vector), how high it is (points)."""

    origin: Point
    way: Point
    height: float

    @classmethod
    def of(cls, corners: list[Point]) -> _Frame:
        top_left, _, bottom_right, bottom_left = corners
        length = math.dist(bottom_left, bottom_right)
        way = (1.0, 0.0)
        if length:
            way = ((bottom_right[0] - bottom_left[0]) / length, (bottom_right[1] - bottom_left[1]) / length)
        return cls(bottom_left, way, max(math.dist(top_left, bottom_left), 0.1))

    def along(self, point: Point) -> float:
        """How far along the line a point is (points)."""
        return (point[0] - self.origin[0]) * self.way[0] + (point[1] - self.origin[1]) * self.way[1]

    def matrix(self, start: float) -> str:
        """The text matrix for what begins there, on the baseline."""
        (cos, sin), up = self.way, _DESCENT * self.height
        x = self.origin[0] + start * cos - up * sin
        y = self.origin[1] + start * sin + up * cos
        return f"{cos:.5f} {sin:.5f} {-sin:.5f} {cos:.5f} {x:.2f} {y:.2f}"


@dataclass(frozen=True)
class _PlacedWord:
    """What is between blanks, from `start` to `end` along its line (points); characters as they are shown."""

    text: str
    start: float
    end: float


def _placed_words(line: Line, frame: _Frame, size: _Size) -> list[_PlacedWord]:
    """What is between the blanks of a line, from left to right."""
    placed = []
    text, extents = "", []
    for word, blank_follows in with_blanks(line):
        text += word.text
        extents.append(_extent(word, frame, size))
        if blank_follows:
            placed.append(_placed_word(text, extents))
            text, extents = "", []
    placed.append(_placed_word(text, extents))
    return sorted(placed, key=lambda word: word.start)


def _placed_word(text: str, extents: list[tuple[float, float]]) -> _PlacedWord:
    start, end = min(start for start, _ in extents), max(end for _, end in extents)
    return _PlacedWord(_shown(text), start, end)


def _extent(word: Word, frame: _Frame, size: _Size) -> tuple[float, float]:
    """From where to where of its line a word runs (points).

    Of a word that comes out of a sidecar only the upright box is known. What it is wider, on a page that lies
    askew, comes from the height of the line.
    """
    left, top, right, bottom = word.box
    along, across = abs(frame.way[0]), abs(frame.way[1])
    if along >= across:
        length = ((right - left) * size.pt_per_px - frame.height * across) / along
    else:
        length = ((bottom - top) * size.pt_per_px - frame.height * along) / across
    middle = frame.along(size.point(((left + right) / 2, (top + bottom) / 2)))
    half = max(length, 0.01) / 2
    return middle - half, middle + half


def _is_to_the_left(character: str) -> bool:
    return unicodedata.bidirectional(character) in {"R", "AL"}


def _shown(text: str) -> str:
    """A word in the order in which it stands on the page: readers turn what runs to the left round again."""
    return text[::-1] if any(map(_is_to_the_left, text)) else text


# -- the picture ---------------------------------------------------------------------------------


def _as_jpeg(picture: Picture) -> Encoded:
    """A decoded page as JPEG, in grey where it has no colours."""
    bgr = picture.bgr
    height, width = bgr.shape[:2]
    is_grey = bool((bgr[:, :, 0] == bgr[:, :, 1]).all() and (bgr[:, :, 1] == bgr[:, :, 2]).all())
    image = Image.fromarray(np.ascontiguousarray(bgr[:, :, 0] if is_grey else bgr[:, :, ::-1]))
    made = io.BytesIO()
    image.save(made, "JPEG", quality=_QUALITY)
    return Encoded("jpeg", made.getvalue(), width, height, components=1 if is_grey else 3)


_DEVICE: Final[Mapping[int, str]] = {1: "/DeviceGray", 3: "/DeviceRGB", 4: "/DeviceCMYK"}


def _colours(encoded: Encoded) -> str:
    if encoded.palette is not None:
        return f"[/Indexed/DeviceRGB {len(encoded.palette) // 3 - 1}<{encoded.palette.hex()}>]"
    return _DEVICE[encoded.components]


# EXIF orientation -> where the left upper corner of the picture as stored stands on the page, and where from
# there its right upper and left lower corners are; as shares of the page, from its left upper corner.
_CORNERS: Final[Mapping[int, tuple[Point, Point, Point]]] = {
    1: ((0, 0), (1, 0), (0, 1)),
    2: ((1, 0), (0, 0), (1, 1)),
    3: ((1, 1), (0, 1), (1, 0)),
    4: ((0, 1), (1, 1), (0, 0)),
    5: ((0, 0), (0, 1), (1, 0)),
    6: ((1, 0), (1, 1), (0, 0)),
    7: ((1, 1), (1, 0), (0, 1)),
    8: ((0, 1), (0, 0), (1, 1)),
}


def _placed(orientation: int, size: _Size) -> str:
    """The matrix that brings the unit square to the page, so that the picture stands upright."""
    corners = _CORNERS.get(orientation, _CORNERS[1])
    (x0, y0), (x1, y1), (x2, y2) = ((x * size.width_pt, (1 - y) * size.height_pt) for x, y in corners)
    # In the unit square the picture's lower left corner is (0, 0).
    values = (x1 - x0, y1 - y0, x0 - x2, y0 - y2, x2, y2)
    return " ".join(f"{value:.3f}" for value in values)


# -- codes ---------------------------------------------------------------------------------------


class _Codes:
    """Codes of two bytes for characters: code points, and beyond 16 bits what is the code point of none."""

    _FIRST, _LAST = 0xD800, 0xDFFF

    def __init__(self) -> None:
        self._beyond: dict[str, int] = {}

    def of(self, text: str) -> str:
        """Codes of a text in hexadecimal digits, four for each character."""
        return "".join(f"{self._code(character):04X}" for character in text)

    def _code(self, character: str) -> int:
        point = ord(character)
        if point <= 0xFFFF:
            return point
        code = self._beyond.setdefault(character, self._FIRST + len(self._beyond))
        return code if code <= self._LAST else 0xFFFD

    def to_unicode(self) -> bytes:
        """The CMap that says which character a code is."""
        ranges = [
            f"<{high:02X}00> <{high:02X}FF> <{high:02X}00>"
            for high in range(256)
            if not self._FIRST >> 8 <= high <= self._LAST >> 8
        ]
        singles = [
            f"<{code:04X}> <{character.encode('utf-16-be').hex().upper()}>"
            for character, code in self._beyond.items()
            if code <= self._LAST
        ]
        body = _sections("bfrange", ranges) + _sections("bfchar", singles)
        return (
            "/CIDInit /ProcSet findresource begin\n12 dict begin\nbegincmap\n"
            "/CIDSystemInfo <</Registry (Adobe) /Ordering (UCS) /Supplement 0>> def\n"
            "/CMapName /Adobe-Identity-UCS def\n/CMapType 2 def\n"
            "1 begincodespacerange\n<0000> <FFFF>\nendcodespacerange\n"
            f"{body}endcmap\nCMapName currentdict /CMap defineresource pop\nend\nend\n"
        ).encode("ascii")


def _sections(name: str, rows: list[str]) -> str:
    """Rows of a CMap, a hundred at most in a section."""
    sections = []
    for first in range(0, len(rows), 100):
        some = rows[first : first + 100]
        sections.append(f"{len(some)} begin{name}\n" + "\n".join(some) + f"\nend{name}\n")
    return "".join(sections)


def _text_string(text: str) -> str:
    """A PDF string of any characters."""
    return f"<FEFF{text.encode('utf-16-be').hex().upper()}>"
