"""TIFFs and PDFs of hundreds of pages, in real processes: kills, stops, recycles, and others that wait."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from PIL import Image, ImageDraw, ImageFont

from tests.pdfs import PROSE, Pdf
from tests.support import daemon, dot, sidecar_of, until, write_config

PAGES = 400


def tiff(path: Path, pages: int = PAGES) -> Path:
    """Page n, from 0, is n + 1 px wide, so that the fake engine tells which it reads."""
    first, *others = (Image.new("1", (number + 1, 1), 1) for number in range(pages))
    part = path.with_name(path.name + ".part")
    first.save(part, "TIFF", save_all=True, append_images=others)
    part.rename(path)
    return path


def pdf(path: Path, pages: int = PAGES) -> Path:
    """The same as a PDF: page n is n + 1 px wide at 300 dpi, and has nothing on it."""
    made = Pdf()
    for number in range(pages):
        made.page(b"", ((number + 1) * 72 / 300, 72 / 300))
    part = path.with_name(path.name + ".part")
    part.write_bytes(made.bytes())
    part.rename(path)
    return path


DOCUMENTS = [pytest.param(tiff, "long.tif", id="tiff"), pytest.param(pdf, "long.pdf", id="pdf")]
Make: TypeAlias = Callable[..., Path]


def reads(home: Path) -> list[tuple[int, int]]:
    """(process, page from 1) of every page begun."""
    rows = (home / "reads").read_text().split("\n")[:-1] if (home / "reads").exists() else []
    return [(int(row.split()[0]), int(row.split()[1])) for row in rows]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_config(tmp_path)
    return tmp_path


def check_whole(path: Path, pages: int = PAGES) -> None:
    document = sidecar_of(path)
    assert document["text"] == "\n".join(f"1x{number + 1}" for number in range(pages))
    assert [page["index"] for page in document["pages"]] == list(range(pages))


@pytest.mark.parametrize(("make", "name"), DOCUMENTS)
def test_ten_kills_cost_ten_pages_at_most(home: Path, make: Make, name: str) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    number = random.Random(seed)  # noqa: S311 - repeatable
    print(f"seed {seed}")
    path = make(home / "inbox" / name)
    script = {"FAKE_READS": "1", "FAKE_READ_S": "0.005"}
    for _ in range(10):
        before = len(reads(home))
        with daemon(home, script) as running:
            until(lambda before=before: len(reads(home)) > before)  # type: ignore[misc]
            time.sleep(number.uniform(0, 0.15))
            running.signal(signal.SIGKILL)
            running.wait()
        assert [p.name for p in path.parent.iterdir() if not p.name.startswith(".")] == [name]
    with daemon(home, script) as running:
        running.wait_for("ocr.done")
        assert running.stop() == 0
    check_whole(path)
    again = {page: count for page, count in Counter(page for _, page in reads(home)).items() if count > 1}
    by_process: dict[int, list[int]] = {}
    for process, page in reads(home):
        by_process.setdefault(process, []).append(page)
    in_hand = [pages[-1] for pages in by_process.values()]
    print(f"{len(by_process)} processes, {len(again)} of {PAGES} pages read more than once: {again}")
    assert len(by_process) == 11
    assert set(again) <= set(in_hand)
    assert sum(again.values()) - len(again) <= 10


@pytest.mark.parametrize(("make", "name"), DOCUMENTS)
def test_a_stop_in_the_middle_comes_soon_and_the_next_start_goes_on(
    home: Path, make: Make, name: str
) -> None:
    path = make(home / "inbox" / name)
    script = {"FAKE_READS": "1", "FAKE_READ_S": "0.005"}
    with daemon(home, script) as running:
        until(lambda: len(reads(home)) > 20)
        began = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - began < 10
        assert running.events("daemon.abandoned") == []
    with daemon(home, script) as running:
        running.wait_for("ocr.done")
        assert running.stop() == 0
    check_whole(path)
    assert len(reads(home)) == PAGES


@pytest.mark.parametrize(("make", "name"), DOCUMENTS)
def test_a_recycle_between_pages_reads_none_twice(home: Path, make: Make, name: str) -> None:
    write_config(home, memory={"soft_limit_mb": 100, "rss_limit_mb": 150})
    path = make(home / "inbox" / name, 60)
    exits = []
    for _ in range(20):
        with daemon(home, {"FAKE_READS": "1", "FAKE_LEAK_MB": "10"}) as running:
            until(lambda: running.ended or Path(f"{path}.json").exists())
            if not running.ended:
                running.stop()
                break
            exits.append(running.wait())
    check_whole(path, 60)
    assert set(exits) == {75}
    assert len(exits) >= 3
    assert [page for _, page in reads(home)] == list(range(1, 61))
    print(f"{len(exits)} recycles within one document of 60 pages: each page read once")


def test_status_and_log_tell_the_page_of_how_many(home: Path) -> None:
    write_config(home, logging={"level": "debug"})
    tiff(home / "inbox" / "long.tif", 12)
    with daemon(home, {"FAKE_READS": "1", "FAKE_READ_S": "0.2"}) as running:
        told = home / ".ocr-watcher" / "status.json"
        until(lambda: told.exists() and '"pages": 12' in told.read_text())
        running.wait_for("ocr.done")
        assert [event["page"] for event in running.events("page.done")] == list(range(1, 13))
        assert {event["pages"] for event in running.events("page.done")} == {12}
        running.stop()


def test_files_that_come_later_do_not_wait_for_the_last_page(home: Path) -> None:
    path = tiff(home / "inbox" / "long.tif", 150)
    with daemon(home, {"FAKE_READS": "1", "FAKE_READ_S": "0.01", "FAKE_TURN_S": "0.3"}) as running:
        until(lambda: len(reads(home)) > 5)
        for number in range(3):
            dot(home / "inbox" / f"{number}.png", (1000 + number, 2))
        running.wait_for("ocr.done", 4)
        running.stop()
        order = [Path(event["path"]).name for event in running.events("ocr.done")]
        assert order[-1] == "long.tif"
        assert len(running.events("file.paused")) >= 1
    check_whole(path, 150)
    assert len(reads(home)) == 150 + 3


@pytest.mark.long
@pytest.mark.timeout(600)
def test_memory_does_not_grow_with_the_pages_of_a_pdf(home: Path) -> None:
    write_config(home, pdf={"max_file_mb": 1000})
    made = Pdf()
    for number in range(1000):
        scan = Image.new("L", (1240, 1754), 255)
        draw = ImageDraw.Draw(scan)
        for row in range(25):
            draw.text((100, 60 * row + 60), f"{number} {PROSE[row % 3]}", 0, ImageFont.load_default(28))
        made.scan(scan, quality=60)
    path = home / "inbox" / "long.pdf"
    data = made.bytes()
    path.with_suffix(".part").write_bytes(data)
    path.with_suffix(".part").rename(path)
    with daemon(home, {"FAKE_READS": "1"}) as running:
        rss_mb = []
        for pages in (100, 400, 700, 1000):
            until(lambda pages=pages: len(reads(home)) >= pages, 300)  # type: ignore[misc]
            status = Path(f"/proc/{running.pid}/status").read_text()
            rss_mb.append(int(status.split("VmRSS:")[1].split()[0]) / 1024)
        running.wait_for("ocr.done")
        assert running.events("ocr.done")[0]["pages"] == 1000
        assert running.stop() == 0
    print(f"{len(data) / 2**20:.0f} MiB; RSS at page 100, 400, 700, 1000: {[round(mb) for mb in rss_mb]} MiB")
    assert max(rss_mb) - rss_mb[0] < 30
    assert len(sidecar_of(path)["pages"]) == 1000
