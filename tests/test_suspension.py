"""Which of the time that passed was none for the process; two clocks moved by hand."""

from __future__ import annotations

from dataclasses import dataclass, field

from ocr_watcher.service.suspension import Suspensions
from tests.support import Clock


@dataclass
class Life:
    """A process, and the ticks of its main loop."""

    clock: Clock = field(default_factory=Clock)
    cpu_clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.suspensions = Suspensions(self.clock, self.cpu_clock)

    def tick(self, passed_s: float, *, cpu_s: float = 0.0, waited_s: float = 1.0) -> float:
        self.clock.pass_(passed_s)
        self.cpu_clock.pass_(cpu_s)
        return self.suspensions.tick(waited_s)


def test_ticks_in_time_or_a_little_late_mean_nothing() -> None:
    life = Life()
    start = life.clock.now
    for late_s in (0.0, 0.1, 1.9):
        assert life.tick(1.0 + late_s) == 0.0
    assert life.suspensions.within(start, life.clock.now) == 0.0


def test_a_gap_without_processor_time_was_no_time_for_the_page_in_hand() -> None:
    life = Life()
    life.tick(1.0)
    start = life.clock.now
    life.tick(1.0)
    assert life.tick(101.0, cpu_s=0.5) == 99.5
    life.tick(1.0)
    end = life.clock.now
    assert life.suspensions.within(start, end) == 99.5
    assert life.suspensions.within(end, end + 10) == 0.0
    # A page that was begun while the process went on again: none of its own time is taken away.
    assert life.suspensions.within(end - 1.5, end) <= 0.5


def test_a_library_that_computes_without_letting_others_run_is_no_gap() -> None:
    life = Life()
    start = life.clock.now
    assert life.tick(200.0, cpu_s=380.0) == 0.0
    assert life.tick(200.0, cpu_s=199.0) == 0.0
    assert life.suspensions.within(start, life.clock.now) == 0.0


def test_several_gaps_add_up() -> None:
    life = Life()
    start = life.clock.now
    for _ in range(3):
        life.tick(11.0)
        life.tick(1.0)
    assert life.suspensions.within(start, life.clock.now) == 30.0
