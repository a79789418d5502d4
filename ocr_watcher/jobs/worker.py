"""The one OCR consumer: takes one image down the line, from the journal to its sidecar.

`step()` does one job and never raises for anything a file can cause; tests call it by hand.
`run()` is the thread around it. One thread, because PaddleX predictors are not thread-safe and
because memory is bounded by what one image needs. The engine, the clock and the memory probe are
passed in.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ocr_watcher import __version__, names
from ocr_watcher.document import Source
from ocr_watcher.errors import (
    EngineCrashedError,
    EngineError,
    FileError,
    JobTimeoutError,
    OutOfMemoryError,
    OutputError,
    ShortOfMemoryError,
    VanishedError,
)
from ocr_watcher.inbox.files import access_error, open_file, open_folder, stat_file
from ocr_watcher.inputs import image
from ocr_watcher.job import Job, Outcome, Stamp
from ocr_watcher.ocr import result
from ocr_watcher.outputs import commit, sidecar

if TYPE_CHECKING:
    import queue
    from collections.abc import Callable
    from io import BufferedReader

    from structlog.typing import FilteringBoundLogger

    from ocr_watcher.jobs.journal import Journal
    from ocr_watcher.memory import Guard, Memory
    from ocr_watcher.ocr.engine import Engine

# What an attempt that used up the last try was, by the journal's code.
_LAST_ERRORS: dict[str, type[FileError]] = {error.code: error for error in (EngineError, JobTimeoutError)}
# A page that runs out of memory is read again at half the side, then at a quarter: a sixteenth of the
# pixels. Text that survives less is not worth the time.
_SHRINKS = (1, 2, 4)
# However little memory is left, a page is tried at this size before it is given up: the prediction is
# an upper estimate.
_LEAST_PIXELS = 256 * 256
# A restart costs about three seconds; for less than this it brings too little.
_WORTH_A_RECYCLE_MB = 100


@dataclass(frozen=True)
class InHand:
    """The page that the consumer is reading, since when (monotonic s): what a supervisor looks at."""

    path: str
    page: int
    since: float


@dataclass(frozen=True)
class Failure:
    """How a job failed, and when (ISO 8601)."""

    path: str
    code: str
    message: str
    at: str


class _ChangedError(Exception):
    """The file is not the version that was queued."""


@dataclass
class _Attempt:
    """What is known so far of the job in hand, for whichever record ends it."""

    job: Job
    limits: DecodeLimits
    number: int
    started: float
    rss_before: float
    sha256: str | None = None
    load_s: float = 0.0
    ocr_s: float = 0.0

    @property
    def source(self) -> Source:
        return Source(self.job.name, self.job.stamp, self.sha256)


class Worker:
    """Does jobs, one after the other."""

    def __init__(
        self,
        engine: Engine,
        limits: DecodeLimits,
        *,
        min_score: float,
        max_attempts: int,
        journal: Journal,
        memory: Memory,
        guard: Guard,
        log: FilteringBoundLogger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._limits = limits
        self._min_score = min_score
        self._max_attempts = max_attempts
        self._journal = journal
        self._memory = memory
        self._guard = guard
        self._log = log
        self._clock = clock
        self.in_hand: InHand | None = None
        self.last_error: Failure | None = None  # of the last job that ended with one
        self.recycle = ""  # why the process should start afresh, once it should

    def run(
        self,
        jobs: queue.Queue[Job | None],
        completed: Callable[[Job, Outcome], None],
        stopping: Callable[[], bool],
    ) -> None:
        """Do jobs until None comes, `stopping()` says so or `recycle` is set. A job in hand is finished."""
        while not stopping() and not self.recycle and (job := jobs.get()) is not None:
            outcome = Outcome.BROKEN_OFF if stopping() else self.step(job, jobs.qsize)
            completed(job, outcome)

    def step(self, job: Job, queue_depth: Callable[[], int] = int) -> Outcome:
        """Take one image down the line. Everything that a file can cause ends in the log and in a record.

        `queue_depth` tells how many wait behind it, for the log.
        """
        limits = self._within_memory(job.path)
        if limits is None:
            self.recycle = (
                f"RSS {self._memory.rss_mb():.0f} MiB leaves too little of memory.rss_limit_mb for a page"
            )
            return Outcome.BROKEN_OFF
        started = self._clock()
        self.in_hand = InHand(job.path, 0, started)
        try:
            known = self._journal.begin(job.path, job.stamp)
            attempt = _Attempt(job, limits, known.count + 1, started, self._memory.rss_mb())
            try:
                with open_folder(job.root, job.parts) as folder:
                    if known.count >= self._max_attempts:
                        cause = _LAST_ERRORS.get(known.code, EngineCrashedError)
                        message = known.message or f"the process ended {known.count} times in this file"
                        attempt.number = known.count
                        return self._failed(attempt, cause(message), folder)
                    return self._read_and_write(attempt, folder, queue_depth)
            except FileError as error:  # the folder itself
                return self._failed(attempt, error, None)
        except (MemoryError, OSError) as error:
            # Not even the error could be dealt with. The file is as it was, so it is tried again.
            self._log.warning("worker.trouble", path=job.path, message=f"{type(error).__name__}: {error}")
            return Outcome.RETRY
        finally:
            self.in_hand = None
            self._memory.give_back()
            self.recycle = self.recycle or self._guard.after_job(self._memory.rss_mb())

    def _read_and_write(self, attempt: _Attempt, folder: int, queue_depth: Callable[[], int]) -> Outcome:
        job = attempt.job
        try:
            commit.check_place(folder, job.name)  # before the work, not after it
            with open_file(folder, job.name) as file:
                like = os.fstat(file.fileno())
                if Stamp.of(like) != job.stamp:
                    raise _ChangedError
                pages = self._read(attempt, file)
            status = stat_file(folder, job.name)
            if status is None:
                raise VanishedError(f"{names.printable(job.name)} was removed while it was being read")
            if (status.st_dev, status.st_ino, Stamp.of(status)) != (like.st_dev, like.st_ino, job.stamp):
                raise _ChangedError
            lines = sum(len(page["lines"]) for page in pages)
            figures = self._write(attempt, folder, like, pages)
        except _ChangedError:
            self._journal.end(job.path)
            self._log.info(
                "file.changed", path=job.path, message="it changed while it was read: reading it again"
            )
            return Outcome.RESETTLE
        except FileError as error:
            return self._failed(attempt, error, folder)
        except OSError as error:
            return self._failed(attempt, access_error(error, names.printable(job.name)), folder)
        except MemoryError:
            return self._failed(attempt, ShortOfMemoryError("there was no memory to work with"), folder)
        except Exception as error:  # noqa: BLE001 - a bug of ours must not take the other files down
            self._log.exception("worker.unexpected", path=job.path)
            return self._failed(attempt, EngineError(f"unexpected {type(error).__name__}: {error}"), folder)
        self._journal.end(job.path)
        self._log.info(
            "ocr.done",
            path=job.path,
            pages=len(pages),
            lines=lines,
            **{f"{key}_ms": figures["timing_ms"][key] for key in ("queued", "load", "ocr")},
            rss_mb=figures["memory_mb"]["rss_after"],
            rss_delta_mb=round(figures["memory_mb"]["rss_after"] - attempt.rss_before, 1),
            queue_depth=queue_depth(),
        )
        return Outcome.DONE

    def _read(self, attempt: _Attempt, file: BufferedReader) -> list[dict[str, Any]]:
        """Every page of the open file as the sidecar shows it; smaller where memory runs out."""
        if attempt.job.stamp.size_bytes <= self._limits.max_file_bytes:
            attempt.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        for shrink in _SHRINKS:
            limits = replace(
                attempt.limits,
                max_side_px=max(1, attempt.limits.max_side_px // shrink),
                max_page_pixels=attempt.limits.max_page_pixels / shrink**2,
            )
            try:
                return self._read_at(attempt, file, limits)
            except (OutOfMemoryError, MemoryError) as error:
                last = str(error) or "an allocation failed"
            # outside the handler: its traceback would keep the pixels alive
            self._memory.give_back()
            self._log.warning(
                "ocr.out_of_memory", path=attempt.job.path, max_side_px=limits.max_side_px, message=last
            )
            self._check_engine()
        raise OutOfMemoryError(f"{last} (also at a quarter of image.max_side_px)")

    def _within_memory(self, path: str) -> DecodeLimits | None:
        """The limits, narrowed to the memory that is left: predicted, so that it need not be tried.

        None where a fresh process would have more of it: then the page should not be made smaller here.
        """
        figures = self._memory.figures()
        room_mb = self._guard.room_mb(figures)
        base_mb, per_megapixel_mb = self._engine.page_mb()
        pixels = (room_mb - base_mb) / per_megapixel_mb * 1e6 if per_megapixel_mb else math.inf
        if pixels < self._limits.max_side_px**2:
            if self._guard.recycle_gains_mb(figures.rss_mb) > _WORTH_A_RECYCLE_MB:
                return None
            pixels = max(pixels, _LEAST_PIXELS)
            self._log.info(
                "memory.page_limited",
                path=path,
                room_mb=round(room_mb, 1),
                max_megapixels=round(pixels / 1e6, 2),
            )
        # A decoder asks for its picture in one piece, and not every one says when it was refused.
        decode_mb = self._guard.room_in_one_mb(figures, self._memory.data_mb())
        return replace(self._limits, max_page_pixels=pixels, max_decode_mb=decode_mb)

    def _check_engine(self) -> None:
        """After an allocation failed inside it, see that the engine still works; recycle where not."""
        try:
            self._engine.warm_up()
        except Exception as error:  # noqa: BLE001 - whatever it is, this engine is of no use any more
            self.recycle = f"the engine does not work after running out of memory: {error}"

    def _read_at(self, attempt: _Attempt, file: BufferedReader, limits: DecodeLimits) -> list[dict[str, Any]]:
        pages: list[dict[str, Any]] = []
        decoded = image.pages(file, limits)
        while True:
            began = self._clock()
            page = next(decoded, None)
            loaded = self._clock()
            attempt.load_s += loaded - began
            if page is None:
                return pages
            self.in_hand = InHand(attempt.job.path, page.index, loaded)
            lines = [
                line
                for line in result.normalise(self._engine.read(page.bgr))
                if line.score >= self._min_score
            ]
            pages.append(sidecar.page_json(page, lines))
            del page  # before the next one is decoded: one page's pixels at a time
            attempt.ocr_s += self._clock() - loaded

    def _write(
        self, attempt: _Attempt, folder: int, like: os.stat_result, pages: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """Write the sidecar; returns the figures that went into it."""
        memory = self._memory.figures()
        facts: dict[str, Any] = {
            "engine": {
                "name": self._engine.name,
                "provider": self._engine.provider,
                "model": self._engine.model,
                "paddleocr": self._engine.version,
                "ocr_watcher": __version__,
            },
            "timing_ms": {
                "queued": _ms(attempt.started - attempt.job.queued_at),
                "load": _ms(attempt.load_s),
                "ocr": _ms(attempt.ocr_s),
                "total": _ms(self._clock() - attempt.job.queued_at),
            },
            "memory_mb": {
                "rss_before": attempt.rss_before,
                "rss_after": memory.rss_mb,
                "rss_peak": memory.peak_rss_mb,
            },
        }
        sidecar.write_ok(folder, attempt.source, like, pages, facts)
        return facts

    def _failed(self, attempt: _Attempt, error: FileError, folder: int | None) -> Outcome:
        """End an attempt that brought no result: with a record, with another try, or with nothing."""
        job = attempt.job
        self.last_error = Failure(job.path, error.code, str(error), sidecar.now())
        if isinstance(error, VanishedError):
            self._journal.end(job.path)
            self._log.info("file.vanished", path=job.path, message=str(error))
            return Outcome.GONE
        if not job.settled and not error.retryable and not error.transient:
            # Only a close-after-write said that it was complete; its writer may open it again.
            self._journal.end(job.path)
            self._log.debug("file.settling", path=job.path, message=str(error))
            return Outcome.RESETTLE
        final = not error.transient and (not error.retryable or attempt.number >= self._max_attempts)
        if error.transient:
            self._journal.forgive(job.path)
        elif not final:
            self._journal.failed(job.path, error.code, str(error))
        self._log.warning(
            "ocr.failed",
            path=job.path,
            code=error.code,
            attempt=attempt.number,
            will_retry=not final,
            message=str(error),
            hint=error.hint,
        )
        recorded = (final or error.transient) and not isinstance(error, OutputError)
        if recorded and folder is not None:
            try:
                self._record_failure(attempt, error, folder, final=final)
            except VanishedError:
                self._journal.end(job.path)
                return Outcome.GONE
            except (FileError, OSError, MemoryError) as trouble:
                # The error record could not be written, which is not the file's fault: the next try
                # ends in the same error, however many there are.
                self._journal.failed(job.path, error.code, str(error))
                self._journal.forgive(job.path)
                self._log.warning("sidecar.failed", path=job.path, message=str(trouble))
                return Outcome.RETRY
        if not final:
            return Outcome.RETRY
        self._journal.end(job.path)
        return Outcome.FAILED

    def _record_failure(self, attempt: _Attempt, error: FileError, folder: int, *, final: bool) -> None:
        job = attempt.job
        like = stat_file(folder, job.name)
        if like is None:
            raise VanishedError(f"{names.printable(job.name)} was removed")
        sidecar.write_error(
            folder, attempt.source, like, error, attempts=attempt.number, will_retry=error.transient
        )
        if final:
            self._log.error(
                "file.quarantined",
                path=job.path,
                code=error.code,
                attempts=attempt.number,
                record=names.records_of(job.name).error,
            )


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))
