"""A consumer that was given up never uses the engine again, and leaves no trace of itself."""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ocr_watcher.job import Job, Outcome, Stamp
from ocr_watcher.jobs.journal import Journal
from ocr_watcher.jobs.supervision import Supervision
from ocr_watcher.jobs.turns import EngineInTurns
from ocr_watcher.jobs.verdict import Interruption
from ocr_watcher.jobs.worker import Worker
from ocr_watcher.ocr.engine import FakeEngine
from tests.support import Log, dot, tools

if TYPE_CHECKING:
    from collections.abc import Callable

IMAGE = np.zeros((3, 4, 3), np.uint8)


def in_thread(act: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


def job(path: Path) -> Job:
    return Job(path.parent, (), path.name, Stamp.of(path.lstat()), settled=True, queued_at=0.0)


def test_a_consumer_that_was_given_up_is_turned_away_and_another_goes_on() -> None:
    supervision, engine = Supervision(), FakeEngine()
    in_turns = EngineInTurns(engine, supervision)
    come_back, seen = threading.Event(), []

    def consumer() -> None:
        come_back.wait(10)
        seen.append(supervision.stop_requested)
        with pytest.raises(Interruption):
            in_turns.read(IMAGE)
        with pytest.raises(Interruption):
            in_turns.turn_deg(IMAGE)
        with pytest.raises(Interruption):
            in_turns.warm_up()

    thread = in_thread(consumer)
    assert supervision.retire(thread)
    in_turns.read(IMAGE)
    come_back.set()
    thread.join(10)
    assert seen == [True]
    assert engine.shapes == [(3, 4, 3)]
    assert not engine.warmed_up
    assert not supervision.stop_requested


def test_a_consumer_that_uses_the_engine_is_not_given_up() -> None:
    supervision = Supervision()
    entered, go_on = threading.Event(), threading.Event()

    def read(_: object) -> None:
        entered.set()
        go_on.wait(10)

    in_turns = EngineInTurns(FakeEngine(on_read=read), supervision)
    thread = in_thread(lambda: in_turns.read(IMAGE))
    entered.wait(10)
    assert not supervision.retire(thread)
    go_on.set()
    thread.join(10)
    assert supervision.retire(thread)


def test_what_a_consumer_that_was_given_up_does_is_not_taken_for_the_others(tmp_path: Path) -> None:
    supervision = Supervision()
    made = job(dot(tmp_path / "a.png"))
    begun, go_on = threading.Event(), threading.Event()

    def consumer() -> None:
        supervision.page_started(made, 0, 1)
        begun.set()
        go_on.wait(10)
        supervision.page_started(made, 1, 2)

    thread = in_thread(consumer)
    begun.wait(10)
    assert supervision.in_flight is not None
    supervision.retire(thread)
    assert supervision.in_flight is None
    go_on.set()
    thread.join(10)
    assert supervision.in_flight is None


def test_no_job_of_an_inbox_that_hangs_is_begun(tmp_path: Path) -> None:
    log, engine = Log(), FakeEngine()
    journal = Journal(tmp_path / "journal", log)  # type: ignore[arg-type] # a log that collects
    made = tools(engine, journal, log)
    made.supervision.note_hung(frozenset({tmp_path / "mount"}))
    (tmp_path / "mount").mkdir()
    hung, other = job(dot(tmp_path / "mount" / "a.png")), job(dot(tmp_path / "b.png"))
    jobs: queue.Queue[Job | None] = queue.Queue()
    for one in (hung, other, None):
        jobs.put(one)
    ended: list[tuple[str, Outcome]] = []
    Worker(made).run(jobs, lambda job, outcome: ended.append((job.name, outcome)))
    journal.close()
    assert ended == [("a.png", Outcome.RETRY), ("b.png", Outcome.DONE)]
    assert len(engine.shapes) == 1
