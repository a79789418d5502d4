"""Nothing that a file can cause escapes an attempt: any name, any exception, at any step. Pages are kept."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ocr_watcher import errors, memory, names
from ocr_watcher.errors import EngineError, FileError, ShortOfMemoryError, TruncatedError
from ocr_watcher.inbox.records import RecordState, lookup
from ocr_watcher.inputs.base import DecodeLimits
from ocr_watcher.job import Job, Outcome, Stamp
from ocr_watcher.jobs import attempt as attempt_module
from ocr_watcher.jobs.attempt import Attempt, Tools
from ocr_watcher.jobs.journal import Journal
from ocr_watcher.jobs.observers import Observer, Observers
from ocr_watcher.jobs.verdict import Count, Interruption, Record, judge
from ocr_watcher.ocr.engine import FakeEngine
from tests.support import Clock, Log, dot, error_of, sidecar_of, tools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ocr_watcher.jobs.reader import PageRead


class World:
    """An inbox and what attempts work with; every attempt is one of its own."""

    def __init__(self, folder: Path, *, collect: bool = True) -> None:
        """Without `collect` no garbage is collected: it is most of the time in a process full of tests."""
        self.inbox = folder / "inbox"
        self.inbox.mkdir()
        self.engine = FakeEngine()
        self.log = Log()
        self.clock = Clock()
        self.database = folder / "journal.sqlite3"
        self.journal = Journal(self.database, self.log)  # type: ignore[arg-type] # collects
        probe = memory.Memory()
        if not collect:
            probe.give_back = lambda: None  # type: ignore[method-assign]
        self.tools: Tools = tools(self.engine, self.journal, self.log, self.clock, memory=probe)

    def job(self, path: Path) -> Job:
        return Job(self.inbox, (), path.name, Stamp.of(path.lstat()), settled=True, queued_at=self.clock.now)

    def attempt(self, path: Path) -> Outcome:
        return Attempt(self.job(path), self.tools).run()

    def again(self) -> None:
        """What a restart does: another process's journal, and nothing in memory."""
        self.journal.close()
        self.journal = Journal(self.database, self.log)  # type: ignore[arg-type]
        self.tools = tools(self.engine, self.journal, self.log, self.clock)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.journal.close()


def tiff(path: Path, pages: int) -> Path:
    """Page n, from 0, is n + 1 px wide: the fake engine reads `1x1`, `1x2` and so on."""
    first, *others = (Image.new("1", (number + 1, 1), 1) for number in range(pages))
    first.save(path, save_all=True, append_images=others)
    return path


# -- any name, any exception, at any step ----------------------------------------------------------

NAMES = st.binary(min_size=1, max_size=240).filter(
    lambda raw: not {0, ord("/")} & set(raw) and raw not in (b".", b"..")
)
EXCEPTIONS: tuple[Callable[[str], BaseException], ...] = (
    lambda text: OSError(5, text),
    PermissionError,
    RuntimeError,
    EngineError,
    TruncatedError,
    ShortOfMemoryError,
    MemoryError,
    RecursionError,
    KeyError,
    struct.error,
    OverflowError,
    StopIteration,
    AssertionError,
    lambda text: UnicodeEncodeError("utf-8", text, 0, 1, text),
    sqlite3.OperationalError,
    SystemExit,
    GeneratorExit,
)
# What an attempt calls, and where; `engine` is the engine's own read.
STEPS = (
    "engine",
    "open_folder",
    "open_file",
    "stat_file",
    "Pages",
    "judge",
    "commit.check_place",
    "commit.commit",
    "commit.commit_error",
    "sidecar.document_json",
    "sidecar.error_json",
    "hashlib.file_digest",
)


@given(raw=NAMES, text=st.text(st.characters(), max_size=20), data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_raised_wherever_and_whatever_the_name(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes, text: str, data: st.DataObject
) -> None:
    world = World(tmp_path_factory.mktemp("world"), collect=False)
    step = data.draw(st.sampled_from(STEPS))
    make = data.draw(st.sampled_from(EXCEPTIONS))
    bad = data.draw(st.booleans())
    path = world.inbox / os.fsdecode(raw)
    if bad:
        path.write_text("no image")
    else:
        Image.new("L", (5, 3), 255).save(path, "PNG")

    def fail(*_: Any, **__: Any) -> Any:
        # A name that is no UTF-8 is part of most messages of the operating system.
        raise make(text + os.fsdecode(raw))

    with contextlib.ExitStack() as patches:
        if step == "engine":
            world.engine.on_read = fail
        else:
            *owner, name = step.split(".")
            target = getattr(attempt_module, owner[0]) if owner else attempt_module
            patches.enter_context(mock.patch.object(target, name, fail))
        outcomes = [world.attempt(path) for _ in range(4)]
    assert set(outcomes) <= {Outcome.DONE, Outcome.FAILED, Outcome.RETRY, Outcome.GONE, Outcome.RESETTLE}
    assert world.tools.supervision.in_flight is None
    # Once the fault is mended the file ends as it should, unless it was given up with a record before.
    world.engine.on_read = None
    if Outcome.FAILED not in outcomes and path.exists():
        assert world.attempt(path) is (Outcome.FAILED if bad else Outcome.DONE)
    if path.exists():
        own = names.records_of(path.name)
        there = [name for name in own if (world.inbox / name).exists()]
        assert len(there) == 1
        assert json.loads((world.inbox / there[0]).read_bytes())["source"]["name"] == names.printable(
            path.name
        )
        assert not [name for name in os.listdir(world.inbox) if names._TOKEN in name]
    world.journal.close()


def test_a_request_to_end_now_is_not_held_against_the_file(world: World) -> None:
    def interrupt(_bgr: Any) -> object:
        raise KeyboardInterrupt

    world.engine.on_read = interrupt
    path = dot(world.inbox / "a.png")
    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            world.attempt(path)
    world.engine.on_read = None
    assert world.attempt(path) is Outcome.DONE


def test_an_observer_that_raises_stops_nothing(world: World) -> None:
    class Raises(Observer):
        def job_started(self, job: Job) -> None:
            raise RuntimeError(job.path)

        job_ended = page_read = job_started  # type: ignore[assignment]

    both = Observers([Raises(), world.tools.observer])
    world.tools = tools(world.engine, world.journal, world.log, world.clock, observer=both)
    assert world.attempt(dot(world.inbox / "a.png")) is Outcome.DONE
    assert len(world.log.named("ocr.done")) == 1


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), MemoryError()])
def test_memory_that_cannot_be_looked_at_costs_a_retry_at_most(world: World, error: Exception) -> None:
    path = dot(world.inbox / "a.png")
    with mock.patch.object(memory.Memory, "_read", side_effect=error):
        assert world.attempt(path) is Outcome.RETRY
    with mock.patch.object(memory.Memory, "give_back", side_effect=error):
        assert world.attempt(path) is Outcome.DONE
    assert lookup(str(path), Stamp.of(path.stat())) is RecordState.DONE


# -- the verdict -----------------------------------------------------------------------------------


def every_file_error() -> list[FileError]:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FileError)]
    return [kind("x") for kind in kinds]


@pytest.mark.parametrize("settled", [True, False])
@pytest.mark.parametrize("attempt", [1, 3, 4])
@pytest.mark.parametrize("error", every_file_error(), ids=lambda error: type(error).__name__)
def test_every_error_has_one_end(error: FileError, attempt: int, settled: bool) -> None:
    verdict = judge(error, attempt=attempt, max_attempts=3, settled=settled)
    if error.transient:  # never used up, whatever the count
        assert (verdict.outcome, verdict.count) == (Outcome.RETRY, Count.FORGIVE)
    if verdict.record is Record.FINAL_ERROR:
        assert verdict.outcome is Outcome.FAILED
        assert settled or error.retryable
        assert not error.retryable or attempt >= 3
    assert (verdict.count is Count.KEEP) == (error.retryable and not error.transient and attempt < 3)
    assert verdict.record is not Record.SIDECAR


def test_an_interruption_is_forgiven() -> None:
    for outcome in (Outcome.BROKEN_OFF, Outcome.PAUSED):
        verdict = judge(Interruption(outcome), attempt=9, max_attempts=3, settled=False)
        assert (verdict.outcome, verdict.count, verdict.record) == (outcome, Count.FORGIVE, Record.NONE)


# -- pages -----------------------------------------------------------------------------------------


def stop_after(world: World, page: int, act: Callable[[], object]) -> None:
    """Call `act` when the page of this index was read."""

    class Watching(Observer):
        def page_read(self, job: Job, read: PageRead, pages: int) -> None:  # noqa: ARG002 - the protocol's
            if read.page.index == page:
                act()

    observers = Observers([Watching(), world.tools.observer])
    world.tools = tools(
        world.engine,
        world.journal,
        world.log,
        world.clock,
        observer=observers,
        supervision=world.tools.supervision,
    )


def test_a_stop_falls_between_two_pages_and_the_next_start_goes_on(world: World) -> None:
    path = tiff(world.inbox / "a.tif", 5)
    stop_after(world, 2, world.tools.supervision.request_stop)
    assert world.attempt(path) is Outcome.BROKEN_OFF
    assert os.listdir(world.inbox) == ["a.tif"]
    assert [shape[1] for shape in world.engine.shapes] == [1, 2, 3]
    world.again()
    assert world.attempt(path) is Outcome.DONE
    assert [shape[1] for shape in world.engine.shapes] == [1, 2, 3, 4, 5]
    (said,) = world.log.named("file.resumed")
    assert (said["page"], said["pages"]) == (4, 5)
    document = sidecar_of(path)
    assert document["text"] == "1x1\n1x2\n1x3\n1x4\n1x5"
    assert [page["index"] for page in document["pages"]] == [0, 1, 2, 3, 4]
    assert world.journal.pages(str(path), "any") == 0
    assert world.journal.begin(str(path), Stamp.of(path.stat())).count == 0


def test_a_recycle_falls_between_two_pages(world: World) -> None:
    path = tiff(world.inbox / "a.tif", 4)
    rss_mb = memory.Memory().rss_mb()
    guard = memory.Guard(memory.MemoryLimits(1, rss_mb / 2), world.log)  # type: ignore[arg-type]
    world.tools = tools(world.engine, world.journal, world.log, world.clock, guard=guard)
    limits = DecodeLimits(1 << 20, 1_000_000, 100)
    with mock.patch.object(Attempt, "_limits", return_value=limits):
        assert world.attempt(path) is Outcome.BROKEN_OFF
    assert "memory.rss_limit_mb" in world.tools.supervision.recycle_reason
    (said,) = world.log.named("memory.recycled")
    assert said["reason"] == world.tools.supervision.recycle_reason
    assert len(world.engine.shapes) == 1
    world.again()
    assert world.attempt(path) is Outcome.DONE
    assert len(world.engine.shapes) == 4


def test_a_long_document_lets_others_go_first_and_goes_on(world: World) -> None:
    path = tiff(world.inbox / "a.tif", 4)
    waiting = [True]

    def slow(bgr: Any) -> object:
        world.clock.pass_(20)
        world.engine.on_read = None
        try:
            return world.engine.read(bgr)
        finally:
            world.engine.on_read = slow

    world.engine.on_read = slow
    world.tools = tools(world.engine, world.journal, world.log, world.clock, others_wait=lambda: waiting[0])
    assert world.attempt(path) is Outcome.PAUSED
    assert world.log.named("file.paused")[0]["pages"] == 2
    waiting[0] = False  # nobody waits any more: it may go on as long as it likes
    assert world.attempt(path) is Outcome.DONE
    assert sidecar_of(path)["text"] == "1x1\n1x2\n1x3\n1x4"
    assert sidecar_of(path)["timing_ms"]["ocr"] == 80_000


def test_attempts_count_for_the_page_at_hand(world: World) -> None:
    """Ten crashes in ten different pages are not three in one."""
    path = tiff(world.inbox / "a.tif", 5)

    class Crash(BaseException):
        """Nothing catches it: stands for the end of the process."""

    def crash(bgr: Any) -> object:
        if world.engine.shapes.count(bgr.shape) == 1:
            raise Crash
        world.engine.on_read = None
        try:
            return world.engine.read(bgr)
        finally:
            world.engine.shapes.pop()
            world.engine.on_read = crash

    world.engine.on_read = crash
    crashes = 0
    while True:
        try:
            assert world.attempt(path) is Outcome.DONE
            break
        except Crash:
            crashes += 1
            world.again()
    assert crashes == 5
    assert sidecar_of(path)["text"] == "1x1\n1x2\n1x3\n1x4\n1x5"


def test_a_page_that_crashes_three_times_ends_the_document(world: World) -> None:
    path = tiff(world.inbox / "a.tif", 3)
    for _ in range(3):
        world.journal.begin(str(path), Stamp.of(path.stat()))
    assert world.attempt(path) is Outcome.FAILED
    assert error_of(path)["error"]["code"] == "engine_crashed"


@pytest.mark.parametrize("change", ["content", "settings"])
def test_pages_of_another_version_or_of_other_settings_are_read_anew(world: World, change: str) -> None:
    path = tiff(world.inbox / "a.tif", 3)
    before = path.stat()
    stop_after(world, 1, world.tools.supervision.request_stop)
    assert world.attempt(path) is Outcome.BROKEN_OFF
    world.again()
    if change == "content":  # of the same size and time
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        world.tools = tools(world.engine, world.journal, world.log, world.clock, settings_key="other")
    world.engine.shapes.clear()
    assert world.attempt(path) is Outcome.DONE
    assert len(world.engine.shapes) == 3


def test_pages_that_cannot_be_kept_stay_in_memory(world: World) -> None:
    path = tiff(world.inbox / "a.tif", 3)
    with mock.patch.object(sqlite3, "connect", side_effect=sqlite3.OperationalError("disk is full")):
        world.journal.close()
        assert world.attempt(path) is Outcome.DONE
    assert sidecar_of(path)["text"] == "1x1\n1x2\n1x3"


def test_pages_that_cannot_be_read_back_are_read_anew(world: World) -> None:
    path = tiff(world.inbox / "a.tif", 3)
    stop_after(world, 1, world.tools.supervision.request_stop)
    world.attempt(path)
    world.journal.close()
    with contextlib.closing(sqlite3.connect(world.database)) as db, db:
        db.execute("UPDATE pages SET content = 'x' WHERE page = 1")
    world.again()
    assert world.attempt(path) is Outcome.RETRY
    assert world.log.named("ocr.failed")[-1]["code"] == "output_error"
    assert world.attempt(path) is Outcome.DONE
    assert sidecar_of(path)["text"] == "1x1\n1x2\n1x3"


def test_only_the_page_that_ran_out_of_memory_is_read_smaller(world: World) -> None:
    path = world.inbox / "a.tif"
    first, *others = (Image.new("1", (size, 10), 1) for size in (60, 80, 70))
    first.save(path, save_all=True, append_images=others)

    def short(bgr: Any) -> object:
        if bgr.shape[1] == 80:
            raise MemoryError
        return None

    world.engine.on_read = short
    assert world.attempt(path) is Outcome.DONE
    assert [shape[1] for shape in world.engine.shapes] == [60, 80, 50, 70]
    document = sidecar_of(path)
    assert document["warnings"] == ["page_limited"]
    assert [page["scale"] for page in document["pages"]] == [1.0, 0.625, 1.0]


def test_text_that_was_seen_but_not_read_is_told_once_a_document(world: World) -> None:
    """Also of a page that an earlier process read."""
    path = tiff(world.inbox / "a.tif", 4)

    def read(bgr: Any) -> object:
        height, width = bgr.shape[:2]
        box = [[0, 0], [width, 0], [width, height], [0, height]]
        if width == 2:
            world.tools.supervision.request_stop()
        unread = {"rec_texts": ["", "", "x"], "rec_scores": [0.0, 0.0, 0.4], "rec_polys": [box] * 3}
        return unread if width in (2, 4) else None

    world.engine.on_read = read
    assert world.attempt(path) is Outcome.BROKEN_OFF
    world.again()
    assert world.attempt(path) is Outcome.DONE
    assert sidecar_of(path)["warnings"] == ["unreadable_text"]
    (told,) = world.log.named("ocr.unreadable_text")
    assert told["level"] == "warning"
    assert (told["page"], told["unreadable"], told["pages"]) == (2, 2, 4)
    assert "docs/scripts.md" in told["hint"]
    assert world.log.named("ocr.done")[-1]["warnings"] == ["unreadable_text"]


def test_the_page_in_flight_is_the_one_that_is_decoded(world: World) -> None:
    """A decoder that hangs in page 2 is not told as a time-out of page 1."""
    path = tiff(world.inbox / "a.tif", 3)
    seen = []
    supervision = world.tools.supervision
    real = world.tools.reader.open

    def open_watched(file: Any, limits: DecodeLimits) -> Any:
        opened = real(file, limits)
        decode = opened.picture

        def picture(index: int, limits: DecodeLimits) -> Any:
            assert supervision.in_flight is not None
            seen.append((index, supervision.in_flight.page, supervision.in_flight.pages))
            return decode(index, limits)

        opened.picture = picture  # type: ignore[method-assign]
        return opened

    with mock.patch.object(world.tools.reader, "open", open_watched):
        assert world.attempt(path) is Outcome.DONE
    assert seen == [(0, 0, 3), (1, 1, 3), (2, 2, 3)]


# -- memory ----------------------------------------------------------------------------------------


def guarded(world: World, *, left_mb: float, ever_mb: float, grown_mb: float = 0.0) -> None:
    """Leave so much for a page now, and so much in a fresh process on an idle machine."""
    rss_mb = memory.Memory().rss_mb()
    limits = memory.MemoryLimits(rss_mb + 1000, rss_mb - grown_mb + ever_mb)
    guard = memory.Guard(limits, world.log)  # type: ignore[arg-type]
    guard._start_rss_mb = rss_mb - grown_mb
    probe = memory.Memory()
    real = probe.figures
    probe.figures = lambda: memory.Figures(real().rss_mb, real().peak_rss_mb, left_mb)  # type: ignore[method-assign]
    world.tools = tools(
        world.engine,
        world.journal,
        world.log,
        world.clock,
        guard=guard,
        memory=probe,
        limits=DecodeLimits(1 << 20, 10_000_000, 100),
    )


def test_a_passing_shortage_is_waited_for(world: World) -> None:
    path = world.inbox / "a.png"
    Image.new("RGB", (1000, 1000)).save(path)
    guarded(world, left_mb=1, ever_mb=500)
    assert [world.attempt(path) for _ in range(5)] == [Outcome.RETRY] * 5
    error = error_of(path)["error"]
    assert (error["code"], error["will_retry"]) == ("out_of_memory", True)
    assert "1.0 megapixels" in error["message"]
    assert world.tools.supervision.recycle_reason == ""
    guarded(world, left_mb=500, ever_mb=500)
    assert world.attempt(path) is Outcome.DONE


def test_what_even_a_fresh_process_cannot_do_is_refused_for_good(world: World) -> None:
    path = world.inbox / "a.png"
    Image.new("RGB", (1000, 1000)).save(path)
    guarded(world, left_mb=500, ever_mb=1)
    assert world.attempt(path) is Outcome.FAILED
    error = error_of(path)["error"]
    assert (error["code"], error.get("will_retry")) == ("out_of_memory", None)


def test_a_shortage_of_the_processs_own_making_is_ended_by_a_recycle(world: World) -> None:
    path = world.inbox / "a.png"
    Image.new("RGB", (1000, 1000)).save(path)
    guarded(world, left_mb=1, ever_mb=500, grown_mb=300)
    assert world.attempt(path) is Outcome.RETRY
    assert "leaves too little" in world.tools.supervision.recycle_reason
