"""What is passed over because of its name: said once, however much of it there is, and counted."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ocr_watcher import names
from ocr_watcher.inbox.intake import Intake
from ocr_watcher.inbox.scan import Scan
from ocr_watcher.inbox.unwanted import Told, in_words
from ocr_watcher.inputs import table
from ocr_watcher.verbs import status
from tests.support import RULES, Log, daemon, dot, settings, write_config


@pytest.mark.parametrize(
    ("name", "extension"),
    [
        ("a.docx", ".docx"),
        ("A.DOCX", ".docx"),
        ("scan", ""),
        (".hidden", ""),
        ("a.", ""),
        ("report.2024", ""),
        ("2024-01-31 10.15.00", ""),
        ("v1.2-final version", ""),
        ("a.tar.gz", ".gz"),
        ("mine.ocr.pdf", ".ocr.pdf"),
        ("a.überlänge", ".überlänge"),
        ("a." + "x" * 30, ""),
    ],
)
def test_what_counts_as_an_extension(name: str, extension: str) -> None:
    assert names.extension_of(f"/in.box/{name}") == extension


@pytest.mark.parametrize(
    ("name", "passed_over"),
    [
        ("a.docx", True),
        ("scan", True),
        ("notes.txt", True),  # whose it is, nobody knows; it is not an output of ours
        ("a.png", False),
        ("a.png.txt", False),  # an output
        ("a.png.ocr.pdf", False),
        ("a.png.json", False),
        ("data.json", False),
        ("x" * 200 + "~0123456789abcdef.txt", False),  # an output of a long name
        (".hidden", False),
        ("a.docx.part", False),
        ("~$a.docx", False),
        ("Thumbs.db", False),
    ],
)
def test_what_is_passed_over(name: str, passed_over: bool) -> None:
    assert RULES.passes_over(name) is passed_over


class Inbox:
    """An inbox, and what scans of it say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = Log()
        self.told = Told(self.log, table.kind_of)  # type: ignore[arg-type] # collects
        self.intake = Intake(
            (folder,),
            RULES,
            queue_size=10,
            offer=lambda _job: True,
            clock=time.monotonic,
            log=self.log,  # type: ignore[arg-type]
        )

    def scan(self) -> Scan:
        scan = Scan((self.folder,), RULES, self.intake, recursive=True, log=self.log, told=self.told)  # type: ignore[arg-type]
        assert scan.advance(time.monotonic() + 60)
        return scan

    def said(self) -> list[tuple[str, str, int]]:
        return [(one["level"], one["extension"], one["files"]) for one in self.log.named("file.unwanted")]


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(tmp_path)


def test_thousands_of_files_are_one_line_each_extension(inbox: Inbox) -> None:
    for number in range(2000):
        (inbox.folder / f"{number}.docx").touch()
    (inbox.folder / "sub").mkdir()
    (inbox.folder / "sub" / "README").touch()
    dot(inbox.folder / "a.png")
    assert inbox.scan().unwanted.counts == {".docx": 2000, "": 1}
    assert sorted(inbox.said()) == [("info", "", 1), ("info", ".docx", 2000)]
    inbox.scan()
    assert len(inbox.said()) == 2
    (inbox.folder / "new.xlsx").touch()
    inbox.scan()
    assert inbox.said()[2:] == [("info", ".xlsx", 1)]


@pytest.mark.parametrize(
    ("name", "hint"),
    [("a.dat", "Add .dat to watch.extensions"), ("scan", "`ocr-watcher once`"), ("a.heic", "make heic")],
)
def test_a_document_under_another_name_is_told_as_one(inbox: Inbox, name: str, hint: str) -> None:
    (inbox.folder / f"0{name}").write_text("no image")
    dot(inbox.folder / "dot.png").rename(inbox.folder / name)
    inbox.scan()
    (said,) = inbox.log.named("file.unwanted")
    assert said["level"] == "warning"
    assert (said["path"], said["files"]) == (str(inbox.folder / name), 2)
    assert "looks like PNG" in said["message"]
    assert hint in said["hint"]


def test_few_files_are_opened_and_only_regular_ones(inbox: Inbox) -> None:
    looked_at: list[bytes] = []
    inbox.told.kind_of = lambda head: looked_at.append(head) or ""  # type: ignore[func-returns-value]
    for number in range(100):
        (inbox.folder / f"{number}.dat").write_bytes(b"x" * 5000)
    os.mkfifo(inbox.folder / "a.pipe")
    (inbox.folder / "a.link").symlink_to(inbox.folder / "0.dat")
    inbox.scan()
    inbox.scan()
    assert sorted(map(len, looked_at)) == [0, 0, *[1024] * 10]


def test_names_with_dates_behind_a_dot_are_no_flood(inbox: Inbox) -> None:
    for number in range(200):
        (inbox.folder / f"a.x{number}").touch()
    counts = inbox.scan().unwanted.counts
    assert sum(counts.values()) == 200
    inbox.scan()
    assert len(inbox.said()) == 51
    assert inbox.said()[-1][1:] == ("others", 150)


def test_in_words() -> None:
    assert in_words({".docx": 3, "": 1}) == "3 .docx, 1 without extension"
    assert in_words({f".x{number}": 1 for number in range(20)}).endswith("1 .x7, …")


# -- where it is seen --------------------------------------------------------------------------


def test_a_running_daemon_says_it_soon_and_status_counts(tmp_path: Path) -> None:
    write_config(tmp_path, watch={"rescan_interval_s": 3600})
    with daemon(tmp_path) as running:
        running.wait_for("scan.done")
        dot(tmp_path / "dot.png").rename(tmp_path / "inbox" / "scan.dat")
        (tmp_path / "inbox" / "a.docx").write_text("x")
        said = {one["extension"]: one for one in running.wait_for("file.unwanted", 2)}
    assert said[".dat"]["level"] == "warning"
    assert said[".docx"]["level"] == "info"
    now = status.collect(settings(tmp_path))
    assert now.unwanted == {".dat": 1, ".docx": 1}
    assert now.files.found == 0
    assert "not read     2 with names that are not in watch.extensions: " in "\n".join(status.in_words(now))


def once(folder: Path, *paths: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.fake_daemon", "once", "-c", "config.yaml", *paths],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("by_name", [False, True])
def test_once_counts_them_in_its_summary(tmp_path: Path, by_name: bool) -> None:
    write_config(tmp_path)
    dot(tmp_path / "inbox" / "a.png")
    (tmp_path / "inbox" / "a.docx").write_text("x")
    (tmp_path / "inbox" / "folder").mkdir()
    result = once(tmp_path, *(["inbox"] if by_name else []))
    assert result.returncode == 0
    assert result.stdout.startswith("1 done, 0 failed, 1 not read because of their names (1 .docx) in ")


def test_once_does_a_named_document_whatever_its_name_and_nothing_else(tmp_path: Path) -> None:
    write_config(tmp_path)
    dot(tmp_path / "dot.png").rename(tmp_path / "scan")
    (tmp_path / "notes.txt").write_text("x")
    result = once(tmp_path, "scan", "notes.txt")
    assert result.returncode == 3
    assert "failed: notes.txt: it is no image and no PDF" in result.stdout
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["scan.json"]
