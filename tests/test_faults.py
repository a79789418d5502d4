"""Every operating-system call of the line fails, one after the other: nothing is lost, nothing stops.

In one process and by hand, on a clock of its own; `test_crashes` does the same to real processes.
"""

from __future__ import annotations

import os
import queue
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest
from PIL import Image

from ocr_watcher import memory, names
from ocr_watcher.inbox import records
from ocr_watcher.inbox.intake import Intake
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

    def __post_init__(self) -> None:
        self.settings: Settings = settings(self.folder, queue={"max_size": 4})
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
        self.worker = Worker(tools(FakeEngine(), self.journal, self.log, self.clock, memory=probe))
        self.intake = Intake(
            self.settings.watch.inbox,
            RULES,
            queue_size=4,
            offer=self.offer,
            clock=self.clock,
            log=self.log,  # type: ignore[arg-type]
        )

    def offer(self, job: Job) -> bool:
        try:
            self.jobs.put_nowait(job)
        except queue.Full:
            return False
        return True

    def scan(self) -> Scan:
        return Scan(self.settings.watch.inbox, RULES, self.intake, recursive=True, log=self.log)  # type: ignore[arg-type]

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
        """Whatever record has a final name is whole and valid."""
        for path in self.inbox.rglob("*.json"):
            record(path)

    def is_done(self) -> bool:
        return all(
            records.lookup(str(self.inbox / name), self._stamp(name)) is state
            for names, state in ((GOOD, records.RecordState.DONE), (BAD, records.RecordState.FAILED))
            for name in names
        )

    def check_all_done(self) -> None:
        for name in GOOD:
            assert sidecar_of(self.inbox / name)["status"] == "ok"
        for name in BAD:
            assert error_of(self.inbox / name)["error"]["code"] == "unsupported_format"
        there = {str(path.relative_to(self.inbox)) for path in self.inbox.rglob("*") if path.is_file()}
        records = {f"{name}.json" for name in GOOD} | {f"{name}.error.json" for name in BAD}
        assert there == {*GOOD, *BAD} | records


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.journal.close()


def test_the_house_without_faults(house: House) -> None:
    house.turn()
    house.turn()  # the queue holds four of the five
    assert house.is_done()
    house.check_all_done()


@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("error", ERRORS)
def test_every_call_fails_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str, *, for_good: bool
) -> None:
    nth, seen = 0, set[str]()
    while True:
        nth += 1
        (tmp_path / str(nth)).mkdir()
        house = House(tmp_path / str(nth))
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
    print(f"{error}, {'for good' if for_good else 'once'}: {nth - 1} calls failed in turn")
    assert nth > 40
    assert seen >= {"open", "write", "fsync", "rename", "unlink", "sql"}


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
