"""Every format is valid by its own checker, and gives back the words that went in, in every script."""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import numpy as np
import pypdfium2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, JpegImagePlugin

from ocr_watcher.document import Line, Page, Source, Word
from ocr_watcher.inputs.base import DecodeLimits, Encoded, Picture
from ocr_watcher.inputs.table import open_document
from ocr_watcher.job import Stamp
from ocr_watcher.ocr import order, words
from ocr_watcher.outputs.base import About, with_blanks
from ocr_watcher.outputs.formats import FORMATS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

SCHEMAS = Path(__file__).parents[2] / "shared" / "schemas"
LIMITS = DecodeLimits(1 << 24, 100_000_000, 1024)

SCRIPTS = {
    "latin": "Größe naïve façade Übermaß 12,50 €",
    "greek": "Τιμολόγιο αριθμός πληρωμής",
    "cyrillic": "Счёт № 17 за услуги связи",
    "han": "合計 金額 東京都港区",
    "kana": "カタカナ と ひらがな",
    "hangul": "영수증 번호 합계 금액",
    "hebrew": "שלום עולם חשבונית",
    "arabic": "فاتورة رقم المجموع",
    "beyond": "\U00020bb7野家 \U0001d54f",
}


class Blank:
    """Pages without a picture of their own: grey, of the size that is asked for."""

    are_of_a_pdf = False

    def encoded(self, _index: int) -> Encoded | None:
        return None

    def own_text(self, _index: int) -> tuple[Line, ...]:
        raise AssertionError

    def with_layer(self, _layer: bytes, _pages: Sequence[int]) -> Iterator[bytes]:
        raise AssertionError

    def picture(self, _index: int, max_side_px: int) -> Picture:
        side = min(max_side_px, 40)
        return Picture(np.full((side, side, 3), 200, np.uint8), 1000, 1400)


def line(
    text: str, left: float, top: float, *, height: float = 30.0, degrees: float = 0.0, seen: bool = True
) -> Line:
    """A line that runs to the right, or turned about its upper left corner; 15 px a character."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    width = 15.0 * len(text)
    corners = [(0.0, 0.0), (width, 0.0), (width, height), (0.0, height)]
    polygon = tuple((left + x * cos - y * sin, top + x * sin + y * cos) for x, y in corners)
    found = tuple(
        Word(span.text, span.score, order.part_of(polygon, span.start, span.end))
        for span in words.spans(text, 0.9)
    )
    return Line(text, 0.9, polygon, found if seen else ())


def page(index: int, lines: Sequence[Line]) -> Page:
    blocks = order.blocks(lines)
    return Page(index, 1000, 1400, 1.0, order.lines_of(blocks), order.text_of(blocks))


def pages(*, seen: bool = True) -> list[Page]:
    """A page in each script, with a table; an empty one; one that lies askew with a note down its margin."""
    made: list[Page] = []
    for text in SCRIPTS.values():
        lines = [line(text, 100, 100 + 60 * row, seen=seen) for row in range(4)]
        lines += [
            line(f"{row}-{column}", 100 + 300 * column, 500 + 60 * row)
            for row in range(3)
            for column in range(3)
        ]
        made.append(page(len(made), lines))
    made.append(page(len(made), []))
    askew = [
        line(f"a line askew number {row}", 150 - 3 * row, 200 + 60 * row, degrees=4, seen=seen)
        for row in range(6)
    ]
    made.append(page(len(made), [*askew, line("note down the margin", 60, 200, degrees=90, seen=seen)]))
    return made


def written(kind: str, some: Sequence[Page], pictures: object = None, name: str = "scan & <1>.png") -> bytes:
    about = About(Source(name, Stamp(5, 6), "ab" * 32), "ocr-watcher 1.2.3", len(some))
    writer = FORMATS[kind].writer(about, pictures or Blank())  # type: ignore[arg-type]
    parts = [writer.begin(), *map(writer.page, some), writer.end()]
    return b"".join(itertools.chain.from_iterable(parts))


def all_words(some: Iterable[Page]) -> list[str]:
    return [word.text for one in some for its in one.lines for word, _ in with_blanks(its)]


# -- text and tables -------------------------------------------------------------------------------


def test_text_has_form_feeds_between_pages() -> None:
    some = pages()
    text = written("txt", some).decode()
    assert text.split("\f") == [one.text + "\n" if one.text else "" for one in some]
    assert "0-0\t0-1\t0-2\n" in text
    assert written("txt", []) == b""


def test_the_table_is_that_of_tesseract() -> None:
    some = pages()
    rows = list(
        csv.DictReader(io.StringIO(written("tsv", some).decode()), delimiter="\t", quoting=csv.QUOTE_NONE)
    )
    assert [row["text"] for row in rows if row["level"] == "5"] == all_words(some)
    assert {row["conf"] for row in rows if row["level"] != "5"} == {"-1"}
    assert {row["conf"] for row in rows if row["level"] == "5"} == {"90"}
    assert [row["page_num"] for row in rows if row["level"] == "1"] == [str(one.index + 1) for one in some]
    first = next(row for row in rows if row["level"] == "5")
    assert [first[name] for name in ("left", "top", "width", "height")] == ["100", "100", "75", "30"]
    for row in rows:
        left, top, width, height = (int(row[name]) for name in ("left", "top", "width", "height"))
        assert width > 0 < height
        assert 0 <= left < left + width <= 1000
        assert 0 <= top < top + height <= 1400


# -- hOCR ------------------------------------------------------------------------------------------


def test_hocr_gives_the_words_and_where_they_are() -> None:
    some = pages()
    root = ET.fromstring(written("hocr", some))  # noqa: S314 - our own
    found = [e for e in root.iter() if e.get("class") == "ocrx_word"]
    assert [element.text for element in found] == all_words(some)
    assert found[0].get("title") == "bbox 100 100 175 130; x_wconf 90"
    (first, *_) = (e for e in root.iter() if e.get("class") == "ocr_page")
    assert first.get("title") == 'image "scan & <1>.png"; bbox 0 0 1000 1400; ppageno 0'
    lines = [e.get("title") or "" for e in root.iter() if e.get("class") == "ocr_line"]
    assert len(lines) == sum(len(one.lines) for one in some)
    assert "baseline 0.0000 0" in lines[0]
    assert "baseline 0.0699" in lines[-2]
    assert "textangle 270" in lines[-1]
    # Words of a script without blanks do not get any.
    (han, *_) = (
        "".join(e.itertext())
        for e in root.iter()
        if e.get("class") == "ocr_line" and "東" in "".join(e.itertext())
    )
    assert han == SCRIPTS["han"]


def test_hocr_is_clean_under_hocr_check(tmp_path: Path) -> None:
    pytest.importorskip("lxml", reason="lxml is not installed")
    checker = shutil.which("hocr-check")
    if checker is None:
        pytest.skip("hocr-check is not installed")
    path = tmp_path / "scan.hocr"
    path.write_bytes(written("hocr", pages()))
    # By our own interpreter, which has what it needs.
    command = [sys.executable, checker, "-o", str(path)]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    print(result.stdout, result.stderr)
    assert result.returncode == 0
    assert "not ok" not in result.stdout


# -- ALTO ------------------------------------------------------------------------------------------

_ALTO = "{http://www.loc.gov/standards/alto/ns-v4#}"


def test_alto_gives_the_words_and_where_they_are() -> None:
    some = pages()
    root = ET.fromstring(written("alto", some))  # noqa: S314 - our own
    strings = list(root.iter(f"{_ALTO}String"))
    assert [element.get("CONTENT") for element in strings] == all_words(some)
    assert {key: strings[0].get(key) for key in ("HPOS", "VPOS", "WIDTH", "HEIGHT", "WC")} == {
        "HPOS": "100",
        "VPOS": "100",
        "WIDTH": "75",
        "HEIGHT": "30",
        "WC": "0.9000",
    }
    assert root.findtext(f".//{_ALTO}fileName") == "scan & <1>.png"
    assert root.findtext(f".//{_ALTO}softwareVersion") == "1.2.3"
    assert len(list(root.iter(f"{_ALTO}Page"))) == len(some)
    identities = [element.get("ID") for element in root.iter() if element.get("ID")]
    assert len(identities) == len(set(identities))


@pytest.mark.parametrize("seen", [True, False])
def test_alto_is_valid(*, seen: bool) -> None:
    etree = pytest.importorskip("lxml.etree", reason="lxml is not installed")
    if not SCHEMAS.is_dir():
        pytest.skip("the schema of ALTO 4.4 is not here")

    class Beside(etree.Resolver):  # type: ignore[misc,name-defined] # lxml is untyped, where it is there
        def resolve(self, url: str, _id: object, context: object) -> object:
            if url.endswith("xlink.xsd"):
                return self.resolve_filename(str(SCHEMAS / "xlink.xsd"), context)
            return None

    parser = etree.XMLParser(no_network=True)
    parser.resolvers.add(Beside())
    schema = etree.XMLSchema(etree.parse(str(SCHEMAS / "alto-4-4.xsd"), parser))
    schema.assertValid(etree.fromstring(written("alto", pages(seen=seen))))
    with pytest.raises(etree.DocumentInvalid):
        schema.assertValid(etree.fromstring(written("alto", pages()).replace(b"HPOS", b"XPOS", 1)))


# -- PDF -------------------------------------------------------------------------------------------


def pdfium_text(data: bytes) -> list[str]:
    """Text of every page."""
    document = pypdfium2.PdfDocument(data)
    try:
        return [document[index].get_textpage().get_text_range() for index in range(len(document))]
    finally:
        document.close()


def spaced(some: Page) -> list[str]:
    """What is between blanks on a page; neighbours without a blank are one."""
    return [word for its in some.lines for word in its.text.split()]


def logical(text: str) -> list[str]:
    """The same of text that was read back, without marks of direction."""
    return re.sub("[\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]", "", text).split()


@pytest.mark.parametrize("seen", [True, False])
def test_every_word_comes_back_out_of_the_pdf_by_pdfium(*, seen: bool) -> None:
    some = pages(seen=seen)
    for text, one in zip(pdfium_text(written("pdf", some)), some, strict=True):
        assert sorted(logical(text)) == sorted(spaced(one))


@pytest.mark.parametrize("seen", [True, False])
def test_every_word_comes_back_out_of_the_pdf_by_poppler(tmp_path: Path, *, seen: bool) -> None:
    if shutil.which("pdftotext") is None:
        pytest.skip("pdftotext is not installed")
    some = pages(seen=seen)
    path = tmp_path / "scan.ocr.pdf"
    path.write_bytes(written("pdf", some))
    result = subprocess.run(["pdftotext", "-raw", str(path), "-"], check=True, capture_output=True)
    assert result.stderr == b""
    for text, one in zip(result.stdout.decode().split("\f"), some, strict=False):
        assert sorted(logical(text)) == sorted(spaced(one))


def test_the_pdf_is_clean_under_qpdf(tmp_path: Path) -> None:
    if shutil.which("qpdf") is None:
        pytest.skip("qpdf is not installed")
    path = tmp_path / "scan.ocr.pdf"
    path.write_bytes(written("pdf", pages()))
    result = subprocess.run(["qpdf", "--check", str(path)], check=False, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout


def test_words_lie_where_they_are_on_the_picture() -> None:
    (some,) = [one for one in pages() if "Größe" in one.text]
    document = pypdfium2.PdfDocument(written("pdf", [replace(some, index=0)]))
    text_page = document[0].get_textpage()
    width_pt, height_pt = document[0].get_size()
    assert height_pt == pytest.approx(842)
    scale = 1400 / height_pt
    for its in some.lines:
        for word in its.words:
            left, top, right, bottom = word.box
            inside = text_page.get_text_bounded(
                (left - 2) / scale, (1400 - bottom - 2) / scale, (right + 2) / scale, (1400 - top + 2) / scale
            )
            assert word.text in inside
    del text_page
    document.close()
    assert width_pt == pytest.approx(1000 / scale, abs=0.01)


@dataclass
class Opened:
    """Pictures of a real file."""

    path: Path

    def __post_init__(self) -> None:
        with self.path.open("rb") as file:
            self.document = open_document(io.BytesIO(file.read()), LIMITS)
        shown = self.document.picture(0, LIMITS)
        self.size = shown.width_px, shown.height_px

    def encoded(self, index: int) -> Encoded | None:
        return self.document.encoded(index)

    @property
    def are_of_a_pdf(self) -> bool:
        return self.document.layered is not None

    def own_text(self, index: int) -> tuple[Line, ...]:
        assert self.document.layered is not None
        return self.document.layered.own_text(index, LIMITS)

    def with_layer(self, layer: bytes, pages: Sequence[int]) -> Iterator[bytes]:
        assert self.document.layered is not None
        return self.document.layered.with_layer(layer, pages, LIMITS)

    def picture(self, index: int, max_side_px: int) -> Picture:
        return self.document.picture(index, replace(LIMITS, max_side_px=max_side_px))

    def page(self) -> Page:
        return Page(0, *self.size, 1.0, (), "")


def arrow(mode: str = "RGB") -> Image.Image:
    """What looks different whichever way it is turned, or mirrored."""
    image = Image.new("RGB", (120, 80), "white")
    pen = ImageDraw.Draw(image)
    pen.rectangle((10, 10, 60, 25), "black")
    pen.rectangle((10, 10, 25, 70), "red")
    return image.convert(mode, dither=Image.Dither.NONE)


def rendered(data: bytes, size: tuple[int, int]) -> NDArray[np.int16]:
    """The first page as PDFium shows it, in grey."""
    document = pypdfium2.PdfDocument(data)
    try:
        shown = document[0].render(scale=size[0] / document[0].get_size()[0]).to_pil()
        return np.asarray(shown.convert("L").resize(size), np.int16)
    finally:
        document.close()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_taken_over_bit_for_bit_and_stands_upright(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "scan.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    arrow().save(path, exif=exif, quality=95, dpi=(300, 300))
    scan = Opened(path)
    data = written("pdf", [scan.page()], scan)
    assert data.count(path.read_bytes()) == 1
    upright = np.asarray(Image.fromarray(scan.picture(0, 1000).bgr[:, :, ::-1]).convert("L"), np.int16)
    assert np.abs(rendered(data, scan.size) - upright).mean() < 3
    assert pypdfium2.PdfDocument(data)[0].get_size()[0] == pytest.approx(scan.size[0] * 72 / 300, abs=0.01)


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("grey.jpg", "L", {}),
        ("cmyk.jpg", "CMYK", {"quality": 95}),
        ("progressive.jpg", "RGB", {"progressive": True}),
        ("rgb.png", "RGB", {}),
        ("grey.png", "L", {}),
        ("bits.png", "1", {}),
        ("palette.png", "P", {}),
        ("deep.png", "I;16", {}),
        ("alpha.png", "RGBA", {}),
        ("grey-alpha.png", "LA", {}),
        ("scan.tif", "RGB", {"compression": "tiff_lzw"}),
        ("fax.tif", "1", {"compression": "group4"}),
        ("scan.webp", "RGB", {"lossless": True}),
        ("scan.bmp", "RGB", {}),
        ("scan.gif", "P", {}),
    ],
)
def test_pictures_of_every_kind_are_in_the_pdf(
    tmp_path: Path, name: str, mode: str, options: dict[str, Any]
) -> None:
    path = tmp_path / name
    if mode == "I;16":
        Image.fromarray(np.asarray(arrow("L")).astype(np.uint16) * 257).save(path)
    else:
        arrow(mode).save(path, **options)
    scan = Opened(path)
    upright = np.asarray(Image.fromarray(scan.picture(0, 1000).bgr[:, :, ::-1]).convert("L"), np.int16)
    data = written("pdf", [scan.page()], scan)
    # PDFium has colours of its own for CMYK.
    assert np.abs(rendered(data, scan.size) - upright).mean() < (10 if mode == "CMYK" else 3)
    taken_over = mode not in {"RGBA", "LA"} and path.suffix in {".jpg", ".png"}
    assert (scan.encoded(0) is not None) == taken_over
    if path.suffix == ".jpg":
        assert path.read_bytes() in data


def test_a_large_picture_that_cannot_be_taken_over_is_made_smaller(tmp_path: Path) -> None:
    path = tmp_path / "scan.tif"
    Image.new("L", (3000, 2000), 200).save(path)
    scan = Opened(path)
    data = written("pdf", [scan.page()], scan)
    assert b"/Width 2048/Height 1365" in data
    assert b"/DeviceGray" in data


@pytest.mark.parametrize("bad", [b"RGB ids", b"12 bits", b"arithmetic"])
def test_a_jpeg_that_readers_of_pdf_take_for_another_is_saved_again(bad: bytes) -> None:
    made = io.BytesIO()
    arrow().save(made, "JPEG")
    data = bytearray(made.getvalue())
    at = data.index(b"\xff\xc0") + 4
    if bad == b"RGB ids":
        data[at + 6], data[at + 9], data[at + 12] = b"RGB"
    elif bad == b"12 bits":
        data[at] = 12
    else:
        data[at - 3] = 0xC9
    from ocr_watcher.inputs.jpeg import JPEG  # noqa: PLC0415 - the part under test

    assert JPEG.encoded(bytes(data)) is None
    assert JPEG.encoded(made.getvalue()) is not None


# -- the overlay -----------------------------------------------------------------------------------


def test_the_overlay_shows_lines_and_their_order(tmp_path: Path) -> None:
    path = tmp_path / "scan.png"
    Image.new("RGB", (1000, 1400), "white").save(path)
    scan = Opened(path)
    some = [page(0, [line("first", 100, 100), line("second", 500, 700)]), page(1, [])]
    image = Image.open(io.BytesIO(written("overlay", some, scan)))
    assert isinstance(image, JpegImagePlugin.JpegImageFile)
    assert image.size == (1000, 1400)
    shown = np.asarray(image.convert("RGB"), np.int16)
    red = (shown[:, :, 0] - shown[:, :, 1]) > 60
    assert red[95:135, 95:180].any()
    assert red[695:735, 495:595].any()
    assert not red[200:600].any()
    green = (shown[:, :, 1] - shown[:, :, 0]) > 40
    assert green[200:600].any()
    assert Image.open(io.BytesIO(written("overlay", [], scan))).size == (1, 1)


# -- anything --------------------------------------------------------------------------------------

anything = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
points = st.tuples(st.floats(-10, 3000), st.floats(-10, 3000))
polygons = st.tuples(points, points, points, points) | st.tuples(points, points, points)


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(st.tuples(anything.filter(str.strip), polygons), max_size=5),
    size=st.tuples(st.integers(0, 2000), st.integers(0, 2000)),
    name=anything,
)
def test_no_text_place_size_or_name_breaks_a_format(
    kind: str, lines: list[tuple[str, tuple[tuple[float, float], ...]]], size: tuple[int, int], name: str
) -> None:
    some = page(0, [Line(" ".join(text.split()), 0.5, polygon) for text, polygon in lines])
    if 0 in size:
        size = (0, 0)
    some = replace(some, width_px=size[0], height_px=size[1])
    data = written(kind, [some], name=name)
    match kind:
        case "hocr" | "alto":
            ET.fromstring(data)  # noqa: S314 - our own
        case "pdf":
            assert len(pdfium_text(data)) == 1
        case "overlay":
            Image.open(io.BytesIO(data)).load()
        case _:
            data.decode()
    assert written(kind, [some], name=name) == data
