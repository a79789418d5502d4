"""Everything that reaches into the insides of PaddleOCR and PaddleX, which have no interface for it.

PaddleX pads every line to at least 320 px, and recognises one after the other on all threads. Here the two
models are taken out of a loaded PaddleOCR and run by `inference` instead: a short line is padded less, and as
many lines are recognised at once as there are threads. Everything around the models stays PaddleX's own:
resizing, cutting out, decoding, order. `tests/test_inference.py` compares the two on the same images.

The names below were seen in PaddleOCR 3.7.0 with PaddleX 3.7.2; with another version, look here first:

- `PaddleOCR.paddlex_pipeline._pipeline`, with `text_det_model` and `text_rec_model`;
- of both: `runner`, called with a list of one array, with `close()`, `model_dir` and `model_file_prefix`;
- of `text_rec_model`: its call, `close()`, `model_name`, `input_shape`, `vis_font`, the steps before the
  model `pre_tfs["Read"]` and `pre_tfs["ReisizeNorm"]` (`rec_image_shape`, `resize_norm_img`), and the step
  after it `post_op.decode`;
- `textline_orientation_model`, called with all lines of a page, and `use_textline_orientation`; of a result
  `textline_orientation_angles`, which is 1 for each of `dt_polys` that was turned;
- the engines `onnxruntime` and `paddle_static`, and the loggers `paddlex` and `paddleocr`.
"""

from __future__ import annotations

import io
import logging
import math
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ocr_watcher.ocr import inference
from ocr_watcher.ocr.line_orientation import LineOrientation
from ocr_watcher.ocr.words import Recognised

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ocr_watcher.ocr.inference import Choice, Runner, TwoLooks

logger = logging.getLogger(__name__)

_ENGINE_NAMES: Final = {"onnxruntime": "onnxruntime", "paddle": "paddle_static"}
_LOGGERS: Final = ("paddlex", "paddleocr")
# Of the hubs that PaddleX downloads from.
_HUB_LOGGERS: Final = ("modelscope", "modelscope_hub", "huggingface_hub")

# What PaddleX and PaddleOCR import for work that is never done here: tables as input, time series, and the
# clients of a service with all of aiohttp. It took a fifth of a second of each start, and 40 MiB.
_NEVER_USED: Final = (
    "pandas",
    "paddleocr._api_client.async_client",
    "paddleocr._api_client.client",
    "paddlex.inference.models.common.ts",
)

# More lines at once would take more memory than they save time.
_MAX_LINES_AT_ONCE: Final = 4
# Lines recognised at once are together at most this wide, at a height of 48 px. PaddleX makes no single line
# wider, and one that wide takes up to 145 MiB (docs/memory.md).
_MAX_TOTAL_WIDTH_PX: Final = 3200


def load(engine: str, config: Mapping[str, Any], arguments: Mapping[str, Any]) -> Any:  # noqa: ANN401 - PaddleOCR ships no types
    """Import PaddleOCR and make one, on the CPU and logging through the root logger.

    Args:
        engine: `onnxruntime` or `paddle`.
        config: PaddleOCR's `engine_config`.
        arguments: all other arguments of `PaddleOCR`.

    Raises:
        Exception: whatever PaddleOCR raises.
    """
    said = _Lines()
    # What downloads a model prints as it likes, progress bars too. Here a log is read.
    with warnings.catch_warnings(), redirect_stdout(said), redirect_stderr(said):
        # Paddle warns of this when it is imported. Nothing is compiled here.
        warnings.filterwarnings("ignore", message="No ccache found", category=UserWarning)
        with _placeholders(_NEVER_USED):
            from paddleocr import PaddleOCR  # noqa: PLC0415 - takes a second and 150 MB

        # They bring handlers of their own, and say "Creating model" at level info, in colour.
        for name in (*_LOGGERS, *_HUB_LOGGERS):
            third_party = logging.getLogger(name)
            third_party.handlers.clear()
            third_party.propagate = True
            third_party.setLevel(logging.WARNING)
        # Without a device PaddleX imports Paddle to look for a GPU, also for engine onnxruntime.
        return PaddleOCR(engine=_ENGINE_NAMES[engine], device="cpu", engine_config=dict(config), **arguments)


class _Placeholder(ModuleType):
    """A module that has every name, and nothing behind it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


@contextmanager
def _placeholders(names: Sequence[str]) -> Iterator[None]:
    """Let whoever imports these modules meanwhile have placeholders. Modules that are loaded stay."""
    placed = {name: _Placeholder(name) for name in names if name not in sys.modules}
    sys.modules.update(placed)
    try:
        yield
    finally:
        for name, module in placed.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


class _Lines(io.TextIOBase):
    """A stream whose lines go to the log; of a line that was overwritten again and again, its last state."""

    def __init__(self) -> None:
        self._left = ""

    def write(self, text: str) -> int:
        """Log what is complete."""
        *lines, self._left = (self._left + text).split("\n")
        for line in lines:
            last = line.rstrip("\r").rpartition("\r")[2].strip()
            if last:
                logger.info("%s", last)
        self._left = self._left.rpartition("\r")[2]
        return len(text)


def pipeline_of(ocr: Any) -> Any:  # noqa: ANN401 - PaddleOCR ships no types
    """The part of a `PaddleOCR` that holds the models."""
    return ocr.paddlex_pipeline._pipeline  # noqa: SLF001 - PaddleX offers no way to give it a model


def replace_runners(ocr: Any, choice: Choice, threads: int) -> None:  # noqa: ANN401 - PaddleOCR ships no types
    """Let `inference` run the detector and the recogniser of a loaded PaddleOCR.

    Args:
        ocr: `paddleocr.PaddleOCR`, made with engine `onnxruntime`.
        choice: the library that runs the models, and the numbers they compute in.
        threads: how many threads to compute with.
    """
    pipeline = pipeline_of(ocr)
    detector, recogniser = pipeline.text_det_model, pipeline.text_rec_model
    detector.runner.close()
    if choice.provider == "openvino":
        detector.runner = inference.OpenVino(_onnx_file(detector), threads, choice.detector)
    else:
        detector.runner = inference.OnnxRuntime(_onnx_file(detector), threads, pooled=True)
    recogniser.runner.close()
    file = _onnx_file(recogniser)
    # `ParallelRecogniser` lacks two of PaddleX's steps: turning a right-to-left script round after decoding,
    # and squeezing every line into a shape that the user fixed.
    lacks_a_step = recogniser.model_name.startswith("arabic") or recogniser.input_shape is not None
    model = None if lacks_a_step else inference.logits_model(file, recogniser.model_name, choice.recogniser)
    if model is None:
        recogniser.runner = inference.OnnxRuntime(file, threads)
        return
    lines_at_once = min(threads, _MAX_LINES_AT_ONCE)
    logits = inference.OnnxRuntime(model, max(1, threads // lines_at_once))
    recogniser.runner = Likelihoods(logits)
    # Whoever asks for fp32 wants what the model itself gives.
    two_looks = inference.TWO_LOOKS.get(recogniser.model_name) if choice.recogniser == "int8" else None
    pipeline.text_rec_model = ParallelRecogniser(recogniser, logits, lines_at_once, two_looks)


def _onnx_file(model: Any) -> Path:  # noqa: ANN401 - PaddleX ships no types
    file: Path = model.runner.model_dir / f"{model.runner.model_file_prefix}.onnx"
    return file


def turn_lines(ocr: Any, model: Path, threads: int) -> None:  # noqa: ANN401 - PaddleOCR ships no types
    """Have lines on their head turned by our own model, in the place of PaddleX's.

    Args:
        ocr: `paddleocr.PaddleOCR`; its recogniser is not replaced after this.
        model: the file of ch_ppocr_mobile_v2.0_cls.
        threads: how many threads to compute with.
    """
    pipeline = pipeline_of(ocr)
    pipeline.textline_orientation_model = LineOrientation(model, pipeline.text_rec_model, threads)
    pipeline.use_textline_orientation = True


class Likelihoods:
    """A recogniser that gives logits, made to give what PaddleX's own steps expect.

    That is a likelihood for every character, in an array of shape (1, columns, characters).
    """

    def __init__(self, logits: Runner) -> None:
        self._logits = logits

    def __call__(self, x: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """See `Runner`."""
        (logits,) = self._logits(x)
        likely = np.exp(logits - logits.max(axis=1, keepdims=True))
        return [(likely / likely.sum(axis=1, keepdims=True))[np.newaxis]]

    def close(self) -> None:
        """See `Runner`."""
        self._logits.close()


@dataclass(frozen=True)
class _Seen:
    """What one look at a line gave: its text, the mean likelihood, and how many columns the line took."""

    recognised: Recognised
    score: float
    columns: float


class ParallelRecogniser:
    """Stands in for PaddleX's recogniser, and recognises several lines at once.

    It takes the same lines and gives the same results. It uses PaddleX's steps before and after the model.

    Args:
        recogniser: PaddleX's own.
        logits: runs the recogniser's model, in the form that `inference.logits_model` makes.
        lines_at_once: how many threads recognise lines.
        two_looks: how to spare time on lines that are clear, for a model that takes lines of any height.
    """

    def __init__(
        self,
        recogniser: Any,  # noqa: ANN401 - PaddleX ships no types
        logits: Callable[[Sequence[NDArray[np.float32]]], list[NDArray[np.float32]]],
        lines_at_once: int,
        two_looks: TwoLooks | None = None,
    ) -> None:
        self._recogniser = recogniser
        self._two_looks = two_looks
        self._logits = logits
        self._resize = recogniser.pre_tfs["ReisizeNorm"]
        self._width_px = inference.WeightedSemaphore(_MAX_TOTAL_WIDTH_PX)
        self._pool = ThreadPoolExecutor(lines_at_once, "recogniser") if lines_at_once > 1 else None

    def __call__(
        self,
        lines: Sequence[NDArray[np.uint8]],
        return_word_box: bool | None = None,  # noqa: FBT001 - PaddleX's signature
    ) -> Iterator[dict[str, Any]]:
        """Recognise lines that were cut out of a page.

        Args:
            lines: BGR, uint8 of shape (height, width, 3).
            return_word_box: where words are wanted, PaddleX does it all: it computes their positions from its
                own padding.

        Yields:
            PaddleX's results, in the order of `lines`.
        """
        if return_word_box:
            yield from self._recogniser(lines, return_word_box=True)
            return
        if self._pool is None:
            yield from map(self._read, lines)
            return
        order = inference.widest_beside_narrowest([line.shape[1] / line.shape[0] for line in lines])
        results = self._pool.map(self._read, (lines[i] for i in order))
        done = dict(zip(order, results, strict=True))
        yield from (done[i] for i in range(len(lines)))

    def _read(self, line: NDArray[np.uint8]) -> dict[str, Any]:
        (image,) = self._recogniser.pre_tfs["Read"](imgs=[line])
        _, height_px, padded_by_paddlex_px = self._resize.rec_image_shape
        ratio = image.shape[1] / image.shape[0]
        # PaddleX squeezes what is longer, and so its own step must do it.
        if (looks := self._two_looks) is not None and ratio * height_px <= _MAX_TOTAL_WIDTH_PX:
            padded_px = padded_by_paddlex_px * looks.first.width_as_px // height_px
            seen = self._look(
                inference.small_line(image, looks.first, padded_px), looks.first.width_as_px, image
            )
            if seen.score >= looks.score and seen.columns >= looks.columns * len(seen.recognised):
                return self._result(seen)
        padded = inference.padded_ratio(ratio, height_px, padded_by_paddlex_px)
        prepared = self._resize.resize_norm_img(image, padded)[np.newaxis]
        return self._result(self._look(prepared, height_px, image))

    def _look(self, prepared: NDArray[np.float32], width_as_px: int, image: NDArray[np.uint8]) -> _Seen:
        """Recognise a line that is prepared, with the width that `image` has at a height of `width_as_px`."""
        line_px = min(prepared.shape[-1], math.ceil(width_as_px * image.shape[1] / image.shape[0]))
        with self._width_px.taken(prepared.shape[-1]):
            (logits,) = self._logits([prepared])
            best, likely = inference.best_characters(logits)
        ((text, score),) = self._recogniser.post_op.decode(
            best[np.newaxis], likely[np.newaxis], is_remove_duplicate=True
        )
        begins, ends = inference.runs(best)
        characters = self._recogniser.post_op.character
        recognised = Recognised.of(
            text,
            [characters[i] for i in best[begins]],
            likely[begins].tolist(),
            ((begins + ends) * (0.5 / len(best) * prepared.shape[-1] / line_px)).tolist(),
        )
        return _Seen(recognised, score, len(best) * line_px / prepared.shape[-1])

    def _result(self, seen: _Seen) -> dict[str, Any]:
        return {"rec_text": seen.recognised, "rec_score": seen.score, "vis_font": self._recogniser.vis_font}

    def close(self) -> None:
        """End the threads and let go of the model."""
        if self._pool is not None:
            self._pool.shutdown()
        self._recogniser.close()
