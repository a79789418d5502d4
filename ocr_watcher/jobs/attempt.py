"""One try at one job: journal, pages, a verdict, one commit.

Nothing that a file can cause escapes: whatever is raised becomes an outcome. Between two pages a stop or a
recycle may end the attempt; the pages that were read are kept, and the next attempt goes on after them.
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ocr_watcher import names
from ocr_watcher.document import Document, MemoryUse, Page, PageError, Source, Timing
from ocr_watcher.errors import (
    ChangedError,
    EngineCrashedError,
    EngineError,
    EngineLostError,
    FileError,
    JobTimeoutError,
    NoPageError,
    OutputError,
    ShortOfMemoryError,
    SlowPageError,
    VanishedError,
)
from ocr_watcher.inbox import records, ticket
from ocr_watcher.inbox.files import access_error, open_file, open_folder, stat_file
from ocr_watcher.inbox.places import Places
from ocr_watcher.inbox.records import RecordState
from ocr_watcher.job import Outcome, Stamp
from ocr_watcher.jobs import totals
from ocr_watcher.jobs.observers import JobEnded
from ocr_watcher.jobs.pages import Pages
from ocr_watcher.jobs.reader import PageRead
from ocr_watcher.jobs.verdict import DONE, Count, Interruption, Record, Verdict, judge
from ocr_watcher.outputs import archive, commit, sidecar
from ocr_watcher.outputs.base import About
from ocr_watcher.outputs.formats import FORMATS
from ocr_watcher.outputs.preview import Previews
from ocr_watcher.outputs.writing import Writing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from io import BufferedReader
    from pathlib import Path

    from ocr_watcher.document import EngineFacts, Line
    from ocr_watcher.inputs.base import DecodeLimits, Encoded, OpenDocument, Picture
    from ocr_watcher.job import Job
    from ocr_watcher.jobs.journal import Attempts, Journal
    from ocr_watcher.jobs.observers import Observer
    from ocr_watcher.jobs.reader import Reader
    from ocr_watcher.jobs.supervision import Supervision
    from ocr_watcher.jobs.totals import Totals
    from ocr_watcher.memory import Guard, Memory

# Whatever a file can cause to be raised. A library that calls for an exit ends the file, not the thread. Not
# KeyboardInterrupt: that is somebody who wants the process to end.
_ANYTHING = (Exception, SystemExit, GeneratorExit)
# Nothing could be done and nothing is to be held against the file: the next attempt may find it otherwise.
_LATER = Verdict(Outcome.RETRY, Count.FORGIVE, Record.NONE)
# What an attempt that used up the last try was, by the journal's code.
_LAST_ERRORS: dict[str, type[FileError]] = {error.code: error for error in (EngineError, JobTimeoutError)}
# However little memory is left, a page is tried at this size before it is given up: the prediction is
# an upper estimate.
_LEAST_PIXELS = 256 * 256
# A restart costs about three seconds; for less than this it brings too little.
_WORTH_A_RECYCLE_MB = 100
# A long document lets others go first after this time (s): long enough that opening it again costs little,
# short enough that somebody who drops a receipt beside a thousand pages sees it read.
_TURN_S = 30.0
# The same where somebody waits for an answer by HTTP.
_SHORT_TURN_S = 3.0
# After so many pages in a row that took too much time or memory, the rest of the document is not tried: two
# thousand such pages would take a day.
_COSTLY_PAGES = 5


@dataclass(frozen=True)
class Tools:
    """What attempts work with.

    `limits` are those of the settings; `settings_key` names everything that decides how a page is read;
    `page_mb` is `Engine.page_mb`; `others_wait` tells whether another job is queued, `somebody_hurries`
    whether one of them should not wait for this one. `places` says where records and finished documents go.
    `formats` are the outputs beside the JSON, keys of `outputs.formats.FORMATS`; `words` says that the JSON
    has words; `settings` is `Document.settings`. What is in `spool` says in its ticket what is wanted of it
    instead, what is in `bridge_spool` may do so; `spool` has previews, and with `shows_folders` all others
    have them too.
    """

    reader: Reader
    limits: DecodeLimits
    page_mb: Callable[[], tuple[float, float]]
    engine: EngineFacts
    settings_key: str
    max_attempts: int
    journal: Journal
    memory: Memory
    guard: Guard
    supervision: Supervision
    observer: Observer
    others_wait: Callable[[], bool]
    somebody_hurries: Callable[[Job], bool] = lambda _job: False
    places: Places = field(default_factory=Places)
    formats: tuple[str, ...] = ()
    words: bool = False
    settings: str = ""
    spool: Path | None = None
    bridge_spool: Path | None = None
    shows_folders: bool = False
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True)
class _Folders:
    """Descriptors of the folders of a document and of its records, which often is the same."""

    document: int
    records: int


@dataclass(frozen=True)
class _Pictures:
    """See `outputs.base.Pictures`."""

    opened: OpenDocument
    limits: Callable[[], DecodeLimits]

    def encoded(self, index: int) -> Encoded | None:
        return self.opened.encoded(index)

    def picture(self, index: int, max_side_px: int) -> Picture:
        return self.opened.picture(index, replace(self.limits(), max_side_px=max_side_px))

    @property
    def are_of_a_pdf(self) -> bool:
        return self.opened.layered is not None

    def own_text(self, index: int) -> tuple[Line, ...]:
        assert self.opened.layered is not None  # noqa: S101 - asked before
        return self.opened.layered.own_text(index, self.limits())

    def with_layer(self, layer: bytes, pages: Sequence[int]) -> Iterator[bytes]:
        assert self.opened.layered is not None  # noqa: S101 - asked before
        return self.opened.layered.with_layer(layer, pages, self.limits())


class Attempt:
    """One try at one job; `run` is called once."""

    def __init__(self, job: Job, tools: Tools) -> None:
        self._job = job
        self._tools = tools
        self._started = 0.0
        self._rss_before_mb = 0.0
        self._number = 1
        self._used_up: FileError | None = None
        self._sha256: str | None = None
        self._pages: Pages | None = None
        self._document: Document | None = None
        self._is_committed = False
        self._record: str | None = None

    def run(self) -> Outcome:
        """Take the file from the queue to its record."""
        job, tools = self._job, self._tools
        verdict, error = _LATER, None
        try:
            tools.observer.job_started(job)
            tools.observer.page_started(job, 0, 0)
            verdict, error = self._try()
            self._settle(verdict, error)
        except KeyboardInterrupt:  # somebody wants the process to end now: not the file's fault
            tools.journal.forgive(job.path)
            raise
        except _ANYTHING as trouble:
            # Not even the error could be dealt with. The file is as it was, so it is tried again.
            tools.observer.trouble(job, trouble)
            tools.journal.forgive(job.path)
            verdict = _LATER
        self._look_at_memory()
        tools.observer.job_ended(
            JobEnded(
                job,
                self._number,
                verdict.outcome,
                self._document if self._is_committed else None,
                len(self._pages) if self._pages is not None else 0,
                self._pages.lines if self._pages is not None else 0,
                error if isinstance(error, FileError) else None,
                self._record,
            )
        )
        return verdict.outcome

    # -- trying --------------------------------------------------------------------------------

    def _try(self) -> tuple[Verdict, FileError | Interruption | None]:
        """Read and write; every error there is comes back as a verdict."""
        job, tools = self._job, self._tools
        self._started = tools.clock()
        self._rss_before_mb = tools.memory.rss_mb()
        known = tools.journal.begin(job.path, job.stamp)
        self._number = known.count + 1
        try:
            with (
                open_folder(job.root, job.parts) as folder,
                tools.places.open_records(job.root, job.parts, folder) as place,
            ):
                return self._in_folders(_Folders(folder, place), known)
        except _ANYTHING as raised:
            error = self._as_file_error(raised)
            verdict = self._judge(error)
            # Without its folder the file can have no record, so it is not given up.
            return (_LATER if verdict.outcome is Outcome.FAILED else verdict), error

    def _in_folders(
        self, folders: _Folders, known: Attempts
    ) -> tuple[Verdict, FileError | Interruption | None]:
        error: FileError | Interruption
        try:
            if not self._is_recorded(folders):
                self._check_attempts(known)
                self._read_and_write(folders)
            self._archive(folders)
        except Interruption as interruption:
            error = interruption
        except _ANYTHING as raised:
            error = self._as_file_error(raised)
        else:
            return DONE, None
        verdict = self._judge(error)
        if isinstance(error, FileError) and verdict.record in (Record.PASSING_ERROR, Record.FINAL_ERROR):
            verdict, error = self._write_error(folders, error, verdict)
        return verdict, error

    def _judge(self, error: FileError | Interruption) -> Verdict:
        return judge(
            error,
            attempt=self._number,
            max_attempts=self._tools.max_attempts,
            settled=self._job.settled,
        )

    def _check_attempts(self, known: Attempts) -> None:
        """Raise what used up the last try, where every try is used up.

        Where pages are kept, that was the next page: `_read` looks whether the others can do without it.
        """
        if known.count >= self._tools.max_attempts:
            self._number = known.count
            cause = _LAST_ERRORS.get(known.code, EngineCrashedError)
            self._used_up = cause(known.message or f"the process ended {known.count} times in this file")
            if not self._tools.journal.keeps_pages(self._job.path):
                raise self._used_up

    def _as_file_error(self, raised: BaseException) -> FileError:
        """The error of the file that stands for whatever was raised."""
        self._recycle_after(raised)
        match raised:
            case FileError():
                return raised
            case OSError():
                return access_error(raised, names.printable(self._job.name))
            case MemoryError():
                return ShortOfMemoryError("there was no memory to work with")
            case _:  # a bug of ours must not take the other files down
                self._tools.observer.unexpected(self._job, raised)
                return EngineError(f"unexpected {type(raised).__name__}: {raised}")

    def _recycle_after(self, raised: BaseException) -> None:
        """Ask for a fresh process where only that can read the file."""
        tools = self._tools
        if isinstance(raised, EngineLostError):
            self._recycle(str(raised))
        elif isinstance(raised, ShortOfMemoryError):
            rss_mb = tools.memory.rss_mb()
            if tools.guard.recycle_gains_mb(rss_mb) > _WORTH_A_RECYCLE_MB:
                self._recycle(f"RSS {rss_mb:.0f} MiB leaves too little for a page")

    # -- reading -------------------------------------------------------------------------------

    def _read_and_write(self, folders: _Folders) -> None:
        job = self._job
        formats, words = self._wanted(folders.document)
        commit.check_place(folders.records, job.name, formats)  # before the work, not after it
        with ExitStack() as held:
            with open_file(folders.document, job.name) as file:
                like = os.fstat(file.fileno())
                if Stamp.of(like) != job.stamp:
                    raise ChangedError("it changed while it was queued: looking at it again")
                opened = self._open(file)
                try:
                    pages = self._read(opened)
                    writing = held.enter_context(Writing(folders.records, job.name, formats, like))
                    self._write(writing, pages, opened)
                finally:
                    opened.close()
            self._check_unchanged(folders.document, like)
            self._document = self._describe(pages, writing)
            pieces = sidecar.document_json(self._document, words=words)
            commit.commit(folders.records, job.name, like, pieces, writing.makings)
        self._is_committed = True
        if pages.first_unreadable is not None:
            self._tools.observer.text_unreadable(job, pages.first_unreadable, pages.unreadable, len(pages))

    def _wanted(self, folder: int) -> tuple[tuple[str, ...], bool]:
        """Outputs beside the JSON, and whether that has words: as configured, or as asked for by HTTP.

        The server makes what needs the record alone, when somebody asks for it.
        """
        job, tools = self._job, self._tools
        in_a_spool = job.root in (tools.spool, tools.bridge_spool)
        asked = ticket.of_document(job.name, folder=folder) if in_a_spool else None
        if asked is None and job.root != tools.spool:
            return tools.formats, tools.words
        kinds = [kind for kind in (asked.formats if asked is not None else ()) if kind in FORMATS]
        made = tuple(kind for kind in kinds if FORMATS[kind].pictures)
        return made, tools.words or any(FORMATS[kind].words for kind in kinds)

    def _check_unchanged(self, folder: int, like: os.stat_result) -> None:
        job = self._job
        status = stat_file(folder, job.name)
        if status is None:
            raise VanishedError(f"{names.printable(job.name)} was removed while it was being read")
        if (status.st_dev, status.st_ino, Stamp.of(status)) != (like.st_dev, like.st_ino, job.stamp):
            raise ChangedError("it changed while it was read: reading it again")

    def _open(self, file: BufferedReader) -> OpenDocument:
        tools = self._tools
        if self._job.stamp.size_bytes <= tools.reader.max_file_bytes(file, tools.limits):
            file.seek(0)
            self._sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return tools.reader.open(file, tools.limits)

    def _read(self, opened: OpenDocument) -> Pages:
        """Every page of a document, beginning with the first that was not read before.

        Raises `NoPageError` where none can be read, and what ends the attempt.
        """
        job, tools = self._job, self._tools
        key = f"{self._sha256}:{tools.settings_key}"
        pages = self._pages = Pages(tools.journal, job.path, key, total=opened.pages)
        first = len(pages)
        if self._used_up is not None and first == 0:
            raise self._used_up  # those that were kept are of another version
        if first:
            tools.observer.resumed(job, first, opened.pages)
        previews = self._previews(opened)
        for index in range(first, opened.pages):
            if index > first:
                self._between_pages()
            tools.observer.page_started(job, index, opened.pages)
            self._read_page(opened, index, pages, previews)
        if pages.first_error is not None and pages.failed == len(pages):
            raise NoPageError(
                f"none of {len(pages)} pages can be read: {pages.first_error.message}",
                code=pages.first_error.code,
            )
        return pages

    def _previews(self, opened: OpenDocument) -> Previews | None:
        """Where the looks of its pages go, for the server's page; None where nobody will look."""
        job, spool = self._job, self._tools.spool
        if spool is None or not (job.root == spool or self._tools.shows_folders):
            return None
        if opened.pages == 1 and os.path.splitext(job.name)[1].lower() in names.SHOWN_BY_BROWSERS:
            return None
        own = names.previews_of(job.path, job.stamp, in_spool=job.root == spool)
        return Previews(spool / names.PREVIEWS / own)

    def _read_page(self, opened: OpenDocument, index: int, pages: Pages, previews: Previews | None) -> None:
        job, tools = self._job, self._tools
        try:
            self._check_page(pages)
            read = tools.reader.page(
                opened,
                index,
                self._limits(),
                shrunk=lambda side_px, why: tools.observer.out_of_memory(job, index, side_px, why),
                previews=previews,
            )
        except _ANYTHING as raised:
            if isinstance(raised, Interruption):
                raise
            error = self._as_file_error(raised)
            if not self._spares(opened, error):
                if error is raised:
                    raise
                raise error from raised
            tools.observer.page_failed(job, index, opened.pages, error)
            read = PageRead(Page(index, 0, 0, 1.0, (), "", error=PageError(error.code, str(error))))
        else:
            tools.observer.page_read(job, read, opened.pages)
        pages.add(read)
        self._used_up = None
        if opened.pages > 1:
            self._number = 1  # attempts count for the page at hand

    def _check_page(self, pages: Pages) -> None:
        """Raise what is known of the next page before it is tried."""
        if self._used_up is not None:
            raise self._used_up
        if pages.costly >= _COSTLY_PAGES:
            raise SlowPageError(
                f"not tried, because each of the {pages.costly} pages before it took too much"
            )

    def _spares(self, opened: OpenDocument, error: FileError) -> bool:
        """Whether the other pages are read although this one cannot be."""
        last_try = self._number >= self._tools.max_attempts
        return (
            opened.has_separate_pages
            and opened.pages > 1
            and self._job.settled  # otherwise it may not be complete
            and not error.transient
            and not isinstance(error, EngineLostError)
            and (last_try or not error.retryable)
        )

    def _between_pages(self) -> None:
        """End here, with what was read kept, where the service stops, is to be recycled, or others wait."""
        tools = self._tools
        tools.memory.give_back()
        reason = tools.guard.after_page(tools.memory.rss_mb())
        if reason:
            self._recycle(reason)
        if tools.supervision.stop_requested or tools.supervision.recycle_reason:
            raise Interruption(Outcome.BROKEN_OFF)
        worked_s = tools.clock() - self._started
        hurry = worked_s > _SHORT_TURN_S and tools.somebody_hurries(self._job)
        if hurry or (worked_s > _TURN_S and tools.others_wait()):
            raise Interruption(Outcome.PAUSED)

    # -- writing -------------------------------------------------------------------------------

    def _write(self, writing: Writing, pages: Pages, opened: OpenDocument) -> None:
        """Write all formats, and say which are not possible."""
        job, tools = self._job, self._tools

        def before_page(page: Page) -> None:
            # Only for a stop: what is read is kept, but a document that gave way here would be written anew
            # from its first page each time.
            if tools.supervision.stop_requested:
                raise Interruption(Outcome.BROKEN_OFF)
            tools.observer.page_started(job, page.index, opened.pages)

        about = About(self._source(), f"ocr-watcher {tools.engine.ocr_watcher}", len(pages))
        pictures = _Pictures(opened, self._decode_limits)
        writing.write(about, pictures, pages, before_page=before_page)
        for kind, error in writing.not_possible.items():
            tools.observer.output_skipped(job, kind, str(error))

    def _is_recorded(self, folders: _Folders) -> bool:
        """Whether only the way into the archive is left to do: another attempt ended before it or on it."""
        job, tools = self._job, self._tools
        if tools.places.archive is None:
            return False
        if records.lookup(job.name, job.stamp, folder=folders.records) is RecordState.DONE:
            return True
        if folders.records != folders.document:
            return False
        try:
            with tools.places.open_archive(job.root, job.parts, folders.document) as target:
                return target is not None and archive.has_record(
                    target, job.name, job.stamp, self._digest(folders)
                )
        except FileError:  # then it is read again, which does no harm
            return False

    def _archive(self, folders: _Folders) -> None:
        """Move the document into the archive, where there is one.

        Raises `ChangedError`, `VanishedError` or `OutputError`, which leave the record as it is.
        """
        job, tools = self._job, self._tools
        try:
            with tools.places.open_archive(job.root, job.parts, folders.document) as target:
                if target is None:
                    return
                finished = archive.Finished(
                    job.name,
                    job.stamp,
                    self._digest(folders),
                    folders.document,
                    with_records=folders.records == folders.document,
                )
                archive.move(finished, target)
        except (ChangedError, VanishedError, OutputError):
            raise
        except _ANYTHING as raised:
            raise OutputError(f"cannot archive it: {raised or type(raised).__name__}") from raised
        tools.observer.archived(job)

    def _digest(self, folders: _Folders) -> str:
        if self._sha256 is None:
            with open_file(folders.document, self._job.name) as file:
                self._sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return self._sha256

    def _decode_limits(self) -> DecodeLimits:
        """The limits of the settings, narrowed to the memory that a decoder may have now."""
        tools = self._tools
        return replace(
            tools.limits,
            # A decoder asks for its picture in one piece, and not every one says when it was refused.
            max_decode_mb=tools.guard.headroom_in_one_mb(tools.memory.figures(), tools.memory.data_mb()),
            max_decode_mb_ever=tools.guard.headroom_ever_mb(),
        )

    def _limits(self) -> DecodeLimits:
        """The limits of the settings, narrowed to the memory that is left: predicted, not tried.

        Raises `Interruption` where a fresh process would have more of it: then the page should not be made
        smaller here.
        """
        tools = self._tools
        figures = tools.memory.figures()
        headroom_mb = tools.guard.headroom_mb(figures)
        base_mb, per_megapixel_mb = tools.page_mb()
        limits = self._decode_limits()
        if not per_megapixel_mb:
            return limits
        pixels = (headroom_mb - base_mb) / per_megapixel_mb * 1e6
        if pixels >= limits.max_side_px**2:
            return limits
        if tools.guard.recycle_gains_mb(figures.rss_mb) > _WORTH_A_RECYCLE_MB:
            self._recycle(f"RSS {figures.rss_mb:.0f} MiB leaves too little of memory.rss_limit_mb for a page")
            raise Interruption(Outcome.BROKEN_OFF)
        pixels = max(pixels, _LEAST_PIXELS)
        tools.observer.page_limited(self._job, headroom_mb, pixels)
        return replace(limits, max_page_pixels=pixels)

    def _recycle(self, reason: str) -> None:
        """Ask for a fresh process, and tell so once."""
        if not self._tools.supervision.recycle_reason:
            self._tools.supervision.request_recycle(reason)
            self._tools.observer.recycled(reason)

    # -- ending --------------------------------------------------------------------------------

    def _source(self) -> Source:
        return Source(self._job.name, self._job.stamp, self._sha256)

    def _describe(self, pages: Pages, writing: Writing) -> Document:
        warnings = {
            "page_limited": pages.limited,
            "page_failed": bool(pages.failed),
            "unreadable_text": bool(pages.unreadable),
            "output_skipped": bool(writing.not_possible),
        }
        memory = self._tools.memory.figures()
        return Document(
            source=self._source(),
            pages=pages,
            engine=self._tools.engine,
            timing=Timing(
                queued_s=self._started - self._job.queued_at,
                load_s=pages.load_s,
                ocr_s=pages.ocr_s,
                total_s=self._tools.clock() - self._job.queued_at,
            ),
            memory=MemoryUse(self._rss_before_mb, memory.rss_mb, memory.peak_rss_mb),
            warnings=tuple(code for code, holds in warnings.items() if holds),
            outputs=writing.finish(),
            settings=self._tools.settings,
        )

    def _write_error(
        self, folders: _Folders, error: FileError, verdict: Verdict
    ) -> tuple[Verdict, FileError]:
        """Write the error record; where that fails, the same error is told at the next try."""
        job = self._job
        try:
            like = stat_file(folders.document, job.name)
            if like is None:
                gone = VanishedError(f"{names.printable(job.name)} was removed")
                return self._judge(gone), gone
            record = sidecar.error_json(
                self._source(), error, attempts=self._number, will_retry=error.transient
            )
            commit.commit_error(folders.records, job.name, like, record)
        except _ANYTHING as trouble:  # not an error while recording an error either
            # This is not the file's fault: the next try ends in the same error, however many there are.
            self._tools.journal.failed(job.path, error.code, str(error))
            self._tools.observer.record_failed(job, trouble)
            return _LATER, error
        self._record = names.records_of(job.name).error
        return verdict, error

    def _settle(self, verdict: Verdict, error: FileError | Interruption | None) -> None:
        """Tell the journal."""
        journal, path = self._tools.journal, self._job.path
        match verdict.count:
            case Count.FORGET:
                journal.end(path, self._counted(verdict, error))
            case Count.FORGIVE:
                journal.forgive(path)
            case Count.KEEP if isinstance(error, FileError):
                journal.failed(path, error.code, str(error))

    def _counted(self, verdict: Verdict, error: FileError | Interruption | None) -> Totals:
        """What this end adds to the totals."""
        if verdict.outcome is Outcome.FAILED and isinstance(error, FileError):
            return totals.of_failed(error.code)
        if verdict.outcome is Outcome.DONE and self._document is not None and self._pages is not None:
            return totals.of_done(self._pages.read_from, self._document.timing)
        return {}

    def _look_at_memory(self) -> None:
        """After the job: give memory back, and see whether the process should start afresh."""
        tools = self._tools
        try:
            tools.memory.give_back()
            reason = tools.guard.after_job(tools.memory.rss_mb())
        except Exception as trouble:  # noqa: BLE001 - no descriptor or no memory left: the next job looks again
            tools.observer.trouble(self._job, trouble)
            return
        if reason:
            self._recycle(reason)
