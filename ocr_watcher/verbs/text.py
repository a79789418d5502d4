"""`text`: read files and give their text, for scripts. Writes nothing but to the stream it is given.

No record, no journal, no lock, no log file: so it works in a folder that may only be read, and beside a
daemon.
"""

from __future__ import annotations

import hashlib
import io
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ocr_watcher import names
from ocr_watcher.document import Document, MemoryUse, Page, PageError, Source, Timing
from ocr_watcher.errors import EngineLostError, FileError, FileTooLargeError
from ocr_watcher.inbox.files import access_error
from ocr_watcher.inputs.table import HEAD_BYTES
from ocr_watcher.job import Stamp
from ocr_watcher.jobs.reader import PageRead
from ocr_watcher.outputs import sidecar
from ocr_watcher.outputs.base import NO_PICTURES, About
from ocr_watcher.outputs.formats import FORMATS
from ocr_watcher.service import assembly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ocr_watcher.config import Settings
    from ocr_watcher.inputs.base import OpenDocument
    from ocr_watcher.service.assembly import MakeEngine

STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Failure:
    """A file that could not be read, or a page of one."""

    file: str
    error: FileError


@dataclass(frozen=True)
class Unreadable:
    """A file of which most of the text was seen but not read, on so many of its pages."""

    file: str
    pages: int


@dataclass
class _Troubles:
    """What is wrong with a file that is read all the same."""

    bad_pages: list[FileError] = field(default_factory=list)
    unreadable: int = 0


def read(
    settings: Settings,
    make_engine: MakeEngine,
    files: Iterable[str],
    file_format: str,
    *,
    standard_input: BinaryIO,
    write: Callable[[bytes], object],
) -> Iterator[Failure | Unreadable]:
    """Read files one after the other and write each page's text, or each file's record, as it is ready.

    `txt` sets pages and files apart by a form feed, as `pdftotext` does; `json` is one record a line; of
    the others one file makes a whole.

    Args:
        settings: the configuration; its limits hold.
        make_engine: loads the engine.
        files: paths, or `STANDARD_INPUT`.
        file_format: what is written, `txt`, `json`, or a key of `outputs.formats.FORMATS` without pictures.
        standard_input: where `STANDARD_INPUT` is read from.
        write: takes the bytes.

    Yields:
        The files, and the pages of a PDF, that could not be read; the others are read all the same. And the
        files of which most of the text was seen but not read.

    Raises:
        ServiceError: the engine cannot be loaded.
    """
    if file_format in FORMATS and FORMATS[file_format].words:
        output = settings.output.model_copy(update={"words": True})
        settings = settings.model_copy(update={"output": output})
    work = assembly.load(settings, make_engine)
    try:
        between = b""
        for name in files:
            troubles = _Troubles()
            try:
                with _opened(name, standard_input, work) as file:
                    words = settings.output.words
                    for piece in _pieces(work, file, name, file_format, troubles, words=words):
                        write(between + piece)
                        between = b"\f" if file_format == "txt" else b""
            except FileError as error:
                yield Failure(name, error)
            except OSError as error:
                if isinstance(error, BrokenPipeError):  # whoever reads our output has had enough
                    raise
                yield Failure(name, access_error(error, names.printable(name)))
            yield from (Failure(name, error) for error in troubles.bad_pages)
            if troubles.unreadable:
                yield Unreadable(name, troubles.unreadable)
    finally:
        work.close()


def _opened(name: str, standard_input: BinaryIO, work: assembly.Loaded) -> BinaryIO:
    if name != STANDARD_INPUT:
        return Path(name).open("rb")
    # A pipe cannot be read twice, as a decoder may want to. One byte too many shows that it is too long.
    data = standard_input.read(HEAD_BYTES)
    at_most = work.reader.max_file_bytes(io.BytesIO(data), work.limits)
    data += standard_input.read(max(0, at_most + 1 - len(data)))
    if len(data) > at_most:
        setting = "image.max_file_mb" if at_most == work.limits.max_file_bytes else "pdf.max_file_mb"
        raise FileTooLargeError(f"standard input has more than {setting}, {at_most / (1 << 20):g} MiB")
    return io.BytesIO(data)


def _pieces(
    work: assembly.Loaded,
    file: BinaryIO,
    name: str,
    file_format: str,
    troubles: _Troubles,
    *,
    words: bool,
) -> Iterator[bytes]:
    """What is to be written of a file; notes in `troubles` what is wrong with its pages."""
    if file_format == "txt":
        for read in _opened_pages(work, file, troubles):
            yield (read.page.text + "\n").encode() if read.page.text else b""
        return
    if file_format != "json":
        yield from _written(work, file, name, file_format, troubles)
        return
    started, rss_before_mb = time.monotonic(), work.memory.rss_mb()
    reads = list(_opened_pages(work, file, troubles))
    figures = work.memory.figures()
    pages = tuple(read.page for read in reads)
    document = Document(
        source=_source(file, name),
        pages=pages,
        engine=work.facts,
        timing=Timing(
            queued_s=0.0,
            load_s=sum(read.load_s for read in reads),
            ocr_s=sum(read.ocr_s for read in reads),
            total_s=time.monotonic() - started,
        ),
        memory=MemoryUse(rss_before_mb, figures.rss_mb, figures.peak_rss_mb),
        warnings=(
            *(("page_limited",) if any(page.limited for page in pages) else ()),
            *(("page_failed",) if troubles.bad_pages else ()),
            *(("unreadable_text",) if troubles.unreadable else ()),
        ),
        settings=work.settings,
    )
    yield from sidecar.document_json(document, words=words)


def _written(
    work: assembly.Loaded, file: BinaryIO, name: str, kind: str, troubles: _Troubles
) -> Iterator[bytes]:
    """A further output, a page at a time."""
    source = _source(file, name)
    opened = work.reader.open(file, work.limits)
    try:
        writer = FORMATS[kind].writer(
            About(source, f"ocr-watcher {work.facts.ocr_watcher}", opened.pages), NO_PICTURES
        )
        yield from writer.begin()
        for read in _pages(work, opened, troubles):
            yield from writer.page(read.page)
        yield from writer.end()
    finally:
        opened.close()


def _source(file: BinaryIO, name: str) -> Source:
    file.seek(0)
    sha256 = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type] # any file in binary mode
    size_bytes = file.seek(0, io.SEEK_END)
    mtime_ns = time.time_ns() if name == STANDARD_INPUT else Path(name).stat().st_mtime_ns
    return Source(Path(name).name, Stamp(size_bytes, mtime_ns), sha256)


def _opened_pages(work: assembly.Loaded, file: BinaryIO, troubles: _Troubles) -> Iterator[PageRead]:
    opened = work.reader.open(file, work.limits)
    try:
        yield from _pages(work, opened, troubles)
    finally:
        opened.close()


def _pages(work: assembly.Loaded, opened: OpenDocument, troubles: _Troubles) -> Iterator[PageRead]:
    for index in range(opened.pages):
        try:
            read = _page(work, opened, index)
        except FileError as error:
            if not opened.has_separate_pages or opened.pages == 1 or isinstance(error, EngineLostError):
                raise
            troubles.bad_pages.append(error)
            read = PageRead(Page(index, 0, 0, 1.0, (), "", error=PageError(error.code, str(error))))
        troubles.unreadable += read.page.unreadable
        yield read
        work.memory.give_back()


def _page(work: assembly.Loaded, opened: OpenDocument, index: int) -> PageRead:
    figures = work.memory.figures()
    limits = replace(
        work.limits,
        max_decode_mb=work.guard.headroom_in_one_mb(figures, work.memory.data_mb()),
        max_decode_mb_ever=work.guard.headroom_ever_mb(),
    )
    return work.reader.page(opened, index, limits)
