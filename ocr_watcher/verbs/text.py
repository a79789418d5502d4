"""`text`: read files and give their text, for scripts. Writes nothing but to the stream it is given.

No record, no journal, no lock, no log file: so it works in a folder that may only be read, and beside a
daemon.
"""

from __future__ import annotations

import hashlib
import io
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from ocr_watcher import names
from ocr_watcher.document import Document, MemoryUse, Page, PageError, Source, Timing
from ocr_watcher.errors import EngineLostError, FileError, FileTooLargeError
from ocr_watcher.inbox.files import access_error
from ocr_watcher.inputs.table import HEAD_BYTES
from ocr_watcher.job import Stamp
from ocr_watcher.jobs.reader import PageRead
from ocr_watcher.outputs import sidecar
from ocr_watcher.service import assembly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ocr_watcher.config import Settings
    from ocr_watcher.inputs.base import OpenDocument
    from ocr_watcher.service.assembly import MakeEngine

Format = Literal["txt", "json"]
FORMATS: tuple[Format, ...] = ("txt", "json")
STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Failure:
    """A file that could not be read, or a page of one."""

    file: str
    error: FileError


def read(
    settings: Settings,
    make_engine: MakeEngine,
    files: Iterable[str],
    file_format: Format,
    *,
    standard_input: BinaryIO,
    write: Callable[[bytes], object],
) -> Iterator[Failure]:
    """Read files one after the other and write each page's text, or each file's record, as it is ready.

    `txt` sets pages and files apart by a form feed, as `pdftotext` does; `json` is one record a line.

    Args:
        settings: the configuration; its limits hold.
        make_engine: loads the engine.
        files: paths, or `STANDARD_INPUT`.
        file_format: what is written.
        standard_input: where `STANDARD_INPUT` is read from.
        write: takes the bytes.

    Yields:
        The files, and the pages of a PDF, that could not be read; the others are read all the same.

    Raises:
        ServiceError: the engine cannot be loaded.
    """
    work = assembly.load(settings, make_engine)
    try:
        between = b""
        for name in files:
            bad_pages: list[FileError] = []
            try:
                with _opened(name, standard_input, work) as file:
                    words = settings.output.words
                    for piece in _pieces(work, file, name, file_format, bad_pages, words=words):
                        write(between + piece)
                        between = b"\f" if file_format == "txt" else b""
            except FileError as error:
                yield Failure(name, error)
            except OSError as error:
                if isinstance(error, BrokenPipeError):  # whoever reads our output has had enough
                    raise
                yield Failure(name, access_error(error, names.printable(name)))
            yield from (Failure(name, error) for error in bad_pages)
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
    file_format: Format,
    bad_pages: list[FileError],
    *,
    words: bool,
) -> Iterator[bytes]:
    """What is to be written of a file; adds to `bad_pages` what is wrong with pages that are left out."""
    if file_format == "txt":
        for read in _pages(work, file, bad_pages):
            yield (read.page.text + "\n").encode() if read.page.text else b""
        return
    started, rss_before_mb = time.monotonic(), work.memory.rss_mb()
    reads = list(_pages(work, file, bad_pages))
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
            *(("page_failed",) if bad_pages else ()),
        ),
    )
    yield from sidecar.document_json(document, words=words)


def _source(file: BinaryIO, name: str) -> Source:
    file.seek(0)
    sha256 = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type] # any file in binary mode
    size_bytes = file.seek(0, io.SEEK_END)
    mtime_ns = time.time_ns() if name == STANDARD_INPUT else Path(name).stat().st_mtime_ns
    return Source(Path(name).name, Stamp(size_bytes, mtime_ns), sha256)


def _pages(work: assembly.Loaded, file: BinaryIO, bad_pages: list[FileError]) -> Iterator[PageRead]:
    opened = work.reader.open(file, work.limits)
    try:
        for index in range(opened.pages):
            try:
                read = _page(work, opened, index)
            except FileError as error:
                if not opened.has_separate_pages or opened.pages == 1 or isinstance(error, EngineLostError):
                    raise
                bad_pages.append(error)
                read = PageRead(Page(index, 0, 0, 1.0, (), "", error=PageError(error.code, str(error))))
            yield read
            work.memory.give_back()
    finally:
        opened.close()


def _page(work: assembly.Loaded, opened: OpenDocument, index: int) -> PageRead:
    figures = work.memory.figures()
    limits = replace(
        work.limits,
        max_decode_mb=work.guard.headroom_in_one_mb(figures, work.memory.data_mb()),
        max_decode_mb_ever=work.guard.headroom_ever_mb(),
    )
    return work.reader.page(opened, index, limits)
