"""Every shape PaddleOCR has used for a page must give the same lines; nothing else may pass as no lines."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocr_watcher.document import Line
from ocr_watcher.errors import EngineError
from ocr_watcher.ocr.result import normalise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Recorded from PaddleOCR 3.7 (PP-OCRv6_tiny): the first two lines of a scanned receipt.
TEXTS = ["tan woon yann", "BOOK TA_K (TAMAN DAYA)SDN BHD"]
SCORES = [0.9927034974098206, 0.9295684695243835]
POLYGONS = [[[71, 28], [354, 30], [354, 60], [70, 57]], [[69, 92], [375, 92], [375, 112], [69, 112]]]
BOXES = [[70, 28, 354, 60], [69, 92, 375, 112]]

LINES = (
    Line(TEXTS[0], SCORES[0], ((71, 28), (354, 30), (354, 60), (70, 57))),
    Line(TEXTS[1], SCORES[1], ((69, 92), (375, 92), (375, 112), (69, 112))),
)


def page(lines: tuple[Line, ...] = LINES) -> dict[str, Any]:
    """What predict() returns for one page, as far as it is read, with more keys than that."""
    polygons = [np.array(line.polygon) for line in lines]
    return {
        "input_path": None,
        "page_index": None,
        "dt_polys": polygons,
        "text_type": "general",
        "rec_texts": [line.text for line in lines],
        "rec_scores": [line.score for line in lines],
        "rec_polys": polygons,
        "rec_boxes": np.array([line.box for line in lines]),
    }


def rows(lines: tuple[Line, ...] = LINES) -> list[Any]:
    """One page of PaddleOCR 2.x."""
    return [[[list(point) for point in line.polygon], (line.text, line.score)] for line in lines]


def dicts(
    position: str, text: str = "text", score: str = "confidence"
) -> Callable[[tuple[Line, ...]], list[Any]]:
    return lambda lines: [
        {text: i.text, score: i.score, position: [list(p) for p in i.polygon]} for i in lines
    ]


def plain(lines: tuple[Line, ...]) -> object:
    """The same page after a journey through JSON."""
    return json.loads(json.dumps(page(lines), default=lambda array: array.tolist()))


def arrays(lines: tuple[Line, ...]) -> dict[str, Any]:
    """The same page with an array for every list."""
    names = ("rec_texts", "rec_scores", "rec_polys")
    return {name: np.array(page(lines)[name]) for name in names}


SHAPES: dict[str, Callable[[tuple[Line, ...]], object]] = {
    "3.x predict": lambda lines: [page(lines)],
    "3.x generator": lambda lines: iter([page(lines)]),
    "3.x generator in a list": lambda lines: [iter([page(lines)])],
    "3.x tuple": lambda lines: (page(lines),),
    "3.x mapping": page,
    "3.x json": lambda lines: SimpleNamespace(json={"res": plain(lines)}),
    "3.x res": lambda lines: {"res": plain(lines)},
    "3.x attributes": lambda lines: SimpleNamespace(**page(lines)),
    "3.x arrays": arrays,
    "3.x without rec_polys": lambda lines: page(lines) | {"rec_polys": []},
    "3.x texts with word positions": lambda lines: (
        page(lines) | {"rec_texts": [(i.text, [1, [["a"]], [[0]], ["en&num"]]) for i in lines]}
    ),
    "2.x pages": lambda lines: [rows(lines)],
    "2.x without pages": rows,
    "2.x arrays": lambda lines: [[np.array(polygon), recognised] for polygon, recognised in rows(lines)],
    "2.x flat polygons": lambda lines: [
        [[x for p in polygon for x in p], row] for polygon, row in rows(lines)
    ],
    "2.x word boxes": lambda lines: [
        [polygon, [*recognised, ["words"]]] for polygon, recognised in rows(lines)
    ],
    "service": dicts("text_region"),
    "service pages": lambda lines: [dicts("text_region")(lines)],
    "structure region": lambda lines: [
        {"type": "text", "bbox": [0, 0, 9, 9], "res": dicts("text_region")(lines)}
    ],
    "label file": dicts("points", text="transcription", score="score"),
    "polygon": dicts("polygon", score="score"),
    "box": dicts("box", score="score"),
}

coordinates = st.floats(0, 5000, allow_nan=False, width=32)
points = st.tuples(coordinates, coordinates)
some_lines = st.lists(
    st.builds(
        Line,
        text=st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1),
        score=st.floats(0, 1),
        polygon=st.tuples(points, points, points, points),
    ),
    min_size=1,
    max_size=8,
).map(tuple)


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=25)
@given(lines=some_lines)
def test_every_shape_gives_the_same_lines(shape: str, lines: tuple[Line, ...]) -> None:
    assert normalise(SHAPES[shape](lines)) == lines


def test_the_class_paddlex_really_returns() -> None:
    # Imported here: PaddleX takes seconds to import, and only this test is about its class.
    ocr_result = pytest.importorskip("paddlex.inference.pipelines.ocr.result").OCRResult
    settings = {
        "model_settings": {"use_doc_preprocessor": False},
        "text_det_params": {},
        "return_word_box": False,
    }
    real = ocr_result(page() | settings | {"text_rec_score_thresh": 0.0})

    assert normalise([real]) == LINES
    assert normalise(real.json) == LINES


def test_a_recorded_page() -> None:
    first, second = normalise([page()])

    assert (first, second) == LINES
    assert first.box == (70, 28, 354, 60)
    assert type(first.score) is float
    assert {type(value) for point in first.polygon for value in point} == {float}


def test_boxes_stand_in_for_polygons() -> None:
    raw = {"rec_texts": TEXTS, "rec_scores": SCORES, "rec_boxes": np.array(BOXES)}

    assert [line.polygon for line in normalise(raw)] == [
        ((70, 28), (354, 28), (354, 60), (70, 60)),
        ((69, 92), (375, 92), (375, 112), (69, 112)),
    ]


def test_detected_polygons_of_lines_below_the_threshold_are_not_mixed_up() -> None:
    raw = page() | {"rec_polys": [], "dt_polys": [*POLYGONS, POLYGONS[0]]}

    assert [line.box for line in normalise(raw)] == [tuple(map(float, box)) for box in BOXES]


def test_curved_text_keeps_its_points() -> None:
    curve = [[0, 9], [5, 3], [10, 1], [15, 3], [20, 9], [10, 6]]

    (line,) = normalise({"rec_texts": ["seal"], "rec_scores": [1], "rec_polys": [np.array(curve)]})

    assert line.polygon == tuple((float(x), float(y)) for x, y in curve)
    assert line.box == (0, 1, 20, 9)


EMPTY_PAGE = {"dt_polys": [], "rec_texts": [], "rec_scores": [], "rec_polys": [], "rec_boxes": np.array([])}


@pytest.mark.parametrize(
    "raw",
    [
        None,
        [],
        (),
        [None],
        [[]],
        [[None]],
        iter(()),
        np.array([]),
        [np.zeros((0, 4, 2))],
        EMPTY_PAGE,
        [EMPTY_PAGE],
        {"res": EMPTY_PAGE},
        # Found, but every line is below the score threshold: detected positions only.
        EMPTY_PAGE | {"dt_polys": POLYGONS},
    ],
    ids=repr,
)
def test_a_page_without_text_is_a_result(raw: object) -> None:
    assert normalise(raw) == ()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"error": "the input params for model settings are invalid!"}, r"dict with the keys 'error'\."),
        ([{"error": "…"}, page()], r"dict with the keys 'error'\."),
        ({"foo": 1}, "'foo'"),
        ([{"foo": 1}], "'foo'"),
        ({}, "dict with the keys none"),
        ([{}], "dict with the keys none"),
        ({f"key{n}": 0 for n in range(12)}, "'key9', …"),
        ({"x" * 500: 0}, r"keys 'x{39}\."),
        ({1: 0}, "keys int"),
        ({"dt_polys": POLYGONS}, "'dt_polys'"),
        ("text", "str"),
        (b"text", "bytes"),
        (7, "int"),
        (True, "bool"),
        (object(), "object"),
        (np.float32(1), "float32"),
        (SimpleNamespace(json="{}"), "SimpleNamespace"),
        ([page(), page()], "2 pages"),
        ([rows(), rows()], "2 pages"),
        ([None, None], "2 pages"),
        ([EMPTY_PAGE, SimpleNamespace(**EMPTY_PAGE), {"res": EMPTY_PAGE}], "3 pages"),
        ([[("text", 0.9)]], "text without positions"),
        ([("text", 0.9)], "text without positions"),
        ([POLYGONS], "positions without text"),
        (np.array(POLYGONS), "positions without text"),
        (page() | {"rec_texts": TEXTS[:1]}, "1 texts, 2 scores, 2 positions"),
        (page() | {"rec_scores": [*SCORES, 1.0]}, "2 texts, 3 scores, 2 positions"),
        (page() | {"rec_polys": POLYGONS[:1]}, "2 texts, 2 scores, 1 positions"),
        ({"rec_texts": TEXTS, "rec_scores": SCORES}, "0 positions"),
        ({"rec_texts": []} | {"rec_polys": POLYGONS}, "0 texts, 0 scores, 2 positions"),
        (page() | {"rec_texts": None}, "rec_texts is a NoneType"),
        (page() | {"rec_texts": "ab"}, "rec_texts is a str"),
        (page() | {"rec_texts": [1, 2]}, "int where text was expected"),
        (page() | {"rec_scores": [True, 1.0]}, "bool where a number"),
        (page() | {"rec_scores": [np.bool_(1), 1.0]}, "bool where a number"),
        (page() | {"rec_scores": [math.nan, 1.0]}, "not finite"),
        (page() | {"rec_scores": [math.inf, 1.0]}, "not finite"),
        (page() | {"rec_scores": [10**400, 1.0]}, "not finite"),
        (page() | {"rec_scores": [1.01, 1.0]}, "no probability"),
        (page() | {"rec_scores": [-0.01, 1.0]}, "no probability"),
        (page() | {"rec_polys": [[[0, 0], [1, "1"], [2, 2]], POLYGONS[1]]}, "str where a number"),
        (page() | {"rec_polys": [[[0, 0], [1, math.nan], [2, 2]], POLYGONS[1]]}, "not finite"),
        (page() | {"rec_polys": [[[0, 0], [1, 1]], POLYGONS[1]]}, "neither a polygon nor a box"),
        (page() | {"rec_polys": [[0, 0, 1, 1, 2], POLYGONS[1]]}, "neither a polygon nor a box"),
        (page() | {"rec_polys": [5, POLYGONS[1]]}, "neither a polygon nor a box"),
        ([[POLYGONS[0], ("text", 1.0)], [POLYGONS[1]]], r"not \[position, \(text, score\)\]"),
        ([[POLYGONS[0], ("text",)]], r"not \[position, \(text, score\)\]"),
        ([{"text": "a", "box": BOXES[0]}], "without confidence or score"),
        ([{"text": "a", "score": 1.0}], "without text_region or polygon or points or box"),
    ],
)
def test_anything_else_is_an_error_and_never_an_empty_page(raw: object, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        normalise(raw)


def test_half_a_result_names_the_setting_that_halves_it() -> None:
    with pytest.raises(EngineError) as without_positions:
        normalise([[("text", 0.9)]])
    with pytest.raises(EngineError) as without_text:
        normalise([POLYGONS])

    assert "`det: false`" in without_positions.value.hint
    assert "`rec: false`" in without_text.value.hint


def test_a_structure_that_contains_itself_ends() -> None:
    loop: list[object] = []
    loop.append(loop)

    with pytest.raises(EngineError, match="list"):
        normalise(loop)


def test_what_a_generator_raises_is_not_hidden() -> None:
    def predict() -> Iterator[object]:
        raise MemoryError
        yield

    with pytest.raises(MemoryError):
        normalise(predict())


def one(text: str, score: float = 0.5) -> dict[str, Any]:
    return {"rec_texts": [text], "rec_scores": [score], "rec_polys": POLYGONS[:1]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  padded\u3000", "padded"),
        ("a\x00b\x1b[0m\x9f", "a b [0m"),
        ("two\r\nlines\u2028three", "two  lines three"),
        ("half \ud83d pair", "half  pair"),
        ("é e\u0301 你好 مرحبا 😀", "é e\u0301 你好 مرحبا 😀"),
    ],
)
def test_text_is_one_line_of_valid_unicode(text: str, expected: str) -> None:
    assert [line.text for line in normalise(one(text))] == [expected]


@pytest.mark.parametrize("text", ["", "  ", "\n", "\x00", "\udc00"])
def test_lines_without_text_are_left_out(text: str) -> None:
    assert normalise(one(text)) == ()


def test_the_score_of_an_unreadable_crop_does_not_matter() -> None:
    # The mean of no characters was NaN in early 2.x.
    assert normalise(one("", math.nan)) == ()


@pytest.mark.parametrize(
    ("score", "expected"), [(1.0000001, 1.0), (-1e-9, 0.0), (1, 1.0), (np.float32(0.5), 0.5)]
)
def test_rounding_errors_of_a_score_are_taken_back(score: float, expected: float) -> None:
    assert [line.score for line in normalise(one("text", score))] == [expected]


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=3)
)
keys = st.sampled_from(
    ["rec_texts", "rec_scores", "rec_polys", "dt_polys", "rec_boxes", "res", "text", "score", "box"]
)
anything = st.recursive(
    scalars | st.just(np.zeros((4, 2))) | st.just(np.array(["a"])),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys | st.integers(), inner, max_size=5)
        | st.lists(inner, max_size=2).map(iter)
    ),
    max_leaves=25,
)


@given(raw=anything)
def test_nothing_but_an_engine_error_comes_out(raw: object) -> None:
    try:
        lines = normalise(raw)
    except EngineError as error:
        str(error).encode()
        return
    for line in lines:
        line.text.encode()
        assert line.text.strip() == line.text != ""
        assert 0 <= line.score <= 1
        assert len(line.polygon) > 2


@given(
    field=st.sampled_from(["rec_texts", "rec_scores", "rec_polys", "rec_boxes", "dt_polys"]), value=anything
)
def test_a_broken_field_never_raises_anything_else(field: str, value: object) -> None:
    try:
        lines = normalise(page() | {field: value})
    except EngineError:
        return
    # Two lines went in; what is accepted has them both, unless the field says that there is no text.
    assert len(lines) == 2 or field == "rec_texts"


@pytest.mark.parametrize("shape", SHAPES)
def test_one_bad_number_anywhere_fails_the_page(shape: str) -> None:
    """A broken inference shows in numbers; the lines around it are not to be trusted either."""
    tried = 0

    @settings(max_examples=50)
    @given(
        lines=some_lines,
        bad=st.sampled_from([math.nan, math.inf, -math.inf]),
        where=st.integers(0, 8),
        which=st.data(),
    )
    def play(lines: tuple[Line, ...], bad: float, where: int, which: st.DataObject) -> None:
        nonlocal tried
        index = which.draw(st.integers(0, len(lines) - 1))
        line = lines[index]
        numbers = [line.score, *(number for point in line.polygon for number in point)]
        numbers[where] = bad
        score, *rest = numbers
        broken = Line(line.text, score, tuple(zip(rest[::2], rest[1::2], strict=True)))
        with pytest.raises(EngineError):
            normalise(SHAPES[shape]((*lines[:index], broken, *lines[index + 1 :])))
        tried += 1

    play()
    print(f"{shape}: {tried} pages with one bad number refused")
