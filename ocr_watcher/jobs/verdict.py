"""What becomes of an attempt: a pure decision, from a table.

The first row that fits decides. Nothing here touches a file, the journal or the log.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from ocr_watcher.errors import ChangedError, FileError, OutputError, VanishedError
from ocr_watcher.job import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable


class Count(Enum):
    """What the journal does with the attempt."""

    FORGET = auto()  # the file has its record, or is gone or another version: the count starts anew
    KEEP = auto()  # the file may have caused it: one try is used up
    FORGIVE = auto()  # the cause lies outside the file: the attempt does not count


class Record(Enum):
    """Which record is written."""

    NONE = auto()
    SIDECAR = auto()
    PASSING_ERROR = auto()  # says that the file will be tried again
    FINAL_ERROR = auto()


@dataclass(frozen=True)
class Verdict:
    """What happens next."""

    outcome: Outcome
    count: Count
    record: Record

    @property
    def will_retry(self) -> bool:
        """Whether the same version of the file is read again without anybody doing anything."""
        return self.outcome is not Outcome.FAILED


class Interruption(Exception):  # noqa: N818 - not an error: nothing is wrong with the file or the service
    """The attempt ends between two pages, which are kept; `outcome` is `BROKEN_OFF` or `PAUSED`."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.value)
        self.outcome = outcome


DONE = Verdict(Outcome.DONE, Count.FORGET, Record.SIDECAR)


@dataclass(frozen=True)
class _Case:
    error: FileError
    settled: bool
    last_try: bool


_TABLE: tuple[tuple[Callable[[_Case], bool], Verdict], ...] = (
    (
        lambda case: isinstance(case.error, VanishedError),
        Verdict(Outcome.GONE, Count.FORGET, Record.NONE),
    ),
    (
        lambda case: isinstance(case.error, ChangedError),
        Verdict(Outcome.RESETTLE, Count.FORGET, Record.NONE),
    ),
    (  # where the sidecar cannot be written, neither can an error record
        lambda case: isinstance(case.error, OutputError),
        Verdict(Outcome.RETRY, Count.FORGIVE, Record.NONE),
    ),
    (
        lambda case: case.error.transient,
        Verdict(Outcome.RETRY, Count.FORGIVE, Record.PASSING_ERROR),
    ),
    (  # only a close after writing said that it was complete; its writer may open it again
        lambda case: not case.settled and not case.error.retryable,
        Verdict(Outcome.RESETTLE, Count.FORGET, Record.NONE),
    ),
    (
        lambda case: case.error.retryable and not case.last_try,
        Verdict(Outcome.RETRY, Count.KEEP, Record.NONE),
    ),
    (
        lambda _case: True,
        Verdict(Outcome.FAILED, Count.FORGET, Record.FINAL_ERROR),
    ),
)


def judge(error: FileError | Interruption, *, attempt: int, max_attempts: int, settled: bool) -> Verdict:
    """Decide about an attempt that brought no result.

    Args:
        error: why it brought none.
        attempt: its number, from 1.
        max_attempts: `retry.max_attempts`.
        settled: whether the file had stood still for the whole settle time, as in `Job.settled`.
    """
    if isinstance(error, Interruption):
        return Verdict(error.outcome, Count.FORGIVE, Record.NONE)
    case = _Case(error, settled, attempt >= max_attempts)
    return next(verdict for fits, verdict in _TABLE if fits(case))
