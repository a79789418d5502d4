"""The order in which a person reads the lines of a page: rows across, columns of prose one after the other.

Only polygons are looked at, no text. A page is cut at a gutter into two columns where the lines on both sides
of it look like prose: wide, of one width, and not one of many pieces of their row. Tables, forms and receipts
do not look like that, so their rows hold together. Everything else follows from cutting again what was cut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Final, TypeAlias

from ocr_watcher.document import box_around

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from ocr_watcher.document import Line, Point, Polygon

Row: TypeAlias = "tuple[Line, ...]"
Block: TypeAlias = "tuple[Row, ...]"

# PaddleX turns a crop that is this many times as high as wide, so that its right edge comes to the top
# (`CropByPolys.get_rotate_crop_image`): what was read there runs down the page. Its polygon begins at the
# upper left corner all the same.
_TALL: Final = 1.5
# Text that runs another way than most is a note in the margin if it is this many lines long. What is shorter
# is a single character, and stays in its row.
_NOTE_HEIGHTS: Final = 3.0
# A line belongs to a row if their middles are at most this share of the median line height apart. On the
# sample receipts 0.4 to 0.6 make little difference, and 0.7 merges rows.
_ROW_SHARE: Final = 0.5

# What follows was chosen on 16 scanned pages and 40 receipts, and confirmed on 20 other receipts and on the
# text layers of 141 pages of PDFs (docs/accuracy.md). Widths and gaps are measured in line heights.
#
# Boxes are a little larger than their text: by so much a line may reach into a gutter.
_OVERHANG: Final = 0.25
# A narrower column is no prose; those of a newspaper are 15 to 20 wide. A narrower line says nothing about
# the column: it is a cell of a table, or the end of a paragraph.
_COLUMN: Final = 10.0
_WIDE: Final = 8.0
# This many lines at least make a column.
_MIN_LINES: Final = 4
# A column may hold tables, lists and headings. Of the pieces next to the gutter, at least this share are
# wide, and of the wide ones at least the other share fill the column.
_WIDE_SHARE: Final = 0.3
_FULL_SHARE: Final = 0.5
# A line fills its column if it is at most so much narrower or wider, in line heights and as a share of the
# width (the word that did not fit any more), and if it begins or ends within so much of the column's edge.
_RAGGED: Final = 4.0
_RAGGED_SHARE: Final = 0.2
_NEAR_EDGE: Final = 1.5
# No column of prose has this share of its rows made of several pieces that are mostly narrow.
_TORN_SHARE: Final = 0.6
# A head or foot stands so far from the columns.
_GAP: Final = 1.5
# Of all places where a page may be cut, those that the fewest lines cross.
_MAX_CANDIDATES: Final = 32


def blocks(lines: Iterable[Line]) -> tuple[Block, ...]:
    """Lines as blocks of rows of pieces, all in reading order.

    A block is a column, or what stands above, between and below columns. The pieces of a row were found apart
    from each other, as the cells of a table are. Straightening a page that lies askew, or on its side so that
    its text runs down, is part of it. Text that runs the other way than most is read last.

    Measured as similarity of the sequence of words to the truth (docs/accuracy.md): 16 scanned pages 0.955
    where rows across the whole page give 0.847; 60 receipts 0.909, the same.
    """
    lines = tuple(lines)
    if not lines:
        return ()
    ways = [direction(line.polygon) for line in lines]
    lengths = [_length(line) for line in lines]
    most = _most(lines)
    height = median(_height(line.polygon) for line, way in zip(lines, ways, strict=True) if way is most)
    notes: dict[Direction, list[Line]] = {}
    body: list[Line] = []
    for line, way, length in zip(lines, ways, lengths, strict=True):
        is_note = way is not most and length >= _NOTE_HEIGHTS * height
        (notes.setdefault(way, []) if is_note else body).append(line)
    found = _blocks(body, most)
    for way, others in notes.items():
        found += _blocks(others, way)
    return found


def as_given(lines: Iterable[Line]) -> tuple[Block, ...]:
    """Lines that come in reading order already, as those of a PDF's text layer do, as blocks of rows.

    Pieces that stand beside each other are a row; where the next line stands higher, another block begins.
    """
    lines = tuple(lines)
    if not lines:
        return ()
    found: list[list[list[_Piece]]] = []
    for piece in _straightened(lines, _most(lines)):
        before = found[-1][-1][-1] if found else None
        apart = math.inf if before is None else piece.middle - before.middle
        reach = _ROW_SHARE * max(piece.height, before.height if before is not None else 0.0)
        if before is not None and abs(apart) <= reach and piece.start >= before.end:
            found[-1][-1].append(piece)
        elif before is not None and apart > 0:
            found[-1].append([piece])
        else:
            found.append([[piece]])
    return tuple(tuple(tuple(piece.line for piece in row) for row in block) for block in found)


def lines_of(blocks: Iterable[Block]) -> tuple[Line, ...]:
    """The lines of blocks, one after the other."""
    return tuple(line for block in blocks for row in block for line in row)


def text_of(blocks: Iterable[Block]) -> str:
    r"""What a person would type: rows on lines of their own, a tab between the pieces of a row."""
    return "\n".join("\t".join(line.text for line in row) for block in blocks for row in block)


def reading_order(lines: Iterable[Line]) -> tuple[Line, ...]:
    """The same lines in reading order."""
    return lines_of(blocks(lines))


class Direction(Enum):
    """Where text runs on the page."""

    RIGHT = 0
    DOWN = 1
    LEFT = 2
    UP = 3

    @property
    def counterclockwise_deg(self) -> int:
        """By how much text that runs to the right is turned counter-clockwise to run so."""
        return -90 * self.value % 360


def direction(polygon: Polygon) -> Direction:
    """Where the text in a polygon runs. Curved text, which has no four corners, counts as running right."""
    top_left, top_right, bottom_right, bottom_left = corners(polygon)
    right = top_right[0] - top_left[0] + bottom_right[0] - bottom_left[0]
    down = top_right[1] - top_left[1] + bottom_right[1] - bottom_left[1]
    if abs(right) >= abs(down):
        return Direction.RIGHT if right >= 0 else Direction.LEFT
    return Direction.DOWN if down > 0 else Direction.UP


def corners(polygon: Polygon) -> Polygon:
    """Four corners of a line as its text has them: top left, top right, bottom right, bottom left.

    The first of four points is the text's own top left; where the crop was turned before it was read, it is
    the page's. Of curved text, which has other polygons, the corners of its upright box.
    """
    if len(polygon) != 4:
        left, top, right, bottom = box_around(polygon)
        return (left, top), (right, top), (right, bottom), (left, bottom)
    p0, p1, p2, p3 = polygon
    width = max(math.dist(p0, p1), math.dist(p2, p3))
    height = max(math.dist(p0, p3), math.dist(p1, p2))
    is_turned = height > 0 and height >= _TALL * width
    return (p1, p2, p3, p0) if is_turned else polygon


def part_of(polygon: Polygon, start: float, end: float) -> Polygon:
    """The part of a line between two shares (0 to 1) of its length, as `corners` gives it."""
    top_left, top_right, bottom_right, bottom_left = corners(polygon)
    return (
        _along(top_left, top_right, start),
        _along(top_left, top_right, end),
        _along(bottom_left, bottom_right, end),
        _along(bottom_left, bottom_right, start),
    )


def _along(here: Point, there: Point, share: float) -> Point:
    return here[0] + share * (there[0] - here[0]), here[1] + share * (there[1] - here[1])


# -- lines on a straight page --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Piece:
    """A line on the straightened page, where text runs to the right.

    `start` and `end` are its left and right, less what a box may reach into a gutter.
    """

    line: Line
    left: float
    top: float
    right: float
    bottom: float
    start: float
    end: float

    @property
    def height(self) -> float:
        return self.bottom - self.top

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def middle(self) -> float:
        return (self.top + self.bottom) / 2


def _blocks(lines: Sequence[Line], way: Direction) -> tuple[Block, ...]:
    pieces = sorted(_straightened(lines, way), key=lambda piece: (piece.middle, piece.left))
    return tuple(tuple(tuple(piece.line for piece in row) for row in _rows(block)) for block in _cut(pieces))


_TURNED: Final[Mapping[Direction, Callable[[Point], Point]]] = {
    Direction.RIGHT: lambda point: point,
    Direction.DOWN: lambda point: (point[1], -point[0]),
    Direction.LEFT: lambda point: (-point[0], -point[1]),
    Direction.UP: lambda point: (-point[1], point[0]),
}


def _straightened(lines: Sequence[Line], way: Direction) -> list[_Piece]:
    """Lines turned so that `way` is to the right, with the page's slope taken out."""
    turned = _TURNED[way]
    polygons = [tuple(map(turned, corners(line.polygon))) for line in lines]
    slope = _slope(polygons)
    return [_piece(line, polygon, slope) for line, polygon in zip(lines, polygons, strict=True)]


def _piece(line: Line, polygon: Polygon, slope: float) -> _Piece:
    across = [x + slope * y for x, y in polygon]
    down = [y - slope * x for x, y in polygon]
    left, top, right, bottom = min(across), min(down), max(across), max(down)
    overhang = min(_OVERHANG * (bottom - top), (right - left) / 4)
    return _Piece(line, left, top, right, bottom, left + overhang, right - overhang)


def _slope(polygons: Sequence[Polygon]) -> float:
    """How many pixels the rows fall for each pixel to the right.

    It is the median slope of the lines' upper edges, weighted by their lengths.
    """
    edges = [
        ((y1 - y0) / (x1 - x0), x1 - x0) for (x0, y0), (x1, y1), *_ in polygons if x1 - x0 > abs(y1 - y0)
    ]
    half = sum(length for _, length in edges) / 2
    for slope, length in sorted(edges):
        half -= length
        if half <= 0:
            return slope
    return 0.0


def _most(lines: Sequence[Line]) -> Direction:
    """Where most of the text runs."""
    lengths = dict.fromkeys(Direction, 0.0)
    for line in lines:
        lengths[direction(line.polygon)] += _length(line)
    return max(lengths, key=lengths.__getitem__)


def _length(line: Line) -> float:
    """How long a line is, in pixels."""
    left, top, right, bottom = line.box
    return max(right - left, bottom - top)


def _height(polygon: Polygon) -> float:
    """How high the text of a line is, in pixels."""
    top_left, _, _, bottom_left = corners(polygon)
    return math.dist(top_left, bottom_left)


# -- rows ----------------------------------------------------------------------------------------


def _rows(pieces: Sequence[_Piece]) -> list[list[_Piece]]:
    """Pieces, which come from top to bottom, as rows from left to right."""
    reach = _ROW_SHARE * median(piece.height for piece in pieces)
    rows: list[list[_Piece]] = []
    total = 0.0  # of the middles of the last row
    for piece in pieces:
        if rows and piece.middle - total / len(rows[-1]) <= reach:
            rows[-1].append(piece)
            total += piece.middle
        else:
            rows.append([piece])
            total = piece.middle
    return [sorted(row, key=lambda piece: piece.left) for row in rows]


# -- columns -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Columns:
    """Two columns, and how many lines speak for them."""

    left: list[_Piece]
    right: list[_Piece]
    full: int

    @property
    def pieces(self) -> set[int]:
        """Which pieces are part of them, by `id`."""
        return {id(piece) for piece in (*self.left, *self.right)}


def _cut(pieces: list[_Piece]) -> list[list[_Piece]]:
    """Cut a page, or a part of one, into blocks in reading order.

    Pieces come from top to bottom, and stay so. The two columns that most lines speak for are cut out first;
    then the same is done above them, in each of them, and below.
    """
    found = [columns for gutter in _candidates(pieces) for columns in _all_columns(gutter, pieces)]
    if not found:
        return [pieces]
    best = max(found, key=lambda columns: columns.full)
    inside = best.pieces
    numbers = [number for number, piece in enumerate(pieces) if id(piece) in inside]
    above, below = pieces[: numbers[0]], pieces[numbers[-1] + 1 :]
    parts = (above, best.left, best.right, below)
    return [block for part in parts if part for block in _cut(part)]


def _candidates(pieces: list[_Piece]) -> list[float]:
    """Where there may be gutters: places that fewer lines cross than a little to the left and right."""
    if len(pieces) < 2 * _MIN_LINES:
        return []
    edges = sorted([(piece.start, 1) for piece in pieces] + [(piece.end, -1) for piece in pieces])
    found = []
    crossing = 0
    for (here, step), (there, next_step) in pairwise(edges):
        crossing += step
        if step < 0 < next_step and here < there:
            found.append((crossing, (here + there) / 2))
    return [gutter for _, gutter in sorted(found)[:_MAX_CANDIDATES]]


def _all_columns(gutter: float, pieces: list[_Piece]) -> Iterator[_Columns]:
    """Columns on both sides of a gutter, between any two lines that cross it."""
    run: list[_Piece] = []  # what crosses nothing, from the last line that crosses the gutter on
    for piece in (*pieces, None):
        if piece is not None and not piece.start < gutter < piece.end:
            run.append(piece)
            continue
        columns = _columns(gutter, run)
        if columns is not None:
            yield columns
        elif run:  # one of its strips may be a table
            yield from filter(None, (_columns(gutter, strip) for strip in _strips(run)))
        run = []


def _columns(gutter: float, run: list[_Piece]) -> _Columns | None:
    """The columns left and right of a gutter that nothing crosses; None where one side is no prose."""
    sides = [p for p in run if p.end <= gutter], [p for p in run if p.end > gutter]
    if min(map(len, sides)) < _MIN_LINES:
        return None
    left_rows, right_rows = map(_rows, sides)
    full_left = _filling([row[-1] for row in left_rows], left_rows)
    full_right = _filling([row[0] for row in right_rows], right_rows) if full_left else set()
    if not full_right:
        return None
    full = full_left | full_right
    # Heads and feet stand apart from the columns, and are no prose of their width.
    strips = _strips(run)
    in_columns = [number for number, strip in enumerate(strips) if _is_columns(gutter, strip, full)]
    if not in_columns:
        return None
    first, last = in_columns[0], in_columns[-1]
    body = {id(piece) for strip in strips[first : last + 1] for piece in strip}
    left, right = ([piece for piece in side if id(piece) in body] for side in sides)
    if not left or not right:
        return None
    return _Columns(left, right, len(full))


def _filling(next_to_gutter: list[_Piece], rows: list[list[_Piece]]) -> set[int]:
    """Which pieces next to a gutter fill a column of prose (by `id`); empty where there is no such column."""
    height = median(piece.height for piece in next_to_gutter)
    wide = [piece for piece in next_to_gutter if piece.width >= _WIDE * height]
    count = len(wide)
    if count < max(_MIN_LINES, _WIDE_SHARE * len(rows)) or _is_torn(rows, _WIDE * height):
        return set()
    # Most of the wide pieces are of this column, so the quartiles of their edges are its edges.
    left = sorted(piece.left for piece in wide)[count // 4]
    right = sorted(piece.right for piece in wide)[3 * count // 4]
    width = right - left
    if width < _COLUMN * height:
        return set()
    ragged = min(_RAGGED_SHARE * width, _RAGGED * height)
    near = _NEAR_EDGE * height
    filling = {
        id(piece)
        for piece in wide
        if abs(piece.width - width) <= ragged
        and (abs(piece.left - left) <= near or abs(piece.right - right) <= near)
    }
    return filling if len(filling) >= _FULL_SHARE * count else set()


def _is_torn(rows: list[list[_Piece]], wide: float) -> bool:
    """Whether these are rows of a table: made of several pieces, of which most are narrow."""
    torn = sum(len(row) > 1 and 2 * sum(piece.width >= wide for piece in row) < len(row) for row in rows)
    return torn > _TORN_SHARE * len(rows)


def _strips(run: list[_Piece]) -> list[list[_Piece]]:
    """Cut across, wherever there is a gap in all columns."""
    gap = _GAP * median(piece.height for piece in run)
    strips: list[list[_Piece]] = []
    bottom = -math.inf
    for piece in sorted(run, key=lambda piece: piece.top):
        if piece.top - bottom > gap:
            strips.append([])
        strips[-1].append(piece)
        bottom = max(bottom, piece.bottom)
    return [sorted(strip, key=lambda piece: (piece.middle, piece.left)) for strip in strips]


def _is_columns(gutter: float, strip: list[_Piece], full: set[int]) -> bool:
    """Whether a strip is part of the columns, and no head or foot: lines fill them."""
    left, right = [p for p in strip if p.end <= gutter], [p for p in strip if p.end > gutter]
    next_to_gutter = (
        [row[-1] for row in _rows(left)] if left else [],
        [row[0] for row in _rows(right)] if right else [],
    )
    fills = [
        sum(id(piece) in full for piece in side) >= _FULL_SHARE * len(side) for side in next_to_gutter if side
    ]
    # A column may end before the other. But of a single row, both sides have to fill theirs.
    return all(fills) if max(map(len, next_to_gutter)) == 1 else any(fills)
