"""A read-only share with results elsewhere, an archive on another disk that fills up: in the real daemon."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from ocr_watcher import names
from tests.support import daemon, dot, record, until, write_config

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True)


@contextlib.contextmanager
def mounted(folder: Path, *arguments: str | Path) -> Iterator[None]:
    mount(*arguments, folder)
    try:
        yield
    finally:
        # Busy for as long as somebody has a file of it open.
        until(lambda: subprocess.run(["umount", folder], check=False, capture_output=True).returncode == 0)


def ocr_watcher(home: Path, *arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, "-m", "ocr_watcher", *arguments],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        check=True,
        capture_output=True,
        text=True,
    )
    return result.stdout


def status(home: Path) -> dict[str, Any]:

    files: dict[str, Any] = json.loads(ocr_watcher(home, "status", "-c", "config.yaml", "--json"))["files"]
    return files


def test_a_read_only_inbox_on_a_mount_of_its_own(tmp_path: Path) -> None:
    share, text = tmp_path / "share", tmp_path / "text"
    (share / "sub").mkdir(parents=True)
    text.mkdir()
    write_config(tmp_path, watch={"rescan_interval_s": 1}, output={"formats": "txt pdf", "folder": "text"})
    inbox = tmp_path / "inbox"
    dot(share / "a.png")
    dot(share / "sub" / "b.png", (30, 20))
    (share / "bad.png").write_text("no image")
    before = {path: path.stat().st_mtime_ns for path in (share, *share.rglob("*"))}
    with mounted(inbox, "--bind", share):
        mount("-o", "remount,bind,ro", inbox)
        with pytest.raises(OSError, match="Read-only"):
            (inbox / "x").touch()
        with daemon(tmp_path) as running:
            until((text / "sub" / "b.png.json").exists)
            until((text / "bad.png.error.json").exists)
            running.wait_for("ocr.done", 2)
            # What is deleted in the tree is made again, though nobody tells of it.
            (text / "a.png.json").unlink()
            running.wait_for("ocr.done", 3)
            # An error that is forgotten there is tried again.
            dot(share / "good.png", (9, 9))
            assert "will be tried again" in ocr_watcher(
                tmp_path, "retry", "-c", "config.yaml", "inbox/bad.png"
            )
            until(lambda: len(running.events("ocr.failed")) == 2)
            running.wait_for("ocr.done", 4)
            assert running.stop() == 0
        assert status(tmp_path) == {"found": 4, "done": 3, "failed": 1, "waiting": 0, "retrying": 0}
        with daemon(tmp_path) as running:
            (scan,) = running.wait_for("scan.done")
            assert (scan["found"], scan["queued"], scan["current"]) == (4, 0, 4)
            assert running.stop() == 0
            assert running.events("ocr.done") == []
    after = {path: path.stat().st_mtime_ns for path in before}
    assert {path for path in before if after[path] != before[path]} == {share}  # good.png came
    ends = ("", ".json", ".txt", ".ocr.pdf")
    expected = {f"{name}{end}" for name in ("a.png", "good.png", "sub/b.png") for end in ends[1:]}
    there = {str(path.relative_to(text)) for path in text.rglob("*") if path.is_file()}
    assert there == expected | {"bad.png.error.json"}
    for path in text.rglob("*.png.json"):
        for output in record(path)["outputs"]:
            data = path.with_name(output["name"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == output["sha256"]


def test_an_archive_on_another_disk_that_fills_up_loses_nothing(tmp_path: Path) -> None:
    archive, inbox = tmp_path / "archive", tmp_path / "inbox"
    archive.mkdir()
    inbox.mkdir()
    number = np.random.default_rng(1)
    contents = {}
    for index in range(6):
        path = inbox / f"{index}.png"
        Image.fromarray(number.integers(0, 255, (150, 200), np.uint8)).save(path)  # 30 kB of noise
        contents[path.name] = path.read_bytes()
    write_config(tmp_path, output={"formats": "txt", "archive": "archive", "on_success": "archive"})
    with mounted(archive, "-t", "tmpfs", "-o", "size=128k", "none"):
        with daemon(tmp_path, {"FAKE_PAUSE_S": "0.1"}) as running:
            # All are read; some are archived, and the others wait with their results beside them.
            running.wait_for("ocr.done", 6)
            until(lambda: running.events("ocr.failed"))
            moved = len(running.events("file.archived"))
            assert 0 < moved < 6
            assert {event["code"] for event in running.events("ocr.failed")} == {"output_error"}
            for path in inbox.glob("*.png"):
                assert path.read_bytes() == contents[path.name]
            assert not [name for name in os.listdir(archive) if names.is_leftover(name)]
            mount("-o", "remount,size=10m", archive)
            running.wait_for("file.archived", 6)
            assert running.stop() == 0
            assert len(running.events("ocr.done")) == 6
        assert os.listdir(inbox) == []
        assert sorted(os.listdir(archive)) == sorted(
            f"{name}{end}" for name in contents for end in ("", ".json", ".txt")
        )
        for name, data in contents.items():
            assert (archive / name).read_bytes() == data
            assert record(archive / f"{name}.json")["source"]["sha256"] == hashlib.sha256(data).hexdigest()
    print(f"{moved} of 6 documents had room at first; all are there in the end")
