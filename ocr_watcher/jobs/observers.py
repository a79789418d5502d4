"""Who is told what happens to a job: the log is one, the status another, metrics a third.

An observer is told by the consumer's thread, and never stops the work: what it raises is dropped.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ocr_watcher.errors import ChangedError, VanishedError
from ocr_watcher.job import Outcome
from ocr_watcher.outputs.sidecar import milliseconds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from structlog.typing import FilteringBoundLogger

    from ocr_watcher.document import Document
    from ocr_watcher.errors import FileError
    from ocr_watcher.job import Job
    from ocr_watcher.jobs.reader import PageRead


_MAX_TOLD = 100_000
_MAX_CAUSES = 8


@dataclass(frozen=True)
class JobEnded:
    """How an attempt ended.

    `document`, `pages` and `lines` where it was read; `error` where it was not, or could not be archived
    afterwards; `record` is the name of the error record that was written, if any.
    """

    job: Job
    attempt: int
    outcome: Outcome
    document: Document | None = None
    pages: int = 0
    lines: int = 0
    error: FileError | None = None
    record: str | None = None


class Observer:
    """Told of everything; the methods do nothing unless they are overridden."""

    def job_started(self, job: Job) -> None:
        """An attempt begins."""

    def resumed(self, job: Job, kept: int, pages: int) -> None:
        """`kept` of `pages` pages were read by an earlier attempt; this one goes on after them."""

    def page_started(self, job: Job, index: int, pages: int) -> None:
        """Page `index` (from 0) of `pages` is about to be decoded; `pages` is 0 until that is known."""

    def page_read(self, job: Job, read: PageRead, pages: int) -> None:
        """A page was read."""

    def page_limited(self, job: Job, headroom_mb: float, max_pixels: float) -> None:
        """A page will be read at no more than `max_pixels`, because only `headroom_mb` MiB are left."""

    def out_of_memory(self, job: Job, index: int, side_px: int, why: str) -> None:
        """Page `index` ran out of memory at this size (longer side); it is read smaller."""

    def output_skipped(self, job: Job, kind: str, why: str) -> None:
        """There is no output of this format; the document has its other ones."""

    def page_failed(self, job: Job, index: int, pages: int, error: FileError) -> None:
        """Page `index` of `pages` cannot be read; the others are read all the same."""

    def unexpected(self, job: Job, error: BaseException) -> None:
        """Something raised what nobody expected: a bug, told as an `engine_error` of the file."""

    def record_failed(self, job: Job, error: BaseException) -> None:
        """The error record could not be written; it is tried again."""

    def trouble(self, job: Job, error: BaseException) -> None:
        """Not even the error could be dealt with; the file is tried again."""

    def archived(self, job: Job) -> None:
        """A finished document was moved into the archive."""

    def job_ended(self, ended: JobEnded) -> None:
        """An attempt ended, well or not."""

    def recycled(self, reason: str) -> None:
        """The process is to start afresh."""


class Observers(Observer):
    """Tells several observers, in their order."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def _tell(self, name: str, *about: object) -> None:
        for observer in self._observers:
            with suppress(Exception):
                getattr(observer, name)(*about)

    def job_started(self, job: Job) -> None:
        self._tell("job_started", job)

    def resumed(self, job: Job, kept: int, pages: int) -> None:
        self._tell("resumed", job, kept, pages)

    def page_started(self, job: Job, index: int, pages: int) -> None:
        self._tell("page_started", job, index, pages)

    def page_read(self, job: Job, read: PageRead, pages: int) -> None:
        self._tell("page_read", job, read, pages)

    def page_limited(self, job: Job, headroom_mb: float, max_pixels: float) -> None:
        self._tell("page_limited", job, headroom_mb, max_pixels)

    def out_of_memory(self, job: Job, index: int, side_px: int, why: str) -> None:
        self._tell("out_of_memory", job, index, side_px, why)

    def output_skipped(self, job: Job, kind: str, why: str) -> None:
        self._tell("output_skipped", job, kind, why)

    def page_failed(self, job: Job, index: int, pages: int, error: FileError) -> None:
        self._tell("page_failed", job, index, pages, error)

    def unexpected(self, job: Job, error: BaseException) -> None:
        self._tell("unexpected", job, error)

    def record_failed(self, job: Job, error: BaseException) -> None:
        self._tell("record_failed", job, error)

    def trouble(self, job: Job, error: BaseException) -> None:
        self._tell("trouble", job, error)

    def archived(self, job: Job) -> None:
        self._tell("archived", job)

    def job_ended(self, ended: JobEnded) -> None:
        self._tell("job_ended", ended)

    def recycled(self, reason: str) -> None:
        self._tell("recycled", reason)


class LogObserver(Observer):
    """The log: one line a job, and a line for each page of a long document at level debug."""

    def __init__(self, log: FilteringBoundLogger, queue_depth: Callable[[], int]) -> None:
        self._log = log
        self._queue_depth = queue_depth
        # What was said of a file that is tried again and again: one cause, one line.
        self._told: dict[str, set[int]] = {}

    def _say(self, job: Job, *cause: str) -> Callable[..., None]:
        """How to say that this version of a file waits for a cause: at `debug` where that was said before."""
        if len(self._told) >= _MAX_TOLD:
            self._told.clear()
        told = self._told.setdefault(job.path, set())
        said = hash((job.stamp, cause))
        if said in told:
            return self._log.debug
        if len(told) >= _MAX_CAUSES:
            told.clear()
        told.add(said)
        return self._log.warning

    def resumed(self, job: Job, kept: int, pages: int) -> None:
        self._log.info("file.resumed", path=job.path, page=kept + 1, pages=pages)

    def page_read(self, job: Job, read: PageRead, pages: int) -> None:
        if pages > 1:
            self._log.debug(
                "page.done",
                path=job.path,
                page=read.page.index + 1,
                pages=pages,
                lines=len(read.page.lines),
                load_ms=milliseconds(read.load_s),
                ocr_ms=milliseconds(read.ocr_s),
            )

    def page_limited(self, job: Job, headroom_mb: float, max_pixels: float) -> None:
        self._log.info(
            "memory.page_limited",
            path=job.path,
            room_mb=round(headroom_mb, 1),
            max_megapixels=round(max_pixels / 1e6, 2),
        )

    def out_of_memory(self, job: Job, index: int, side_px: int, why: str) -> None:
        self._log.warning(
            "ocr.out_of_memory", path=job.path, page=index + 1, max_side_px=side_px, message=why
        )

    def output_skipped(self, job: Job, kind: str, why: str) -> None:
        self._log.warning("output.skipped", path=job.path, format=kind, message=why)

    def page_failed(self, job: Job, index: int, pages: int, error: FileError) -> None:
        self._log.warning(
            "page.failed",
            path=job.path,
            page=index + 1,
            pages=pages,
            code=error.code,
            message=str(error),
            hint=error.hint,
        )

    def unexpected(self, job: Job, error: BaseException) -> None:
        self._log.error("worker.unexpected", path=job.path, exc_info=error)

    def record_failed(self, job: Job, error: BaseException) -> None:
        self._say(job, "sidecar.failed", str(error))("sidecar.failed", path=job.path, message=str(error))

    def trouble(self, job: Job, error: BaseException) -> None:
        message = f"{type(error).__name__}: {error}"
        self._say(job, "worker.trouble", message)("worker.trouble", path=job.path, message=message)

    def archived(self, job: Job) -> None:
        self._log.info("file.archived", path=job.path)

    def recycled(self, reason: str) -> None:
        self._log.info("memory.recycled", reason=reason)

    def job_ended(self, ended: JobEnded) -> None:
        if ended.outcome is not Outcome.RETRY:
            self._told.pop(ended.job.path, None)
        if ended.document is not None:
            self._done(ended, ended.document)
        if ended.outcome is Outcome.PAUSED:
            self._log.info(
                "file.paused",
                path=ended.job.path,
                pages=ended.pages,
                message="other files go first; it goes on at the next page",
            )
        elif isinstance(ended.error, VanishedError):
            self._log.info("file.vanished", path=ended.job.path, message=str(ended.error))
        elif isinstance(ended.error, ChangedError):
            self._log.info("file.changed", path=ended.job.path, message=str(ended.error))
        elif ended.error is not None and ended.outcome is Outcome.RESETTLE:
            self._log.debug("file.settling", path=ended.job.path, message=str(ended.error))
        elif ended.error is not None:
            self._failed(ended, ended.error)

    def _done(self, ended: JobEnded, document: Document) -> None:
        timing, memory = document.timing, document.memory
        self._log.info(
            "ocr.done",
            path=ended.job.path,
            pages=ended.pages,
            lines=ended.lines,
            queued_ms=milliseconds(timing.queued_s),
            load_ms=milliseconds(timing.load_s),
            ocr_ms=milliseconds(timing.ocr_s),
            rss_mb=memory.rss_after_mb,
            rss_delta_mb=round(memory.rss_after_mb - memory.rss_before_mb, 1),
            queue_depth=self._queue_depth(),
            **({"warnings": list(document.warnings)} if document.warnings else {}),
        )

    def _failed(self, ended: JobEnded, error: FileError) -> None:
        final = ended.outcome is Outcome.FAILED
        # Attempts that count come to an end; a cause outside the file may last.
        lasting = not (final or error.retryable)
        say = self._say(ended.job, error.code, str(error)) if lasting else self._log.warning
        say(
            "ocr.failed",
            path=ended.job.path,
            code=error.code,
            attempt=ended.attempt,
            will_retry=not final,
            message=str(error),
            hint=error.hint,
        )
        if final and ended.record is not None:
            self._log.error(
                "file.quarantined",
                path=ended.job.path,
                code=error.code,
                attempts=ended.attempt,
                record=ended.record,
            )
