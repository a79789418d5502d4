"""A PDF gets text where it has none, invisibly and in place, and stays as it is otherwise."""

from __future__ import annotations

import ctypes
import io
import itertools
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pikepdf
import pypdfium2
import pytest
from PIL import Image
from pypdfium2 import raw

from ocr_watcher.document import Line, Page, PageError, Source, Word
from ocr_watcher.errors import OutputNotPossibleError
from ocr_watcher.inputs.base import DecodeLimits, Encoded, PageText, PdfLimits, Picture
from ocr_watcher.inputs.helper_process import Budget, Helper, HelperEndedError
from ocr_watcher.inputs.pdf import PDF, PdfDocument
from ocr_watcher.job import Stamp
from ocr_watcher.ocr import order, words
from ocr_watcher.outputs.base import About
from ocr_watcher.outputs.searchable import searchable
from tests import pdfs
from tests.pdfs import PROSE, Pdf

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

SENTENCE = "Größe 合計 Итого 12,50"


def limits(**pdf: Any) -> DecodeLimits:
    return DecodeLimits(10 << 20, 100_000_000, 1024, pdf=PdfLimits(**pdf))


class Opened:
    """Pictures of an open PDF."""

    are_of_a_pdf = True

    def __init__(self, data: bytes, within: DecodeLimits) -> None:
        self.limits = within
        self.document: PdfDocument = PDF.open(io.BytesIO(data), within)

    def encoded(self, _index: int) -> Encoded | None:
        raise AssertionError

    def picture(self, _index: int, _max_side_px: int) -> Picture:
        raise AssertionError

    def own_text(self, index: int) -> tuple[Line, ...]:
        return self.document.own_text(index, self.limits)

    def with_layer(self, layer: bytes, pages: Sequence[int]) -> Iterator[bytes]:
        return self.document.with_layer(layer, pages, self.limits)


def line(text: str, *, left: float, top: float, turned: bool = False) -> Line:
    """A line of 20 px a character and 40 px high, to the right or, `turned`, down the page."""
    length = 20.0 * len(text)
    polygon = (
        ((left + 40, top), (left + 40, top + length), (left, top + length), (left, top))
        if turned
        else ((left, top), (left + length, top), (left + length, top + 40), (left, top + 40))
    )
    found = tuple(
        Word(span.text, span.score, order.part_of(polygon, span.start, span.end))
        for span in words.spans(text, 0.9)
    )
    return Line(text, 0.9, polygon, found)


def size_of(data: bytes, index: int = 0) -> tuple[int, int]:
    """Pixels of a page as displayed at 300 dpi."""
    document = pypdfium2.PdfDocument(data)
    try:
        width_pt, height_pt = document[index].get_size()
        return round(width_pt * 300 / 72), round(height_pt * 300 / 72)
    finally:
        document.close()


def page(data: bytes, *lines: Line, index: int = 0, **fields: Any) -> Page:
    width_px, height_px = size_of(data, index)
    return Page(index, width_px, height_px, 0.3, lines, "", dpi=300, **fields)


def layered(data: bytes, *pages: Page, within: DecodeLimits | None = None) -> bytes:
    pictures = Opened(data, within or limits())
    try:
        about = About(Source("a.pdf", Stamp(1, 2), "ab" * 32), "ocr-watcher 1", len(pages))
        writer = searchable(about, pictures)
        parts = [writer.begin(), *map(writer.page, pages), writer.end()]
        return b"".join(itertools.chain.from_iterable(parts))
    finally:
        pictures.document.close()


def read_back(data: bytes, index: int = 0, **pdf: Any) -> PageText:
    document = PDF.open(io.BytesIO(data), limits(text="layer", **pdf))
    try:
        found = document.page_text(index, limits(text="layer", **pdf))
        assert found is not None
        return found
    finally:
        document.close()


def shown(data: bytes, index: int = 0) -> NDArray[np.int16]:
    document = pypdfium2.PdfDocument(data)
    try:
        return np.asarray(document[index].render(scale=0.5).to_pil().convert("L"), np.int16)
    finally:
        document.close()


def scanned(**options: Any) -> Pdf:
    """A page that is a picture, which does not look the same when it is turned."""
    made = Pdf()
    number = made.image(Image.linear_gradient("L").rotate(30))
    content = b"0.5 0 0 0.5 7 9 cm 595 0 0 842 0 0 cm /Im Do"  # and leaves its matrix behind
    made.page(content, resources=b"/XObject << /Im %d 0 R >>" % number, **options)
    return made


def displayed(page: pypdfium2.PdfPage, box: Sequence[float], size_px: tuple[int, int]) -> Sequence[float]:
    """Left, top, right, bottom of a box as a viewer shows it, by PDFium's own arithmetic."""
    left, bottom, right, top = box
    corners = []
    for point in ((left, bottom), (right, top)):
        x, y = ctypes.c_int(), ctypes.c_int()
        raw.FPDF_PageToDevice(page.raw, 0, 0, *size_px, 0, *point, x, y)
        corners.append((x.value, y.value))
    (x0, y0), (x1, y1) = corners
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("rotate", [0, 90, 180, 270, -90])
@pytest.mark.parametrize("crop", [b"", b"/CropBox [36 400 595 842]", b"/CropBox [700 900 40 50]"])
def test_text_lies_where_it_is_shown(rotate: int, crop: bytes, *, turned: bool) -> None:
    data = scanned(entries=b"/Rotate %d %s" % (rotate, crop)).bytes()
    lines = [line(SENTENCE, left=100 + 200 * n, top=300 + 100 * n, turned=turned) for n in range(3)]
    made = layered(data, page(data, *lines))
    document = pypdfium2.PdfDocument(made)
    text_page = document[0].get_textpage()
    assert text_page.get_text_range().splitlines() == [SENTENCE] * 3
    for one in lines[0].words:
        search = text_page.search(one.text, match_case=True)
        places = [search.get_next() for _ in lines]
        for its, place in zip(lines, places, strict=True):
            (word,) = (word for word in its.words if word.text == one.text)
            assert place is not None
            found = displayed(document[0], text_page.get_charbox(place[0]), size_of(data))
            left, top, right, bottom = word.box
            assert abs((found[0] + found[2]) / 2 - (left + right) / 2 if turned else found[0] - left) < 3
            assert abs(found[1] - top if turned else (found[1] + found[3]) / 2 - (top + bottom) / 2) < 3
    del search, text_page
    document.close()
    assert np.array_equal(shown(made), shown(data))


def test_pages_that_have_text_stay_as_they_are() -> None:
    made = scanned()
    made.page(pdfs.text(*PROSE))
    made.page(pdfs.text("unreadable"))
    data = made.bytes()
    out = layered(
        data,
        page(data, line("from the picture", left=100, top=100)),
        page(data, line("not again", left=100, top=100), index=1, read_from="text_layer"),
        Page(2, 0, 0, 1.0, (), "", error=PageError("timeout", "too slow")),
    )
    assert [[one.text for one in read_back(out, index).lines] for index in range(3)] == [
        ["from the picture"],
        PROSE,
        ["unreadable"],
    ]


def test_what_a_page_says_itself_is_not_said_twice() -> None:
    made = Pdf()
    picture = made.image(Image.new("L", (8, 8), 250))
    made.page(
        b"q 595 0 0 842 0 0 cm /Im Do Q " + pdfs.text("Stamped: 7", at=(72, 700), size=24),
        resources=b"/XObject << /Im %d 0 R >>" % picture,
    )
    data = made.bytes()
    stamp, word = read_back(data).lines[0], read_back(data).lines[0].words[0]
    lines = (
        replace(stamp, text="STAMPED 7", words=(replace(word, text="STAMPED"), replace(stamp.words[1]))),
        line("Stamped: 7", left=400, top=1500),  # the same, but elsewhere
        replace(stamp, text="Stamped: 8", words=(word, replace(stamp.words[1], text="8"))),
    )
    out = layered(data, page(data, *lines))
    assert sorted(one.text for one in read_back(out).lines) == ["Stamped: 7", "Stamped: 7", "Stamped: 8"]
    assert layered(data, page(data, lines[0])) == data


def test_where_nothing_is_to_be_added_the_bytes_are_the_same() -> None:
    data = pdfs.prose()
    assert layered(data, page(data, read_from="text_layer")) == data
    assert layered(data, page(data)) == data


def test_the_picture_is_that_of_the_document() -> None:
    data = scanned().bytes()
    out = layered(data, page(data, line(SENTENCE, left=100, top=100)))
    start = data.index(b"\xff\xd8\xff")
    picture = data[start : data.index(b"\xff\xd9", start) + 2]
    assert out.count(picture) == 1
    assert out == layered(data, page(data, line(SENTENCE, left=100, top=100)))


def test_the_result_is_clean_under_qpdf(tmp_path: Path) -> None:
    if shutil.which("qpdf") is None:
        pytest.skip("qpdf is not installed")
    made = scanned()
    made.page(pdfs.text(*PROSE))
    data, path = made.bytes(), tmp_path / "a.ocr.pdf"
    path.write_bytes(layered(data, page(data, line(SENTENCE, left=100, top=100))))
    result = subprocess.run(["qpdf", "--check", str(path)], check=False, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout


def test_what_pages_inherit_and_share_is_not_changed() -> None:
    made = Pdf()
    picture = made.image(Image.new("L", (8, 8), 90))
    content = made.stream(b"q 595 0 0 842 0 0 cm /OcrText0 Do Q")
    # Resources and content are shared, and the name that the text would have is taken.
    for _ in range(2):
        made.pages.append(made.add(b"<< /Type /Page /Parent 2 0 R /Contents %d 0 R >>" % content))
    data = made.bytes().replace(
        b"/Type /Pages",
        b"/Type /Pages /MediaBox [0 0 595 842] /Resources << /XObject << /OcrText0 %d 0 R >> >>" % picture,
    )
    out = layered(data, page(data, line("second", left=100, top=100), index=1))
    assert [[one.text for one in read_back(out, index).lines] for index in range(2)] == [[], ["second"]]
    for index in range(2):
        assert shown(out, index).mean() == pytest.approx(90, abs=2)


def test_a_protected_document_stays_protected() -> None:
    data = pdfs.locked("geheim")
    within = limits(passwords=("1234", "geheim"))
    one = Page(0, 2479, 3508, 0.3, (line("added", left=100, top=2000),), "", dpi=300)
    out = layered(data, one, within=within)
    with pytest.raises(pypdfium2.PdfiumError, match="password"):
        pypdfium2.PdfDocument(out)
    found = read_back(out, passwords=("geheim",))
    assert sorted(one.text for one in found.lines) == sorted([*PROSE, "added"])


@pytest.mark.parametrize("revision", [4, 6])
def test_a_document_in_aes_stays_so(revision: Literal[4, 6]) -> None:
    plain, locked = io.BytesIO(scanned().bytes()), io.BytesIO()
    with pikepdf.open(plain) as document:
        document.save(locked, encryption=pikepdf.Encryption(owner="o", user="u", R=revision))
    one = Page(0, 2479, 3508, 0.3, (line("added", left=100, top=2000),), "", dpi=300)
    out = layered(locked.getvalue(), one, within=limits(passwords=("u",)))
    with pytest.raises(pypdfium2.PdfiumError, match="password"):
        pypdfium2.PdfDocument(out)
    assert [one.text for one in read_back(out, passwords=("u",)).lines] == ["added"]


@pytest.mark.parametrize("why", ["time", "memory", "crash"])
def test_what_takes_too_much_is_given_up(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    data = scanned().bytes()
    ask = Helper.ask

    def asked(self: Helper, request: dict[str, Any], budget: Budget) -> dict[str, Any]:
        if request["do"] != "add":
            return ask(self, request, budget)
        assert budget.seconds == 30
        assert 100 < budget.rss_mb < 120
        raise HelperEndedError(why, "it was stopped")

    monkeypatch.setattr(Helper, "ask", asked)
    with pytest.raises(OutputNotPossibleError, match="no text can be added to the PDF: it was stopped"):
        layered(data, page(data, line("a", left=100, top=100)))


@pytest.mark.parametrize("answer", [{}, {"size": "x"}, {"size": -1}, {"size": 1 << 60}, {"error": "no"}])
def test_a_helper_that_was_taken_over_cannot_fill_the_disk(
    monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any]
) -> None:
    data = scanned().bytes()
    ask = Helper.ask

    def asked(self: Helper, request: dict[str, Any], budget: Budget) -> dict[str, Any]:
        return answer if request["do"] in ("add", "take") else ask(self, request, budget)

    monkeypatch.setattr(Helper, "ask", asked)
    try:
        made = layered(data, page(data, line("a", left=100, top=100)))
    except OutputNotPossibleError:
        assert answer != {"size": 1 << 60}
    else:
        assert len(made) < 10 << 20
