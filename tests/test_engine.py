"""The engines on drawn images, what is decided before one is loaded, and the test double."""

from __future__ import annotations

import importlib.metadata
import logging
import re
import resource
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from ocr_watcher.errors import EngineError, OutOfMemoryError, UnavailableError
from ocr_watcher.ocr import models, paddle_ocr, paddlex, result
from ocr_watcher.ocr.cpus import usable_cpus
from ocr_watcher.ocr.engine import FakeEngine, drawn_text
from ocr_watcher.ocr.models import ModelSpec
from ocr_watcher.ocr.paddle_ocr import PaddleOcrEngine, check_paddle_version, create, turn_back

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ocr_watcher.ocr.engine import Engine


@pytest.fixture(params=["onnxruntime", "paddle"])
def real_engine(request: pytest.FixtureRequest) -> PaddleOcrEngine:
    engine: PaddleOcrEngine = request.getfixturevalue(f"{request.param}_engine")
    return engine


def page(*lines: tuple[str, int, int]) -> NDArray[np.uint8]:
    """A white page of 600x400 px with lines of text, each with the left and top of its letters."""
    image = np.full((400, 600, 3), 255, np.uint8)
    for text, left, top in lines:
        block = drawn_text(text)[32:, 32:]
        image[top : top + block.shape[0], left : left + block.shape[1]] = block
    return image


# -- reading -----------------------------------------------------------------------------------


WITHOUT_PADDLE = """
import sys
from pathlib import Path
from ocr_watcher.ocr import models, paddle_ocr
spec = models.resolve("PP-OCRv6_small", Path(sys.argv[1]), "onnxruntime", None)
made = paddle_ocr.create("onnxruntime", spec, 0, {})
assert "paddleocr" in sys.modules
made.warm_up()
made.close()
assert "paddle" not in sys.modules, "Paddle was imported: 250 MB and 5 s for nothing"
"""


def test_onnxruntime_starts_quietly_and_without_paddle(model_store: Path) -> None:
    command = [sys.executable, "-W", "error::UserWarning", "-c", WITHOUT_PADDLE, str(model_store)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_words_and_where_they_are(real_engine: PaddleOcrEngine) -> None:
    lines = result.normalise(real_engine.read(page(("Invoice 2041", 40, 60), ("Total 99.50", 250, 260))))

    assert [line.text for line in lines] == ["Invoice 2041", "Total 99.50"]
    for line, (left, top) in zip(lines, [(40, 60), (250, 260)], strict=True):
        xs, ys = zip(*line.polygon, strict=True)
        assert (min(xs), min(ys)) == pytest.approx((left, top), abs=15)
        assert max(xs) - min(xs) == pytest.approx(190, abs=30)
        assert max(ys) - min(ys) == pytest.approx(32, abs=15)
        assert line.score > 0.9


@pytest.mark.parametrize("shape", [(1, 1), (1, 1024), (1024, 1), (20, 3000), (3000, 20)])
@pytest.mark.parametrize("noise", [False, True])
def test_odd_shapes_hold_no_text_and_do_no_harm(
    real_engine: PaddleOcrEngine,
    shape: tuple[int, int],
    noise: bool,
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256 if noise else 1, (*shape, 3), np.uint8)
    assert result.normalise(real_engine.read(pixels)) == ()


def test_an_array_that_is_no_image_is_an_engine_error(onnxruntime_engine: PaddleOcrEngine) -> None:
    with pytest.raises(EngineError, match=r"ValueError: .* \(image of shape \(50, 60\)\)"):
        onnxruntime_engine.read(np.zeros((50, 60), np.uint8))


def test_refused_memory_is_told_and_the_engine_goes_on(onnxruntime_engine: PaddleOcrEngine) -> None:
    """For real: the allocation is refused by the kernel, as under `memory.hard_limit_mb`."""
    large, small = np.zeros((3000, 3000, 3), np.uint8), drawn_text("Invoice 2041")  # the large one takes 1 GB
    data_mb = int(re.findall(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())[0]) >> 10
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (data_mb + 100 << 20, before[1]))
    try:
        with pytest.raises(OutOfMemoryError):
            onnxruntime_engine.read(large)
        (line,) = result.normalise(onnxruntime_engine.read(small))
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
    assert line.text == "Invoice 2041"


def test_who_it_is(real_engine: PaddleOcrEngine) -> None:
    model = {"onnxruntime": "PP-OCRv6_small", "paddle": "PP-OCRv5_mobile"}[real_engine.name]
    assert real_engine.model == model
    assert real_engine.version == importlib.metadata.version("paddleocr")


def test_the_settings_reach_onnxruntime(onnxruntime_engine: PaddleOcrEngine) -> None:
    pipeline = paddlex.pipeline_of(onnxruntime_engine._ocr)
    logits = pipeline.text_rec_model._logits  # one thread a line, as many lines as threads
    for runner, threads, pooled in (
        (pipeline.text_det_model.runner, usable_cpus(), True),
        (logits, 1, False),
    ):
        options = runner._session.get_session_options()
        assert (options.enable_cpu_mem_arena, options.enable_mem_pattern) == (pooled, False)
        assert options.intra_op_num_threads == threads
        assert options.inter_op_num_threads == 1
        assert options.log_severity_level == 4


def test_the_settings_reach_paddle(paddle_engine: PaddleOcrEngine) -> None:
    config = paddlex.pipeline_of(paddle_engine._ocr).text_rec_model.runner._config
    assert config["run_mode"] == "mkldnn"
    assert config["mkldnn_cache_capacity"] == 1
    assert config["cpu_threads"] == usable_cpus()


@pytest.mark.usefixtures("onnxruntime_engine")
def test_what_is_printed_while_a_model_is_downloaded_goes_to_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    class Downloads:
        def __init__(self, **_arguments: object) -> None:
            print("Connecting to a hub ...")
            for percent in range(0, 101, 10):
                sys.stderr.write(f"\r[{percent} %]")
            sys.stderr.write("\n\n")
            print("half", end="", file=sys.stderr)
            print(" a line", file=sys.stderr)

    monkeypatch.setitem(sys.modules, "paddleocr", SimpleNamespace(PaddleOCR=Downloads))
    with caplog.at_level(logging.INFO, "ocr_watcher"):
        paddlex.load("onnxruntime", {}, {})
    assert [record.message for record in caplog.records] == [
        "Connecting to a hub ...",
        "[100 %]",
        "half a line",
    ]
    assert capsys.readouterr() == ("", "")


def test_third_parties_log_through_the_root_logger_from_warning_up() -> None:
    for name in ("paddlex", "paddleocr"):
        third_party = logging.getLogger(name)
        assert (third_party.handlers, third_party.propagate, third_party.level) == ([], True, logging.WARNING)


@pytest.mark.parametrize(
    "message",
    [
        "(External) ResourceExhaustedError: Out of memory error on CPU",
        "Fail to alloc memory of 4294967296 size",
        "OpenCV(4.10.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 123 bytes",
        "std::bad_alloc",
        "Convolution node with name 'Conv.9' can't alloc",
        "Check 'ptr' failed at src/intel_cpu/src/cpu_memory.cpp:257: Failed to allocate 50360496 bytes",
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer",
        "std::exception",
    ],
)
def test_out_of_memory_is_told_from_other_errors(message: str) -> None:
    def ocr_raising(error: Exception) -> PaddleOcrEngine:
        class Ocr:
            def predict(self, _bgr: object) -> object:
                raise error

        return PaddleOcrEngine("onnxruntime", "onnxruntime", "m", "3", Ocr())

    image = np.zeros((2, 3, 3), np.uint8)
    for error in (RuntimeError(message), MemoryError()):
        with pytest.raises(OutOfMemoryError, match=r"image of shape \(2, 3, 3\)"):
            ocr_raising(error).read(image)
    with pytest.raises(EngineError, match="RuntimeError: something else"):
        ocr_raising(RuntimeError("something else")).read(image)


def test_of_paddles_stack_only_the_reason_is_told() -> None:
    stack = "C++ Traceback\n0 paddle::f\n\n-----\nError Message Summary:\n-----\n"
    error = RuntimeError(f"{stack}InvalidArgumentError: bad\n  shape")
    assert paddle_ocr._summary(error) == "RuntimeError: InvalidArgumentError: bad shape"


# -- a turned document -------------------------------------------------------------------------


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_points_come_back_from_paddlex_rotation(angle: int) -> None:
    from paddlex.inference.pipelines.components import rotate_image  # noqa: PLC0415 -- seconds

    image = np.zeros((60, 100, 3), np.uint8)
    cv2.circle(image, (70, 20), 3, (255, 255, 255), -1)
    turned = rotate_image(image, angle)
    ys, xs = np.nonzero(turned[:, :, 0] > 127)

    back = turn_back(np.array([[xs.mean(), ys.mean()]]), angle, 100, 60)

    assert back[0] == pytest.approx([70, 20], abs=1.01)


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_a_turned_document_is_told_in_its_own_pixels(onnxruntime_engine: PaddleOcrEngine, angle: int) -> None:
    """The orientation model is a download of its own: its answer is given, all else is real."""
    from paddlex.inference.pipelines.components import rotate_image  # noqa: PLC0415 -- seconds

    class Orienting:
        def predict(self, bgr: NDArray[np.uint8]) -> list[Any]:
            (found,) = onnxruntime_engine._ocr.predict(rotate_image(bgr, angle))
            found["doc_preprocessor_res"] = {"angle": angle}
            return [found]

    upright = page(("Invoice 2041", 40, 60))
    lying = np.ascontiguousarray(np.rot90(upright, -angle // 90))
    (line,) = result.normalise(
        PaddleOcrEngine("onnxruntime", "onnxruntime", "m", "3", Orienting()).read(lying)
    )

    assert line.text == "Invoice 2041"
    ink_y, ink_x = np.nonzero(lying[:, :, 0] < 128)
    xs, ys = zip(*line.polygon, strict=True)
    assert (min(xs), max(xs)) == pytest.approx((ink_x.min(), ink_x.max()), abs=12)
    assert (min(ys), max(ys)) == pytest.approx((ink_y.min(), ink_y.max()), abs=12)


# -- starting ----------------------------------------------------------------------------------


def test_a_model_of_the_users_own_replaces_that_half(model_store: Path) -> None:
    spec = models.resolve("PP-OCRv6_small", model_store, "onnxruntime", None)
    params = {"rec_model_dir": str(model_store / "PP-OCRv5_mobile/rec"), "cpu_threads": 1}
    params["engine_config"] = {"intra_op_num_threads": 2, "log_severity_level": 3}

    engine = create("onnxruntime", spec, 0, params)
    (line,) = result.normalise(engine.read(drawn_text("Invoice 2041")))
    recogniser = paddlex.pipeline_of(engine._ocr).text_rec_model
    options = recogniser.runner.session.get_session_options()
    name = recogniser.model_name
    engine.close()

    assert (line.text, name) == ("Invoice 2041", "PP-OCRv5_mobile_rec")
    assert (options.intra_op_num_threads, options.enable_cpu_mem_arena) == (2, False)


def test_what_paddleocr_refuses_is_told_in_one_sentence(model_store: Path) -> None:
    spec = models.resolve("PP-OCRv6_small", model_store, "onnxruntime", None)
    with pytest.raises(UnavailableError, match=r"PaddleOCR cannot start .*no_such_option") as caught:
        create("onnxruntime", spec, 1, {"engine_config": {"no_such_option": 1}})
    assert "ocr.params" in caught.value.hint


def test_paddle_settings_for_onnxruntime_are_told_to_have_no_effect(caplog: pytest.LogCaptureFixture) -> None:
    spec = ModelSpec("nothing", "paddleocr", MappingProxyType({"text_detection_model_dir": "/nonexistent"}))
    with pytest.raises(UnavailableError, match="cannot start"):
        create("onnxruntime", spec, 1, {"enable_mkldnn": True})
    assert "ocr.params.enable_mkldnn has no effect with ocr.engine onnxruntime" in caplog.messages


@pytest.mark.parametrize("version", ["3.3.0", "3.3.1"])
def test_bad_paddle_releases_are_refused_before_loading(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    installed = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: version if name == "paddlepaddle" else installed(name)
    )
    nowhere = ModelSpec(
        "nothing", "paddleocr", MappingProxyType({"text_detection_model_dir": "/nonexistent"})
    )

    with pytest.raises(UnavailableError, match=f"paddlepaddle {version} fails") as caught:
        create("paddle", nowhere, 1, {})
    assert "paddlepaddle==3.2.2" in caught.value.hint
    with pytest.raises(UnavailableError, match="cannot start"):  # past the check: slow, but it works
        create("paddle", nowhere, 1, {"enable_mkldnn": False})


def test_the_pinned_paddle_is_good() -> None:
    check_paddle_version(importlib.metadata.version("paddlepaddle"))


# -- the double --------------------------------------------------------------------------------


def test_the_fake_is_an_engine_and_tells_what_it_saw() -> None:
    fake = FakeEngine()
    engine: Engine = fake
    engine.warm_up()
    (line,) = result.normalise(engine.read(np.zeros((20, 30, 3), np.uint8)))
    engine.close()
    assert line.text == "20x30"
    assert (fake.shapes, fake.warmed_up, fake.closed) == ([(20, 30, 3)], True, True)


def test_the_fake_does_what_it_is_told() -> None:
    def refuse(_bgr: NDArray[np.uint8]) -> object:
        raise OutOfMemoryError("no")

    with pytest.raises(OutOfMemoryError):
        FakeEngine(on_read=refuse).read(np.zeros((1, 1, 3), np.uint8))
