"""Totals that outlive the process: how many files ended how, how many pages, how long each step took.

They are kept in the journal's database and change in the transaction that ends an attempt. So each document
counts once, also where the process is killed between a record and that end: the next start ends it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from ocr_watcher.outputs import reading

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ocr_watcher.document import Page, Timing


class Key(NamedTuple):
    """One number: a name, and a label where there are several of the name."""

    name: str
    label: str = ""


Totals: TypeAlias = "Mapping[Key, float]"

FILES: Final = "files"
"""Files by how they ended: `ok`, or the code of the error record."""
PAGES: Final = "pages"
"""Pages by where their text comes from."""
HISTOGRAMS: Final = ("queue_wait", "load", "ocr")
"""Seconds a document: a label is a bucket's upper bound, `sum` or `count`."""
OK: Final = "ok"
SUM: Final = "sum"
COUNT: Final = "count"

BOUNDS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""Upper bounds of the buckets. A receipt takes half a second of OCR, a book half an hour."""
_BEYOND: Final = "+Inf"
BUCKETS: Final = (*(f"{bound:g}" for bound in BOUNDS_S), _BEYOND)
"""Labels of the buckets, in their order."""


def of_done(read_from: Mapping[str, int], timing: Timing) -> Totals:
    """What a document that was read adds; `read_from` counts its pages."""
    added: Counter[Key] = Counter({Key(FILES, OK): 1})
    for where, pages in read_from.items():
        added[Key(PAGES, where)] += pages
    for name, seconds in zip(HISTOGRAMS, (timing.queued_s, timing.load_s, timing.ocr_s), strict=True):
        added.update(_observed(name, max(0.0, seconds)))
    return added


def of_failed(code: str) -> Totals:
    """What a document with an error record adds."""
    return {Key(FILES, code): 1}


def of_record(path: str) -> Totals:
    """What a document adds of which only the sidecar is left: no times. Raises OSError and ValueError."""
    with open(path, "rb") as file:
        return {Key(FILES, OK): 1, **_pages(reading.pages(file))}


def _pages(pages: Iterable[Page]) -> Totals:
    found = Counter(page.read_from for page in pages)
    return {Key(PAGES, where): count for where, count in found.items()}


def bucket_of(seconds: float) -> str:
    """The label of the bucket that a time falls into; buckets are counted each for itself."""
    return BUCKETS[bisect_left(BOUNDS_S, seconds)]


def _observed(name: str, seconds: float) -> dict[Key, float]:
    return {Key(name, bucket_of(seconds)): 1, Key(name, SUM): seconds, Key(name, COUNT): 1}
