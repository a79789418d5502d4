"""The table of formats beside the JSON: a new one is a writer's file, a row here, and a suffix in `names`."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol

from ocr_watcher.outputs.alto import AltoWriter
from ocr_watcher.outputs.hocr import HocrWriter
from ocr_watcher.outputs.overlay import OverlayWriter
from ocr_watcher.outputs.searchable import searchable
from ocr_watcher.outputs.tsv import TsvWriter
from ocr_watcher.outputs.txt import TextWriter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ocr_watcher.outputs.base import About, Pictures, Writer


class _MakeWriter(Protocol):
    def __call__(self, about: About, pictures: Pictures, /) -> Writer: ...


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        writer: Makes its writer for one document.
        words: It says where words are.
        pictures: It shows the pages, so it needs the document itself.
    """

    writer: _MakeWriter
    words: bool = False
    pictures: bool = False


FORMATS: Final[Mapping[str, Format]] = MappingProxyType(
    {
        "txt": Format(TextWriter),
        "hocr": Format(HocrWriter, words=True),
        "alto": Format(AltoWriter, words=True),
        "tsv": Format(TsvWriter, words=True),
        "pdf": Format(searchable, words=True, pictures=True),
        "overlay": Format(OverlayWriter, pictures=True),
    }
)
"""By their names in `output.formats`."""
