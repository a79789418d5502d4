"""The pages of one document as they are read.

They are kept in the journal's database, so that a restart goes on at the next one. A document of one page
stays in memory: there is nothing to go on with. So does a page that the database would not take; it is lost
with the process, and nothing else.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from ocr_watcher.errors import HeavyPageError, SlowPageError, StateError
from ocr_watcher.jobs.reader import PageRead
from ocr_watcher.outputs.sidecar import page_dict, page_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocr_watcher.document import Page, PageError
    from ocr_watcher.jobs.journal import Journal

_COSTLY = frozenset({SlowPageError.code, HeavyPageError.code})


class Pages:
    """A sequence of pages that is added to at its end, and can be gone through again and again."""

    def __init__(self, journal: Journal, path: str, key: str, *, total: int) -> None:
        """`key` says by which content and settings; `total` is how many pages the document has."""
        self._journal = journal
        self._path = path
        self._key = key
        self._total = total
        self._held: dict[int, Page] = {}
        self._count = 0
        self.lines = 0
        self.load_s = 0.0
        self.ocr_s = 0.0
        self.limited = False
        self.failed = 0
        self.costly = 0  # that took too much time or memory, in a row up to the last
        self.read_from: Counter[str] = Counter()
        self.first_error: PageError | None = None
        kept = journal.pages(path, key) if total > 1 else 0
        for index in range(min(kept, total)):
            self._note(self._kept(index))

    def __len__(self) -> int:
        """How many there are; this is the index of the next one."""
        return self._count

    def __iter__(self) -> Iterator[Page]:
        """Go through them. Raises `StateError` where one cannot be read back."""
        for index in range(self._count):
            held = self._held.get(index)
            yield held if held is not None else self._kept(index).page

    def add(self, read: PageRead) -> None:
        """Keep the next page."""
        content = json.dumps(
            {
                "page": page_dict(read.page),
                "limited": read.page.limited,
                "load_s": read.load_s,
                "ocr_s": read.ocr_s,
            }
        ).encode()
        kept = self._total > 1 and self._journal.keep_page(self._path, self._key, read.page.index, content)
        if not kept:
            self._held[read.page.index] = read.page
        self._note(read)

    def _note(self, read: PageRead) -> None:
        self._count += 1
        self.lines += len(read.page.lines)
        self.read_from[read.page.read_from] += 1
        self.load_s += read.load_s
        self.ocr_s += read.ocr_s
        self.limited = self.limited or read.page.limited
        error = read.page.error
        self.failed += error is not None
        self.first_error = self.first_error or error
        self.costly = self.costly + 1 if error is not None and error.code in _COSTLY else 0

    def _kept(self, index: int) -> PageRead:
        content = self._journal.page(self._path, self._key, index)
        try:
            fields = json.loads(content or b"")
            page = replace(page_of(fields["page"]), limited=bool(fields["limited"]))
            return PageRead(page, float(fields["load_s"]), float(fields["ocr_s"]))
        except (ValueError, KeyError, TypeError) as error:
            self._journal.forget_pages(self._path)
            raise StateError(
                f"page {index + 1} was kept in the state folder and cannot be read back"
            ) from error
