"""Pages of columns, headings, tables and notes are read as a person reads them; rows of a receipt hold together."""

from __future__ import annotations

import itertools
import math
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocr_watcher.document import Line
from ocr_watcher.ocr.order import blocks, corners, reading_order, text_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ocr_watcher.document import Point, Polygon

HEIGHT_PX, PITCH_PX = 40.0, 54.0
LEFT_PX, RIGHT_PX = 150.0, 2330.0
GUTTER_PX = 60.0


def box(text: str, left: float, top: float, right: float, height: float = HEIGHT_PX) -> Line:
    bottom = top + height
    return Line(text, 0.9, ((left, top), (right, top), (right, bottom), (left, bottom)))


@dataclass
class Drawn:
    """A page in the making. `lines` are in the order in which a person reads them."""

    number: random.Random
    lines: list[Line] = field(default_factory=list)
    top: float = 150.0

    def add(self, left: float, top: float, right: float) -> None:
        # Detectors do not draw boxes to the pixel.
        wobble = self.number.uniform
        self.lines.append(
            box(f"line{len(self.lines)}", left + wobble(-4, 4), top + wobble(-3, 3), right + wobble(-4, 4))
        )

    def across(self, share: float, count: int = 1) -> None:
        """Centred lines of this share of the width."""
        half = (RIGHT_PX - LEFT_PX) * share / 2
        middle = (LEFT_PX + RIGHT_PX) / 2
        for _ in range(count):
            self.add(middle - half, self.top, middle + half)
            self.top += PITCH_PX
        self.top += PITCH_PX

    def ends(self) -> None:
        """A running title: a name on the left, a page number on the right."""
        self.add(LEFT_PX, self.top, LEFT_PX + 500)
        self.add(RIGHT_PX - 80, self.top, RIGHT_PX)
        self.top += 2.5 * PITCH_PX

    def table(self, rows: int, columns: int) -> None:
        """Rows of short cells."""
        step = (RIGHT_PX - LEFT_PX) / columns
        for _ in range(rows):
            for column in range(columns):
                left = LEFT_PX + column * step
                self.add(left, self.top, left + self.number.uniform(60, 0.5 * step))
            self.top += 1.3 * PITCH_PX
        self.top += PITCH_PX

    def columns(self, count: int, rows: int, *, justified: bool) -> None:
        """Prose, the last column shorter than the others."""
        width = (RIGHT_PX - LEFT_PX - (count - 1) * GUTTER_PX) / count
        for column in range(count):
            left = LEFT_PX + column * (width + GUTTER_PX)
            some = rows if column < count - 1 else max(5, rows - self.number.randrange(6))
            paragraph = 0
            for row in range(some):
                first, last = paragraph == 0, paragraph > 3 and self.number.random() < 0.3
                right = left + width
                if last:
                    right -= self.number.uniform(0.2, 0.7) * width
                elif not justified:
                    right -= self.number.uniform(0, min(0.18 * width, 150))
                self.add(left + (40 if first else 0), self.top + row * PITCH_PX, right)
                paragraph = 0 if last else paragraph + 1
        self.top += (rows + 1) * PITCH_PX


def turned(lines: list[Line], degrees: float) -> list[Line]:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return moved(lines, lambda x, y: (x * cos - y * sin, x * sin + y * cos))


def moved(lines: list[Line], to: Callable[[float, float], Point]) -> list[Line]:
    return [Line(line.text, line.score, tuple(to(x, y) for x, y in line.polygon)) for line in lines]


def read(lines: list[Line]) -> list[str]:
    mixed = list(lines)
    random.Random(1).shuffle(mixed)
    return [line.text for line in reading_order(mixed)]


def texts(lines: list[Line]) -> list[str]:
    return [line.text for line in lines]


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    parts=st.lists(
        st.sampled_from(["one", "two", "three", "four", "heading", "abstract", "table"]), min_size=1, max_size=4
    ),
    degrees=st.sampled_from([0.0, 0.5, -2.0, 3.0]),
    justified=st.booleans(),
    running=st.booleans(),
)
def test_drawn_pages_of_one_to_four_columns(
    seed: int, parts: list[str], degrees: float, *, justified: bool, running: bool
) -> None:
    drawn = Drawn(random.Random(seed))
    if running:
        drawn.ends()
    for part in parts:
        rows = drawn.number.randint(8, 20)
        match part:
            case "heading":
                drawn.across(drawn.number.uniform(0.4, 0.9), drawn.number.randint(1, 2))
            case "abstract":
                drawn.across(0.8, 6)
            case "table":
                drawn.table(drawn.number.randint(3, 12), drawn.number.randint(3, 6))
            case _:
                count = ["one", "two", "three", "four"].index(part) + 1
                drawn.columns(count, rows, justified=justified)
                # Two parts of columns, one directly below the other, are told apart by what is between.
                drawn.across(0.9)
    drawn.top += PITCH_PX
    drawn.across(0.04)  # the page's number
    assert read(turned(drawn.lines, degrees)) == texts(drawn.lines)
