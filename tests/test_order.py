"""Columns, headings, tables and notes are read as a person reads them; rows of a receipt hold together."""

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

    seed: int
    lines: list[Line] = field(default_factory=list)
    top: float = 150.0

    def __post_init__(self) -> None:
        self.number = random.Random(self.seed)  # noqa: S311 - repeatable

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
    Drawn(1).number.shuffle(mixed)
    return [line.text for line in reading_order(mixed)]


def texts(lines: list[Line]) -> list[str]:
    return [line.text for line in lines]


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    parts=st.lists(
        st.sampled_from(["one", "two", "three", "four", "heading", "abstract", "table"]),
        min_size=1,
        max_size=4,
    ),
    degrees=st.sampled_from([0.0, 0.5, -2.0, 3.0]),
    justified=st.booleans(),
    running=st.booleans(),
)
def test_drawn_pages_of_one_to_four_columns(
    seed: int, parts: list[str], degrees: float, *, justified: bool, running: bool
) -> None:
    drawn = Drawn(seed)
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


def test_a_figure_over_two_of_three_columns() -> None:
    drawn = Drawn(1)
    width = (RIGHT_PX - LEFT_PX - 2 * GUTTER_PX) / 3
    for column in range(3):
        left = LEFT_PX + column * (width + GUTTER_PX)
        if column == 1:  # what is drawn there, and its caption below
            drawn.add(left + 200, 300, left + 2 * width)
            drawn.add(left + 40, 600, left + 2 * width + GUTTER_PX)
        for row in range(12 if column else 25):
            drawn.add(left, 850 + (row if column else row - 13) * PITCH_PX, left + width)
    assert read(drawn.lines) == texts(drawn.lines)


@pytest.mark.parametrize("degrees", [0.0, 2.0, -2.0])
def test_a_page_that_lies_on_its_right_side(degrees: float) -> None:
    """Its text runs down, as that of a Japanese book does: the first line is the one on the right."""
    drawn = Drawn(2)
    drawn.across(0.7)
    drawn.columns(2, 12, justified=True)
    drawn.across(0.05)
    lying = moved(turned(drawn.lines, degrees), lambda x, y: (3000 - y, x))
    assert read(lying) == texts(drawn.lines)  # as after an orientation model
    # A detector begins at the upper left corner of the box, whatever the text in it does.
    lying = [Line(line.text, line.score, line.polygon[3:] + line.polygon[:3]) for line in lying]
    assert read(lying) == texts(drawn.lines)


@pytest.mark.parametrize("degrees", [180.0, 178.0, 270.0, 93.0])
def test_a_page_that_was_read_upright_and_lies_otherwise(degrees: float) -> None:
    drawn = Drawn(2)
    drawn.ends()
    drawn.columns(3, 12, justified=True)
    assert read(turned(drawn.lines, degrees)) == texts(drawn.lines)


def test_a_note_that_runs_down_the_margin_is_read_last() -> None:
    drawn = Drawn(3)
    drawn.columns(1, 20, justified=True)
    note = Line("note", 0.9, ((40, 300), (80, 300), (80, 900), (40, 900)))
    one = Line("1", 0.9, ((100, 150), (115, 150), (115, 190), (100, 190)))
    assert read([note, one, *drawn.lines]) == ["1", *texts(drawn.lines), "note"]


def test_rows_of_a_receipt_an_invoice_and_a_form_hold_together() -> None:
    receipt = [
        box(text, left, 100 + 50 * row, left + width)
        for row in range(20)
        for text, left, width in ((f"item{row}", 100, 200 + 37 * row % 300), (f"price{row}", 900, 100))
    ]
    form = [
        box(text, left, 2000 + 80 * row, left + width)
        for row in range(12)
        for text, left, width in (
            (f"label{row}", 100, 250 + 61 * row % 180),
            (f"value{row}", 700, 300 + 83 * row % 500),
        )
    ]
    for lines in (receipt, form):
        assert read(lines) == texts(lines)


def test_text_has_a_tab_between_the_pieces_of_a_row() -> None:
    drawn = Drawn(4)
    drawn.ends()
    drawn.columns(2, 8, justified=True)
    rows = text_of(blocks(drawn.lines)).split("\n")
    assert rows[0] == "line0\tline1"
    assert rows[1:] == [f"line{n}" for n in range(2, len(drawn.lines))]
    assert [len(block) for block in blocks(drawn.lines)] == [1, 8, len(drawn.lines) - 10]
    assert text_of(blocks([])) == ""


def test_the_corners_of_text_that_runs_down() -> None:
    across: Polygon = ((0, 0), (100, 0), (100, 20), (0, 20))
    down: Polygon = ((0, 0), (20, 0), (20, 100), (0, 100))
    assert corners(across) == across
    assert corners(down) == ((20, 0), (20, 100), (0, 100), (0, 0))
    assert corners(((0, 9), (5, 3), (10, 1), (20, 9), (10, 6))) == ((0, 1), (20, 1), (20, 9), (0, 9))


def test_a_hostile_page_takes_no_time() -> None:
    """Thousands of pieces that look like thirty columns."""
    number = Drawn(5).number
    lines = [
        box(f"{row}-{column}", 100.0 * column, 6.0 * row, 100.0 * column + number.uniform(60, 97), 5.0)
        for row, column in itertools.product(range(100), range(30))
    ]
    began = time.process_time()
    assert len(reading_order(lines)) == len(lines)
    assert time.process_time() - began < 10


# -- rows ----------------------------------------------------------------------------------------


def receipt(degrees: float) -> tuple[Line, ...]:
    """Six rows of name, amount and currency, 400 px wide, 20 px apart, turned about the origin."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))

    def line(row: int, column: str, left: float, right: float) -> Line:
        top = 100 + 20 * row
        corners = ((left, top), (right, top), (right, top + 14), (left, top + 14))
        polygon: Polygon = tuple((x * cos - y * sin, x * sin + y * cos) for x, y in corners)
        return Line(f"{column}{row}", 0.9, polygon)

    columns = (("name", 0.0, 150.0), ("amount", 300.0, 350.0), ("currency", 370.0, 400.0))
    return tuple(line(row, *column) for row in range(6) for column in columns)


@pytest.mark.parametrize("degrees", [-5, -2, 0, 0.5, 2, 5])
def test_rows_hold_together_on_a_page_that_is_not_straight(degrees: float) -> None:
    expected = receipt(degrees)

    assert reading_order(reversed(expected)) == expected
    assert reading_order(sorted(expected, key=lambda line: line.text)) == expected


def test_lines_of_one_row_may_differ_in_height() -> None:
    big = Line("TOTAL", 0.9, ((0, 0), (100, 0), (100, 30), (0, 30)))
    small = Line("12.00", 0.9, ((200, 4), (240, 4), (240, 18), (200, 18)))
    below = Line("CASH", 0.9, ((0, 36), (80, 36), (80, 56), (0, 56)))

    assert reading_order([below, small, big]) == (big, small, below)


def test_one_crooked_line_does_not_turn_the_page() -> None:
    straight = receipt(0)
    stamp = Line("PAID", 0.9, ((100, 500), (300, 300), (310, 310), (110, 510)))
    seal = Line("seal", 0.9, ((0, 700), (300, 1000), (290, 1010), (150, 900), (0, 720)))

    assert reading_order([*straight[:9], stamp, *straight[9:]]) == (*straight, stamp)
    assert reading_order([seal, *straight[:3]]) == (*straight[:3], seal)


def test_lines_that_lie_in_a_column_keep_their_order_in_every_permutation() -> None:
    column = receipt(0)[::3]

    for shuffled in itertools.permutations(column):
        assert reading_order(shuffled) == column


coordinates = st.floats(0, 5000, allow_nan=False, width=32)
points = st.tuples(coordinates, coordinates)


@given(
    lines=st.lists(
        st.builds(
            Line,
            text=st.text(min_size=1),
            score=st.floats(0, 1),
            polygon=st.tuples(points, points, points, points) | st.tuples(points, points, points),
        ),
        max_size=12,
    ).map(tuple)
)
def test_reading_order_loses_and_invents_nothing(lines: tuple[Line, ...]) -> None:
    assert sorted(reading_order(lines), key=repr) == sorted(lines, key=repr)
