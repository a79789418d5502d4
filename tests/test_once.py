"""`once` in real processes: signals, recycles, and whom they are held against."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests.support import Process, dot, sidecar_of, until, write_config

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_config(tmp_path)
    return tmp_path


class Once(Process):
    """`ocr-watcher once` on the fake engine."""

    def __init__(self, home: Path, *arguments: str, **script: str) -> None:
        (home / "reading").unlink(missing_ok=True)
        command = ["-m", "tests.fake_daemon", "once", "-c", "config.yaml", *arguments]
        super().__init__(command, home, script)
        self._home = home

    def wait_until_reading(self) -> None:
        until((self._home / "reading").exists)


@pytest.fixture
def processes() -> Iterator[list[Once]]:
    started: list[Once] = []
    yield started
    for process in started:
        process.close()


def records(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.json"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_finishes_the_page_in_hand(
    home: Path, processes: list[Once], number: int, code: int
) -> None:
    for name in ("a", "b", "c"):
        dot(home / "inbox" / f"{name}.png")
    once = Once(home, FAKE_READ_S="1")
    processes.append(once)
    once.wait_until_reading()
    once.signal(number)
    assert once.wait() == code
    assert len(records(home / "inbox")) == 1


@pytest.mark.parametrize("by_name", [False, True])
def test_somebody_who_gives_up_waiting_again_and_again_does_not_condemn_the_file(
    home: Path, processes: list[Once], by_name: bool
) -> None:
    """Two signals end it at once; before, three of these were a final `engine_crashed`."""
    path = dot(home / "inbox" / "a.png")
    arguments = [str(path)] if by_name else []
    for _ in range(4):
        once = Once(home, *arguments, FAKE_READ_S="2")
        processes.append(once)
        once.wait_until_reading()
        once.signal(signal.SIGINT)
        once.signal(signal.SIGTERM)  # another number: two of one that come at once count as one
        assert once.wait() in (130, 143)
        assert records(home / "inbox") == []
    last = Once(home, *arguments)
    processes.append(last)
    assert last.wait() == 0
    assert sidecar_of(path)["status"] == "ok"


def summary_of(home: Path, *arguments: str, **script: str) -> tuple[int, str]:
    result = subprocess.run(
        [sys.executable, "-m", "tests.fake_daemon", "once", "-c", "config.yaml", *arguments],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **script},
        capture_output=True,
        text=True,
        check=False,
    )
    return result.returncode, result.stdout


def test_a_recycle_among_named_files_is_75_and_no_failure(home: Path) -> None:
    """A file that was broken off is neither failed nor told with another's message."""
    write_config(home, memory={"soft_limit_mb": 100, "rss_limit_mb": 120})
    folder = home / "elsewhere"
    folder.mkdir()
    first, *others = (Image.new("1", (number + 1, 1), 1) for number in range(12))
    first.save(folder / "long.tif", save_all=True, append_images=others)
    (folder / "a-bad.png").write_text("no image")
    codes = []
    while True:
        code, said = summary_of(home, str(folder), FAKE_LEAK_MB="20")
        codes.append(code)
        assert "long.tif" not in said
        if code != 75:
            break
        assert "Run it again for the rest" in said
    assert codes[-1] == 3  # for the one that is no image
    assert len(codes) > 2
    assert [line["text"] for page in sidecar_of(folder / "long.tif")["pages"] for line in page["lines"]] == [
        f"1x{number + 1}" for number in range(12)
    ]


def test_text_that_was_seen_but_not_read_is_in_the_summary(home: Path) -> None:
    dot(home / "inbox" / "a.png")
    dot(home / "inbox" / "b.png", (65, 48))
    command = [sys.executable, "-m", "tests.fake_daemon", "once", "-c", "config.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "FAKE_UNREAD": "65"}
    result = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert result.stdout.startswith("2 done, 0 failed")
    assert f"warning: {home}/inbox/b.png: most of its text was seen" in result.stdout
    assert "a.png" not in result.stdout
