"""Pages that lie on their side or head: who proposes, who decides, and where the words then are."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from ocr_watcher.document import Page
from ocr_watcher.errors import EngineError, UnavailableError
from ocr_watcher.inputs.base import DecodeLimits
from ocr_watcher.jobs.reader import Reader
from ocr_watcher.ocr import models, orientation, paddle_ocr
from ocr_watcher.ocr.engine import FakeEngine
from ocr_watcher.service import assembly
from tests.support import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocr_watcher.ocr.engine import Engine

LIMITS = DecodeLimits(10 << 20, 100_000_000, 1024)
TEXT = [
    "The quick brown fox jumps",
    "over the lazy dog. Invoice",
    "4711 of 30 January 2026:",
    "1,234.56 to be paid soon",
]


def sheet(size: tuple[int, int] = (900, 1200)) -> tuple[Image.Image, list[tuple[int, int, int, int]]]:
    """A page of text, and where its lines are."""
    image = Image.new("RGB", size, "white")
    draw, font, boxes = ImageDraw.Draw(image), ImageFont.load_default(44), []
    for number in range(14):
        at = (90, 90 + 72 * number)
        draw.text(at, TEXT[number % 4], "black", font)
        boxes.append(tuple(map(round, draw.textbbox(at, TEXT[number % 4], font))))
    return image, boxes  # type: ignore[return-value] # four each


def read(image: Image.Image, engine: Engine) -> Page:
    out = io.BytesIO()
    image.save(out, "PNG")
    reader = Reader(engine, min_score=0, words=True, give_back=lambda: None)
    (page,) = reader.read(io.BytesIO(out.getvalue()), LIMITS)
    return page


@pytest.fixture(scope="module")
def engine(model_store: Path) -> Iterator[paddle_ocr.PaddleOcrEngine]:
    spec = models.resolve("PP-OCRv6_small", model_store, "onnxruntime", None)
    made = paddle_ocr.create(
        "onnxruntime", spec, 0, {}, orientation=models.further_file(models.ORIENTATION, model_store)
    )
    yield made
    made.close()


# -- with the model --------------------------------------------------------------------------------


@pytest.mark.parametrize("clockwise_deg", [0, 90, 180, 270])
def test_a_turned_page_reads_like_the_upright_one(
    engine: paddle_ocr.PaddleOcrEngine, clockwise_deg: int
) -> None:
    image, boxes = sheet()
    turned = image.rotate(-clockwise_deg, expand=True)
    page = read(turned, engine)
    assert page.turned_deg == -clockwise_deg % 360
    assert (page.width_px, page.height_px) == turned.size
    assert [line.text for line in page.lines] == [TEXT[number % 4] for number in range(14)]
    # Each line lies on its ink: 2 % of the page at the most.
    for line, (left, top, right, bottom) in zip(page.lines, boxes, strict=True):
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        back = orientation.turn_back(tuple(corners), -clockwise_deg % 360, *turned.size)
        off = np.abs(np.array(line.polygon) - np.array(back)).max()
        assert off <= 0.02 * max(turned.size), (line.text, line.polygon, back)


def test_what_is_not_told_to_look_does_not(model_store: Path) -> None:
    spec = models.resolve("PP-OCRv6_small", model_store, "onnxruntime", None)
    made = paddle_ocr.create("onnxruntime", spec, 0, {})
    try:
        upside_down = sheet()[0].rotate(180)
        assert made.turn_deg(np.asarray(upside_down)) == 0
        assert read(upside_down, made).turned_deg == 0
    finally:
        made.close()


@pytest.mark.parametrize("shape", [(1, 1), (1, 1000), (1000, 1), (37, 1024), (1024, 700)])
def test_a_blank_page_of_any_shape_is_looked_at(
    engine: paddle_ocr.PaddleOcrEngine, shape: tuple[int, int]
) -> None:
    blank = np.full((*shape, 3), 255, np.uint8)
    assert engine.turn_deg(blank) in (0, 90, 180, 270)
    page = read(Image.fromarray(blank), engine)
    assert page.turned_deg == 0
    assert page.lines == ()


def test_trouble_in_the_model_is_the_file_s_error(
    engine: paddle_ocr.PaddleOcrEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_bgr: object) -> int:
        raise RuntimeError("scripted")

    monkeypatch.setattr(engine.orientation, "turn_deg", fail)
    with pytest.raises(EngineError, match="scripted"):
        read(sheet()[0], engine)


# -- single lines on their head --------------------------------------------------------------------


@pytest.fixture(scope="module")
def line_engine(model_store: Path) -> Iterator[paddle_ocr.PaddleOcrEngine]:
    spec = models.resolve("PP-OCRv6_small", model_store, "onnxruntime", None)
    made = paddle_ocr.create(
        "onnxruntime",
        spec,
        0,
        {},
        orientation=models.further_file(models.ORIENTATION, model_store),
        line_orientation=models.line_orientation_file(model_store),
    )
    yield made
    made.close()


def with_lines_turned(*numbers: int) -> tuple[Image.Image, list[tuple[int, int, int, int]]]:
    """The sheet, some lines of which are on their head in their place."""
    image, boxes = sheet()
    for number in numbers:
        image.paste(image.crop(boxes[number]).rotate(180), boxes[number])
    return image, boxes


def test_lines_on_their_head_are_read_within_an_upright_page(
    line_engine: paddle_ocr.PaddleOcrEngine, engine: paddle_ocr.PaddleOcrEngine
) -> None:
    turned = (3, 4, 9)
    image, boxes = with_lines_turned(*turned)
    page = read(image, line_engine)
    assert page.turned_deg == 0
    # Text that runs the other way than most is read last, as whoever turns the page round would.
    order = [*(number for number in range(14) if number not in turned), *reversed(turned)]
    assert [line.text for line in page.lines] == [TEXT[number % 4] for number in order]
    for number, line in zip(order, page.lines, strict=True):
        left, top, right, bottom = boxes[number]
        begins = (right, bottom) if number in turned else (left, top)
        assert np.abs(np.array(line.polygon[0]) - begins).max() <= 0.02 * max(image.size)
        assert [word.text for word in line.words] == line.text.split()
        assert np.abs(np.array(line.words[0].polygon[0]) - begins).max() <= 0.02 * max(image.size)
        lefts = [min(x for x, _ in word.polygon) for word in line.words]
        assert lefts == sorted(lefts, reverse=number in turned)
    without = read(image, engine)
    assert [line.text == TEXT[number % 4] for number, line in enumerate(without.lines)] == [
        number not in turned for number in range(14)
    ]


def test_a_page_on_its_head_is_turned_as_a_page_all_the_same(
    line_engine: paddle_ocr.PaddleOcrEngine,
) -> None:
    page = read(sheet()[0].rotate(180), line_engine)
    assert page.turned_deg == 180
    assert [line.text for line in page.lines] == [TEXT[number % 4] for number in range(14)]


def test_the_model_for_lines_has_to_be_there_where_it_is_asked_for(tmp_path: Path, model_store: Path) -> None:
    def chosen(store: Path, **ocr: Any) -> Path | None:
        made = settings(tmp_path, ocr={"model_store": str(store), **ocr})
        return assembly.line_orientation_model(made.ocr)

    assert chosen(model_store) is None
    wanted = chosen(model_store, upside_down_lines=True)
    assert wanted == model_store / models.LINE_ORIENTATION / "inference.onnx"
    assert chosen(model_store, upside_down_lines=True, params={"use_textline_orientation": True}) is None
    with pytest.raises(UnavailableError, match="upside_down_lines") as caught:
        chosen(tmp_path / "empty", upside_down_lines=True)
    assert f"models pull {models.LINE_ORIENTATION}" in caught.value.hint


# -- reading decides -------------------------------------------------------------------------------


def fake(proposed_deg: int, **read_better: Any) -> FakeEngine:
    """An engine that proposes a turn, and reads a page well whose first pixel is of the given colour."""

    def on_read(bgr: np.ndarray[Any, Any]) -> object:
        height, width = bgr.shape[:2]
        red, blue = (int((bgr[:, :, channel] > 128).sum()) for channel in (2, 0))
        half = bgr[: height // 2] if height > 1 else bgr
        top_is_red = int(half[:, :, 2].mean()) > int(half[:, :, 0].mean())
        assert red
        assert blue
        score = read_better["upright"] if top_is_red else read_better["turned"]
        box = [0, 0, width, 10]
        return {"rec_texts": ["x" * 60], "rec_scores": [score], "rec_boxes": np.array([box])}

    return FakeEngine(on_read=on_read, on_turn=lambda _bgr: proposed_deg)


def half_and_half() -> Image.Image:
    """Red above, blue below."""
    image = Image.new("RGB", (200, 300), "blue")
    image.paste("red", (0, 0, 200, 150))
    return image


@pytest.mark.parametrize(
    ("upright", "turned", "turned_deg"), [(0.99, 0.6, 0), (0.6, 0.99, 180), (0.9, 0.95, 0), (0.0, 0.0, 0)]
)
def test_a_proposal_counts_only_where_it_reads_better(upright: float, turned: float, turned_deg: int) -> None:
    engine = fake(180, upright=upright, turned=turned)
    assert read(half_and_half(), engine).turned_deg == turned_deg
    assert engine.shapes[0] == (80, 80, 3)  # a few lines first
    assert engine.shapes[-1] == (300, 200, 3)


def test_without_a_proposal_nothing_is_read_twice() -> None:
    engine = fake(0, upright=0.5, turned=0.99)
    assert read(half_and_half(), engine).turned_deg == 0
    assert len(engine.shapes) == 1


def test_a_middle_without_text_has_the_whole_page_read() -> None:
    engine = FakeEngine(on_read=lambda _bgr: [], on_turn=lambda _bgr: 90)
    assert read(half_and_half(), engine).turned_deg == 0
    assert engine.shapes == [(80, 80, 3)] * 3 + [(300, 200, 3), (200, 300, 3), (200, 300, 3), (300, 200, 3)]


def test_the_opposite_of_a_proposed_side_is_tried_as_well() -> None:
    """Red to the right: the page is upright once it is turned by 270 degrees, and 90 was proposed."""
    engine = fake(90, upright=0.99, turned=0.6)
    page = read(half_and_half().rotate(-90, expand=True), engine)
    assert page.turned_deg == 270
    assert page.lines[0].score == 0.99


def test_lines_that_stand_are_no_proof() -> None:
    from ocr_watcher.document import Line  # noqa: PLC0415 - beside its use

    lying = Line("abc", 0.5, ((0, 0), (30, 0), (30, 10), (0, 10)))
    standing = Line("abcdef", 1.0, ((0, 0), (10, 0), (10, 60), (0, 60)))
    single = Line("I", 0.75, ((0, 0), (2, 0), (2, 10), (0, 10)))
    on_its_head = Line("abc", 1.0, ((30, 10), (0, 10), (0, 0), (30, 0)))
    assert orientation.legible([lying, standing, single, on_its_head]) == pytest.approx(2.25)


@pytest.mark.parametrize("clockwise_deg", [0, 90, 180, 270])
def test_points_come_back_to_where_they_were(clockwise_deg: int) -> None:
    page = np.arange(4 * 7 * 3).reshape(4, 7, 3).astype(np.uint8)
    turned = orientation.turn(page, clockwise_deg)
    assert turned.flags.c_contiguous
    for y in range(turned.shape[0]):
        for x in range(turned.shape[1]):
            # The middle of the pixel, because coordinates are those of edges.
            ((back_x, back_y),) = orientation.turn_back(((x + 0.5, y + 0.5),), clockwise_deg, 7, 4)
            assert (page[int(back_y), int(back_x)] == turned[y, x]).all()


# -- which model, when -----------------------------------------------------------------------------


def test_the_model_is_used_where_it_is_and_is_wanted(tmp_path: Path, model_store: Path) -> None:
    def chosen(**ocr: Any) -> Path | None:
        return assembly.orientation_model(settings(tmp_path, ocr=ocr))

    store = {"model_store": str(model_store)}
    assert chosen(**store) == model_store / models.ORIENTATION / "inference.onnx"
    assert chosen(**store, orientation="off") is None
    assert chosen(**store, params={"use_doc_orientation_classify": True}) is None
    assert chosen(model_store=str(tmp_path / "empty")) is None


def test_a_damaged_model_is_not_used(tmp_path: Path) -> None:
    file = tmp_path / models.ORIENTATION / "inference.onnx"
    file.parent.mkdir()
    file.write_bytes(b"x")
    assert models.further_file(models.ORIENTATION, tmp_path) is None


@pytest.mark.parametrize("name", [models.ORIENTATION, models.LINE_ORIENTATION])
def test_it_is_no_model_to_read_with(name: str) -> None:
    assert name not in models.CATALOGUE
    assert name in models.STORED
