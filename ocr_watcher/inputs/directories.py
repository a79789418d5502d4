"""Reads the directories of a TIFF, or of EXIF, which is one too: they are judged before Pillow reads them.

Pillow turns the numbers of a tag into Python objects, up to fifty times as large as they are in the file.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

# Offsets and byte counts of 2^18 strips are half of it, a colour table for 16 bits (3 x 65,536) is a fifth.
# Pillow makes up to 48 bytes of each.
MAX_NUMBERS = 1 << 20
# A page has two fractions, its resolution; a photo's EXIF has a few dozen. Pillow makes 250 bytes of each.
MAX_FRACTIONS = 1 << 16

# Bytes of a value by its type, for the types that Pillow reads.
_UNIT_BYTES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_BYTES: Final = frozenset({1, 2, 7})  # BYTE, ASCII, UNDEFINED: these stay bytes
_FRACTIONS: Final = frozenset({5, 10})
_SIGNED: Final = frozenset({6, 8, 9})
_INTEGERS: Final = frozenset({3, 4, 13, 16}) | _SIGNED
# Pillow follows no offset that is as large.
_FARTHEST: Final = 1 << 63


@dataclass(frozen=True)
class Layout:
    """How the numbers of a TIFF are written: byte order, and whether it is a BigTIFF, of 64-bit offsets."""

    order: Literal["big", "little"]
    big_tiff: bool

    @classmethod
    def of(cls, header: bytes) -> Layout:
        """Read the header as Pillow does, which takes a big-endian BigTIFF for an ordinary TIFF."""
        return cls("big" if header.startswith(b"M") else "little", header[2:3] == b"+")

    @property
    def word_bytes(self) -> int:
        """Bytes of an offset."""
        return 8 if self.big_tiff else 4

    @property
    def count_bytes(self) -> int:
        """Bytes of the number of tags in front of a directory."""
        return 8 if self.big_tiff else 2

    @property
    def entry(self) -> struct.Struct:
        """A tag in a directory: its number, the type of its values, how many, these or where they are."""
        return struct.Struct((">" if self.order == "big" else "<") + ("HHQ8s" if self.big_tiff else "HHL4s"))

    def number(self, data: bytes, at: int, length: int) -> int:
        """Read an unsigned number; what is missing at the end of the file counts as not there."""
        return int.from_bytes(data[at : at + length], self.order)


def offsets_of(data: bytes, at_most: int) -> list[int]:
    """Give the offsets of a TIFF's directories in order, up to one more than `at_most`.

    Ends where they form a loop. The last one may lie behind the end of a file that was cut off. Pillow
    would count them too, but it reads every tag of every page for it: 0.3 ms a page.
    """
    layout = Layout.of(data)
    word_bytes, count_bytes, entry_bytes = layout.word_bytes, layout.count_bytes, layout.entry.size
    link = word_bytes
    found: dict[int, None] = {}
    while (at := layout.number(data, link, word_bytes)) and at not in found and len(found) <= at_most:
        found[at] = None
        link = at + count_bytes + layout.number(data, at, count_bytes) * entry_bytes
    return list(found)


class Tag(NamedTuple):
    """What a directory says about a tag: type of its values, how many, and where in the file these are."""

    kind: int
    values: int
    at: int


@dataclass(frozen=True)
class Directory:
    """The tags that Pillow reads of a directory; the values were not looked at.

    Attributes:
        data: The file.
        layout: How it is written.
        tags: By their numbers.
        entries: How many tags are in the file, whether or not they are read.
    """

    data: bytes
    layout: Layout
    tags: Mapping[int, Tag]
    entries: int

    @classmethod
    def read(cls, data: bytes, at: int, layout: Layout) -> Directory:
        """Read the directory at an offset, which may lie anywhere; its end may be missing.

        As Pillow does, it takes the first of several tags with one number, and leaves out those of unknown
        type, without values, and with which the values are together more bytes than the file.
        """
        count_bytes, word_bytes, entry = layout.count_bytes, layout.word_bytes, layout.entry
        start = at + count_bytes
        there = min(layout.number(data, at, count_bytes), max(0, len(data) - start) // entry.size)
        tags: dict[int, Tag] = {}
        left_bytes = len(data)
        fields = memoryview(data)[start : start + there * entry.size]
        for index, (tag, kind, count, value) in enumerate(entry.iter_unpack(fields), 1):
            size_bytes = _UNIT_BYTES.get(kind, 0) * count
            if tag in tags or not size_bytes:
                continue
            values_at = start + index * entry.size - word_bytes
            if size_bytes > word_bytes:
                values_at = int.from_bytes(value, layout.order)
                if values_at >= _FARTHEST:
                    continue
                left_bytes -= size_bytes
                if left_bytes < 0:
                    continue
            tags[tag] = Tag(kind, count, values_at)
        return cls(data, layout, tags, there)

    @property
    def numbers(self) -> int:
        """How many numbers Pillow makes objects of when it reads all tags, fractions not counted."""
        return sum(tag.values for tag in self.tags.values() if tag.kind not in _BYTES | _FRACTIONS)

    @property
    def fractions(self) -> int:
        """How many fractions Pillow makes objects of when it reads all tags."""
        return sum(tag.values for tag in self.tags.values() if tag.kind in _FRACTIONS)

    def count(self, number: int) -> int:
        """How many values a tag has; 0 without it."""
        tag = self.tags.get(number)
        return tag.values if tag is not None else 0

    def integer(self, number: int) -> int | None:
        """Give the first value of a tag; None where there is none, or it is no integer."""
        tag = self.tags.get(number)
        if tag is None or tag.kind not in _INTEGERS:
            return None
        value = self.data[tag.at : tag.at + _UNIT_BYTES[tag.kind]]
        return int.from_bytes(value, self.layout.order, signed=tag.kind in _SIGNED)
