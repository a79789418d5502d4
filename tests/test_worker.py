"""The line from a job to its record, step by step on a fake engine and real files."""

from __future__ import annotations

import hashlib
import os
import queue
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from ocr_watcher import memory
from ocr_watcher.errors import EngineError, OutOfMemoryError
from ocr_watcher.inputs.base import DecodeLimits
from ocr_watcher.job import Job, Outcome, Stamp
from ocr_watcher.jobs.journal import Journal
from ocr_watcher.jobs.worker import Worker
from ocr_watcher.ocr.engine import FakeEngine
from tests.support import Clock, Log, dot, error_of, sidecar_of, tools, unprivileged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass
class Bench:
    """A worker and all that it works on."""

    folder: Path
    engine: FakeEngine = field(default_factory=FakeEngine)
    log: Log = field(default_factory=Log)
    clock: Clock = field(default_factory=Clock)
    max_attempts: int = 3
    min_score: float = 0.0
    max_jobs: int = 0
    max_side_px: int = 100

    def __post_init__(self) -> None:
        self.inbox = self.folder / "inbox"
        self.inbox.mkdir()
        self.journal = Journal(self.folder / "journal.sqlite3", self.log)  # type: ignore[arg-type]
        self.queued = 0
        self.tools = tools(
            self.engine,
            self.journal,
            self.log,
            self.clock,
            limits=DecodeLimits(1 << 20, 1_000_000, self.max_side_px),
            max_attempts=self.max_attempts,
            min_score=self.min_score,
            queue_depth=lambda: self.queued,
            guard=memory.Guard(memory.MemoryLimits(10_000, 10_000, self.max_jobs), self.log),  # type: ignore[arg-type]
        )
        self.supervision = self.tools.supervision

    @property
    def worker(self) -> Worker:
        return Worker(self.tools)

    def job(self, path: Path, *, settled: bool = True) -> Job:
        *parts, name = path.relative_to(self.inbox).parts
        return Job(self.inbox, tuple(parts), name, Stamp.of(path.lstat()), settled, self.clock.now)

    def step(self, path: Path, *, settled: bool = True) -> Outcome:
        return self.worker.step(self.job(path, settled=settled))

    @property
    def names(self) -> list[str]:
        return sorted(os.listdir(self.inbox))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.journal.close()


def test_an_image_becomes_a_sidecar_and_a_log_line(bench: Bench) -> None:
    (bench.inbox / "sub").mkdir()
    path = dot(bench.inbox / "sub" / "a.png", (200, 50))

    def slow(_bgr: Any) -> object:
        bench.clock.pass_(0.5)
        return [
            {
                "rec_texts": ["hello"],
                "rec_scores": [0.9],
                "rec_polys": [[[0, 0], [100, 0], [100, 25], [0, 25]]],
            }
        ]

    bench.engine.on_read = slow
    job = bench.job(path)
    bench.clock.pass_(2.0)
    bench.queued = 7
    assert bench.worker.step(job) is Outcome.DONE
    document = sidecar_of(path)
    assert document["text"] == "hello"
    assert document["source"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert document["pages"][0]["lines"][0]["box"] == [0.0, 0.0, 200.0, 50.0]
    assert document["pages"][0]["scale"] == 0.5
    assert document["timing_ms"] == {"queued": 2000, "load": 0, "ocr": 500, "total": 2500}
    assert document["engine"]["name"] == "fake"
    assert bench.engine.shapes == [(25, 100, 3)]
    (said,) = bench.log.named("ocr.done")
    assert said["path"] == str(path)
    assert (said["lines"], said["queued_ms"], said["ocr_ms"], said["queue_depth"]) == (1, 2000, 500, 7)
    assert said["rss_mb"] > 0
    assert "rss_delta_mb" in said
    assert bench.journal.begin(str(path), job.stamp).count == 0
    assert bench.supervision.in_flight is None


def test_every_page_of_a_tiff_is_read(bench: Bench) -> None:
    path = bench.inbox / "a.tif"
    first, second = Image.new("L", (60, 40), 255), Image.new("L", (30, 20), 255)
    first.save(path, save_all=True, append_images=[second])
    assert bench.step(path) is Outcome.DONE
    document = sidecar_of(path)
    assert document["text"] == "40x60\n20x30"
    assert [page["index"] for page in document["pages"]] == [0, 1]


def test_lines_below_the_lowest_score_are_left_out(tmp_path: Path) -> None:
    bench = Bench(tmp_path, min_score=0.5)
    box = [[0, 0], [5, 0], [5, 5], [0, 5]]
    bench.engine.on_read = lambda _: {
        "rec_texts": ["no", "yes"],
        "rec_scores": [0.49, 0.5],
        "rec_polys": [box, box],
    }
    assert bench.step(dot(bench.inbox / "a.png")) is Outcome.DONE
    assert sidecar_of(bench.inbox / "a.png")["text"] == "yes"
    bench.journal.close()


def bad_files() -> dict[str, tuple[Callable[[Path], object], str]]:
    def cut(path: Path) -> None:
        Image.effect_noise((200, 200), 50).save(path, "JPEG")
        path.write_bytes(path.read_bytes()[:2000])

    return {
        "empty": (lambda p: p.write_bytes(b""), "truncated"),
        "text": (lambda p: p.write_text("hello"), "unsupported_format"),
        "cut": (cut, "truncated"),
        "bytes": (lambda p: p.write_bytes(os.urandom(2 << 20)), "file_too_large"),
        "pixels": (lambda p: Image.new("1", (2000, 2000)).save(p), "too_many_pixels"),
    }


@pytest.mark.parametrize("kind", list(bad_files()))
def test_a_bad_file_gets_an_error_record_at_once(bench: Bench, kind: str) -> None:
    make, code = bad_files()[kind]
    path = bench.inbox / "bad.png"
    make(path)
    assert bench.step(path) is Outcome.FAILED
    document = error_of(path)
    assert document["error"]["code"] == code
    assert document["error"]["attempts"] == 1
    assert document["error"]["hint"]
    assert (document["source"]["sha256"] is None) == (code == "file_too_large")
    (failed,) = bench.log.named("ocr.failed")
    assert (failed["code"], failed["attempt"], failed["will_retry"]) == (code, 1, False)
    assert len(bench.log.named("file.quarantined")) == 1
    assert bench.names == ["bad.png", "bad.png.error.json"]


def test_a_file_that_was_only_closed_is_given_time_before_it_is_called_bad(bench: Bench) -> None:
    path = bench.inbox / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    assert bench.step(path, settled=False) is Outcome.RESETTLE
    assert bench.names == ["a.png"]
    assert bench.log.named("ocr.failed") == []
    assert bench.step(path) is Outcome.FAILED


def test_a_success_removes_the_error_record(bench: Bench) -> None:
    path = bench.inbox / "a.png"
    path.write_text("no image")
    bench.step(path)
    dot(path)
    assert bench.step(path) is Outcome.DONE
    assert bench.names == ["a.png", "a.png.json"]


def test_an_engine_error_is_tried_as_often_as_configured_then_recorded(bench: Bench) -> None:
    def fail(_bgr: Any) -> object:
        raise EngineError("it broke")

    bench.engine.on_read = fail
    path = dot(bench.inbox / "a.png")
    assert [bench.step(path) for _ in range(3)] == [Outcome.RETRY, Outcome.RETRY, Outcome.FAILED]
    assert [e["attempt"] for e in bench.log.named("ocr.failed")] == [1, 2, 3]
    assert [e["will_retry"] for e in bench.log.named("ocr.failed")] == [True, True, False]
    assert error_of(path)["error"] | {"hint": ""} == {
        "code": "engine_error",
        "message": "it broke",
        "hint": "",
        "attempts": 3,
    }


def test_an_unknown_result_is_an_error_not_an_empty_result(bench: Bench) -> None:
    bench.engine.on_read = lambda _: {"something": 1}
    path = dot(bench.inbox / "a.png")
    assert bench.step(path) is Outcome.RETRY
    assert "something" in bench.log.named("ocr.failed")[0]["message"]


@pytest.mark.parametrize(
    ("raised", "code"),
    [(EngineError("x"), "engine_error"), (ZeroDivisionError("x"), "engine_error")],
)
def test_whatever_the_engine_raises_the_worker_lives(bench: Bench, raised: Exception, code: str) -> None:
    def fail(_bgr: Any) -> object:
        raise raised

    bench.engine.on_read = fail
    assert bench.step(dot(bench.inbox / "a.png")) is Outcome.RETRY
    assert bench.log.named("ocr.failed")[0]["code"] == code
    bench.engine.on_read = None
    assert bench.step(dot(bench.inbox / "b.png")) is Outcome.DONE


@pytest.mark.parametrize(
    "raised", [MemoryError(), OutOfMemoryError("Fail to alloc memory of 16307453952 size")]
)
def test_out_of_memory_is_tried_at_half_the_side_twice(bench: Bench, raised: Exception) -> None:
    def fail(bgr: Any) -> object:
        if bgr.shape[1] > 30:
            raise raised
        return None

    bench.engine.on_read = fail
    path = dot(bench.inbox / "a.png", (400, 200))
    assert bench.step(path) is Outcome.DONE
    assert bench.engine.shapes == [(50, 100, 3), (25, 50, 3), (12, 25, 3)]
    assert sidecar_of(path)["pages"][0]["scale"] == 0.0625
    assert [e["max_side_px"] for e in bench.log.named("ocr.out_of_memory")] == [100, 50]
    assert bench.supervision.recycle_reason == ""


def test_what_does_not_fit_at_a_quarter_of_the_side_fails(bench: Bench) -> None:
    def fail(_bgr: Any) -> object:
        raise MemoryError

    bench.engine.on_read = fail
    path = dot(bench.inbox / "a.png", (400, 200))
    assert bench.step(path) is Outcome.FAILED
    error = error_of(path)["error"]
    assert (error["code"], error["attempts"]) == ("out_of_memory", 1)
    assert len(bench.engine.shapes) == 3


def test_an_engine_that_is_broken_afterwards_means_recycle(bench: Bench) -> None:
    def fail(_bgr: Any) -> object:
        raise MemoryError

    def broken() -> None:
        raise EngineError("dead")

    bench.engine.on_read = fail
    bench.engine.warm_up = broken  # type: ignore[method-assign]
    bench.step(dot(bench.inbox / "a.png"))
    assert "dead" in bench.supervision.recycle_reason


def test_the_consumer_stops_between_files_when_it_is_to_recycle(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_jobs=2)
    jobs: queue.Queue[Job | None] = queue.Queue()
    for number in range(5):
        jobs.put(bench.job(dot(bench.inbox / f"{number}.png")))
    ended = []
    bench.worker.run(jobs, lambda job, outcome: ended.append((job.name, outcome)))
    assert ended == [("0.png", Outcome.DONE), ("1.png", Outcome.DONE)]
    assert jobs.qsize() == 3
    assert "memory.max_jobs" in bench.supervision.recycle_reason
    bench.journal.close()


class Hungry(FakeEngine):
    """An engine that takes as much for a page as the test says."""

    need: tuple[float, float] = (0.0, 0.0)

    def page_mb(self) -> tuple[float, float]:
        return self.need


def hungry(tmp_path: Path, *, room_mb: float, base: float, per_megapixel: float) -> Bench:
    engine = Hungry()
    engine.need = (base, per_megapixel)
    bench = Bench(tmp_path, engine=engine, max_side_px=1000)
    rss_mb = memory.Memory().rss_mb()
    limits = memory.MemoryLimits(rss_mb + room_mb, rss_mb + room_mb)
    guard = memory.Guard(limits, bench.log)  # type: ignore[arg-type]
    guard._start_rss_mb = rss_mb  # a fresh process has no more
    bench.tools = replace(bench.tools, guard=guard)
    return bench


def test_a_page_that_would_cross_the_limit_is_read_smaller(tmp_path: Path) -> None:
    bench = hungry(tmp_path, room_mb=1100, base=100, per_megapixel=10_000)
    path = dot(bench.inbox / "a.png", (800, 800))
    assert bench.step(path) is Outcome.DONE
    (shape,) = bench.engine.shapes
    assert 290 < shape[0] == shape[1] < 330  # a tenth of a megapixel fits into 1,000 MiB
    assert sidecar_of(path)["pages"][0]["scale"] == pytest.approx(316 / 800, rel=0.1)
    assert len(bench.log.named("memory.page_limited")) == 1
    bench.journal.close()


def test_an_image_that_cannot_be_decoded_within_the_limit_is_refused_with_the_arithmetic(
    tmp_path: Path,
) -> None:
    bench = hungry(tmp_path, room_mb=1, base=0, per_megapixel=0)
    path = bench.inbox / "a.png"
    Image.new("RGB", (1000, 1000)).save(path)
    assert bench.step(path) is Outcome.FAILED
    error = error_of(path)["error"]
    assert error["code"] == "out_of_memory"
    assert "1.0 megapixels of 4.6 bytes" in error["message"]
    assert bench.engine.shapes == []
    bench.journal.close()


def test_a_process_that_has_grown_recycles_instead_of_reading_smaller(tmp_path: Path) -> None:
    bench = hungry(tmp_path, room_mb=50, base=100, per_megapixel=1)
    bench.tools.guard._start_rss_mb = memory.Memory().rss_mb() - 200
    path = dot(bench.inbox / "a.png")
    assert bench.step(path) is Outcome.BROKEN_OFF
    assert "leaves too little" in bench.supervision.recycle_reason
    assert bench.names == ["a.png"]
    assert bench.journal.begin(str(path), Stamp.of(path.stat())).count == 0
    bench.journal.close()


@pytest.mark.parametrize(("noted", "code"), [("", "engine_crashed"), ("timeout", "timeout")])
def test_a_file_that_ended_the_process_too_often_is_not_touched_again(
    bench: Bench, noted: str, code: str
) -> None:
    path = dot(bench.inbox / "a.png")
    for _ in range(3):
        bench.journal.begin(str(path), Stamp.of(path.stat()))
    if noted:
        bench.journal.failed(str(path), noted, "page 1 took too long")
    assert bench.step(path) is Outcome.FAILED
    assert bench.engine.shapes == []
    error = error_of(path)["error"]
    assert (error["code"], error["attempts"]) == (code, 3)


@pytest.mark.parametrize("noted", ["", "timeout"])
def test_an_error_record_that_cannot_be_written_for_long_tells_the_same_in_the_end(
    bench: Bench, noted: str
) -> None:
    path = bench.inbox / "a.png"
    path.write_text("no image")
    (bench.inbox / "a.png.error.json").write_text("somebody else's")
    for _ in range(3 if noted else 0):
        bench.journal.begin(str(path), Stamp.of(path.stat()))
        bench.journal.failed(str(path), noted, "page 1 took too long")
    assert [bench.step(path) for _ in range(5)] == [Outcome.RETRY] * 5
    (bench.inbox / "a.png.error.json").unlink()
    assert bench.step(path) is Outcome.FAILED
    error = error_of(path)["error"]
    assert (error["code"], error["attempts"]) == (("timeout", 3) if noted else ("unsupported_format", 1))
    assert noted == "" or error["message"] == "page 1 took too long"


def test_a_file_that_changed_since_it_was_queued_is_not_read(bench: Bench) -> None:
    job = bench.job(dot(bench.inbox / "a.png"))
    dot(bench.inbox / "a.png", (10, 10))
    assert bench.worker.step(job) is Outcome.RESETTLE
    assert bench.engine.shapes == []


def test_a_file_replaced_during_ocr_discards_the_result(bench: Bench) -> None:
    path = dot(bench.inbox / "a.png")

    def swap(_bgr: Any) -> object:
        path.unlink()
        dot(path, (10, 10))
        return None

    bench.engine.on_read = swap
    assert bench.step(path) is Outcome.RESETTLE
    assert bench.names == ["a.png"]


def test_a_file_removed_during_ocr_leaves_nothing(bench: Bench) -> None:
    path = dot(bench.inbox / "a.png")
    bench.engine.on_read = lambda _: path.unlink()
    assert bench.step(path) is Outcome.GONE
    assert bench.names == []
    assert len(bench.log.named("file.vanished")) == 1


def test_a_file_removed_before_is_gone(bench: Bench) -> None:
    path = dot(bench.inbox / "a.png")
    job = bench.job(path)
    path.unlink()
    assert bench.worker.step(job) is Outcome.GONE


def test_a_folder_swapped_for_a_link_during_ocr_writes_beside_the_image_that_was_read(
    bench: Bench, tmp_path: Path
) -> None:
    (bench.inbox / "sub").mkdir()
    (tmp_path / "outside").mkdir()
    path = dot(bench.inbox / "sub" / "a.png")

    def swap(_bgr: Any) -> object:
        (bench.inbox / "sub").rename(tmp_path / "moved")
        (bench.inbox / "sub").symlink_to(tmp_path / "outside")
        return None

    bench.engine.on_read = swap
    assert bench.step(path) is Outcome.DONE
    assert os.listdir(tmp_path / "outside") == []
    assert sorted(os.listdir(tmp_path / "moved")) == ["a.png", "a.png.json"]


def test_no_permission_is_recorded_retried_and_never_used_up(bench: Bench) -> None:
    path = dot(bench.inbox / "a.png")
    path.chmod(0)
    bench.inbox.chmod(0o777)
    # pytest's own folders above are private: hand the worker an inbox that nobody can reach
    reach = Path(f"/proc/self/fd/{os.open(bench.inbox, os.O_RDONLY | os.O_DIRECTORY)}")
    job = Job(reach, (), "a.png", Stamp.of(path.lstat()), settled=True, queued_at=0.0)
    with unprivileged():
        outcomes = {bench.worker.step(job) for _ in range(5)}
    os.close(int(reach.name))
    assert outcomes == {Outcome.RETRY}
    error = error_of(path)["error"]
    assert (error["code"], error["will_retry"]) == ("unreadable", True)
    assert "Permission denied" in error["message"]
    path.chmod(0o644)
    assert bench.step(path) is Outcome.DONE
    assert bench.names == ["a.png", "a.png.json"]


def test_somebody_elses_json_in_the_way_is_kept_and_explained(bench: Bench) -> None:
    path = dot(bench.inbox / "a.png")
    (bench.inbox / "a.png.json").write_text('{"title": "holiday"}')
    assert [bench.step(path) for _ in range(5)] == [Outcome.RETRY] * 5
    assert error_of(path)["error"]["code"] == "output_exists"
    assert (bench.inbox / "a.png.json").read_text() == '{"title": "holiday"}'
    (bench.inbox / "a.png.json").unlink()
    assert bench.step(path) is Outcome.DONE
    assert bench.names == ["a.png", "a.png.json"]


def test_what_is_in_hand_can_be_seen_from_outside(bench: Bench) -> None:
    path = dot(bench.inbox / "a.png")
    seen = []

    def look(_bgr: Any) -> object:
        seen.append(bench.supervision.in_flight)
        return None

    bench.engine.on_read = look
    bench.step(path)
    (hand,) = seen
    assert hand is not None
    assert (hand.path, hand.page, hand.since) == (str(path), 0, bench.clock.now)
