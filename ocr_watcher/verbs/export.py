"""`export`: further outputs of finished documents, from their sidecars, without reading them again.

Works beside a running daemon, on documents in an inbox, in a tree of records and in an archive alike. Where
the sidecar has no words, places of words are estimated from the lines.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ocr_watcher import __version__, names
from ocr_watcher.errors import FileError, OutputError
from ocr_watcher.inbox.files import open_file, open_folder
from ocr_watcher.inbox.places import Places
from ocr_watcher.inbox.records import manifest
from ocr_watcher.inputs.table import open_document
from ocr_watcher.job import Stamp
from ocr_watcher.outputs import commit, sidecar
from ocr_watcher.outputs.base import About
from ocr_watcher.outputs.formats import FORMATS
from ocr_watcher.outputs.writing import Writing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from concurrent.futures import Future

    from ocr_watcher.config import Settings
    from ocr_watcher.document import Line, Source
    from ocr_watcher.inputs.base import DecodeLimits, Encoded, Layered, OpenDocument, Picture


# Documents at once, where no pictures are decoded: nearly all of the time is waiting for the disk.
_AT_ONCE = 8


@dataclass
class Exported:
    """How it went: how many documents got their outputs, and why the others did not, by path."""

    done: int = 0
    refused: dict[str, str] = field(default_factory=dict)


def export(settings: Settings, limits: DecodeLimits, kinds: Sequence[str], paths: Iterable[Path]) -> Exported:
    """Make outputs of every document in `paths` (documents, their sidecars, folders of them).

    Args:
        settings: say where the records of a document are.
        limits: what a document may cost, where its picture is needed.
        kinds: formats, keys of `FORMATS`.
        paths: folders stand for everything in and below them that has a sidecar.
    """
    places = Places.of(settings)
    outcome = Exported()
    with ThreadPoolExecutor(1 if any(FORMATS[kind].pictures for kind in kinds) else _AT_ONCE) as pool:
        waiting: deque[tuple[Path, Future[None]]] = deque()
        for record in _records(places, paths, outcome):
            waiting.append((record, pool.submit(_export, record, kinds, places, limits)))
            if len(waiting) > 2 * _AT_ONCE:
                _take(*waiting.popleft(), outcome)
        for record, future in waiting:
            _take(record, future, outcome)
    return outcome


def _take(record: Path, future: Future[None], outcome: Exported) -> None:
    """Wait for a document, and note how it went."""
    try:
        future.result()
    except (FileError, OSError) as error:
        outcome.refused[str(record)] = str(error)
    except (ValueError, KeyError, TypeError):
        outcome.refused[str(record)] = "it is not a sidecar of ocr-watcher, or a damaged one"
    else:
        outcome.done += 1


def _records(places: Places, paths: Iterable[Path], outcome: Exported) -> Iterator[Path]:
    """The sidecar of every document meant."""
    for path in paths:
        if path.is_dir():
            yield from _below(path)
            continue
        record = path
        if not names.is_record(path.name):
            beside = Path(places.with_records(os.path.abspath(path)))
            record = beside.with_name(names.records_of(beside.name).sidecar)
        if os.path.lexists(record):
            yield record
        else:
            outcome.refused[str(path)] = "it has no sidecar: it was not read yet, or failed"


def _below(folder: Path) -> Iterator[Path]:
    for above, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if name.endswith(names.SIDECAR_SUFFIX) and not name.endswith(names.ERROR_SUFFIX):
                yield Path(above, name)


def _export(record: Path, kinds: Sequence[str], places: Places, limits: DecodeLimits) -> None:
    with open_folder(Path(os.path.realpath(record.parent)), ()) as folder:
        with open_file(folder, record.name) as file:
            like = os.fstat(file.fileno())
            text = file.read().decode("utf-8")
        source, pages = sidecar.read(text, words=any(FORMATS[kind].words for kind in kinds))
        document = _document_of(record.name, source)
        commit.check_place(folder, document, kinds)
        with ExitStack() as at_end:
            pictures = _Pictures(_candidates(record, document, places), source, limits, at_end)
            if any(FORMATS[kind].pictures for kind in kinds):
                pictures.open()
            writing = at_end.enter_context(Writing(folder, document, kinds, like))
            # In the text of a document the quotes would be escaped.
            about = About(source, f"ocr-watcher {__version__}", text.count('"index": '))
            writing.write(about, pictures, pages)
            for error in writing.not_possible.values():
                raise OutputError(str(error))
            others = [output for output in manifest(folder, record.name) if output.format not in kinds]
            pieces = sidecar.with_outputs(text, [*others, *writing.finish()])
            commit.commit(folder, document, like, pieces, writing.makings, keep_others=True)


def _document_of(record: str, source: Source) -> str:
    """The document that a sidecar belongs to by its name; a shortened name says it inside."""
    if names.records_of(source.name).sidecar == record:
        return source.name
    return names.document_of(record) or source.name


def _candidates(record: Path, document: str, places: Places) -> list[Path]:
    """Where the document of a sidecar may be."""
    return [Path(beside, document) for beside in places.documents_of(os.path.realpath(record.parent))]


@dataclass
class _Pictures:
    """See `outputs.base.Pictures`: of the document, which is opened where a format needs it."""

    candidates: list[Path]
    source: Source
    limits: DecodeLimits
    at_end: ExitStack
    opened: OpenDocument | None = None

    def open(self) -> None:
        """Open the version of the document that was read. Raises `FileError`."""
        for path in self.candidates:
            try:
                folder = self.at_end.enter_context(open_folder(path.parent, ()))
                file = self.at_end.enter_context(open_file(folder, path.name))
            except FileError:
                continue
            if Stamp.of(os.fstat(file.fileno())) == self.source.stamp:
                self.opened = open_document(file, self.limits)
                self.at_end.callback(self.opened.close)
                return
        raise OutputError(
            "the document is not there, or is another version than the one that was read",
            hint="Formats with pictures need it; txt, hocr, alto and tsv do not.",
        )

    def encoded(self, index: int) -> Encoded | None:
        """See `outputs.base.Pictures`."""
        return None if self.opened is None else self.opened.encoded(index)

    def picture(self, index: int, max_side_px: int) -> Picture:
        """See `outputs.base.Pictures`."""
        if self.opened is None:
            raise OutputError("the document is not there")
        return self.opened.picture(index, replace(self.limits, max_side_px=max_side_px))

    @property
    def are_of_a_pdf(self) -> bool:
        """See `outputs.base.Pictures`."""
        return self.opened is not None and self.opened.layered is not None

    def own_text(self, index: int) -> tuple[Line, ...]:
        """See `outputs.base.Pictures`."""
        return self._layered().own_text(index, self.limits)

    def with_layer(self, layer: bytes, pages: Sequence[int]) -> Iterator[bytes]:
        """See `outputs.base.Pictures`."""
        return self._layered().with_layer(layer, pages, self.limits)

    def _layered(self) -> Layered:
        if self.opened is None or self.opened.layered is None:
            raise OutputError("the document is not there")
        return self.opened.layered
