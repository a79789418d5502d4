"""Figures against the operating system's own, limits against made-up ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from ocr_watcher import memory
from ocr_watcher.errors import ConfigError
from ocr_watcher.memory import Guard, Memory, MemoryLimits
from tests.support import Log


def guard(soft: float = 100, rss: float = 200, max_jobs: int = 0) -> tuple[Guard, Log]:
    log = Log()
    return Guard(MemoryLimits(soft, rss, max_jobs), log), log  # type: ignore[arg-type] # a log that collects


def test_the_figures_are_those_of_the_system() -> None:
    held = np.ones((64 << 20,), np.uint8)
    figures = Memory().figures()
    assert figures.rss_mb == pytest.approx(psutil.Process().memory_info().rss / 2**20, rel=0.05)
    assert figures.peak_rss_mb >= figures.rss_mb - 1
    assert 0 < figures.available_mb <= psutil.virtual_memory().total / 2**20
    before = Memory().rss_mb()
    del held
    assert before - Memory().rss_mb() > 60


def test_freed_memory_goes_back_to_the_system() -> None:
    probe = Memory()
    cycle: list[object] = [[bytes(1000) for _ in range(50_000)]]
    cycle.append(cycle)  # only a collection frees it
    before = probe.rss_mb()
    del cycle
    probe.give_back()
    assert before - probe.rss_mb() > 30


def test_a_cgroup_limit_counts_and_cached_files_count_as_free(tmp_path: Path) -> None:
    def left(root: Path) -> list[tuple[float, float]]:
        return [(limit.total_mb, limit.available_mb) for limit in memory._cgroup_limits(root, own)]

    own = tmp_path / "cgroup"
    v2 = tmp_path / "v2" / "a" / "b"
    v2.mkdir(parents=True)
    own.write_text("0::/a/b\n")
    (v2 / "memory.max").write_text("max\n")
    (v2 / "memory.current").write_text("1048576\n")
    assert left(tmp_path / "v2") == []
    (v2.parent / "memory.max").write_text(f"{100 << 20}\n")
    (v2.parent / "memory.current").write_text(f"{95 << 20}\n")
    assert left(tmp_path / "v2") == [(100.0, 5.0)]
    # 60 MiB of what is used is the page cache, which a scan read a minute ago may still be in.
    stat = f"anon {20 << 20}\nfile {70 << 20}\nshmem {10 << 20}\n"
    stat += f"inactive_file {40 << 20}\nactive_file {15 << 20}\nslab_reclaimable {5 << 20}\n"
    (v2.parent / "memory.stat").write_text(stat)
    assert left(tmp_path / "v2") == [(100.0, 65.0)]
    v1 = tmp_path / "v1" / "memory" / "c"
    v1.mkdir(parents=True)
    own.write_text("5:cpu:/x\n4:memory:/c\n")
    (v1 / "memory.limit_in_bytes").write_text(f"{50 << 20}")
    (v1 / "memory.usage_in_bytes").write_text(f"{60 << 20}")
    assert left(tmp_path / "v1") == [(50.0, 0.0)]
    (v1 / "memory.stat").write_text(f"cache 1\ntotal_inactive_file {30 << 20}\ntotal_active_file {1 << 20}\n")
    assert left(tmp_path / "v1") == [(50.0, 21.0)]
    assert memory._cgroup_limits(tmp_path, tmp_path / "none") == []


def test_the_environment_is_set_where_nobody_else_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCRW_TEST_A", "theirs")
    monkeypatch.setenv("OCRW_TEST_B", "")
    monkeypatch.delenv("OCRW_TEST_B")
    memory.apply_environment({"OCRW_TEST_A": "ours", "OCRW_TEST_B": "ours"})
    assert (os.environ["OCRW_TEST_A"], os.environ["OCRW_TEST_B"]) == ("theirs", "ours")


_HEAPS = """
import ctypes, threading
from ocr_watcher import memory
{before}
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
together = threading.Barrier(3)
def take():
    libc.malloc(1000)
    together.wait()
threads = [threading.Thread(target=take) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
file = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.skipif(memory._mallopt is None, reason="the C library is not glibc: it has no such heaps")
@pytest.mark.parametrize(
    ("before", "environment", "heaps"),
    [
        ("", {}, 4),
        ("memory.use_one_heap()", {}, 1),
        ("memory.use_one_heap()", {"MALLOC_ARENA_MAX": "2"}, 2),
    ],
)
def test_threads_share_a_heap_unless_the_environment_says_otherwise(
    before: str, environment: dict[str, str], heaps: int
) -> None:
    own = {
        key: value for key, value in os.environ.items() if key not in {"MALLOC_ARENA_MAX", "GLIBC_TUNABLES"}
    }
    done = subprocess.run(
        [sys.executable, "-c", _HEAPS.format(before=before)],
        env=own | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count("<heap ") == heaps


def test_below_the_limits_nothing_happens() -> None:
    checked, log = guard()
    assert [checked.after_job(mb) for mb in (10, 99, 50)] == ["", "", ""]
    assert log.events == []


def test_the_soft_limit_warns_once_per_crossing_and_says_what_helps() -> None:
    checked, log = guard()
    for mb in (100, 120, 101, 99, 120, 90, 130):
        assert checked.after_job(mb) == ""
    said = log.named("memory.soft_limit")
    assert [event["rss_mb"] for event in said] == [100, 130]
    assert "max_side_px" in said[0]["hint"]


def test_the_rss_limit_means_recycle_with_the_figures() -> None:
    checked, log = guard()
    checked.after_job(50)
    assert checked.after_job(201) == "RSS 201 MiB reached memory.rss_limit_mb 200"
    assert log.named("memory.limit_reached") == [
        {"level": "warning", "event": "memory.limit_reached", "rss_mb": 201, "rss_limit_mb": 200, "jobs": 2}
    ]


def test_the_room_is_what_every_limit_leaves() -> None:
    checked = Guard(MemoryLimits(100, 300, 0, 500), Log())  # type: ignore[arg-type]
    checked.start(rss_mb=150, data_mb=400)
    for rss_mb, available_mb, room_mb in ((200, 1000, 50), (150, 1000, 100), (150, 20, 20), (400, 1000, 0)):
        assert checked.headroom_mb(memory.Figures(rss_mb, rss_mb, available_mb)) == room_mb
    assert checked.headroom_in_one_mb(memory.Figures(150, 150, 1000), data_mb=450) == 50
    assert checked.headroom_in_one_mb(memory.Figures(150, 150, 1000), data_mb=600) == 0
    assert checked.recycle_gains_mb(200) == 50
    assert checked.recycle_gains_mb(100) == 0


def test_max_jobs_means_recycle() -> None:
    checked, _ = guard(max_jobs=3)
    assert [bool(checked.after_job(1)) for _ in range(3)] == [False, False, True]


def test_a_limit_that_the_loaded_process_meets_is_a_configuration_error() -> None:
    checked, _ = guard(rss=300)
    checked.start(200, 0)
    with pytest.raises(ConfigError, match=r"300.*285 MiB") as caught:
        checked.start(285, 0)
    assert "900" in caught.value.hint


def test_a_ceiling_turns_an_allocation_into_an_exception() -> None:
    code = """
import numpy as np
from ocr_watcher.memory import Memory, set_ceiling
probe = Memory()
set_ceiling(int(probe.data_mb()) + 100, probe.data_mb())
try:
    np.ones((200 << 20,), np.uint8)
except MemoryError:
    print("caught", len(np.ones((50 << 20,), np.uint8)) >> 20, probe.rss_mb() < 200)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "caught 50 True\n"


def test_a_ceiling_below_what_is_reserved_is_a_configuration_error() -> None:
    memory.set_ceiling(None, 500)
    with pytest.raises(ConfigError, match="500 MiB") as caught:
        memory.set_ceiling(400, 500)
    assert "1100" in caught.value.hint
