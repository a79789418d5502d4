"""The page, in a real browser: what a person does on it, and what may never happen there.

Needs Chromium and playwright (`.ci/run` gets both); without them its tests skip themselves and say so. With
`SCREENSHOTS=FOLDER` the pictures for the documentation are written there.
"""

from __future__ import annotations

import io
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image, ImageDraw, ImageFont

from tests import page_house
from tests.page_house import DESKTOP, PHONE, Site, Tab, axe, drop
from tests.support import draw

if TYPE_CHECKING:
    from collections.abc import Iterator

SHOP = ["CORNER BAKERY", "12 Mill Lane, Oldbridge", "Tel. 555 0142"]
ITEMS = [
    ("Rye bread 750 g", "4.20"),
    ("Butter croissant x 3", "5.70"),
    ("Apple juice 0.7 l", "2.95"),
    ("Oat biscuits", "3.40"),
]
TOTAL = ("TOTAL", "16.25")
THANKS = "Thank you for your visit"


def receipt() -> tuple[Image.Image, dict[str, tuple[float, float]]]:
    """A receipt, and the middle of each of its words (px)."""
    image = Image.new("RGB", (720, 980), "white")
    pen = ImageDraw.Draw(image)
    words: dict[str, tuple[float, float]] = {}

    def put(text: str, left: float, top: float, size: int) -> None:
        font = ImageFont.load_default(size)
        pen.text((left, top), text, "#222", font)
        for at, word in enumerate(text.split(" ")):
            before = " ".join([*text.split(" ")[:at], ""])
            start = left + font.getlength(before)
            words[word] = (start + font.getlength(word) / 2, top + size * 0.6)

    for row, text in enumerate(SHOP):
        size = 44 if row == 0 else 28
        width = ImageFont.load_default(size).getlength(text)
        put(text, (720 - width) / 2, 60 + row * 60, size)
    for row, (what, price) in enumerate(ITEMS):
        put(what, 70, 300 + row * 62, 30)
        put(price, 570, 300 + row * 62, 30)
    pen.line((70, 560, 650, 560), "#222", 3)
    put(TOTAL[0], 70, 590, 40)
    put(TOTAL[1], 550, 590, 40)
    put(THANKS, 180, 740, 28)
    return image, words


def as_bytes(image: Image.Image, kind: str, **options: Any) -> bytes:
    made = io.BytesIO()
    image.save(made, kind, **options)
    return made.getvalue()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with page_house.chromium() as started:
        yield started


def shot(page: Any, name: str) -> None:
    """A picture for the documentation, where these are asked for."""
    if folder := os.environ.get("SCREENSHOTS"):
        made = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        made.quantize(128, dither=Image.Dither.NONE).save(Path(folder) / name, optimize=True)


# -- the story -------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_receipt_is_dropped_read_and_opened_with_its_words_under_the_pointer(
    tmp_path: Path, browser: Any, model_store: Path
) -> None:
    image, words = receipt()
    site = Site(tmp_path, real=True, ocr={"model_store": str(model_store)}, memory={"stats_interval_s": 1})
    with site:
        for name, text in (("invoice-0412.png", "INVOICE 0412"), ("letter.png", "Dear Ms Holm")):
            draw(site.inbox / name, text)
        (site.inbox / "interrupted.png").write_bytes(as_bytes(image, "PNG")[:4000])
        tab = Tab(browser, site.address, color_scheme="light", permissions=["clipboard-read"])
        page = tab.open()
        page.locator("tr[data-state=done]").nth(1).wait_for()
        page.locator("tr[data-state=failed]").wait_for()

        drop(page, ("receipt.jpg", "image/jpeg", as_bytes(image, "JPEG", quality=92)))
        page.locator("#uploads li", has_text="receipt.jpg").wait_for()
        page.locator("#result-title", has_text="receipt.jpg").wait_for()  # it opens by itself
        page.locator("#sheet img").wait_for()

        for text, (x, y) in words.items():
            bring(page, y / image.height)
            left, top, scale = place_of_picture(page, image)
            page.mouse.move(left + x * scale, top + y * scale)
            under = page.evaluate(
                "([x, y]) => document.elementFromPoint(x, y)?.textContent",
                [left + x * scale, top + y * scale],
            )
            assert under == text
            marked = page.locator("#lines .piece.marked")
            assert marked.count() == 1
            assert text in marked.inner_text()
            assert marked.locator("span.marked").inner_text() == text
        # The other way round.
        page.locator("#lines .piece", has_text="croissant").hover()
        box = page.locator("#sheet g.marked").bounding_box()
        left, top, scale = place_of_picture(page, image)
        x, y = words["croissant"]
        assert box["x"] < left + x * scale < box["x"] + box["width"]
        assert box["y"] < top + y * scale < box["y"] + box["height"]

        assert copied(page) == text_of(page)
        assert selected(page, "#lines li:first-child .piece").split() == SHOP[0].split()
        downloads(page)
        shot(page, "page-result.png")
        assert axe(page) == []

        page.locator("#back").click()
        row = page.locator("tr", has_text="receipt.jpg")
        row.wait_for()
        assert row.get_attribute("data-state") == "done"
        page.locator("#query").fill("butter CROISSANT")
        page.locator("mark", has_text="Butter croissant").wait_for()
        assert page.locator("#rows tr").count() == 1
        page.locator("#query").fill("")
        page.locator("tr", has_text="letter.png").wait_for()
        assert axe(page) == []
        page.wait_for_timeout(3000)  # for a curve that can be seen
        shot(page, "page.png")
        tab.check()
        tab.close()
        for name, options in (
            ("page-dark.png", {"color_scheme": "dark"}),
            ("page-phone.png", {"viewport": PHONE, "is_mobile": True, "has_touch": True}),
        ):
            tab = Tab(browser, site.address, **options)
            page = tab.open()
            page.locator("tr", has_text="receipt.jpg").wait_for()
            assert axe(page) == []
            shot(page, name)
            page.locator("tr", has_text="receipt.jpg").locator("a").click()
            page.locator("#sheet img").wait_for()
            assert axe(page) == []
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            shot(page, name.replace("page", "page-result"))
            tab.check()
            tab.close()


def place_of_picture(page: Any, image: Image.Image) -> tuple[float, float, float]:
    """Left and top of the picture in the window, and its size beside the document's."""
    box = page.locator("#sheet img").bounding_box()
    return box["x"], box["y"], box["width"] / image.width


def bring(page: Any, part: float) -> None:
    """Scroll what is so far down the picture (0 to 1) into sight."""
    page.evaluate(
        """(part) => {
            const pane = document.getElementById("picture");
            pane.scrollTop = part * document.getElementById("sheet").clientHeight - pane.clientHeight / 2;
            pane.scrollIntoView({ block: "nearest" });
        }""",
        part,
    )


def text_of(page: Any) -> str:
    found: str = page.evaluate(
        """async () => {
            const id = new URLSearchParams(location.hash.slice(1)).get("file");
            return (await (await fetch(`v1/files/${id}/pages/1`)).json()).text;
        }"""
    )
    return found


def copied(page: Any) -> str:
    page.locator("#copy").click()
    page.locator("#copy", has_text="Copied").wait_for()
    text: str = page.evaluate("navigator.clipboard.readText()")
    return text


def selected(page: Any, selector: str) -> str:
    """What a mouse selects that is drawn over an element."""
    box = page.locator(selector).bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 1, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] + 4, middle, steps=10)
    page.mouse.up()
    text: str = page.evaluate("getSelection().toString()")
    return text


BEGINNINGS = {
    "txt": b"CORNER BAKERY",
    "json": b'{"schema": "ocr-watcher/1"',
    "pdf": b"%PDF-",
    "hocr": b"<?xml",
    "alto": b"<?xml",
    "tsv": b"level\t",
    "overlay": b"\xff\xd8\xff",
}


def downloads(page: Any) -> None:
    """Every format can be had."""
    links = page.locator("#downloads a")
    kinds = [links.nth(number).get_attribute("data-kind") for number in range(links.count())]
    assert sorted(kinds) == sorted(BEGINNINGS)
    for kind, beginning in BEGINNINGS.items():
        with page.expect_download() as waiting:
            page.locator(f"#downloads a[data-kind={kind}]").click()
        assert waiting.value.suggested_filename.startswith("receipt.jpg.")
        assert Path(waiting.value.path()).read_bytes().startswith(beginning)
