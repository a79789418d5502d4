"""Below PaddleOCR: how its detection and recognition models are run when they are ONNX files.

PaddleX pads every line to at least 320 px and runs one after the other on all threads. Here a short
line gets less, and as many are read side by side as there are threads, one thread each: little more
than half the time (docs/benchmarks.md). Everything around the two models stays PaddleX's own:
resizing, cutting out, decoding, order. `tests/test_inference.py` compares the two on the same images.

The models run in ONNX Runtime, or in OpenVINO where that is installed and wanted. Imports `errors` and
`memory`; what it touches of PaddleX is in `take_over` and `SideBySide`, and nowhere else.
"""

from __future__ import annotations

import importlib.util
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

import numpy as np

from ocr_watcher import memory
from ocr_watcher.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

Provider: TypeAlias = Literal["onnxruntime", "openvino"]

# What a short line is padded by, at a height of 48 px, where PaddleX pads it to 320 px; then on to a
# multiple of the step, so that there are few different shapes. On 20 receipts padding to the next 32 px
# alone changed the text of 8 in 100 lines and took 0.0017 off the word F1; 64 more, of 2 in 100 and nothing.
_PADDING_PX: Final = 64
_STEP_PX: Final = 32
# More lines at once would take more memory than they save time.
_MAX_SIDE_BY_SIDE: Final = 4
# Together they are at most this wide, at a height of 48 px: as wide as PaddleX makes the widest line, which
# takes some 270 MiB alone (docs/memory.md).
_MAX_WIDTH_TOGETHER_PX: Final = 3200
# Compiled shapes that OpenVINO keeps for each model. Unlimited, memory grows with every new width; with 8 an
# image of receipts took a few per cent more time.
_OPENVINO_SHAPES: Final = 32


# -- which provider ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """What runs the models, and why, in words for `doctor`."""

    provider: Provider
    reason: str


def choose(wanted: str) -> Choice:
    """Decide `ocr.provider`. Loads OpenVINO only where it is installed.

    Raises `UnavailableError` where OpenVINO is asked for and not installed.
    """
    if wanted == "onnxruntime":
        return Choice("onnxruntime", "as configured")
    if importlib.util.find_spec("openvino") is None:
        if wanted == "openvino":
            raise UnavailableError(
                "ocr.provider is openvino, which is not installed",
                hint="`make openvino`, or pip install openvino; or set ocr.provider: auto",
            )
        return Choice("onnxruntime", "OpenVINO is not installed")
    bf16 = _has_bf16(_openvino_core())
    if wanted == "openvino":
        return Choice("openvino", f"as configured, {'bf16' if bf16 else 'fp32: this processor has no bf16'}")
    if bf16:
        return Choice("openvino", "installed, and this processor computes in bf16")
    return Choice("onnxruntime", "this processor has no bf16, without which OpenVINO is no faster")


def _openvino_core() -> Any:  # noqa: ANN401 - one of two libraries, both untyped here
    import openvino  # noqa: PLC0415 - optional, and heavy

    return openvino.Core()


def _has_bf16(core: Any) -> bool:  # noqa: ANN401 - as above
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


# -- running a model ---------------------------------------------------------------------------


class Runner(Protocol):
    """A loaded model with one input and one output. Safe to call from several threads at once."""

    def __call__(self, x: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Run it on one array, wrapped in a list as PaddleX does."""

    def close(self) -> None:
        """Let go of it."""


class OnnxRuntime:
    """A model in ONNX Runtime, each run on `threads` threads."""

    def __init__(self, file: Path, threads: int, options: Mapping[str, Any]) -> None:
        import onnxruntime  # noqa: PLC0415 - heavy

        settings = onnxruntime.SessionOptions()
        for name, value in options.items():
            setattr(settings, name, value)
        settings.intra_op_num_threads = threads
        # Threads that spin while they wait win a little on an idle machine, and lose everything
        # beside other work.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def __call__(self, x: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """See `Runner`."""
        outputs: list[NDArray[np.float32]] = self._session.run(
            None, {self._input: np.ascontiguousarray(x[0])}
        )
        return outputs

    def close(self) -> None:
        """See `Runner`."""
        self._session = None


class OpenVino:
    """A model in OpenVINO: `streams` runs side by side on `threads` threads together."""

    def __init__(self, file: Path, threads: int, streams: int) -> None:
        core = _openvino_core()
        self._model = core.compile_model(
            str(file),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "bf16" if _has_bf16(core) else "f32",
                "NUM_STREAMS": streams,
                "INFERENCE_NUM_THREADS": threads,
                "CPU_RUNTIME_CACHE_CAPACITY": _OPENVINO_SHAPES,
            },
        )
        # A request is not thread-safe: whoever runs borrows one.
        self._requests: SimpleQueue[Any] = SimpleQueue()
        for _ in range(streams):
            self._requests.put(self._model.create_infer_request())

    def __call__(self, x: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """See `Runner`."""
        request = self._requests.get()
        try:
            return [request.infer({0: np.ascontiguousarray(x[0])})[0]]
        finally:
            self._requests.put(request)

    def close(self) -> None:
        """See `Runner`."""
        self._requests = SimpleQueue()
        self._model = None


# -- inside PaddleX ----------------------------------------------------------------------------


class _Room:
    """So much of something that several threads share; whoever wants more than is left waits."""

    def __init__(self, size: int) -> None:
        self._size = self._left = size
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, amount: int) -> Iterator[None]:
        """Have `amount` of it meanwhile; who wants more than there is gets all."""
        amount = min(amount, self._size)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= amount)
            self._left -= amount
        try:
            yield
        finally:
            with self._changed:
                self._left += amount
                self._changed.notify_all()


class SideBySide:
    """Stands in for PaddleX's recogniser: the same lines in, the same results out.

    `recogniser` is the one it stands in for; its own steps before and after the model are used. With
    `even`, wide lines are padded to a multiple of the step too, for a model that is compiled anew for
    every width; otherwise they are what PaddleX makes of them.
    """

    def __init__(self, recogniser: Any, workers: int, *, even: bool) -> None:  # noqa: ANN401 - PaddleX ships no types
        self._recogniser = recogniser
        self._even = even
        self._resize = recogniser.pre_tfs["ReisizeNorm"]
        self._room = _Room(_MAX_WIDTH_TOGETHER_PX)
        self._pool = ThreadPoolExecutor(workers, "recogniser") if workers > 1 else None

    def __call__(
        self,
        lines: Sequence[NDArray[np.uint8]],
        return_word_box: bool | None = None,  # noqa: FBT001 - PaddleX's signature
    ) -> Iterator[dict[str, Any]]:
        """Recognise cut-out lines; yields PaddleX's results, in the order of `lines`."""
        # What the detector has freed would otherwise stand below the recogniser's peak: 428 to 581
        # instead of 313 to 398 MiB for a dense page of 1024 px.
        memory.trim()
        if return_word_box:  # positions of words depend on the padding: left to PaddleX
            yield from self._recogniser(lines, return_word_box=True)
            return
        if self._pool is None:
            yield from map(self._read, lines)
            return
        # A wide one beside a narrow one, the widest first: they share the room, and none is left for the end
        # that the others would wait for.
        wide = sorted(range(len(lines)), key=lambda i: lines[i].shape[0] / lines[i].shape[1])
        order = [i for pair in zip(wide, reversed(wide), strict=True) for i in pair]
        order = list(dict.fromkeys(order))  # each comes from both ends
        done = dict(zip(order, self._pool.map(self._read, (lines[i] for i in order)), strict=True))
        yield from (done[i] for i in range(len(lines)))

    def _read(self, line: NDArray[np.uint8]) -> dict[str, Any]:
        (image,) = self._recogniser.pre_tfs["Read"](imgs=[line])
        _, height_px, least_px = self._resize.rec_image_shape
        height, width = image.shape[:2]
        ratio = width / height  # PaddleX's measure of how wide to make it
        if height_px * ratio < least_px or self._even:
            wide_px = math.ceil(height_px * ratio)
            padded_px = _up_to_step(wide_px + _PADDING_PX)
            if padded_px > least_px:
                padded_px = max(least_px, _up_to_step(wide_px))
            ratio = (padded_px + 0.5) / height_px
        prepared = self._resize.resize_norm_img(image, ratio)[np.newaxis]
        with self._room.taken(prepared.shape[-1]):
            (likely,) = self._recogniser.runner(x=[prepared])
        # As its post_op does, with one pass over the 18,710 characters of every column instead of three.
        best = likely.argmax(axis=-1)
        how = np.take_along_axis(likely, best[..., np.newaxis], axis=-1)[..., 0]
        ((text, score),) = self._recogniser.post_op.decode(best, how, is_remove_duplicate=True)
        return {"rec_text": text, "rec_score": score, "vis_font": self._recogniser.vis_font}

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
        self._recogniser.close()


def _up_to_step(px: int) -> int:
    return -(-px // _STEP_PX) * _STEP_PX


def take_over(ocr: Any, provider: Provider, threads: int, options: Mapping[str, Any]) -> None:  # noqa: ANN401 - PaddleOCR ships no types
    """Run the detector and the recogniser of a loaded `PaddleOCR` (ONNX models) by the classes above.

    Args:
        ocr: `paddleocr.PaddleOCR`, made with engine `onnxruntime`.
        provider: what runs the models.
        threads: how many threads to compute with.
        options: session options of ONNX Runtime.
    """
    pipeline = ocr.paddlex_pipeline._pipeline  # noqa: SLF001 - PaddleX offers no way to give it a model
    detector, recogniser = pipeline.text_det_model, pipeline.text_rec_model
    workers = min(threads, _MAX_SIDE_BY_SIDE)
    for model, streams in ((detector, 1), (recogniser, workers)):
        file = model.runner.model_dir / f"{model.runner.model_file_prefix}.onnx"
        model.runner.close()
        if provider == "openvino":
            model.runner = OpenVino(file, threads, streams)
        else:
            model.runner = OnnxRuntime(file, max(1, threads // streams), options)
    # Right-to-left scripts are turned round after decoding, and a fixed input shape is squeezed into: both
    # are PaddleX's business.
    if not recogniser.model_name.startswith("arabic") and recogniser.input_shape is None:
        pipeline.text_rec_model = SideBySide(recogniser, workers, even=provider == "openvino")
