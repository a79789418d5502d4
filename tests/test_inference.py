"""The models run our way, compared with the same models run by PaddleX itself."""

from __future__ import annotations

import importlib.util
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from ocr_watcher.errors import ConfigError, OutOfMemoryError, UnavailableError
from ocr_watcher.ocr import inference, models, paddle_ocr, paddlex, result
from ocr_watcher.ocr.paddlex import ParallelRecogniser

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ocr_watcher.document import Line
    from ocr_watcher.ocr.paddle_ocr import PaddleOcrEngine

needs_vnni = pytest.mark.skipif(
    inference.choose("onnxruntime").recogniser != "int8",
    reason="without VNNI nothing is computed in 8 bits",
)

WORDS = ("invoice", "total", "amount", "cash", "change", "number", "tax", "RM", "12.50", "x3", "A-17")


def scan(seed: int) -> NDArray[np.uint8]:
    """A receipt as a bad scanner sees it: words of several sizes, a little turned, soft and noisy."""
    number = random.Random(seed)  # noqa: S311 - the same pages every time
    page = Image.new("L", (620, 900), 245)
    draw = ImageDraw.Draw(page)
    y = 20
    while y < 860:
        size = number.choice((16, 20, 26, 34))
        words = number.choices(WORDS, k=number.choice((1, 2, 3, 6)))
        draw.text((number.randint(10, 80), y), " ".join(words), 30, ImageFont.load_default(size=size))
        y += int(size * 1.7)
    page = page.rotate(number.uniform(-0.7, 0.7), Image.Resampling.BICUBIC, fillcolor=245)
    page = page.filter(ImageFilter.GaussianBlur(0.6))
    noise = np.random.default_rng(seed).normal(0, 6, (page.height, page.width))
    grey = np.clip(np.asarray(page) + noise, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(grey[:, :, np.newaxis], 3, axis=2))


@pytest.fixture(scope="module")
def as_paddlex(model_store: Path) -> Iterator[PaddleOcrEngine]:
    """The unmodified pipeline: an explicit batch size leaves the models to PaddleX."""
    spec = models.resolve("PP-OCRv6_small", model_store, "onnxruntime", None)
    made = paddle_ocr.create("onnxruntime", spec, 0, {"text_recognition_batch_size": 1})
    yield made
    made.close()


def lines_of(reader: PaddleOcrEngine, page: NDArray[np.uint8]) -> list[Line]:
    return list(result.normalise(reader.read(page)))


@pytest.fixture(scope="module")
def exact(model_store: Path) -> Iterator[PaddleOcrEngine]:
    spec = models.resolve("PP-OCRv6_small", model_store, "onnxruntime", None)
    made = paddle_ocr.create("onnxruntime", spec, 0, {}, precision="fp32")
    yield made
    made.close()


def test_the_same_lines_as_the_unmodified_pipeline(
    exact: PaddleOcrEngine, as_paddlex: PaddleOcrEngine
) -> None:
    total = texts = scores = 0
    for seed in range(6):
        page = scan(seed)
        ours, theirs = lines_of(exact, page), lines_of(as_paddlex, page)
        assert [line.polygon for line in ours] == [line.polygon for line in theirs]
        for own, other in zip(ours, theirs, strict=True):
            total += 1
            texts += own.text == other.text
            scores += abs(own.score - other.score) <= 0.02
            if _width_at_48(own) >= 330:  # wide lines are not padded at all
                assert own.text == other.text
                assert own.score == pytest.approx(other.score, abs=1e-4)
    print(f"{total} lines: {texts} with the same text, {scores} with a score within 0.02")
    assert total > 100
    assert texts >= 0.97 * total
    assert scores >= 0.95 * total


@needs_vnni
@pytest.mark.parametrize(("model", "least"), [("PP-OCRv6_small", 0.8), ("PP-OCRv6_tiny", 0.85)])
def test_8_bits_read_nearly_the_same(model_store: Path, model: str, least: float) -> None:
    spec = models.resolve(model, model_store, "onnxruntime", None)
    exact = paddle_ocr.create("onnxruntime", spec, 0, {}, precision="fp32")
    rounded = paddle_ocr.create("onnxruntime", spec, 0, {}, precision="auto")
    total = texts = scores = differ = 0
    for seed in range(6):
        page = scan(seed)
        ours, theirs = lines_of(rounded, page), lines_of(exact, page)
        assert [line.polygon for line in ours] == [line.polygon for line in theirs]
        for own, other in zip(ours, theirs, strict=True):
            total += 1
            texts += own.text == other.text
            scores += abs(own.score - other.score) <= 0.02
            differ += own.score != other.score
    exact.close()
    rounded.close()
    print(f"{total} lines: {texts} with the same text, {scores} with a score within 0.02")
    assert differ > 0.5 * total  # they are computed in another way indeed
    assert texts >= 0.95 * total
    assert scores >= least * total


def _width_at_48(line: Line) -> float:
    xs, ys = zip(*line.polygon, strict=True)
    return float(48 * (max(xs) - min(xs)) / (max(ys) - min(ys)))


def test_the_session_of_paddlex_is_replaced_not_doubled(onnxruntime_engine: PaddleOcrEngine) -> None:
    pipeline = paddlex.pipeline_of(onnxruntime_engine._ocr)
    assert isinstance(pipeline.text_rec_model, ParallelRecogniser)
    assert isinstance(pipeline.text_rec_model._logits, inference.OnnxRuntime)
    assert pipeline.text_rec_model._recogniser.runner._logits is pipeline.text_rec_model._logits
    assert isinstance(pipeline.text_det_model.runner, inference.OnnxRuntime)


def test_word_boxes_are_left_to_paddlex(model_store: Path, onnxruntime_engine: PaddleOcrEngine) -> None:
    spec = models.resolve("PP-OCRv6_small", model_store, "onnxruntime", None)
    made = paddle_ocr.create("onnxruntime", spec, 0, {"return_word_box": True})
    page = scan(1)
    try:
        found: Any = made.read(page)
        assert found["text_word"]
        assert len(found["rec_texts"]) == len(lines_of(onnxruntime_engine, page))
    finally:
        made.close()


@pytest.mark.parametrize("params", [{"text_recognition_batch_size": 4}, {"engine_config": {}}])
def test_who_sets_what_paddlex_does_gets_paddlex(model_store: Path, params: dict[str, Any]) -> None:
    spec = models.resolve("PP-OCRv6_tiny", model_store, "onnxruntime", None)
    made = paddle_ocr.create("onnxruntime", spec, 0, params, provider="auto")
    assert not isinstance(paddlex.pipeline_of(made._ocr).text_rec_model, ParallelRecogniser)
    assert made.provider == "onnxruntime"
    made.close()


# -- side by side ------------------------------------------------------------------------------


class Recogniser:
    """What `ParallelRecogniser` asks of PaddleX's: the text of a line is its first pixel."""

    model_name = "fake"
    vis_font = None

    def __init__(self) -> None:
        self.widths: list[int] = []
        self.threads: set[str] = set()
        self.error: Exception | None = None
        self.pre_tfs = {"Read": lambda imgs: imgs, "ReisizeNorm": self}
        self.post_op = self
        self.rec_image_shape = (3, 48, 320)
        self.max_imgW = 3200
        self.character = [str(number) for number in range(256)]
        self.closed = False

    def resize_norm_img(self, image: NDArray[np.uint8], ratio: float) -> NDArray[np.float32]:
        width = min(int(48 * ratio), self.max_imgW)
        self.widths.append(width)
        return np.full((3, 48, width), image[0, 0, 0], np.float32)

    def logits(self, x: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        self.threads.add(threading.current_thread().name)
        if self.error:
            raise self.error
        logits = np.zeros((1, 256), np.float32)
        logits[0, int(x[0][0, 0, 0, 0])] = 9
        return [logits]

    def decode(self, best: Any, how: Any, *, is_remove_duplicate: bool) -> list[tuple[str, float]]:
        assert is_remove_duplicate
        return [(str(best[0, 0]), float(how[0, 0]))]

    def close(self) -> None:
        self.closed = True


def line(width: int, value: int, height: int = 48) -> NDArray[np.uint8]:
    return np.full((height, width, 3), value, np.uint8)


def test_what_is_never_used_is_not_imported_and_can_be_later(model_store: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ocr_watcher.ocr import models, paddle_ocr;"
        f"spec = models.resolve('PP-OCRv6_tiny', Path({str(model_store)!r}), 'onnxruntime', None);"
        "paddle_ocr.create('onnxruntime', spec, 1, {});"
        "found = {'pandas', 'aiohttp', 'paddle'} & set(sys.modules);"
        "import pandas; pandas.DataFrame({'a': [1]}).a.sum();"
        "sys.exit(', '.join(found) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


class Unsure(Recogniser):
    """Is so sure of a line of 32 px as `score` says, and of one of 48 px always; gives a column each 8 px."""

    def __init__(self, score: float, text: str = "7") -> None:
        super().__init__()
        self.score = score
        self.text = text
        self.shapes: list[tuple[int, ...]] = []

    def logits(self, x: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        self.shapes.append(x[0].shape[2:])
        return [np.zeros((x[0].shape[3] // 8, 256), np.float32)]

    def decode(self, best: Any, how: Any, *, is_remove_duplicate: bool) -> list[tuple[str, float]]:
        del best, how, is_remove_duplicate
        return [(self.text, self.score if self.shapes[-1][0] == 32 else 1.0)]


@pytest.mark.parametrize(
    ("score", "text", "width_px", "heights"),
    [
        (0.96, "7", 200, [32]),
        (0.95, "7", 200, [32, 48]),
        (0.0, "", 200, [32, 48]),
        (1.0, "7" * 13, 200, [32]),  # 167 px at a height of 40: 20.8 columns
        (1.0, "7" * 14, 200, [32, 48]),
        (1.0, "7", 3200, [32]),
        (1.0, "7", 3201, [48]),  # PaddleX squeezes it
    ],
)
def test_a_second_look_where_the_first_gave_no_clear_result(
    score: float, text: str, width_px: int, heights: list[int]
) -> None:
    recogniser = Unsure(score, text)
    reader = ParallelRecogniser(
        recogniser, recogniser.logits, 1, inference.TwoLooks(inference.LineShape(32, 40), 0.96, 1.5)
    )
    (result,) = reader([line(width_px, 5)])
    assert [height for height, _ in recogniser.shapes] == heights
    assert (result["rec_text"], result["rec_score"]) == (text, 1.0 if heights[-1] == 48 else score)
    reader.close()


def test_a_small_line_is_what_paddlex_would_make_of_it_at_that_height() -> None:
    from paddlex.inference.models.text_recognition.processors import OCRReisizeNormImg  # noqa: PLC0415

    for width, height in ((500, 30), (90, 48), (20, 60)):
        image = np.random.default_rng(width).integers(0, 255, (height, width, 3), np.uint8)
        ratio = inference.padded_ratio(width / height, 48, 320)
        theirs = OCRReisizeNormImg(rec_image_shape=[3, 48, 320]).resize_norm_img(image, ratio)
        (ours,) = inference.small_line(image, inference.LineShape(48, 48), 320)
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("lines_at_once", [1, 2, 4])
def test_results_come_in_the_order_of_the_lines(lines_at_once: int) -> None:
    recogniser = Recogniser()
    reader = ParallelRecogniser(recogniser, recogniser.logits, lines_at_once)
    lines = [line(10 + 37 * n % 700, n) for n in range(100)]
    assert [found["rec_text"] for found in reader(lines)] == [str(n) for n in range(100)]
    assert list(reader([])) == []
    reader.close()
    assert recogniser.closed


@pytest.mark.parametrize(
    ("size", "padded"),
    [
        ((10, 48), 96),  # 10 + 64, on to a multiple of 32
        ((64, 48), 128),
        ((200, 48), 288),
        ((250, 48), 320),
        ((310, 48), 320),  # never more than PaddleX
        ((320, 48), 320),
        ((501, 48), 501),  # as PaddleX
        ((5000, 48), 3200),
        ((7, 96), 96),
    ],
)
def test_short_lines_are_padded_less(size: tuple[int, int], padded: int) -> None:
    recogniser = Recogniser()
    list(ParallelRecogniser(recogniser, recogniser.logits, 1)([line(size[0], 1, size[1])]))
    assert recogniser.widths == [padded]


def test_lines_side_by_side_are_together_no_wider_than_the_widest() -> None:
    recogniser = Recogniser()
    inside: list[int] = []
    most = 0

    def run(x: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        nonlocal most
        inside.append(x[0].shape[-1])
        most = max(most, sum(inside))
        time.sleep(0.002)  # so that runs overlap
        inside.remove(x[0].shape[-1])
        return Recogniser().logits(x)

    reader = ParallelRecogniser(recogniser, run, 4)
    lines = [line(3200 if n % 2 else 1000, n) for n in range(60)]
    assert [found["rec_text"] for found in reader(lines)] == [str(n) for n in range(60)]
    assert most == 3200
    reader.close()


def test_an_error_in_a_thread_reaches_the_reader() -> None:
    recogniser = Recogniser()
    reader = ParallelRecogniser(recogniser, recogniser.logits, 2)
    recogniser.error = MemoryError("scripted")
    with pytest.raises(MemoryError):
        list(reader([line(10, n) for n in range(8)]))
    recogniser.error = None
    assert len(list(reader([line(10, n) for n in range(8)]))) == 8
    reader.close()


def test_want_of_memory_in_a_thread_is_told_and_the_engine_goes_on(
    onnxruntime_engine: PaddleOcrEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = paddlex.pipeline_of(onnxruntime_engine._ocr).text_rec_model

    def refuse(_: object) -> None:
        raise RuntimeError("Failed to allocate memory for requested buffer of size 1")

    page = scan(2)
    with monkeypatch.context() as patch:
        patch.setattr(reader, "_logits", refuse)
        with pytest.raises(OutOfMemoryError):
            onnxruntime_engine.read(page)
    assert lines_of(onnxruntime_engine, page)


def test_the_best_characters_are_those_of_a_softmax() -> None:
    logits = np.random.default_rng(1).normal(0, 3, (200, 30)).astype(np.float32)
    logits[:, 0] += 4  # most columns are blank
    logits[50:60, 7] += 30  # one character over several columns
    best, likely = inference.best_characters(logits)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert (best == softmax.argmax(axis=1)).all()
    begins = [n for n in range(200) if best[n] != 0 and (n == 0 or best[n] != best[n - 1])]
    assert 10 < len(begins) < 150
    assert likely[begins] == pytest.approx(softmax.max(axis=1)[begins], rel=1e-4)
    assert np.count_nonzero(likely) == len(begins)


# -- the provider ------------------------------------------------------------------------------

HAS_OPENVINO = importlib.util.find_spec("openvino") is not None
needs_openvino = pytest.mark.skipif(
    not HAS_OPENVINO, reason="OpenVINO is an extra: `make test-openvino` installs it and runs these"
)


class Core:
    def __init__(self, *able: str) -> None:
        self._able = list(able)

    def get_property(self, _device: str, _name: str) -> list[str]:
        return self._able


def test_auto_takes_openvino_only_where_it_is_there_and_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert inference.choose("auto").provider == "onnxruntime"
    with pytest.raises(UnavailableError, match="not installed") as refused:
        inference.choose("openvino")
    assert "pip install" in refused.value.hint
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(inference, "_openvino_core", lambda: Core("FP32", "BF16"))
    assert inference.choose("auto").provider == "openvino"
    assert inference.choose("auto").detector == "bf16"
    assert inference.choose("auto", "fp32").provider == "onnxruntime"
    assert inference.choose("openvino", "fp32").detector == "fp32"
    assert inference.choose("onnxruntime").provider == "onnxruntime"
    monkeypatch.setattr(inference, "_openvino_core", lambda: Core("FP32"))
    assert inference.choose("auto").provider == "onnxruntime"
    assert inference.choose("openvino").provider == "openvino"


@pytest.mark.parametrize(
    ("flags", "wanted", "recogniser"),
    [
        ("avx2 avx512_vnni", "auto", "int8"),
        ("avx2 avx_vnni", "auto", "int8"),
        ("avx2 avx512_vnni", "fp32", "fp32"),
        ("avx2", "auto", "fp32"),
    ],
)
def test_8_bits_only_where_the_processor_multiplies_them(
    tmp_path: Path, flags: str, wanted: str, recogniser: str
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: fpu {flags} xsave\n", encoding="ascii")
    assert inference.choose("onnxruntime", wanted, cpuinfo).recogniser == recogniser
    assert inference.choose("onnxruntime", wanted, tmp_path / "none").recogniser == "fp32"


def test_openvino_and_paddlex_settings_exclude_each_other(
    model_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "choose", lambda *_: inference.Choice("openvino", "bf16", "int8", ""))
    spec = models.resolve("PP-OCRv6_tiny", model_store, "onnxruntime", None)
    with pytest.raises(ConfigError, match="text_recognition_batch_size"):
        paddle_ocr.create("onnxruntime", spec, 0, {"text_recognition_batch_size": 6}, provider="openvino")


@needs_openvino
def test_openvino_reads_the_same_words(model_store: Path, onnxruntime_engine: PaddleOcrEngine) -> None:
    spec = models.resolve("PP-OCRv6_small", model_store, "onnxruntime", None)
    made = paddle_ocr.create("onnxruntime", spec, 0, {}, provider="openvino")
    assert made.provider == "openvino"
    same = total = 0
    for seed in range(3):
        page = scan(seed)
        ours = [line.text for line in lines_of(made, page)]
        theirs = [line.text for line in lines_of(onnxruntime_engine, page)]
        total += len(theirs)
        same += sum(text in ours for text in theirs)
    made.close()
    print(f"{same} of {total} lines are the same in bf16 and fp32")
    assert same >= 0.9 * total


@needs_openvino
def test_an_odd_page_does_openvino_no_harm(model_store: Path) -> None:
    spec = models.resolve("PP-OCRv6_tiny", model_store, "onnxruntime", None)
    made = paddle_ocr.create("onnxruntime", spec, 0, {}, provider="openvino")
    for shape in ((1, 1, 3), (1, 900, 3), (900, 1, 3), (40, 2000, 3)):
        assert lines_of(made, np.full(shape, 255, np.uint8)) == []
    made.warm_up()
    made.close()
