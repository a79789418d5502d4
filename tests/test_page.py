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
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from ocr_watcher.errors import ExitCode
from tests import page_house, pdfs
from tests.http_house import House, looking_at_once
from tests.page_house import PHONE, SHOP, Site, Tab, axe, drop, heap_mb, nodes, receipt, resident_mb
from tests.support import dot, draw, write_config
from tests.test_http_files import done, failed

if TYPE_CHECKING:
    from collections.abc import Iterator


def contract() -> bytes:
    """A PDF with text, of three pages."""
    made = pdfs.Pdf()
    for number in range(3):
        made.page(
            pdfs.text(f"Page number {number} has a line of text, which is long enough to count as some.")
        )
    return made.bytes()


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
        page.evaluate("document.activeElement.blur(); getSelection().removeAllRanges(); scrollTo(0, 0)")
        page.wait_for_timeout(2500)  # for a curve with a few points
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
        (site.inbox / "office").mkdir()
        for name, text in (
            *(("invoice-0412.png", "INVOICE 0412"), ("invoice-0413.png", "INVOICE 0413")),
            *(("office/minutes.png", "MINUTES, 3 MAY"), ("letter.png", "Dear Ms Holm")),
        ):
            draw(site.inbox / name, text)
        (site.inbox / "office" / "contract.pdf").write_bytes(contract())
        (site.inbox / "interrupted.png").write_bytes(as_bytes(image, "PNG")[:4000])
        tab = Tab(browser, site.address, color_scheme="light", permissions=["clipboard-read"])
        page = tab.open()
        page.locator("tr[data-state=done]").nth(4).wait_for()
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
        page.locator("#lines .piece", has_text="croissant").hover()
        shot(page, "page-result.png")

        page.locator("#back").click()
        row = page.locator("tr", has_text="receipt.jpg")
        row.wait_for()
        assert row.get_attribute("data-state") == "done"
        page.locator("#query").fill("butter CROISSANT")
        page.locator("mark", has_text="Butter croissant").wait_for()
        assert page.locator("#rows tr").count() == 1
        page.locator("#query").fill("")
        page.locator("tr", has_text="letter.png").wait_for()
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
            shot(page, name)
            page.locator("tr", has_text="receipt.jpg").locator("a").click()
            page.locator("#sheet img").wait_for()
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
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


# -- when things go wrong --------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(240)
def test_a_file_that_failed_says_why_and_is_read_after_it_was_mended(tmp_path: Path, browser: Any) -> None:
    with Site(tmp_path) as site:
        for name in ("locked.pdf", "sealed.pdf"):
            (site.inbox / name).write_bytes(pdfs.locked("open sesame"))
        image = as_bytes(receipt()[0], "PNG")
        (site.inbox / "half.png").write_bytes(image[:2000])
        tab = Tab(browser, site.address)
        page = tab.open()
        row = page.locator("tr", has_text="locked.pdf")
        row.locator(".why", has_text="password").wait_for()
        assert row.get_attribute("data-state") == "failed"
        # A file that is mended is read by itself.
        page.locator("tr", has_text="half.png").locator(".why", has_text="The file ends before").wait_for()
        (site.inbox / "half.png").write_bytes(image)
        page.locator("tr[data-state=done]", has_text="half.png").wait_for()

        # One whose cause is elsewhere waits for somebody who says so; meanwhile the daemon is away.
        site.kill_daemon()
        page.locator("#trouble", has_text="The daemon that reads the documents is not running").wait_for()
        assert page.locator("#state").inner_text() == "daemon away"
        write_config(
            tmp_path, http={"port": int(site.address.rpartition(":")[2])}, pdf={"passwords": ["open sesame"]}
        )
        site.start_daemon()
        page.locator("#trouble").wait_for(state="hidden")
        assert page.locator("#state").inner_text() == "ready"
        row.locator("button", has_text="Try again").click()
        page.locator("tr[data-state=done]", has_text="locked.pdf").wait_for()
        page.locator("tr[data-state=failed]", has_text="sealed.pdf").locator("a").click()
        page.locator("#result-trouble button", has_text="Try again").click()
        page.locator("#lines li").first.wait_for()
        assert page.locator("#result-about", has_text="done").is_visible()
        tab.check()
        tab.close()


@pytest.mark.long
@pytest.mark.timeout(240)
def test_the_memory_curve_moves_and_recycles_are_marked(tmp_path: Path, browser: Any) -> None:
    limits = {"soft_limit_mb": 150, "rss_limit_mb": 200, "stats_interval_s": 1}
    with Site(tmp_path, {"FAKE_LEAK_MB": "40"}, memory=limits) as site:
        tab = Tab(browser, site.address)
        page = tab.open()
        page.locator(".label", has_text="warns at 150 MiB").wait_for()
        page.locator(".label", has_text="restarts at 200 MiB").wait_for()
        assert page.locator("#curve svg .start.recycle").count() == 0
        for number in range(4):
            before = page.locator("#curve .line").last.get_attribute("points")
            dot(site.inbox / f"{number}.png")
            page.wait_for_function(
                "(before) => !document.querySelector(`#curve .line[points='${before}']`)", arg=before
            )
            if site.daemon.ended:
                break
        assert site.daemon.wait() == ExitCode.RECYCLE
        site.start_daemon()
        page.locator("#curve svg .start.recycle").wait_for(state="attached")
        assert "RSS" in page.locator("#starts li").first.inner_text()
        assert "1 recycle" in page.locator("#curve-said").inner_text()
        tab.check()
        tab.close()


@pytest.mark.long
@pytest.mark.timeout(240)
def test_the_page_says_that_the_server_is_lost_and_goes_on_when_it_is_back(
    tmp_path: Path, browser: Any
) -> None:
    with Site(tmp_path) as site:
        dot(site.inbox / "before.png")
        tab = Tab(browser, site.address)
        # What the browser itself says of a connection that is refused.
        tab.allowed = lambda text: "net::ERR_" in text
        page = tab.open()
        page.locator("tr[data-state=done]", has_text="before.png").wait_for()
        site.kill_server()
        page.locator("#trouble", has_text="The server has not answered since").wait_for()
        assert page.locator("#state").inner_text() == "server lost"
        dot(site.inbox / "meanwhile.png")
        site.start_server()
        page.locator("#trouble").wait_for(state="hidden")
        page.locator("tr[data-state=done]", has_text="meanwhile.png").wait_for()
        assert page.locator("#state").inner_text() == "ready"
        tab.check()
        tab.close()


@pytest.mark.long
def test_events_that_are_held_back_on_the_way_are_asked_for(tmp_path: Path, browser: Any) -> None:
    with House(tmp_path) as house:
        tab = Tab(browser, house.address)
        held: list[Any] = []
        tab.page.route("**/v1/events*", lambda route: held.append(route))  # noqa: PLW0108 - and never answered
        page = tab.open()
        page.locator("#state", has_text="ready").wait_for(timeout=30_000)
        drop(page, ("late.png", "image/png", dot(tmp_path / "x.png").read_bytes()))
        page.locator("#result-title", has_text="late.png").wait_for()
        assert held
        tab.check()
        tab.close()


# -- much, and for long ----------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(400)
def test_with_ten_thousand_files_done_the_page_opens_at_once(tmp_path: Path, browser: Any) -> None:
    with Site(tmp_path) as site:
        template = done(
            tmp_path / "template.png", "CORNER BAKERY", *(f"{n} rye bread 4.20" for n in range(30))
        )
        record = Path(f"{template}.json").read_bytes()
        status = template.stat()
        for number in range(10_000):
            path = site.inbox / f"{number // 500:02}" / f"scan-{number:05}.png"
            path.parent.mkdir(exist_ok=True)
            os.link(template, path)
            Path(f"{path}.json").write_bytes(
                record.replace(b"template.png", path.name.encode()).replace(b"29 rye", b"%d rye" % number)
            )
        assert template.stat().st_mtime_ns == status.st_mtime_ns
        site.kill_server()
        site.start_server()
        listed_ms = []
        for _ in range(3):
            tab = Tab(browser, site.address)
            page = tab.open()
            page.locator("#files-said", has_text="10,000 documents").wait_for()
            listed_ms.append(page.evaluate("performance.getEntriesByName('listed')[0].startTime"))
            if len(listed_ms) < 3:
                tab.close()
        began = time.monotonic()
        page.locator("#query").fill("4711 rye")
        page.locator("#files-said", has_text="document found").wait_for()
        searched_s = time.monotonic() - began
        for _ in range(3):
            page.locator("#query").fill("")
            page.locator("#more").click()
            page.locator("#rows tr").nth(100).wait_for()
        serve_mb = resident_mb(site.server.pid)
        print(
            f"10,000 files: listed after {listed_ms[0]:.0f} ms first, {min(listed_ms[1:]):.0f} ms then; "
            f"all searched in {searched_s:.1f} s; serve {serve_mb:.0f} MiB"
        )
        assert min(listed_ms) < 1000
        assert serve_mb < 100
        tab.check()
        tab.close()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_an_hour_of_a_file_a_second_leaves_the_heap_of_the_tab_as_it_was(
    tmp_path: Path, browser: Any
) -> None:
    """At up to twenty times that speed, for three minutes at most."""
    with Site(tmp_path, memory={"stats_interval_s": 1}) as site:
        tab = Tab(browser, site.address)
        page = tab.open()
        page.locator("#state", has_text="ready").wait_for()
        image = dot(tmp_path / "x.png").read_bytes()
        measured: list[tuple[int, float, int]] = []
        began = time.monotonic()
        number = 0
        while number < 3600 and time.monotonic() - began < 180:
            for _ in range(10):
                (site.inbox / f"{number:04}.png").write_bytes(image)
                number += 1
            page.wait_for_timeout(450)
            if number % 300 == 0:
                measured.append((number, heap_mb(page), nodes(page)))
        page.locator("tr[data-state=done]", has_text=f"{number - 1:04}.png").wait_for(timeout=120_000)
        measured.append((number, heap_mb(page), nodes(page)))
        for files, heap, count in measured:
            print(f"{files} files: heap {heap:.2f} MiB, {count} nodes")
        print(f"serve {resident_mb(site.server.pid):.0f} MiB")
        # The first figures are of a list and a curve that still fill.
        early, late = measured[1], measured[-1]
        assert late[1] < early[1] + 1.0
        assert late[2] < early[2] * 1.25 + 500
        assert resident_mb(site.server.pid) < 100
        tab.check()
        tab.close()


# -- in a tab --------------------------------------------------------------------------------------


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with looking_at_once(), House(tmp_path) as made:
        yield made


@pytest.fixture
def tab(house: House, browser: Any) -> Iterator[Tab]:
    made = Tab(browser, house.address)
    yield made
    made.check()
    made.close()


LONG = "long " * 2000
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "</li></ol><h1>forged</h1>",
    "javascript:alert(1)",
    "&lt;b&gt; &amp;amp; &#x3c;",
    "abc\u202egnp.exe",
    "\u200f\u2067right to left\u2069",
    "العربية עברית",
    '" onmouseover="alert(1)',
    "${alert(1)} {{alert(1)}} %3Cb%3E",
    "x" * 10_000,
    LONG.strip(),
    "👩\u200d👩\u200d👧 😀",
]


def test_names_and_texts_show_as_what_they_are(house: House, tab: Tab, tmp_path: Path) -> None:
    house.engine.on_read = lambda bgr: read_as(HOSTILE, bgr.shape)
    inbox = house.settings.watch.inbox[0]
    folder_names = [f"{text[:60]}.png".replace("/", "|") for text in HOSTILE]
    for name in folder_names:
        done(inbox / name, "x")
    data = dot(tmp_path / "x.png", (90, 90)).read_bytes()
    jobs = [house.ask("POST", f"/v1/jobs?name={quote(text[:900])}", body=data).json["id"] for text in HOSTILE]
    for job in jobs:
        assert house.until_read(job)["status"] == "done"
    page = tab.open()
    page.locator("#rows tr").nth(len(HOSTILE) * 2 - 1).wait_for()
    shown = page.locator("#rows th a").evaluate_all("(links) => links.map((link) => link.textContent)")
    sent = [house.ask("GET", f"/v1/jobs/{job}").json["name"] for job in jobs]
    assert sorted(shown) == sorted([*folder_names, *sent])
    for key in (jobs[0], jobs[5]):
        page.goto(f"{house.address}/#file={key}")
        page.locator("#lines .piece").nth(len(HOSTILE) - 1).wait_for()
        texts = page.locator("#lines .piece").evaluate_all("(all) => all.map((one) => one.textContent)")
        told = house.ask("GET", f"/v1/files/{key}/pages/1").json["lines"]
        assert texts == [line["text"] for line in told]
        assert {*texts} == {line.strip() for line in HOSTILE}
        # Nothing became an element, and nothing is turned round by what stands before it.
        assert page.locator("main img[src=x], main h1, main script, [onmouseover]").count() == 0
        assert page.locator("#lines .unseen[data-code='U+202E']").is_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def read_as(texts: list[str], shape: tuple[int, ...]) -> dict[str, Any]:
    """What an engine gives that reads these lines, one below the other."""
    height, width = shape[:2]
    step = height / len(texts)
    polygons = [
        np.array([[0, step * n], [width, step * n], [width, step * (n + 1) - 1], [0, step * (n + 1) - 1]])
        for n in range(len(texts))
    ]
    return {"rec_texts": texts, "rec_scores": [0.9] * len(texts), "rec_polys": polygons, "dt_polys": polygons}


def test_a_key_is_asked_for_once_and_kept_for_the_tab(tmp_path: Path, browser: Any) -> None:
    (tmp_path / "keys").write_text("correct-horse-battery\n", "ascii")
    with House(tmp_path, api_keys_file=str(tmp_path / "keys")) as house:
        tab = Tab(browser, house.address)
        tab.allowed = lambda text: "401" in text
        page = tab.open()
        dialog = page.locator("#key-dialog")
        dialog.wait_for()
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        page.locator("#key-said", has_text="does not know that key").wait_for()
        page.keyboard.type("correct-horse-battery")
        page.keyboard.press("Enter")
        page.locator("#state", has_text="ready").wait_for()
        dialog.wait_for(state="hidden")
        drop(page, ("mine.png", "image/png", dot(tmp_path / "x.png").read_bytes()))
        page.locator("#sheet img").wait_for()  # pictures and downloads send it too
        with page.expect_download() as waiting:
            page.locator("#downloads a[data-kind=txt]").click()
        assert Path(waiting.value.path()).read_text("utf-8") == "48x64\n"
        page.reload()
        page.locator("#sheet img").wait_for()
        assert not dialog.is_visible()
        other = tab.context.new_page()
        other.goto(house.address)
        other.locator("#key-dialog").wait_for()
        assert "correct-horse" not in page.evaluate("JSON.stringify(localStorage) + document.cookie")
        tab.check()
        tab.close()


def test_everything_can_be_done_with_a_keyboard(house: House, tab: Tab) -> None:
    done(house.settings.watch.inbox[0] / "first.png", "one", "two", "three")
    failed(house.settings.watch.inbox[0] / "second.png")
    page = tab.open()
    page.locator("#rows tr").nth(1).wait_for()
    visited = []
    for _ in range(30):
        page.keyboard.press("Tab")
        now = page.evaluate("document.activeElement.id || document.activeElement.textContent")
        visited.append(now)
        if now == "first.png":
            break
    assert visited[0] == "skip"
    assert {"chosen", "query", "only-failed", "second.png", "first.png"} <= set(visited)
    assert any("Try again" in one for one in visited)
    page.keyboard.press("Enter")
    page.locator("#lines li").nth(2).wait_for()
    assert page.evaluate("document.activeElement.id") == "result-title"
    page.locator("#lines li").first.focus()
    page.keyboard.press("ArrowDown")
    assert page.locator("#lines .piece.marked").inner_text() == "two"
    assert page.locator("#sheet g.marked").get_attribute("data-line") == "1"
    page.go_back()
    page.locator("#rows tr").nth(1).wait_for()
    assert page.evaluate("document.activeElement.textContent") == "first.png"


def test_documents_are_chosen_pasted_and_refused_in_words(tab: Tab, tmp_path: Path) -> None:
    tab.allowed = lambda text: "415" in text
    page = tab.open()
    data = dot(tmp_path / "x.png").read_bytes()
    files = [{"name": f"{n}.png", "mimeType": "image/png", "buffer": data} for n in range(3)]
    page.set_input_files("#chosen", files)
    page.locator("#uploads li.good").nth(2).wait_for()
    assert page.locator("#home").is_visible()  # of several, none opens by itself
    page.set_input_files("#chosen", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"})
    page.locator("#uploads li.bad", has_text="the document is no image or PDF").wait_for()
    page.evaluate(
        """(bytes) => {
            const carried = new DataTransfer();
            carried.items.add(new File([Uint8Array.from(bytes)], "image.png", { type: "image/png" }));
            dispatchEvent(new ClipboardEvent("paste", { clipboardData: carried, cancelable: true }));
        }""",
        list(data),
    )
    page.locator("#result-title", has_text="image.png").wait_for()


def test_pages_are_turned_and_an_address_leads_to_one(house: House, tab: Tab) -> None:
    job = house.send(contract(), "/v1/jobs", "three.pdf").json["id"]
    assert house.until_read(job)["status"] == "done"
    page = tab.open(f"/#file={job}&page=2")
    page.locator("#lines li", has_text="number 1 has").wait_for()
    page.locator("#sheet img").wait_for()
    page.locator("#next").click()
    page.locator("#lines li", has_text="number 2 has").wait_for()
    assert page.locator("#next").is_disabled()
    page.locator("#page").fill("1")
    page.keyboard.press("Enter")
    page.locator("#lines li", has_text="number 0 has").wait_for()
    # Without a picture the text stands where it was.
    for picture in (house.spool / ".previews").rglob("*.jpg"):
        picture.unlink()
    tab.allowed = lambda text: "404" in text
    page.locator("#next").click()
    page.locator("#sheet.plain text", has_text="number").first.wait_for()
    assert page.locator("#sheet img").count() == 0


@pytest.mark.long
@pytest.mark.skipif(
    not page_house.AXE.is_file(),
    reason=f"NOT TESTED: there is no {page_house.AXE}: npm install --prefix .bench/axe axe-core",
)
@pytest.mark.parametrize("look", [{"color_scheme": "light"}, {"color_scheme": "dark"}, {"viewport": PHONE}])
def test_axe_finds_nothing_serious(tmp_path: Path, browser: Any, look: dict[str, Any]) -> None:
    (tmp_path / "keys").write_text("correct-horse-battery\n", "ascii")
    with looking_at_once(), House(tmp_path, api_keys_file=str(tmp_path / "keys")) as house:
        inbox = house.settings.watch.inbox[0]
        done(inbox / "done.png", "one", "two words", "10\u202e01")
        failed(inbox / "failed.png")
        dot(inbox / "waiting.png")
        tab = Tab(browser, house.address, **look)
        tab.allowed = lambda text: "401" in text or "415" in text
        page = tab.open()
        page.locator("#key-dialog").wait_for()
        found = axe(page)
        page.keyboard.type("correct-horse-battery")
        page.keyboard.press("Enter")
        page.locator("#rows tr").nth(2).wait_for()
        page.set_input_files("#chosen", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"no picture"})
        page.locator("#uploads .bad").wait_for()
        found += axe(page)
        page.locator("#query").fill("two words")
        page.locator("mark").wait_for()
        found += axe(page)
        page.locator("#rows a").click()
        page.locator("#sheet img").wait_for()
        page.locator("#lines .piece").nth(1).hover()
        found += axe(page)
        page.goto(f"{house.address}/#file={'0' * 32}")
        page.locator("#result-trouble").wait_for()
        found += axe(page)
        assert found == []
        tab.close()


def test_a_document_that_is_not_there_is_said_to_be_so(tab: Tab) -> None:
    tab.allowed = lambda text: "404" in text
    page = tab.open("/#file=f00000000000000000000000000000000")
    page.locator("#result-trouble", has_text="there is no such").wait_for()
    page.locator("#back").click()
    page.locator("#home").wait_for()


def test_a_tab_that_nobody_sees_lets_go_of_its_connection(house: House, browser: Any) -> None:
    tab = Tab(browser, house.address)
    page = tab.page
    page.clock.install()
    streams: list[str] = []

    def note(request: Any, word: str) -> None:
        if "/v1/events" in request.url:
            streams.append(word)

    page.on("request", lambda request: note(request, "begun"))
    page.on("requestfailed", lambda request: note(request, "let go"))
    tab.open()
    page.locator("#state", has_text="ready").wait_for()
    see = "(hidden) => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true }); \
        document.dispatchEvent(new Event('visibilitychange')); }"
    page.evaluate(see, True)
    page.clock.fast_forward(60_000)
    page.locator("#state", has_text="catching up").wait_for()
    assert streams == ["begun", "let go"]
    done(house.settings.watch.inbox[0] / "meanwhile.png", "x")
    page.evaluate(see, False)
    page.locator("#trouble").wait_for(state="hidden")
    page.locator("#state", has_text="ready").wait_for()
    assert streams[-1] == "begun"
    tab.check()
    tab.close()


@pytest.mark.long
def test_the_page_is_small_and_of_this_server_alone(house: House, browser: Any) -> None:
    done(house.settings.watch.inbox[0] / "one.png", "x")
    listed_ms = []
    for _ in range(3):
        tab = Tab(browser, house.address)
        sizes: list[int] = []
        tab.page.on(
            "response",
            lambda response, sizes=sizes: (
                "/v1/" not in response.url and sizes.append(int(response.headers["content-length"]))
            ),
        )
        page = tab.open()
        page.locator("#rows tr").first.wait_for()
        listed_ms.append(page.evaluate("performance.getEntriesByName('listed')[0].startTime"))
        tab.check()
        tab.close()
        assert len(sizes) >= 9
        assert sum(sizes) < 150_000
    print(f"{sum(sizes)} bytes; the list after {min(listed_ms):.0f} ms, cold")
    assert min(listed_ms) < 1000
