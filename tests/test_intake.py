"""Settling, the bounded window and what is known, driven by hand: no threads, no sleeping."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocr_watcher.inbox import intake
from ocr_watcher.inbox.intake import Intake
from ocr_watcher.inbox.ready import CLOSED_SETTLE_S
from ocr_watcher.inbox.records import RecordState
from ocr_watcher.inbox.scan import Found
from ocr_watcher.job import Job, Outcome, Stamp
from tests.support import RULES, Clock, Log

INBOX = Path("/in")


@dataclass
class World:
    """Files and records that the test makes up, and an intake that looks at them."""

    queue_size: int = 100
    clock: Clock = field(default_factory=Clock)
    log: Log = field(default_factory=Log)
    files: dict[str, tuple[int, int]] = field(default_factory=dict)
    ctimes: dict[str, int] = field(default_factory=dict)
    records: dict[str, tuple[Stamp, RecordState]] = field(default_factory=dict)
    queue: list[Job] = field(default_factory=list)
    record_reads: int = 0

    def __post_init__(self) -> None:
        self.intake = Intake(
            (INBOX, Path("/in2")),
            RULES,
            queue_size=self.queue_size,
            offer=self.offer,
            clock=self.clock,
            log=self.log,  # type: ignore[arg-type] # a log that collects
            stat=self.stat,
            lookup=self.lookup,
        )

    def offer(self, job: Job) -> bool:
        if len(self.queue) >= self.queue_size:
            return False
        self.queue.append(job)
        return True

    def stat(self, path: str) -> os.stat_result | None:
        if path not in self.files:
            return None
        size, mtime_ns = self.files[path]
        times = {"st_mtime_ns": mtime_ns, "st_ctime_ns": self.ctimes.get(path, 0)}
        return os.stat_result([stat.S_IFREG | 0o644, 1, 1, 1, 0, 0, size, 0, 0, 0], times)

    def lookup(self, path: str, stamp: Stamp) -> RecordState:
        self.record_reads += 1
        known = self.records.get(path)
        return known[1] if known and known[0] == stamp else RecordState.OPEN

    def add(self, path: str, size: int = 1, mtime_ns: int = 1) -> str:
        self.files[path] = (size, mtime_ns)
        return path

    def finish(self, outcome: Outcome = Outcome.DONE) -> Job:
        job = self.queue.pop(0)
        if outcome is Outcome.DONE:
            self.records[job.path] = (job.stamp, RecordState.DONE)
        self.intake.completed(job, outcome)
        return job

    def scan(self) -> int:
        current = unchanged = 0
        for path in sorted(self.files):
            status = self.stat(path)
            assert status is not None
            if path in self.records and self.intake.knows(path, status):
                unchanged += 1
            else:
                current += self.intake.found(Found(path, status, records=path in self.records))
        list(self.intake.forget_gone(unchanged))
        return unchanged + current

    def pass_(self, seconds: float) -> None:
        self.clock.pass_(seconds)
        self.intake.step()

    @property
    def queued(self) -> list[str]:
        return [job.path for job in self.queue]


def test_a_closed_file_is_queued_at_once_and_an_open_one_when_it_has_settled() -> None:
    world = World()
    world.intake.notice(world.add("/in/closed.png"), closed=True)
    world.intake.notice(world.add("/in/open.png"))
    assert world.intake.step() == world.clock.now + CLOSED_SETTLE_S
    world.pass_(CLOSED_SETTLE_S)
    assert world.queued == ["/in/closed.png"]
    assert not world.queue[0].settled
    world.pass_(1.0)
    assert world.queued == ["/in/closed.png", "/in/open.png"]
    assert world.queue[1].settled


def test_a_job_knows_its_place_in_the_inbox() -> None:
    world = World()
    world.intake.notice(world.add("/in2/a/b/x.png"), closed=True)
    world.pass_(1.0)
    (job,) = world.queue
    assert (job.root, job.parts, job.name, job.stamp) == (Path("/in2"), ("a", "b"), "x.png", Stamp(1, 1))
    assert job.path == "/in2/a/b/x.png"


def test_a_slow_copy_is_queued_once_when_it_is_complete() -> None:
    world = World()
    world.intake.notice(world.add("/in/slow.png", size=0))
    for second in range(1, 100):
        world.add("/in/slow.png", size=second, mtime_ns=second)
        world.pass_(0.1)
        assert world.queue == []
    world.intake.notice("/in/slow.png", closed=True)
    world.pass_(CLOSED_SETTLE_S)
    assert [job.stamp.size_bytes for job in world.queue] == [99]


def test_a_file_in_the_queue_or_in_hand_is_not_queued_twice() -> None:
    world = World()
    for _ in range(3):
        world.intake.notice(world.add("/in/a.png"), closed=True)
        world.pass_(2.0)
        world.scan()
    assert world.queued == ["/in/a.png"]


def test_what_is_not_wanted_is_not_even_looked_at() -> None:
    world = World()
    for path in ("/in/a.docx", "/in/.hidden/a.png", "/in/@eaDir/a.png", "/elsewhere/a.png", "/in/.a.png"):
        world.intake.notice(world.add(path), closed=True)
    world.pass_(5.0)
    assert world.queue == []
    assert world.intake.waiting == 0


def test_a_full_queue_drops_nothing() -> None:
    world = World(queue_size=2)
    for number in range(6):
        world.intake.notice(world.add(f"/in/{number}.png"), closed=True)
    world.pass_(1.0)
    done = []
    while world.queue:
        assert len(world.queue) <= 2
        done.append(world.finish().path)
        world.intake.step()
    assert sorted(done) == sorted(world.files)
    assert not world.intake.rescan_due


def test_more_than_the_window_holds_is_left_to_a_rescan() -> None:
    world = World(queue_size=2)
    for number in range(50):
        world.add(f"/in/{number:02}.png")
    done: set[str] = set()
    scans = 0
    while len(done) < 50:
        scans += 1
        world.intake.rescan_due = False
        world.scan()
        assert world.intake.waiting <= 8
        world.pass_(1.0)
        while world.queue:
            done.add(world.finish().path)
            world.intake.step()
        assert world.intake.rescan_due or len(done) == 50
    assert scans == 7  # 50 files, 8 places


def test_finished_files_are_not_queued_again_and_their_records_are_read_once() -> None:
    world = World()
    for number in range(10):
        path = world.add(f"/in/{number}.png")
        world.records[path] = (Stamp(1, 1), RecordState.DONE if number % 2 else RecordState.FAILED)
    for _ in range(3):
        assert world.scan() == 10
        world.pass_(60.0)
    assert world.queue == []
    assert world.record_reads == 10


def test_what_is_known_goes_with_the_file() -> None:
    world = World()
    path = world.add("/in/a.png")
    world.records[path] = (Stamp(1, 1), RecordState.DONE)
    world.scan()
    gone = world.files.pop(path)
    assert world.scan() == 0
    world.files[path] = gone
    world.scan()
    assert world.record_reads == 2


def test_a_deleted_sidecar_means_do_it_again() -> None:
    world = World()
    world.intake.notice(world.add("/in/a.png"), closed=True)
    world.pass_(1.0)
    world.finish()
    del world.records["/in/a.png"]
    world.intake.notice_record_removed("/in/a.png.json")
    world.pass_(1.0)
    assert world.queued == ["/in/a.png"]


def test_a_file_replaced_while_in_hand_is_done_again() -> None:
    world = World()
    world.intake.notice(world.add("/in/a.png"), closed=True)
    world.pass_(1.0)
    world.add("/in/a.png", size=2)
    world.intake.notice("/in/a.png", closed=True)  # while busy: seen at completion
    world.finish()
    world.pass_(1.0)
    assert [job.stamp.size_bytes for job in world.queue] == [2]


def test_a_file_that_was_not_complete_settles_in_full() -> None:
    world = World()
    world.intake.notice(world.add("/in/a.png"), closed=True)
    world.pass_(CLOSED_SETTLE_S)
    world.finish(Outcome.RESETTLE)
    world.pass_(0.9)
    assert world.queue == []
    world.pass_(0.2)
    assert [job.settled for job in world.queue] == [True]


def test_retries_come_after_growing_pauses() -> None:
    world = World()
    world.intake.notice(world.add("/in/a.png"), closed=True)
    world.pass_(1.0)
    pauses = []
    for _ in range(12):
        world.finish(Outcome.RETRY)
        start = world.clock.now
        while not world.queue:
            due = world.intake.step()
            assert due is not None
            world.clock.now = max(due, world.clock.now)
            world.scan()  # a rescan does not cut the pause short
            world.intake.step()
        pauses.append(world.clock.now - start)
    assert pauses[:4] == [2.0, 4.0, 8.0, 16.0]
    assert pauses[-1] == 300.0
    world.finish(Outcome.DONE)
    world.records.clear()
    world.intake.notice("/in/a.png")
    world.pass_(1.0)
    world.finish(Outcome.RETRY)
    assert world.intake.step() is not None
    world.pass_(2.0)
    assert world.queued == ["/in/a.png"]  # the pause starts small again


def test_what_vanishes_while_waiting_is_forgotten() -> None:
    world = World()
    world.intake.notice(world.add("/in/a.png"))
    world.files.clear()
    world.pass_(1.0)
    assert (world.intake.waiting, world.queue, world.log.events) == (0, [], [])


def test_something_else_with_an_images_name_is_told_once() -> None:
    world = World()
    kinds = {"/in/d.png": stat.S_IFDIR, "/in/l.png": stat.S_IFLNK}
    world.intake._stat = lambda path: os.stat_result([kinds[path], 1, 1, 1, 0, 0, 1, 0, 0, 0])
    for _ in range(3):
        for path in kinds:
            world.intake.notice(path)
    assert [(e["path"], e["reason"]) for e in world.log.named("file.ignored")] == [
        ("/in/d.png", "it is a folder, not a file"),
        ("/in/l.png", "it is a symbolic link, not a file"),
    ]


# -- any order of events -------------------------------------------------------------------------

PATHS = ("/in/a.png", "/in/sub/b.png", "/in2/c.png")
pauses = st.sampled_from([0.001, 0.01, CLOSED_SETTLE_S, 0.03, 0.5, 0.99, 1.0, 1.01, 5.0])
# What happens to a file, at the pace of writers that never wait as long as settle_s in between, and what
# of it is told: events come late, out of order, or not at all. Times go back and forth.
steps = st.one_of(
    st.tuples(st.sampled_from(["write", "close", "replace", "remove", "event"]), st.sampled_from(PATHS)),
    st.tuples(st.just("pass"), pauses),
    st.tuples(st.sampled_from(["scan", "step", "work", "complete"]), st.none()),
)


@dataclass
class Story:
    """A world whose files change under its eyes, and what must hold whenever one is offered."""

    world: World
    changed: dict[str, float] = field(default_factory=dict)  # when a file became what it is
    closed: dict[str, float] = field(default_factory=dict)  # when the intake was last told of a close
    offered: list[tuple[str, Stamp]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    worked: list[tuple[Job, Outcome]] = field(default_factory=list)
    version: int = 0

    def __post_init__(self) -> None:
        self.world.intake._offer = self.offer

    def offer(self, job: Job) -> bool:
        if not self.world.offer(job):
            return False
        now, path = self.world.clock.now, job.path
        status = self.world.stat(path)
        if status is None or Stamp.of(status) != job.stamp:
            self.wrong.append(f"{path} was offered as it is not")
        still = now - self.changed[path]
        if still < RULES.settle_s - 1e-9 and (job.settled or path not in self.closed or not job.stamp[0]):
            self.wrong.append(f"{path} was offered {still} s after it changed")
        if still < CLOSED_SETTLE_S - 1e-9:
            self.wrong.append(f"{path} was offered at once")
        self.offered.append((path, job.stamp))
        return True

    def change(self, path: str, size: int) -> None:
        self.version += 1
        # No version has the stamp of another; times jump, as clocks and copies do.
        self.world.files[path] = (size, self.version if self.version % 2 else -self.version * 10**18)
        self.changed[path] = self.world.clock.now
        self.world.records.pop(path, None)
        self.closed.pop(path, None)

    def do(self, what: str, about: Any) -> None:  # noqa: C901 - a line a case
        world = self.world
        match what:
            case "write":
                self.change(about, world.files.get(about, (-1, 0))[0] + 1)  # created empty
            case "replace":
                self.change(about, 7)
            case "remove":
                world.files.pop(about, None)
                self.changed.pop(about, None)
            case "close":
                self.closed[about] = world.clock.now
                world.intake.notice(about, closed=True)
            case "event":
                world.intake.notice(about)
            case "pass":
                world.pass_(about)
            case "scan":
                self.scan()
            case "step":
                world.intake.step()
            case "work" if world.queue:
                self.work(world.queue.pop(0))
            case "complete" if self.worked:
                world.intake.completed(*self.worked.pop(0))

    def scan(self) -> None:
        self.world.intake.rescan_due = False
        self.world.scan()

    def work(self, job: Job) -> None:
        """What the worker makes of it now; the intake hears of it later."""
        status = self.world.stat(job.path)
        if status is None:
            outcome = Outcome.GONE
        elif Stamp.of(status) != job.stamp:
            outcome = Outcome.RESETTLE
        else:
            outcome = Outcome.DONE
            self.world.records[job.path] = (job.stamp, RecordState.DONE)
        self.worked.append((job, outcome))

    def end(self) -> None:
        """Everything stands still, rescans come in their time, the worker works."""
        for _ in range(4):
            self.scan()
            self.world.pass_(5.0)
            while self.world.queue or self.worked:
                self.do("work", None)
                self.do("complete", None)
                self.world.intake.step()


def test_in_any_order_of_events_no_file_is_offered_while_it_is_written_and_each_version_once() -> None:
    stories = offers = 0

    @settings(max_examples=1000, deadline=None)
    @given(st.lists(steps, min_size=20, max_size=60), st.integers(1, 3))
    def play(told: list[tuple[str, Any]], queue_size: int) -> None:
        nonlocal stories, offers
        story = Story(World(queue_size=queue_size))
        for what, about in told:
            story.do(what, about)
        story.end()
        assert story.wrong == []
        assert len(set(story.offered)) == len(story.offered)
        for path, stamp in story.world.files.items():
            assert story.world.records[path] == (Stamp(*stamp), RecordState.DONE)
            assert (path, Stamp(*stamp)) in story.offered
        assert story.world.intake.waiting == story.world.intake.busy == 0
        stories += 1
        offers += len(story.offered)

    play()
    print(f"{stories} orders of events: {offers} versions offered, each once and none too early")


def test_the_files_that_are_gone_are_looked_for_in_slices() -> None:
    """On a slow share, 100,000 looks in one piece outlast the watchdog."""
    world = World()
    for number in range(100):
        path = world.add(f"/in/{number}.png")
        world.records[path] = (Stamp(1, 1), RecordState.DONE)
    world.scan()
    world.files.pop("/in/50.png")
    looks = []
    world.intake._stat = lambda path: looks.append(path) or world.stat(path)  # type: ignore[func-returns-value]
    steps = world.intake.forget_gone(99)
    next(steps)
    assert len(looks) == 1
    assert len(list(steps)) == 99
    assert not world.intake.knows("/in/50.png", world_status())
    assert world.intake.knows("/in/51.png", world_status())


def world_status() -> Any:
    return type("Status", (), {"st_size": 1, "st_mtime_ns": 1})()


def test_what_is_known_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not remembered has its record read again, and that is all."""
    monkeypatch.setattr(intake, "_MAX_KNOWN", 3)
    world = World()
    for number in range(5):
        path = world.add(f"/in/{number}.png")
        world.records[path] = (Stamp(1, 1), RecordState.DONE)
    world.scan()
    world.scan()
    assert len(world.intake._known) == 3
    assert world.queued == []
    assert world.record_reads == 5 + 2


def test_a_file_that_came_back_says_that_it_was_queued_before() -> None:
    world = World()
    world.intake.notice(world.add("/in/a.png"), closed=True)
    world.pass_(CLOSED_SETTLE_S)
    assert [job.redelivered for job in world.queue] == [False]
    world.finish(Outcome.RESETTLE)
    world.pass_(1.0)
    assert [job.redelivered for job in world.queue] == [True]
    world.finish(Outcome.RETRY)
    world.pass_(300)
    assert [job.redelivered for job in world.queue] == [True]
    world.finish()
    world.files["/in/a.png"] = (2, 2)  # another version
    world.intake.notice("/in/a.png")
    world.pass_(1.0)
    assert [job.redelivered for job in world.queue] == [False]


def test_nothing_stays_busy_after_the_intake_starts_over() -> None:
    """Memory may run out while the end of a job is being noted."""
    world = World()
    for name in ("a", "b"):
        world.intake.notice(world.add(f"/in/{name}.png"))
    world.pass_(1.0)
    lost, kept = world.queue
    world.queue.remove(lost)
    world.intake.start_over([kept.path])
    assert world.scan() == 0
    world.pass_(1.0)
    assert sorted(world.queued) == ["/in/a.png", "/in/b.png"]


# -- what waits for its next try ---------------------------------------------------------------


def failing(world: World, count: int) -> list[str]:
    """So many files that were tried once, and wait for a cause outside them."""
    paths = [world.add(f"/in/bad{number:03}.png") for number in range(count)]
    tried: set[str] = set()
    while tried < set(paths):
        world.scan()
        world.pass_(1.0)
        while world.queue:
            tried.add(world.finish(Outcome.RETRY).path)
    world.intake.rescan_due = False
    return paths


def test_what_waits_for_its_next_try_takes_no_room_from_what_is_fresh() -> None:
    world = World(queue_size=2)
    bad = failing(world, 50)
    assert world.intake.waiting == 50
    good = {world.add(f"/in/good{number}.png") for number in range(6)}
    world.scan()
    assert not world.intake.rescan_due
    world.pass_(1000.0)  # every pause is over
    done: list[str] = []
    while not good <= set(done):
        job = world.finish(Outcome.DONE if world.queue[0].path in good else Outcome.RETRY)
        done.append(job.path)
        world.intake.step()
    assert len(done) <= 2 * len(good)  # no more than one of the others for each
    assert world.intake.waiting + world.intake.busy == 50
    tried = set(done) - good
    while tried != set(bad):  # and all of them have their turn
        tried.add(world.finish(Outcome.RETRY).path)
        world.intake.step()
    assert tried == set(bad)


@pytest.mark.parametrize("what", ["content", "permissions", "record"])
def test_what_changes_does_not_wait_any_longer(what: str) -> None:
    world = World()
    (path,) = failing(world, 1)
    for _ in range(5):  # pauses have grown
        world.pass_(300.0)
        world.finish(Outcome.RETRY)
    world.scan()
    world.pass_(1.0)
    assert world.queue == []
    match what:
        case "content":
            world.add(path, size=2)
            world.intake.notice(path, closed=True)
        case "permissions":
            world.ctimes[path] = 1
            world.scan()
        case _:
            world.intake.notice_record_removed(f"{path}.json")
    world.pass_(1.0)
    assert world.queued == [path]


def test_what_is_in_the_way_is_looked_at_again_when_it_changes_and_costs_nothing_meanwhile() -> None:
    world = World()
    path, other = world.add("/in/a.png"), world.add("/in/a.png.json", size=7)
    world.records[path] = (Stamp(1, 1), RecordState.BLOCKED)
    for _ in range(10):
        del world.files[other]  # `scan` offers every file that there is
        found = Found(path, world.stat(path), records=True)  # type: ignore[arg-type] # it is there
        world.files[other] = (7, 1)
        world.intake.found(found)
        world.pass_(100.0)
    assert (world.queue, world.intake.waiting, world.record_reads) == ([], 0, 1)
    assert world.intake.blocked == (path,)
    world.files[other] = (8, 2)
    world.records[path] = (Stamp(1, 1), RecordState.OPEN)
    world.intake.found(found)
    world.pass_(1.0)
    assert world.queued == [path]


def test_what_failed_before_the_start_waits_behind_what_is_fresh() -> None:
    """Thousands of them would fill the queue at each start otherwise."""
    world = World(queue_size=3)
    for number in range(50):
        path = world.add(f"/in/bad{number}.png")
        world.records[path] = (Stamp(1, 1), RecordState.RETRY)
    world.add("/in/good.png")
    world.scan()
    world.pass_(1.0)
    assert len(world.queue) == 2
    assert "/in/good.png" in world.queued
    assert world.intake.waiting == 49
    assert not world.intake.rescan_due


def test_files_that_wait_for_their_next_try_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "_MAX_PAUSED", 3)
    world = World()
    failing(world, 5)
    assert world.intake.waiting == 3
    world.scan()  # the others are found again
    assert world.intake.waiting == 5
