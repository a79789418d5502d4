"""Results that were read with other settings: counted, and read again where somebody wishes for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ocr_watcher import config
from ocr_watcher.service import reread
from ocr_watcher.verbs import status
from tests.support import daemon, dot, sidecar_of, until, write_config

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[1]


def load(text: str, folder: Path) -> config.Settings:
    (folder / "config.yaml").write_text(text)
    return config.load(folder / "config.yaml")


def test_an_upgrade_makes_nothing_outdated(tmp_path: Path) -> None:
    """A golden value: where this fails, every result of the version before becomes outdated."""
    assert reread.key(load("", tmp_path)) == "72e07a2cfcee9600"


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("ocr: {model: PP-OCRv6_tiny}", True),
        ("ocr: {orientation: off}", True),
        ("ocr: {min_score: 0.5}", True),
        ("ocr: {params: {text_det_box_thresh: 0.7}}", True),
        ("image: {max_side_px: 2048}", True),
        ("pdf: {text: ocr}", True),
        ("output: {words: true}", True),
        ("ocr: {threads: 3, job_timeout_s: 5, model_store: elsewhere}", False),
        ("ocr: {model: PP-OCRv6_small, params: {}}", False),
        (
            "{output: {formats: txt}, memory: {max_jobs: 5}, image: {max_file_mb: 1}, pdf: {max_pages: 5}}",
            False,
        ),
    ],
)
def test_what_decides_is_what_counts(tmp_path: Path, text: str, counts: bool) -> None:
    assert (reread.key(load(text, tmp_path)) != reread.key(load("", tmp_path))) is counts


def retry(folder: Path) -> str:
    command = [sys.executable, "-m", "ocr_watcher", "retry", "--outdated", "-c", "config.yaml"]
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return done.stdout


def counts(folder: Path) -> tuple[int, int, int]:
    now = status.collect(config.load(folder / "config.yaml"))
    return now.files.done, now.outdated, now.unknown_settings


def read_three(folder: Path, **sections: Any) -> Mapping[str, Path]:
    """Three results: one that does not say with which settings, two of former settings."""
    write_config(folder, **sections)
    paths = {name: dot(folder / "inbox" / f"{name}.png") for name in ("old", "b", "c")}
    with daemon(folder) as running:
        running.wait_for("ocr.done", 3)
        assert running.stop() == 0
    record = folder / "inbox" / "old.png.json"
    text = record.read_text()
    start = text.index(', "settings": ')
    record.write_text(text[:start] + text[start + len(', "settings": "0123456789abcdef"') :])
    write_config(folder, **sections, image={"max_side_px": 32})
    return paths


def test_they_are_counted_and_read_again_at_the_next_start(tmp_path: Path) -> None:
    paths = read_three(tmp_path, output={"formats": ["txt"]})
    assert counts(tmp_path) == (3, 2, 1)
    now = status.collect(config.load(tmp_path / "config.yaml"))
    assert "outdated     2 done with other settings" in "\n".join(status.in_words(now))
    with daemon(tmp_path) as running:  # nobody has asked
        running.wait_for("scan.done")
        assert running.stop() == 0
        assert running.events("ocr.done") == []
    said = retry(tmp_path)
    assert said.startswith("2 files will be read again")
    assert "at its next start" in said
    assert "1 more were read by a version that did not note its settings" in said
    assert sidecar_of(paths["b"])["text"] == "48x64"  # it stays until then
    with daemon(tmp_path) as running:
        running.wait_for("ocr.done", 2)
        until(lambda: counts(tmp_path) == (3, 0, 1))
        assert running.stop() == 0
    assert [sidecar_of(path)["text"] for path in paths.values()] == ["48x64", "24x32", "24x32"]
    assert (tmp_path / "inbox" / "b.png.txt").read_text() == "24x32\n"
    with daemon(tmp_path) as running:  # once
        running.wait_for("scan.done")
        assert running.stop() == 0
        assert running.events("ocr.done") == []
    assert retry(tmp_path).startswith("no file was read with other settings\n")


def test_a_running_daemon_reads_them_again(tmp_path: Path) -> None:
    paths = read_three(tmp_path)
    with daemon(tmp_path, {"FAKE_CONFIG_S": "0.1"}) as running:
        running.wait_for("scan.done")
        assert "next start" not in retry(tmp_path)
        running.wait_for("ocr.done", 2)
        assert running.stop() == 0
    assert sidecar_of(paths["c"])["text"] == "24x32"


def test_a_daemon_with_former_settings_leaves_them_and_that_is_said(tmp_path: Path) -> None:
    read_three(tmp_path)
    with daemon(tmp_path, {"FAKE_CONFIG_S": "0.1"}) as running:
        running.wait_for("scan.done")
        write_config(tmp_path, image={"max_side_px": 16})
        running.wait_for("config.changed")
        until(lambda: "still runs with its former settings" in retry(tmp_path))
        dot(tmp_path / "inbox" / "new.png")
        running.wait_for("ocr.done")
        assert running.stop() == 0
        assert len(running.events("ocr.done")) == 1


def test_once_reads_them_again_too(tmp_path: Path) -> None:
    paths = read_three(tmp_path)
    retry(tmp_path)
    command = [sys.executable, "-m", "tests.fake_daemon", "once", "-c", "config.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("2 done, 1 already done, 0 failed")
    assert sidecar_of(paths["b"])["text"] == "24x32"
