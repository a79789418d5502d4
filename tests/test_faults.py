"""Every operating-system call of the line fails, one after the other: nothing is lost, nothing stops.

In one process and by hand, on a clock of its own; `test_crashes` does the same to real processes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import queue
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
from PIL import Image

from ocr_watcher import memory, names
from ocr_watcher.inbox import records
from ocr_watcher.inbox.intake import Intake
from ocr_watcher.inbox.places import Places
from ocr_watcher.inbox.scan import Scan
from ocr_watcher.job import Job, Stamp
from ocr_watcher.jobs.journal import Journal
from ocr_watcher.jobs.worker import Worker
from ocr_watcher.ocr.engine import FakeEngine
from tests.faults import ERRORS, Faults
from tests.support import RULES, Clock, Log, dot, error_of, record, settings, sidecar_of, tools

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocr_watcher.config import Settings

GOOD = ("a.png", "sub/b.tif", "again.png")
BAD = ("bad.png", "worse.png")


@dataclass
class House:
    """The daemon's rooms without its threads, and an inbox with a bit of everything."""

    folder: Path
    log: Log = field(default_factory=Log)
    clock: Clock = field(default_factory=Clock)
    output: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for tree in ("text", "archive"):
            (self.folder / tree).mkdir()
        self.settings: Settings = settings(self.folder, queue={"max_size": 4}, output=self.output)
        self.inbox = self.folder / "inbox"
        (self.inbox / "sub").mkdir()
        dot(self.inbox / "a.png")
        page = Image.new("L", (40, 30), 255)
        page.save(self.inbox / "sub" / "b.tif", save_all=True, append_images=[page])
        (self.inbox / "bad.png").write_text("no image")
        self.settings.state_dir.mkdir()
        self.open()
        # A record each of an earlier version of the file, which is to be replaced by the other kind.
        (self.inbox / "again.png").write_text("no image")
        dot(self.inbox / "worse.png")
        for name in ("again.png", "worse.png"):
            job = Job(self.inbox, (), name, self._stamp(name), settled=True, queued_at=0.0)
            self.worker.step(job)
        dot(self.inbox / "again.png")
        (self.inbox / "worse.png").write_text("no image at all")

    def _stamp(self, name: str) -> Stamp:
        return Stamp.of((self.inbox / name).lstat())

    def open(self) -> None:
        self.jobs: queue.Queue[Job] = queue.Queue(4)
        self.journal = Journal(self.settings.state_dir / "journal.sqlite3", self.log)  # type: ignore[arg-type] # collects
        probe = memory.Memory()
        # Collecting garbage is not the subject, and takes most of the time in a process full of tests.
        probe.give_back = lambda: None  # type: ignore[method-assign]
        self.places = Places.of(self.settings)
        self.kinds = tuple(kind for kind in self.settings.output.formats if kind != "json")
        self.worker = Worker(
            tools(
                FakeEngine(),
                self.journal,
                self.log,
                self.clock,
                memory=probe,
                places=self.places,
                formats=self.kinds,
            )
        )
        self.intake = Intake(
            self.settings.watch.inbox,
            RULES,
            queue_size=4,
            offer=self.offer,
            clock=self.clock,
            log=self.log,  # type: ignore[arg-type]
            lookup=self.places.lookup,
        )

    def offer(self, job: Job) -> bool:
        try:
            self.jobs.put_nowait(job)
        except queue.Full:
            return False
        return True

    def scan(self) -> Scan:
        return Scan(
            self.settings.watch.inbox,
            RULES,
            self.intake,
            recursive=True,
            log=self.log,  # type: ignore[arg-type]
            has_record=self.places.has_record,
            trees=self.places.trees,
        )

    def turn(self) -> None:
        """What the daemon's threads do between two rescans, one after the other."""
        try:
            self.scan().advance(float("inf"))
            self.clock.pass_(400)  # longer than any pause
            self.intake.step()
        except MemoryError:
            self.intake.start_over(())  # as the daemon does
        while not self.jobs.empty():
            job = self.jobs.get_nowait()
            outcome = self.worker.step(job)
            try:
                self.intake.completed(job, outcome)
                self.intake.step()
            except MemoryError:
                self.intake.start_over(())

    def check_what_is_there(self) -> None:
        """Whatever record has a final name is whole and valid, and so is every output that it names."""
        for path in self.folder.rglob("*.json"):
            for output in record(path).get("outputs", []):
                there = path.with_name(output["name"])
                # On the way into the archive, or about to be made anew, it may be missing or another.
                if there.exists() and there.stat().st_size == output["size_bytes"]:
                    assert there.read_bytes()

    def home_of(self, name: str) -> Path:
        """Where a document is to be found in the end."""
        archive = self.settings.output.archive
        return (archive or self.inbox) if name in GOOD else self.inbox

    def is_done(self) -> bool:
        """Whether every document is where it belongs and has its record."""
        return all(
            (self.home_of(name) / name).exists()
            and (self.home_of(name) == self.inbox or not (self.inbox / name).exists())
            and self._state(self.home_of(name) / name) is state
            for names, state in ((GOOD, records.RecordState.DONE), (BAD, records.RecordState.FAILED))
            for name in names
        )

    def _state(self, path: Path) -> records.RecordState:
        stamp = Stamp.of(path.lstat())
        return records.lookup(str(self._with_records(path)), stamp)

    def _with_records(self, path: Path) -> Path:
        return Path(self.places.with_records(str(path)))

    def check_all_done(self) -> None:
        expected = set()
        good = [self.home_of(name) / name for name in GOOD]
        if self.settings.output.archive is not None:  # an earlier version of it is there
            good.append(self.settings.output.archive / "worse.png")
        for path in good:
            beside = self._with_records(path)
            outputs = sidecar_of(beside).get("outputs", [])
            assert [output["format"] for output in outputs] == list(self.kinds)
            for output in outputs:
                data = (beside.parent / output["name"]).read_bytes()
                assert hashlib.sha256(data).hexdigest() == output["sha256"]
            expected |= {path, beside.with_name(beside.name + ".json")}
            expected |= {beside.parent / output["name"] for output in outputs}
        for name in BAD:
            beside = self._with_records(self.inbox / name)
            assert error_of(beside)["error"]["code"] == "unsupported_format"
            expected |= {self.inbox / name, beside.with_name(beside.name + ".error.json")}
        trees = (self.inbox, self.folder / "text", self.folder / "archive")
        assert {path for tree in trees for path in tree.rglob("*") if path.is_file()} == expected


OUTPUT: dict[str, dict[str, Any]] = {
    "json": {},
    "formats": {"formats": "txt pdf"},
    "all": {"formats": "txt hocr alto tsv pdf overlay", "words": True},
    "claims": {"formats": "txt tsv"},
    "folder": {"formats": "txt", "folder": "text"},
    "archive": {"formats": "txt", "archive": "archive", "on_success": "archive"},
}


@pytest.fixture(params=OUTPUT)
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path, output=OUTPUT[request.param])
    yield made
    made.journal.close()


def test_the_house_without_faults(house: House) -> None:
    house.turn()
    house.turn()  # the queue holds four of the five
    assert house.is_done()
    house.check_all_done()


def _faults() -> Iterator[object]:
    """What is written, which error, and whether it stays; most of them take long together."""
    for output in OUTPUT:
        for error in ERRORS:
            for for_good in (False, True):
                often = output == "json" or (error == "ENOSPC" and not for_good and output != "all")
                name = f"{output}-{error}-{'for good' if for_good else 'once'}"
                marks = () if often else (pytest.mark.long, pytest.mark.timeout(300))
                yield pytest.param(output, error, for_good, id=name, marks=marks)


@pytest.mark.parametrize(("output", "error", "for_good"), list(_faults()))
def test_every_call_fails_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, error: str, *, for_good: bool
) -> None:
    if output == "claims":  # a file system without extended attributes

        def refuse(*_: object) -> bytes:
            raise OSError(errno.ENOTSUP, "Operation not supported")

        monkeypatch.setattr(os, "setxattr", refuse)
        monkeypatch.setattr(os, "getxattr", refuse)
    nth, seen = 0, set[str]()
    while True:
        nth += 1
        (tmp_path / str(nth)).mkdir()
        house = House(tmp_path / str(nth), output=OUTPUT[output])
        house.journal.close()  # so that opening it is among the calls
        faults = Faults(nth, error, for_good=for_good)
        with faults.active():
            for _ in range(3):
                house.turn()
                house.check_what_is_there()
        turns = 0
        while not house.is_done():  # the fault has gone
            house.turn()
            turns += 1
            assert turns < 20, f"call {nth} ({faults.calls[nth - 1]}): {house.log.events[-5:]}"
        house.journal.close()
        if not faults.reached:
            break
        seen.add(faults.calls[nth - 1].split()[0])
        # What could not be removed is left for the next process, which knows it by its other token.
        monkeypatch.setattr(names, "_TOKEN", f"{nth:08x}")
        house.open()
        house.turn()
        house.check_all_done()
        house.journal.close()
    print(f"{output}, {error}, {'for good' if for_good else 'once'}: {nth - 1} calls failed in turn")
    assert nth > 40
    assert seen >= {"open", "write", "fsync", "rename", "unlink", "sql"}


@pytest.mark.parametrize("house", ["json"], indirect=True)
def test_reading_fails_and_comes_back(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """An I/O error in the middle of a file, as a share that goes away gives it."""
    real = os.fdopen

    class Failing:
        def __init__(self, fd: int) -> None:
            self._file = real(fd, "rb")

        def read(self, *_: int) -> bytes:
            raise OSError(5, "Input/output error")

        readinto = read

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def __getattr__(self, name: str) -> object:
            return getattr(self._file, name)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdopen", lambda fd, _mode: Failing(fd))
        for _ in range(5):
            house.turn()
        house.check_what_is_there()
        assert not house.is_done()
        assert error_of(house.inbox / "a.png")["error"]["will_retry"] is True
    for _ in range(3):
        house.turn()
    house.check_all_done()
