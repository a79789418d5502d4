"""Text in a searchable PDF is selected where it is seen, in the viewer that most people have: Chromium's.

A page in two columns is drawn, read by the real engine and written; then a mouse is drawn over it. Where
there is no Chromium, or no playwright to drive it, the test skips itself. `SCREENSHOT=FILE` keeps a picture
of the last selection.
"""

from __future__ import annotations

import io
import itertools
import os
import shutil
import time
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from ocr_watcher.document import Source
from ocr_watcher.inputs.base import DecodeLimits
from ocr_watcher.job import Stamp
from ocr_watcher.jobs.reader import Reader
from ocr_watcher.ocr import models, paddle_ocr
from ocr_watcher.outputs.base import About
from ocr_watcher.outputs.searchable import searchable
from tests import pdfs
from tests.test_writers import Opened

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocr_watcher.document import Line, Page
    from ocr_watcher.ocr.paddle_ocr import PaddleOcrEngine

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WINDOW = {"width": 1000, "height": 1320}
LEFT = [
    "The river rose in the night and",
    "by morning it had reached the",
    "bridge below the mill. Nobody",
    "had seen it so high since the",
    "winter of the great snow, when",
    "the lower town was evacuated.",
]
RIGHT = [
    "A surveyor took the level every",
    "quarter of an hour and wrote it",
    "into a book, which is now kept",
    "in the county archive together",
    "with the letters of the mayor",
    "and the bills of the carpenters.",
]
ROWS = [("Sandbags", "1,200", "348.00"), ("Lamp oil", "40 l", "62.50"), ("Boats, hired", "3", "120.00")]


def drawn() -> Image.Image:
    """A4 at 200 dpi: a heading, two columns of prose, a table."""
    image = Image.new("RGB", (1654, 2339), "white")
    pen = ImageDraw.Draw(image)
    heading, body = ImageFont.load_default(56), ImageFont.load_default(38)
    pen.text((150, 150), "Report on the flood", "black", heading)
    for left, lines in ((150, LEFT), (880, RIGHT)):
        for row, text in enumerate(lines):
            pen.text((left, 320 + 64 * row), text, "black", body)
    for row, cells in enumerate(ROWS):
        for left, text in zip((150, 800, 1250), cells, strict=True):
            pen.text((left, 900 + 64 * row), text, "black", body)
    return image


def picture(image: Image.Image, path: Path) -> Path:
    """As a JPEG, or as the one page of a PDF."""
    if path.suffix == ".jpg":
        image.save(path, dpi=(200, 200), quality=90)
        return path
    made = pdfs.Pdf()
    made.scan(image, quality=90)
    path.write_bytes(made.bytes())
    return path


def written(path: Path, engine: PaddleOcrEngine) -> tuple[Path, Page]:
    """The searchable PDF of a document, and its page."""
    limits = DecodeLimits(1 << 26, 100_000_000, 1024)
    reader = Reader(engine, min_score=0.0, words=True, give_back=lambda: None)
    (page,) = reader.read(io.BytesIO(path.read_bytes()), limits)
    about = About(Source(path.name, Stamp(1, 2), "ab" * 32), "ocr-watcher", 1)
    writer = searchable(about, Opened(path))
    made = path.with_name(path.name + ".ocr.pdf")
    parts = [writer.begin(), writer.page(page), writer.end()]
    made.write_bytes(b"".join(itertools.chain.from_iterable(parts)))
    return made, page


@pytest.fixture(scope="module")
def engine(model_store: Path) -> Iterator[PaddleOcrEngine]:
    """The default engine, with the model for pages that do not stand upright."""
    spec = models.resolve("PP-OCRv6_small", model_store, "onnxruntime", None)
    orientation = models.further_file(models.ORIENTATION, model_store)
    made = paddle_ocr.create("onnxruntime", spec, 0, {}, orientation=orientation)
    yield made
    made.close()


@pytest.fixture
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt install chromium")
    with api.sync_playwright() as playwright:
        # As root it has no sandbox of its own. The document is ours.
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started.new_context(viewport=WINDOW)
        started.close()


class Viewer:
    """Chromium's viewer with a PDF that fits into the window."""

    def __init__(self, context: Any, path: Path, page: Page) -> None:
        self._context = context
        self._page = page
        self._tab = context.new_page()
        self._tab.goto(f"{path.as_uri()}#toolbar=0&navpanes=0&view=Fit")
        deadline = time.monotonic() + 60
        place = before = None
        while place is None or place != before:  # where it is at first is not where it stays
            assert time.monotonic() < deadline, "the viewer does not show the page"
            self._tab.wait_for_timeout(500)
            place, before = self._place(), place
        self._left, self._top, self._width, self._height = place

    def shot(self) -> Image.Image:
        return Image.open(io.BytesIO(self._tab.screenshot()))

    def _place(self) -> tuple[int, int, int, int] | None:
        """Left, top, width and height of the page in the window; None while it is not there."""
        white = np.asarray(self.shot().convert("L")) > 200
        rows, columns = np.flatnonzero(white.mean(1) > 0.3), np.flatnonzero(white.mean(0) > 0.3)
        if not len(rows) or not len(columns):
            return None
        width, height = columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]
        shape = self._page.width_px / self._page.height_px
        if abs(width / height / shape - 1) > 0.02:
            return None
        return int(columns[0]), int(rows[0]), int(width), int(height)

    def selected(self, first: Line, last: Line) -> str:
        """What is copied after drawing the mouse from the first character of a line to the last of one."""
        start, end = self._character(first, last=False), self._character(last, last=True)
        deadline = time.monotonic() + 30
        while not (text := self._drawn_over(start, end)):  # the viewer shows a page before its text
            assert time.monotonic() < deadline, "nothing is selected"
        return text

    def _character(self, line: Line, *, last: bool) -> tuple[float, float]:
        """Where in the window the first or the last character of a line is.

        Whichever way the text runs, Chromium begins behind a character that is hit in its right half, and
        ends before one that is hit in its left.
        """
        word = line.words[-1] if last else line.words[0]
        left, top, right, bottom = word.box
        along = 0.25 / len(word.text)
        x, y = {
            0: (1 - along if last else along, 0.5),
            90: (0.75 if last else 0.25, along if last else 1 - along),
            180: (3 * along if last else 1 - 3 * along, 0.5),
            270: (0.75 if last else 0.25, 1 - along if last else along),
        }[self._page.turned_deg]
        scale = self._width / self._page.width_px
        return (
            self._left + scale * (left + x * (right - left)),
            self._top + scale * (top + y * (bottom - top)),
        )

    def _drawn_over(self, start: tuple[float, float], end: tuple[float, float]) -> str:
        mouse = self._tab.mouse
        mouse.move(*start)
        mouse.down()
        mouse.move(*end, steps=50)
        mouse.up()
        self._tab.keyboard.press("Control+c")
        other = self._context.new_page()
        other.set_content("<textarea></textarea>")
        other.focus("textarea")
        other.keyboard.press("Control+v")
        text: str = other.input_value("textarea")
        other.close()
        self._tab.bring_to_front()
        return text


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("kind", "turned_deg"), [(".jpg", 0), (".jpg", 180), (".pdf", 0), (".pdf", 90), (".jpg", 270)]
)
def test_a_line_is_selected_where_it_is_seen(
    tmp_path: Path, browser: Any, engine: PaddleOcrEngine, kind: str, turned_deg: int
) -> None:
    image = drawn().rotate(turned_deg, expand=True)  # counter-clockwise: to be turned clockwise
    made, page = written(picture(image, tmp_path / f"scan{kind}"), engine)
    assert page.turned_deg == turned_deg
    viewer = Viewer(browser, made, page)

    def place(drawn_text: str) -> Line:
        """The line that was read of this; where a stop is read as a comma is another test's business."""
        return max(page.lines, key=lambda line: SequenceMatcher(None, line.text, drawn_text).ratio())

    for line in map(place, (*LEFT, *RIGHT, "Report on the flood")):
        text = line.text
        picked = viewer.selected(line, line)
        # Of text on its head, only where words begin is exact.
        assert picked in text if turned_deg == 180 else picked == text
        assert len(picked) >= len(text) - 4
    # A paragraph of one column, without the other beside it.
    picked = viewer.selected(place(LEFT[1]), place(LEFT[4]))
    if (kind, turned_deg) == (".jpg", 0) and (kept := os.environ.get("SCREENSHOT")):
        viewer.shot().crop((0, 0, WINDOW["width"], 760)).save(kept, optimize=True)
    words, expected = picked.split(), " ".join(place(text).text for text in LEFT[1:5]).split()
    if turned_deg == 180:  # its ends are off by up to three characters, as those of a line
        assert " ".join(words) in " ".join(expected)
        assert len(" ".join(words)) >= len(" ".join(expected)) - 8
    else:
        assert words == expected
