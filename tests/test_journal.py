"""Attempts in a real SQLite file."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ocr_watcher.job import Stamp
from ocr_watcher.jobs.journal import Attempts, Journal
from tests.support import Log

if TYPE_CHECKING:
    from collections.abc import Iterator

STAMP = Stamp(10, 20)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def journal(tmp_path: Path, log: Log) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal.sqlite3", log)  # type: ignore[arg-type] # a log that collects
    yield made
    made.close()


def test_an_attempt_that_never_returned_is_counted(journal: Journal) -> None:
    assert journal.begin("/a", STAMP) == Attempts(0, "", "")
    assert journal.begin("/a", STAMP) == Attempts(1, "", "")
    assert journal.begin("/a", STAMP) == Attempts(2, "", "")


def test_counts_survive_the_process(tmp_path: Path, journal: Journal, log: Log) -> None:
    journal.begin("/a", STAMP)
    journal.failed("/a", "timeout", "too slow")
    second = Journal(tmp_path / "journal.sqlite3", log)  # type: ignore[arg-type]
    assert second.begin("/a", STAMP) == Attempts(1, "timeout", "too slow")
    second.close()


def test_a_replaced_file_starts_anew(journal: Journal) -> None:
    journal.begin("/a", STAMP)
    assert journal.begin("/a", Stamp(11, 20)).count == 0


def test_an_end_forgets(journal: Journal) -> None:
    journal.begin("/a", STAMP)
    journal.end("/a")
    assert journal.begin("/a", STAMP).count == 0


def test_forgiven_attempts_do_not_count(journal: Journal) -> None:
    journal.begin("/a", STAMP)
    journal.begin("/a", STAMP)
    journal.forgive("/a")
    assert journal.begin("/a", STAMP).count == 1


def test_paths_are_bytes(journal: Journal) -> None:
    journal.begin("/\udcff\n", STAMP)
    assert journal.begin("/\udcff\n", STAMP).count == 1
    assert journal.begin("/ÿ\n", STAMP).count == 0


@pytest.mark.parametrize("mtime_ns", [2**63 - 1, 2**63, 16_725_225_600 * 10**9, -(2**63) - 1])
def test_any_date_that_a_file_can_have_is_counted(journal: Journal, log: Log, mtime_ns: int) -> None:
    """After 2262-04-11 nanoseconds are more than SQLite's integers hold."""
    stamp = Stamp(10, mtime_ns)
    assert journal.begin("/a", stamp).count == 0
    assert journal.begin("/a", stamp).count == 1
    assert journal.begin("/a", Stamp(10, mtime_ns - 1)).count == 0
    assert log.named("journal.trouble") == []


@pytest.mark.parametrize(
    "error", [OverflowError(), UnicodeEncodeError("utf-8", "x", 0, 1, "y"), RuntimeError(), MemoryError()]
)
def test_whatever_the_database_raises_the_work_goes_on(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    class Broken(sqlite3.Connection):
        def execute(self, *_: object) -> sqlite3.Cursor:
            raise error

    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: real(*args, **options, factory=Broken))
    journal = Journal(tmp_path / "journal.sqlite3", log)  # type: ignore[arg-type]
    assert journal.begin("/a", STAMP) == Attempts(0, "", "")
    journal.failed("/a", "timeout", "too slow")
    journal.end("/a")
    journal.close()
    assert len(log.named("journal.trouble")) == 1


def test_a_journal_of_an_earlier_layout_is_begun_anew(tmp_path: Path, log: Log) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "journal.sqlite3")) as db, db:
        db.execute("CREATE TABLE attempts (path BLOB PRIMARY KEY, size_bytes INTEGER, in_flight INTEGER)")
    journal = Journal(tmp_path / "journal.sqlite3", log)  # type: ignore[arg-type]
    assert [journal.begin("/a", STAMP).count for _ in range(2)] == [0, 1]
    journal.close()
    assert log.events == []


@pytest.mark.parametrize("content", [b"garbage" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_journal_costs_counts_and_nothing_else(tmp_path: Path, log: Log, content: bytes) -> None:
    path = tmp_path / "journal.sqlite3"
    path.write_bytes(content)
    journal = Journal(path, log)  # type: ignore[arg-type]
    assert journal.begin("/a", STAMP).count == 0
    assert journal.begin("/a", STAMP).count == 1
    assert len(log.named("journal.trouble")) == 1
    assert [p.read_bytes() for p in tmp_path.glob("*.damaged-*")] == [content]
    journal.close()


def test_a_journal_that_cannot_be_opened_is_said_once(tmp_path: Path, log: Log) -> None:
    journal = Journal(tmp_path / "none" / "journal.sqlite3", log)  # type: ignore[arg-type]
    for _ in range(3):
        assert journal.begin("/a", STAMP).count == 0
        journal.end("/a")
    assert len(log.named("journal.trouble")) == 1
    (tmp_path / "none").mkdir()  # the cause has gone
    journal.begin("/a", STAMP)
    assert journal.begin("/a", STAMP).count == 1
    journal.close()


def test_a_link_in_the_journals_place_is_not_written_through(tmp_path: Path, log: Log) -> None:
    """`retry` may run as root over a folder that others could write."""
    target = tmp_path / "elsewhere"
    (tmp_path / "journal.sqlite3").symlink_to(target)
    journal = Journal(tmp_path / "journal.sqlite3", log)  # type: ignore[arg-type]
    assert [journal.begin("/a", STAMP).count for _ in range(2)] == [0, 1]
    journal.close()
    assert not target.exists()
    (aside,) = tmp_path.glob("journal.sqlite3.damaged-*")
    assert aside.is_symlink()


def test_deleted_while_in_use(tmp_path: Path, journal: Journal) -> None:
    journal.begin("/a", STAMP)
    for path in tmp_path.iterdir():
        path.unlink()
    journal.begin("/b", STAMP)
    journal.end("/b")


def test_used_from_several_threads(journal: Journal) -> None:
    def work(name: str) -> None:
        for _ in range(50):
            journal.begin(name, STAMP)

    threads = [threading.Thread(target=work, args=(f"/{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [journal.begin(f"/{n}", STAMP).count for n in range(4)] == [50] * 4
