"""Processes that die, at random and at every step; floods; files that end the process.

Real processes, fake engine.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ocr_watcher import names
from tests.support import daemon, dot, error_of, record, sidecar_of, until, write_config

ROOT = Path(__file__).parents[1]


def lives(kind: str, home: Path, **options: int) -> dict[str, Any]:
    arguments = [f"--{name}={value}" for name, value in options.items()]
    result = subprocess.run(
        [sys.executable, "-m", "tests.lives", kind, str(home), *arguments],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("formats", ["json", "txt hocr alto tsv pdf overlay"])
def test_sigkill_at_300_random_moments(tmp_path: Path, formats: str) -> None:
    # A file that is interrupted often is not blamed here: it would be after retry.max_attempts.
    write_config(
        tmp_path, watch={"settle_s": 0.01}, retry={"max_attempts": 1000}, output={"formats": formats}
    )
    result = lives("kills", tmp_path, count=300, files=200)
    assert result["wrong"] == []
    assert result["last_exit"] == 0
    assert result["reads"] == 200 + result["interrupted"]
    found = sorted(os.listdir(tmp_path / "inbox"))
    ends = ["", ".json", *(names.OUTPUT_SUFFIXES[kind] for kind in formats.split() if kind != "json")]
    assert found == sorted(f"{n}.png{end}" for n in range(1, 201) for end in ends)
    for number in range(1, 201):
        document = sidecar_of(tmp_path / "inbox" / f"{number}.png")
        assert document["text"] == f"1x{number}"
        for output in document.get("outputs", []):
            data = (tmp_path / "inbox" / output["name"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == output["sha256"]
    assert result["interrupted"] > 10
    print(f"{result['kills']} kills, {result['interrupted']} of them while a file was in hand: 200 sidecars")


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("output", "files"),
    [
        ({}, 4),
        ({"formats": "txt hocr alto tsv pdf overlay"}, 10),
        ({"formats": "txt pdf", "folder": "text"}, 6),
        ({"formats": "txt pdf", "archive": "archive", "on_success": "archive"}, 6),
        ({"formats": "txt", "folder": "text", "archive": "archive", "on_success": "archive"}, 5),
    ],
    ids=["json", "formats", "folder", "archive", "both"],
)
def test_the_process_dies_at_every_step_in_turn(tmp_path: Path, output: dict[str, str], files: int) -> None:
    write_config(tmp_path, watch={"settle_s": 0.01}, output=output)
    result = lives("steps", tmp_path)
    assert result["wrong"] == []
    assert len(result["files"]) == files
    assert result["deaths"] > 30
    print(f"{result['deaths']} deaths, one at each call of the line")


@pytest.mark.long
@pytest.mark.timeout(300)
def test_sigterm_at_50_random_moments(tmp_path: Path) -> None:
    write_config(tmp_path, watch={"settle_s": 0.01})
    result = lives("stops", tmp_path, count=50)
    assert result["wrong"] == []
    assert result["longest_s"] < 10
    assert result["records"] > 10
    for path in (tmp_path / "inbox").glob("*.json"):
        assert record(path)["status"] == "ok"
    print(f"{result['stops']} stops, the longest {result['longest_s']:.2f} s; {result['records']} files done")


@pytest.mark.long
@pytest.mark.timeout(600)
def test_three_that_end_the_process_among_50_good_ones(tmp_path: Path) -> None:
    write_config(tmp_path, ocr={"job_timeout_s": 1})
    inbox = tmp_path / "inbox"
    for number in range(50):
        dot(inbox / f"{number}.png")
    script = {"FAKE_SEGFAULT": "71", "FAKE_HANG": "72", "FAKE_EXIT": "73"}
    for width in (71, 72, 73):
        dot(inbox / f"{width - 50}-bad.png", (width, 10))
    starts = 0
    while True:
        starts += 1
        with daemon(tmp_path, script) as running:
            until(lambda: running.ended or len(list(inbox.glob("*.json"))) == 53, 60)
            if not running.ended:
                assert running.stop() == 0
                break
            assert running.wait() in (75, 3, -signal.SIGSEGV)
    for number in range(50):
        assert sidecar_of(inbox / f"{number}.png")["status"] == "ok"
    errors = {width: error_of(inbox / f"{width - 50}-bad.png")["error"] for width in (71, 72, 73)}
    assert {width: error["code"] for width, error in errors.items()} == {
        71: "engine_crashed",
        72: "timeout",
        73: "engine_crashed",
    }
    assert {error["attempts"] for error in errors.values()} == {3}
    assert starts == 10
    print(f"{starts} starts: 50 sidecars, 3 error records after 3 attempts each")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_20000_files_come_while_the_process_is_stopped(tmp_path: Path) -> None:
    """More than the kernel's queue of events holds: most of them are never told."""
    write_config(tmp_path, logging={"level": "warning"})
    inbox = tmp_path / "inbox"
    one = dot(tmp_path / "one.png").read_bytes()
    with daemon(tmp_path) as running:
        until((tmp_path / ".ocr-watcher" / "status.json").exists)
        until(lambda: "queue" in json.loads((tmp_path / ".ocr-watcher" / "status.json").read_text()))
        running.signal(signal.SIGSTOP)
        for number in range(20_000):
            with open(inbox / f"{number}.png", "wb") as file:
                file.write(one)
        running.signal(signal.SIGCONT)
        until(lambda: sum(name.endswith(".json") for name in os.listdir(inbox)) == 20_000, 800)
        assert running.stop() == 0
    assert not [name for name in os.listdir(inbox) if not re.fullmatch(r"\d+\.png(\.json)?", name)]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_100000_finished_files_in_the_inbox(tmp_path: Path) -> None:
    """No timing is asserted here (see benchmarks/inbox.py); nothing is done again, and memory stays."""
    write_config(tmp_path)
    inbox = tmp_path / "inbox"
    with daemon(tmp_path) as running:
        dot(inbox / "one.png")
        running.wait_for("ocr.done")
        (scan,) = running.wait_for("scan.done")
        before_mb = running.events("memory.stats")[0]["rss_mb"]
        running.stop()
    one, its = (inbox / "one.png").read_bytes(), (inbox / "one.png.json").read_text()
    mtime_ns = (inbox / "one.png").stat().st_mtime_ns
    for number in range(100_000):
        path = inbox / f"{number}.png"
        with open(path, "wb") as file:
            file.write(one)
        os.utime(path, ns=(mtime_ns, mtime_ns))
        with open(f"{path}.json", "w", encoding="utf-8") as file:
            file.write(its)
    write_config(tmp_path, memory={"stats_interval_s": 1})
    with daemon(tmp_path) as running:
        (scan,) = running.wait_for("scan.done")
        assert (scan["found"], scan["queued"], scan["current"]) == (100_001, 0, 100_001)
        count = len(running.events("memory.stats"))
        after_mb = running.wait_for("memory.stats", count + 1)[-1]["rss_mb"]
        dropped = time.monotonic()
        dot(inbox / "new.png")
        running.wait_for("ocr.done")
        took_s = time.monotonic() - dropped
        running.stop()
    print(
        f"100,000 finished files: scan {scan['duration_ms']} ms, {after_mb - before_mb:+.0f} MiB, "
        f"a new file done after {took_s:.2f} s"
    )
    assert after_mb - before_mb < 60
