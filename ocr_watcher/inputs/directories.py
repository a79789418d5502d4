"""Reads the directories of a TIFF, or of EXIF, which is one too: they are judged before Pillow reads them.

Pillow turns the numbers of a tag into Python objects, up to fifty times as large as they are in the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Offsets and byte counts of 2^18 strips are half of it, a colour table for 16 bits (3 x 65,536) is a fifth.
# Pillow makes up to 48 bytes of each.
MAX_NUMBERS = 1 << 20
# A page has two fractions, its resolution; a photo's EXIF has a few dozen. Pillow makes 250 bytes of each.
MAX_FRACTIONS = 1 << 16

_BYTES: Final = frozenset({1, 2, 7})  # BYTE, ASCII, UNDEFINED: these stay bytes
_FRACTIONS: Final = frozenset({5, 10})
# Bytes of a value by its type, for the types that Pillow reads.
_UNIT: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_SIGNED: Final = frozenset({6, 8, 9})
_INTEGERS: Final = frozenset({3, 4, 13, 16}) | _SIGNED
_UNITS: Final = np.array([_UNIT.get(kind, 0) for kind in range(17)], np.int64)
_IS_BYTES: Final = np.array([kind in _BYTES for kind in range(17)])
_IS_FRACTIONS: Final = np.array([kind in _FRACTIONS for kind in range(17)])


@dataclass(frozen=True)
class ByteOrder:
    """How the numbers of a file are written: byte order, and whether it is a BigTIFF, of 64-bit offsets."""

    name: Literal["big", "little"]
    big_tiff: bool

    @classmethod
    def of(cls, header: bytes) -> ByteOrder:
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
    def entry_bytes(self) -> int:
        """Bytes of a tag in a directory."""
        return 20 if self.big_tiff else 12

    def number(self, data: bytes, at: int, length: int) -> int:
        """Read an unsigned number; what is missing at the end of the file counts as not there."""
        return int.from_bytes(data[at : at + length], self.name)

    def dtype(self) -> np.dtype[np.void]:
        """Layout of a tag in a directory."""
        mark, word = (">" if self.name == "big" else "<"), self.word_bytes
        return np.dtype(
            [("tag", f"{mark}u2"), ("type", f"{mark}u2"), ("count", f"{mark}u{word}"), ("value", f"V{word}")]
        )


def offsets_of(data: bytes, at_most: int) -> list[int]:
    """Give the offsets of a TIFF's directories in order, up to one more than `at_most`.

    Ends where they form a loop. The last one may lie behind the end of a file that was cut off. Pillow
    would count them too, but it reads every tag of every page for it: 0.3 ms a page.
    """
    order = ByteOrder.of(data)
    link = order.word_bytes
    found: dict[int, None] = {}
    while (at := order.number(data, link, order.word_bytes)) and at not in found and len(found) <= at_most:
        found[at] = None
        link = at + order.count_bytes + order.number(data, at, order.count_bytes) * order.entry_bytes
    return list(found)


@dataclass(frozen=True, eq=False)
class Directory:
    """One directory: what its tags claim. No value was read yet.

    Attributes:
        claimed: How many tags it says that it has; fewer are there where the file ends before.
        tags: Numbers of its tags, int64, one an entry, in the file's order.
        types: Types of their values, int64; 0 for one that Pillow does not know.
        counts: How many values, int64; 0 where they are more bytes than the file, which Pillow leaves out.
    """

    data: bytes
    order: ByteOrder
    at: int
    claimed: int
    tags: NDArray[np.int64]
    types: NDArray[np.int64]
    counts: NDArray[np.int64]

    @classmethod
    def read(cls, data: bytes, at: int, order: ByteOrder) -> Directory:
        """Read the directory at an offset, which may lie anywhere."""
        claimed = order.number(data, at, order.count_bytes)
        start = at + order.count_bytes
        there = min(claimed, max(0, len(data) - start) // order.entry_bytes)
        entries = np.frombuffer(data, order.dtype(), there, start) if there else np.empty(0, order.dtype())
        types = entries["type"].astype(np.int64)
        types[types >= len(_UNITS)] = 0
        counts = np.minimum(entries["count"], len(data) + 1).astype(np.int64)
        counts[counts * _UNITS[types] > len(data)] = 0
        return cls(data, order, at, claimed, entries["tag"].astype(np.int64), types, counts)

    @property
    def numbers(self) -> int:
        """How many numbers Pillow makes objects of when it reads all tags, fractions not counted."""
        return int(self.counts[~_IS_BYTES[self.types] & ~_IS_FRACTIONS[self.types]].sum())

    @property
    def fractions(self) -> int:
        """How many fractions Pillow makes objects of when it reads all tags."""
        return int(self.counts[_IS_FRACTIONS[self.types]].sum())

    def count(self, tag: int) -> int:
        """How many values a tag has at most: the largest of its entries, 0 without one."""
        return int(self.counts[self.tags == tag].max(initial=0))

    def integer(self, tag: int) -> int | None:
        """Give the first value of a tag; None where there is none, or it is no integer."""
        (found,) = np.nonzero((self.tags == tag) & (self.counts > 0))
        if not found.size:
            return None
        index, word = int(found[0]), self.order.word_bytes
        kind = int(self.types[index])
        if kind not in _INTEGERS:
            return None
        at = self.at + self.order.count_bytes + (index + 1) * self.order.entry_bytes - word
        if int(self.counts[index]) * _UNIT[kind] > word:
            at = self.order.number(self.data, at, word)
        value = self.data[at : at + _UNIT[kind]]
        return int.from_bytes(value, self.order.name, signed=kind in _SIGNED)
