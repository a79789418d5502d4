"""Writes the outputs of one document, all formats in one pass; `commit` puts them in place."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from ocr_watcher.errors import FileError, OcrWatcherError, OutputNotPossibleError
from ocr_watcher.outputs import commit
from ocr_watcher.outputs.formats import FORMATS

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping

    from ocr_watcher.document import Output, Page
    from ocr_watcher.outputs.base import About, Pictures
    from ocr_watcher.outputs.commit import Making


class Writing:
    """Outputs in the making; those that are not in place when a `with` block ends are removed.

    Attributes:
        not_possible: Why there is no output of a format, by format.
    """

    def __init__(self, folder: int, document: str, kinds: Iterable[str], like: os.stat_result) -> None:
        """Begin an output of each kind, a key of `FORMATS`; `commit.begin` says what the others are."""
        self.not_possible: dict[str, OcrWatcherError] = {}
        self._makings: dict[str, Making] = {}
        with ExitStack() as at_end:
            for kind in kinds:
                self._makings[kind] = commit.begin(folder, document, kind, like)
                at_end.callback(self._makings[kind].discard)
            self._at_end = at_end.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._at_end.close()

    @property
    def makings(self) -> Mapping[str, Making]:
        """For `commit.commit`."""
        return self._makings

    def write(
        self,
        about: About,
        pictures: Pictures,
        pages: Iterable[Page],
        *,
        before_page: Callable[[Page], None] = lambda _page: None,
    ) -> None:
        """Write everything. Raises `OutputError`, what `pictures` raise, and what `before_page` does."""
        if not self._makings:
            return
        writers = {kind: FORMATS[kind].writer(about, pictures) for kind in self._makings}
        for kind, writer in writers.items():
            self._add(kind, writer.begin())
        for page in pages:
            before_page(page)
            for kind in list(self._makings):
                self._add(kind, writers[kind].page(page))
        for kind in list(self._makings):
            self._add(kind, writers[kind].end())

    def _add(self, kind: str, pieces: Iterable[bytes]) -> None:
        """Add to an output what its writer generates."""
        try:
            self._makings[kind].write(pieces)
        except OutputNotPossibleError as error:
            self._give_up(kind, error)
        except FileError as error:
            if error.transient:
                raise
            # It was read, but cannot be shown at the size that this format wants.
            self._give_up(kind, error)

    def _give_up(self, kind: str, error: OcrWatcherError) -> None:
        self.not_possible[kind] = error
        self._makings.pop(kind).discard()

    def finish(self) -> tuple[Output, ...]:
        """Bring all of it to the disk. Raises `OutputError`."""
        return tuple(commit.finish(kind, making) for kind, making in self._makings.items())
