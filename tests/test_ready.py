"""The readiness rules, on stat results and times that the tests make up."""

from __future__ import annotations

import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocr_watcher.inbox.ready import CLOSED_SETTLE_S, Ignore, Ready, Rules, Sight, Wait, judge
from ocr_watcher.job import Stamp
from tests.support import RULES


def status(size: int = 10, mtime_ns: int = 5, mode: int = stat.S_IFREG | 0o644) -> os.stat_result:
    fields = [mode, 1, 1, 1, 0, 0, size, 0, mtime_ns // 10**9, 0]
    return os.stat_result(fields, {"st_mtime_ns": mtime_ns})


def test_a_file_is_ready_when_it_has_stood_still_for_the_settle_time() -> None:
    first = judge(status(), None, now=100.0, closed=False, rules=RULES)
    assert first == Wait(Sight(Stamp(10, 5), 100.0), 101.0)
    early = judge(status(), first.sight, now=100.99, closed=False, rules=RULES)
    assert isinstance(early, Wait)
    assert judge(status(), early.sight, now=101.0, closed=False, rules=RULES) == Ready(
        Stamp(10, 5), settled=True
    )


def test_growing_starts_the_settle_time_again() -> None:
    before = Sight(Stamp(10, 5), since=100.0)
    assert judge(status(size=11), before, now=105.0, closed=False, rules=RULES) == Wait(
        Sight(Stamp(11, 5), 105.0), 106.0
    )


def test_a_new_modification_time_starts_it_again_too() -> None:
    before = Sight(Stamp(10, 5), since=100.0)
    assert isinstance(judge(status(mtime_ns=6), before, now=105.0, closed=False, rules=RULES), Wait)


def test_a_close_after_write_shortens_it_and_says_so() -> None:
    first = judge(status(), None, now=100.0, closed=True, rules=RULES)
    assert first == Wait(Sight(Stamp(10, 5), 100.0, closed=True), 100.0 + CLOSED_SETTLE_S)
    verdict = judge(status(), first.sight, now=100.0 + CLOSED_SETTLE_S, closed=False, rules=RULES)
    assert verdict == Ready(Stamp(10, 5), settled=False)


def test_a_close_is_forgotten_when_the_file_grows_again() -> None:
    closed = Sight(Stamp(10, 5), 100.0, closed=True)
    assert judge(status(size=11), closed, now=100.5, closed=False, rules=RULES) == Wait(
        Sight(Stamp(11, 5), 100.5), 101.5
    )


def test_an_empty_file_waits_in_full_although_it_was_closed() -> None:
    assert judge(status(size=0), None, now=100.0, closed=True, rules=RULES) == Wait(
        Sight(Stamp(0, 5), 100.0, closed=True), 101.0
    )


def test_what_is_gone_or_no_file_is_ignored() -> None:
    assert judge(None, None, now=0.0, closed=False, rules=RULES) == Ignore("")
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
    }
    for mode, words in kinds.items():
        assert judge(status(mode=mode), None, now=0.0, closed=True, rules=RULES) == Ignore(words)


@pytest.mark.parametrize(
    "name", ["a.png", "A.PNG", "b.c.jpeg", "ü.webp", "x y.tif", "\udcff.gif", ".x.png"[1:]]
)
def test_wanted(name: str) -> None:
    assert RULES.wants(name)


@pytest.mark.parametrize(
    "name",
    [
        "a.docx",
        "png",
        ".png",
        "a.png.tmp",
        ".hidden.png",
        "~$a.png",
        "a.png~",
        "._a.png",
        "a.png.json",
        "a.jpg.part",
    ],
)
def test_not_wanted(name: str) -> None:
    assert not RULES.wants(name)


def test_no_globs_ignore_nothing() -> None:
    assert Rules.of([".png"], [], 1.0).wants(".hidden.png")


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),  # size
            st.integers(0, 3),  # mtime
            st.booleans(),  # closed
            st.floats(0.001, 2.0),  # time until the next look
        ),
        min_size=1,
        max_size=30,
    )
)
def test_never_ready_unless_still_for_long_enough(looks: list[tuple[int, int, bool, float]]) -> None:
    """Whatever is seen, Ready means: this stamp, unchanged, for the settle time or since a close."""
    now, sight, still_since, closed_since = 0.0, None, 0.0, False
    last: tuple[int, int] | None = None
    for size, mtime, closed, pause in looks:
        now += pause
        if (size, mtime) != last:
            last, still_since, closed_since = (size, mtime), now, False
        closed_since = closed_since or closed
        verdict = judge(status(size, mtime), sight, now=now, closed=closed, rules=RULES)
        if isinstance(verdict, Ready):
            assert verdict.stamp == Stamp(size, mtime)
            needed = CLOSED_SETTLE_S if closed_since and size else RULES.settle_s
            assert now - still_since >= needed
            assert verdict.settled == (now >= still_since + RULES.settle_s)
            return
        assert isinstance(verdict, Wait)
        assert verdict.until > now
        sight = verdict.sight
