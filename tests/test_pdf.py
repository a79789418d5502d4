"""PDFs through the way in: text layers, pictures, passwords, bad pages, and what would take hours."""

from __future__ import annotations

import io
import os
import random
import signal
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from ocr_watcher.errors import (
    EncryptedError,
    FileError,
    FileTooLargeError,
    HeavyPageError,
    ShortOfMemoryError,
    SlowPageError,
    TooManyPagesError,
    TruncatedError,
    UnreadableError,
    UnsupportedFormatError,
)
from ocr_watcher.inputs import pdf as pdf_module
from ocr_watcher.inputs.base import DecodeLimits, PageText, PdfLimits, Picture
from ocr_watcher.inputs.helper_process import Helper
from ocr_watcher.inputs.pdf import PdfDocument
from ocr_watcher.inputs.table import max_file_bytes, open_document
from ocr_watcher.job import Outcome
from tests import pdfs
from tests.pdfs import PROSE, Pdf, prose, text
from tests.support import error_of, sidecar_of
from tests.test_attempt import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def limits(**pdf: Any) -> DecodeLimits:
    return DecodeLimits(10 << 20, 100_000_000, 1024, pdf=PdfLimits(**pdf))


LIMITS = limits()


@contextmanager
def opened(data: bytes, within: DecodeLimits = LIMITS) -> Iterator[PdfDocument]:
    """From a real file, as in the service."""
    path = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path()  # noqa: S108 - a fresh name below it
    file = path / f"ocr-watcher-test-{os.getpid()}-{time.monotonic_ns()}.pdf"
    file.write_bytes(data)
    try:
        with file.open("rb") as stream:
            document = open_document(stream, within)
            assert isinstance(document, PdfDocument)
            try:
                yield document
            finally:
                document.close()
    finally:
        file.unlink()


def page_of(data: bytes, within: DecodeLimits = LIMITS, index: int = 0) -> PageText | Picture:
    with opened(data, within) as document:
        return document.page_text(index, within) or document.picture(index, within)


def layer_of(data: bytes, within: DecodeLimits = LIMITS) -> PageText:
    page = page_of(data, within)
    assert isinstance(page, PageText)
    return page


def picture_of(data: bytes, within: DecodeLimits = LIMITS) -> Picture:
    page = page_of(data, within)
    assert isinstance(page, Picture)
    return page


def drawn(lines: int = 3, size: tuple[int, int] = (1240, 1754)) -> Image.Image:
    """A scan of a page of text."""
    image = Image.new("L", size, 255)
    draw = ImageDraw.Draw(image)
    for number in range(lines):
        draw.text((150, 150 + 60 * number), PROSE[number % 3], 0, ImageFont.load_default(28))
    return image


# -- the text layer --------------------------------------------------------------------------------


def test_a_page_that_was_never_scanned_is_taken_from_its_layer() -> None:
    page = layer_of(prose())
    assert [line.text for line in page.lines] == PROSE
    assert {line.score for line in page.lines} == {1.0}
    assert (page.width_px, page.height_px, page.dpi, page.turned_deg) == (2479, 3508, 300, 0)


def test_lines_and_words_lie_where_they_are_shown() -> None:
    data = prose()
    page, picture = layer_of(data), picture_of(data, replace(limits(text="ocr"), max_side_px=3508))
    ink = picture.bgr[:, :, 0] < 128
    assert ink.any()
    for line in page.lines:
        left, top, right, bottom = (round(edge) for edge in line.box)
        inside = ink[top:bottom, left:right]
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        # The ink fills the box, to within two pixels at 300 dpi.
        assert rows[0] <= 2
        assert rows[-1] >= bottom - top - 3
        assert columns[0] <= 2
        assert columns[-1] >= right - left - 3
        ink[top - 2 : bottom + 2, left - 2 : right + 2] = False
    assert not ink.any()
    for line in page.lines:
        assert " ".join(word.text for word in line.words) == line.text
        assert line.words[0].polygon[0][0] == line.polygon[0][0]
        assert line.words[-1].polygon[1][0] == line.polygon[1][0]
        lefts = [word.polygon[0][0] for word in line.words]
        assert lefts == sorted(lefts)


@pytest.mark.parametrize("text", ["auto", "ocr"])
def test_a_crop_that_leaves_nothing_of_the_page_is_no_crop(text: str) -> None:
    cropped, whole = prose(entries=b"/CropBox [700 900 800 1000]"), prose()
    if text == "auto":
        assert layer_of(cropped) == layer_of(whole)
    else:
        shown = [picture_of(data, limits(text="ocr")).bgr for data in (cropped, whole)]
        assert (shown[0] == shown[1]).all()


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
def test_rotated_and_cropped_pages_are_measured_as_displayed(rotate: int) -> None:
    data = prose(entries=b"/Rotate %d /CropBox [36 400 595 842]" % rotate)
    page = layer_of(data)
    picture = picture_of(data, replace(limits(text="ocr"), max_side_px=4000))
    size = (round(559 * 300 / 72), round(442 * 300 / 72))
    assert (page.width_px, page.height_px) == (size if rotate % 180 == 0 else size[::-1])
    assert picture.bgr.shape[:2] == (page.height_px, page.width_px)
    assert page.turned_deg == -rotate % 360
    assert [line.text for line in page.lines] == PROSE
    ink = picture.bgr[:, :, 0] < 128
    for line in page.lines:
        left, top, right, bottom = (round(edge) for edge in line.box)
        assert ink[top:bottom, left:right].any()
        ink[top - 2 : bottom + 2, left - 2 : right + 2] = False
        # Clockwise from the top left of the text: the first edge runs as the text does.
        (x0, y0), (x1, y1) = line.polygon[:2]
        assert {0: x1 > x0, 90: y1 > y0, 180: x1 < x0, 270: y1 < y0}[rotate]
    assert not ink.any()


def few_characters() -> bytes:
    made = Pdf()
    made.page(text("Too short to count"))
    return made.bytes()


def printed_over_a_scan() -> bytes:
    made = Pdf()
    made.scan(drawn(), over=text(*PROSE))
    return made.bytes()


def old_ocr_layer() -> bytes:
    made = Pdf()
    made.page(b"3 Tr " + text(*PROSE))
    return made.bytes()


@pytest.mark.parametrize(
    ("build", "looked_at", "lines"),
    [(prose, False, 3), (few_characters, True, 1), (printed_over_a_scan, True, 3), (old_ocr_layer, True, 3)],
)
def test_auto_decides_page_by_page(build: Callable[[], bytes], looked_at: bool, lines: int) -> None:
    assert isinstance(page_of(build()), Picture if looked_at else PageText)
    assert isinstance(page_of(build(), limits(text="ocr")), Picture)
    assert len(layer_of(build(), limits(text="layer")).lines) == lines


def test_a_font_without_mapping_is_looked_at() -> None:
    made = Pdf()
    made.objects[3] = (
        b"<< /Type /Font /Subtype /Type3 /FontBBox [0 0 9 9] /FontMatrix [0.1 0 0 0.1 0 0] /FirstChar 33 "
        b"/LastChar 122 /Widths [%s] /Encoding << /Type /Encoding /Differences [33 %s] >> /CharProcs << >> >>"
        % (b"6 " * 90, b" ".join(b"/G%d" % number for number in range(90)))
    )
    made.page(text(*PROSE))
    assert isinstance(page_of(made.bytes()), Picture)


@pytest.mark.parametrize(
    ("annotation", "looked_at"),
    [
        (b"/Subtype /Stamp /Rect [300 300 500 350] /AP << /N 9 0 R >>", True),
        (b"/Subtype /FreeText /Rect [300 300 500 350] /Contents (PAID)", True),
        (b"/Subtype /Stamp /F 2 /Rect [300 300 500 350]", False),
        (b"/Subtype /Link /Rect [300 300 500 350]", False),
        (b"/Subtype /Widget /FT /Tx /T (a) /V (filled in) /Rect [300 300 500 350]", True),
        (b"/Subtype /Widget /FT /Tx /T (a) /Rect [300 300 500 350]", False),
        (b"/Subtype /Widget /FT /Btn /T (a) /V /Yes /Rect [300 300 500 350]", False),
    ],
)
def test_a_stamp_or_a_filled_field_is_looked_at(annotation: bytes, looked_at: bool) -> None:
    made = Pdf()
    number = made.add(b"<< /Type /Annot %s >>" % annotation)
    made.page(text(*PROSE), entries=b"/Annots [%d 0 R]" % number)
    if b"Widget" in annotation:
        made.catalogue = b"/AcroForm << /Fields [%d 0 R] >>" % number
    assert isinstance(page_of(made.bytes()), Picture) is looked_at


def test_columns_of_a_table_are_lines_of_their_own() -> None:
    made = Pdf()
    rows = [("Article", "Amount"), ("Ruler, 30 cm, of beech", "1.50"), ("Compasses with a case", "12.00")]
    made.page(
        b"".join(
            text(cell, at=(72 + 200 * column, 700 - 20 * row))
            for row, cells in enumerate(rows)
            for column, cell in enumerate(cells)
        )
    )
    assert [line.text for line in layer_of(made.bytes()).lines] == [cell for cells in rows for cell in cells]


def test_a_logo_does_not_make_a_page_a_scan() -> None:
    made = Pdf()
    number = made.image(drawn(1, (300, 100)))
    made.page(
        text(*PROSE) + b"q 120 0 0 40 400 780 cm /Im Do Q", resources=b"/XObject << /Im %d 0 R >>" % number
    )
    assert isinstance(page_of(made.bytes()), PageText)


def test_what_is_outside_the_page_is_no_text() -> None:
    page = layer_of(prose(over=text("Trimmed away", at=(72, 900))))
    assert [line.text for line in page.lines] == PROSE


# -- pictures --------------------------------------------------------------------------------------


def test_a_scan_comes_at_the_size_wanted() -> None:
    made = Pdf()
    made.scan(drawn())
    page = picture_of(made.bytes())
    assert page.bgr.shape == (1024, 724, 3)
    assert page.bgr.dtype == np.uint8
    assert (page.width_px, page.height_px, page.dpi) == (2479, 3508, 300)
    small = np.asarray(drawn().resize((724, 1024), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(page.bgr[:, :, 1].astype(int) - small).mean() < 3


def test_a_small_page_is_not_made_larger_than_300_dpi() -> None:
    made = Pdf()
    made.page(b"", (72, 36))
    assert picture_of(made.bytes()).bgr.shape == (150, 300, 3)


def test_a_filled_form_is_drawn() -> None:
    made = Pdf()
    look = made.stream(
        text("filled in", at=(2, 12)),
        b"/Type /XObject /Subtype /Form /BBox [0 0 200 50] /Resources << /Font << /F1 3 0 R >> >>",
    )
    field = made.add(
        b"<< /Type /Annot /Subtype /Widget /FT /Tx /T (a) /V (filled in) /F 4 /Rect [300 300 500 350] "
        b"/AP << /N %d 0 R >> >>" % look
    )
    made.page(b"", entries=b"/Annots [%d 0 R]" % field)
    made.catalogue = b"/AcroForm << /Fields [%d 0 R] >>" % field
    assert (picture_of(made.bytes()).bgr < 128).any()


@pytest.mark.parametrize("size", [(1 << 31, 1 << 31), (14_400, 1), (1, 14_400), (0, 0), (-5, 100)])
@pytest.mark.parametrize("mode", ["auto", "ocr"])
def test_any_size_ends_in_a_page_or_an_error(size: tuple[int, int], mode: str) -> None:
    try:
        page = page_of(prose(size=size), limits(text=mode))
    except UnreadableError:
        return
    assert page.width_px >= 1
    assert page.height_px >= 1
    if isinstance(page, Picture):
        assert max(page.bgr.shape) <= 1024


def test_pages_are_given_in_any_order_and_again() -> None:
    made = Pdf()
    for number in range(5):
        made.scan(Image.new("L", (60, 80), 40 * number))
    with opened(made.bytes()) as document:
        assert document.pages == 5
        for index in (3, 0, 4, 4, 1):
            assert document.picture(index, LIMITS).bgr.mean() == pytest.approx(40 * index, abs=2)


def test_a_document_that_is_no_file_is_read_too() -> None:
    document = open_document(io.BytesIO(b"junk before the mark\n" + prose()), LIMITS)
    try:
        found = document.page_text(0, LIMITS)
        assert found is not None
        assert [line.text for line in found.lines] == PROSE
    finally:
        document.close()


# -- refused ---------------------------------------------------------------------------------------


def test_passwords_are_tried_in_their_order() -> None:
    data = pdfs.locked("geheim")
    with pytest.raises(EncryptedError, match=r"asks for a password$") as caught:
        page_of(data)
    assert "pdf.passwords" in caught.value.hint
    with pytest.raises(EncryptedError, match=r"none of those in pdf.passwords"):
        page_of(data, limits(passwords=("1234", "Geheim")))
    page = layer_of(data, limits(passwords=("1234", "geheim")))
    assert [line.text for line in page.lines] == PROSE
    # Another helper, which opens it anew.
    with opened(data, limits(passwords=("geheim",))) as document:
        document.close()
        assert document.page_text(0, LIMITS) is not None


def test_passwords_do_not_show_where_limits_are_printed() -> None:
    assert "geheim" not in repr(limits(passwords=("geheim",)))


def test_too_many_pages_and_bytes_are_refused_before_the_first() -> None:
    made = Pdf()
    for _ in range(4):
        made.page()
    data = made.bytes()
    with pytest.raises(TooManyPagesError, match=r"4 pages; the limit is 3") as caught:
        page_of(data, limits(max_pages=3))
    assert caught.value.code == "too_many_pages"
    with pytest.raises(FileTooLargeError) as refused:
        page_of(data, limits(max_file_bytes=len(data) - 1))
    assert "pdf.max_file_mb" in refused.value.hint
    assert max_file_bytes(io.BytesIO(data), limits(max_file_bytes=77)) == 77
    assert max_file_bytes(io.BytesIO(b"GIF89a"), limits(max_file_bytes=77)) == 10 << 20


def test_a_form_that_only_adobe_can_show_is_not_read_as_please_wait() -> None:
    made = Pdf(catalogue=b"/NeedsRendering true /AcroForm << /Fields [] /XFA (<xdp/>) >>")
    made.page(text("Please wait... If this message is not eventually replaced by the contents"))
    with pytest.raises(UnsupportedFormatError, match="XFA") as caught:
        page_of(made.bytes())
    assert "print" in caught.value.hint
    made.catalogue = b"/AcroForm << /Fields [] /XFA (<xdp/>) >>"  # the pages have all that the form shows
    assert isinstance(page_of(made.bytes()), PageText)


def test_broken_files_are_told_apart_from_cut_off_ones() -> None:
    whole = prose()
    with pytest.raises(TruncatedError):
        page_of(b"%PDF-1.7\n" + b"no objects\n" * 500)
    with pytest.raises(UnreadableError):
        page_of(b"%PDF-1.7\n" + b"no objects\n" * 500 + b"%%EOF\n")
    with pytest.raises(UnreadableError, match="no pages"):
        page_of(Pdf().bytes())
    for length in range(20, len(whole), 40):  # PDFium mends what it can
        with pytest.raises(FileError) if length < 500 else suppress(FileError):
            page_of(whole[:length])


# -- what would take gigabytes or hours ------------------------------------------------------------


LOADED, DRAWN = (pdfs.many_operators, pdfs.nested_forms), (pdfs.progressive, pdfs.soft_mask, pdfs.tiling)


@pytest.mark.parametrize("build", LOADED + DRAWN)
@pytest.mark.parametrize("mode", ["auto", "layer", "ocr"])
def test_a_hostile_page_is_stopped(
    build: Callable[[], bytes], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks, real = [], Helper.close

    def close(helper: Helper) -> None:
        if helper.pid:
            status = Path(f"/proc/{helper.pid}/status").read_text("ascii")
            peaks.append(int(status.split("VmHWM:")[1].split()[0]) / 1024)
        real(helper)

    monkeypatch.setattr(Helper, "close", close)
    data = build()
    began = time.monotonic()
    if mode == "layer" and build in DRAWN:
        assert layer_of(data, limits(text=mode)).lines == ()  # nothing is drawn
    else:
        # Which comes first depends on the machine, except where nothing but time is taken.
        with pytest.raises(SlowPageError if build is pdfs.tiling else (HeavyPageError, SlowPageError)):
            page_of(data, limits(page_timeout_s=0.5 if build is pdfs.tiling else 3, text=mode))
    print(f"{build.__name__}: {time.monotonic() - began:.1f} s, helper's peak {max(peaks):.0f} MiB")
    assert max(peaks) < 400
    assert time.monotonic() - began < 15


def test_the_next_page_is_read_at_once_after_a_helper_was_stopped() -> None:
    made = Pdf()
    made.page(text(*PROSE))
    made.page(b"0 0 m 9 9 l S\n" * 3_000_000)
    made.page(text(*PROSE[::-1]))
    with opened(made.bytes()) as document:
        assert document.page_text(0, LIMITS) is not None
        assert document.page_text(1, LIMITS) is None
        with pytest.raises(HeavyPageError, match=r"page 2 of the file, at half the size too"):
            document.picture(1, LIMITS)
        began = time.monotonic()
        found = document.page_text(2, LIMITS)
        assert found is not None
        assert [line.text for line in found.lines] == PROSE[::-1]
        assert time.monotonic() - began < 2


def test_where_memory_is_short_for_a_moment_the_file_is_tried_again() -> None:
    within = replace(limits(text="ocr"), max_decode_mb=120, max_decode_mb_ever=900)
    with pytest.raises(ShortOfMemoryError):
        page_of(pdfs.many_operators(1_000_000), within)
    assert isinstance(page_of(prose(), within), Picture)


@pytest.mark.parametrize("mode", ["auto", "layer", "ocr"])
def test_a_helper_that_the_system_ends_is_not_the_file_s_fault(mode: str) -> None:
    """As the kernel does where memory runs out, which chooses helpers first."""
    within = limits(text=mode)
    with opened(prose(), within) as document:
        assert document._helper is not None
        os.kill(document._helper.pid, signal.SIGKILL)
        with pytest.raises(ShortOfMemoryError, match="the system ended the decoder"):
            _ = document.page_text(0, within) or document.picture(0, within)
        assert document.page_text(0, within) or document.picture(0, within)


def test_a_long_document_gets_a_new_helper_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf_module, "_PAGES_A_HELPER", 3)
    made = Pdf()
    for _ in range(7):
        made.page(text(*PROSE))
    helpers = []
    with opened(made.bytes()) as document:
        for index in range(7):
            assert document.page_text(index, LIMITS) is not None
            assert document._helper is not None
            helpers.append(document._helper.pid)
    assert list(Counter(helpers).values()) == [3, 3, 1]


# -- bad pages among good ones ---------------------------------------------------------------------


def with_bad_pages(*bad: int, pages: int = 4) -> bytes:
    made = Pdf()
    for number in range(pages):
        made.page(text(*PROSE))
        if number in bad:
            made.objects[made.pages[-1]] = b"[ /no /page ]"
    return made.bytes()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.journal.close()


def put(world: World, data: bytes, name: str = "a.pdf") -> Path:
    path = world.inbox / name
    path.write_bytes(data)
    return path


def test_one_bad_page_among_good_ones_says_why(world: World) -> None:
    path = put(world, with_bad_pages(1))
    assert world.attempt(path) is Outcome.DONE
    document = sidecar_of(path)
    assert document["warnings"] == ["page_failed"]
    assert [page["index"] for page in document["pages"]] == [0, 1, 2, 3]
    good, bad, *_ = document["pages"]
    assert bad["error"]["code"] == "unreadable"
    assert "page 2 of the file" in bad["error"]["message"]
    assert (bad["lines"], bad["text"], bad["width_px"]) == ([], "", 0)
    assert good["text"] == "\n".join(PROSE)
    assert (good["read_from"], good["dpi"], good["scale"], good["turned_deg"]) == ("text_layer", 300, 1.0, 0)
    assert "error" not in good
    assert [event["page"] for event in world.log.named("page.failed")] == [2]


def test_without_a_good_page_the_file_fails(world: World) -> None:
    path = put(world, with_bad_pages(0, 1, pages=2))
    assert world.attempt(path) is Outcome.FAILED
    error = error_of(path)["error"]
    assert error["code"] == "unreadable"
    assert "page 1 of the file" in error["message"]
    single = put(world, with_bad_pages(0, pages=1), "b.pdf")
    assert world.attempt(single) is Outcome.FAILED


def test_a_page_that_ends_the_process_each_time_is_left_out(world: World) -> None:
    made = Pdf()
    for number in range(4):
        made.scan(Image.new("L", (60 + number, 80), 255), (60 + number, 80))
    path = put(world, made.bytes())
    world.tools = replace(world.tools, limits=replace(world.tools.limits, max_side_px=1024))
    deaths = []

    def read(bgr: Any) -> list[Any]:
        if bgr.shape[1] == round(62 * 300 / 72):  # the third page
            deaths.append(1)
            raise KeyboardInterrupt  # as near to the end of the process as a test can go
        return []

    world.engine.on_read = read
    for _ in range(3):
        world.journal.begin(str(path), world.job(path).stamp)
    # Three processes began it and ended: nothing is kept, so the file is given up.
    assert world.attempt(path) is Outcome.FAILED
    assert error_of(path)["error"]["code"] == "engine_crashed"
    Path(f"{path}.error.json").unlink()

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            world.attempt(path)
        world.journal.begin(str(path), world.job(path).stamp)  # what the attempt was forgiven
    assert world.attempt(path) is Outcome.DONE
    assert len(deaths) == 3
    pages = sidecar_of(path)["pages"]
    assert [page.get("error", {}).get("code") for page in pages] == [None, None, "engine_crashed", None]


def test_an_engine_error_costs_a_page_its_tries_and_no_other(world: World) -> None:
    made = Pdf()
    for number in range(3):
        made.scan(Image.new("L", (60 + number, 80), 255), (60 + number, 80))
    path = put(world, made.bytes())
    world.tools = replace(world.tools, limits=replace(world.tools.limits, max_side_px=1024))

    def read(bgr: Any) -> list[Any]:
        if bgr.shape[1] == round(61 * 300 / 72):
            raise RuntimeError("scripted")
        return []

    world.engine.on_read = read
    assert [world.attempt(path) for _ in range(3)] == [Outcome.RETRY, Outcome.RETRY, Outcome.DONE]
    assert [page.get("error", {}).get("code") for page in sidecar_of(path)["pages"]] == [
        None,
        "engine_error",
        None,
    ]


def test_a_file_that_may_not_be_complete_is_not_called_done(world: World) -> None:
    path = put(world, with_bad_pages(1))
    job = replace(world.job(path), settled=False)
    from ocr_watcher.jobs.attempt import Attempt  # noqa: PLC0415 - beside its use

    assert Attempt(job, world.tools).run() is Outcome.RESETTLE
    assert not Path(f"{path}.json").exists()


def test_after_five_costly_pages_the_rest_is_not_tried(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Pdf()
    for _ in range(9):
        made.page(text(*PROSE))
    path = put(world, made.bytes())
    asked = []
    real = PdfDocument.page_text

    def page_text(document: PdfDocument, index: int, within: DecodeLimits) -> PageText | None:
        asked.append(index)
        if index:
            raise SlowPageError(f"page {index + 1} of the file: scripted")
        return real(document, index, within)

    monkeypatch.setattr(PdfDocument, "page_text", page_text)
    assert world.attempt(path) is Outcome.DONE
    assert asked == [0, 1, 2, 3, 4, 5]
    pages = sidecar_of(path)["pages"]
    assert [page["error"]["code"] for page in pages[1:]] == ["timeout"] * 8
    assert "not tried" in pages[-1]["error"]["message"]


def test_the_size_limit_of_images_is_not_that_of_pdfs(world: World) -> None:
    world.tools = replace(world.tools, limits=replace(world.tools.limits, max_file_bytes=100))
    path = put(world, prose())
    assert world.attempt(path) is Outcome.DONE
    assert len(sidecar_of(path)["source"]["sha256"]) == 64


# -- damaged ones -----------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(600)
def test_damaged_pdfs_end_in_pages_or_an_error() -> None:
    """Bits turned, pieces cut out and doubled, at random."""
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)  # noqa: S311 - repeatable
    print(f"seed {seed}")
    scanned = Pdf()
    scanned.scan(drawn(), over=text(*PROSE))
    scanned.scan(drawn(5))
    ends: Counter[str] = Counter()
    for data in (prose(), scanned.bytes(), pdfs.locked("")):
        for _ in range(150):
            bad = bytearray(data)
            for _ in range(chance.choice((1, 3, 30))):
                at, length = chance.randrange(len(bad)), chance.randrange(1, 40)
                match chance.randrange(3):
                    case 0:
                        bad[at] ^= 1 << chance.randrange(8)
                    case 1:
                        del bad[at : at + length]
                    case _:
                        bad[at:at] = bad[at : at + length]
            ends[_end_of(bytes(bad))] += 1
    print(dict(ends))
    assert not set(ends) - {
        "PageText",
        "Picture",
        "unreadable",
        "truncated",
        "encrypted",
        "unsupported_format",
    }


def _end_of(data: bytes) -> str:
    try:
        return type(page_of(data, limits(page_timeout_s=10))).__name__
    except FileError as error:
        return error.code
