"""Below PaddleOCR: how its detection and recognition models are run when they are ONNX files.

PaddleX pads every line to at least 320 px and runs one after the other on all threads. Here a short
line gets less, as many are read side by side as there are threads, one thread each, and in 8-bit
integers where the processor is made for them (docs/benchmarks.md). Everything around the two models
stays PaddleX's own: resizing, cutting out, decoding, order. `tests/test_inference.py` compares the two
on the same images.

The detector runs in ONNX Runtime, or in OpenVINO where that is installed and wanted; the recogniser in
ONNX Runtime. Imports `errors` and `graph`; what it touches of PaddleX is in `take_over` and `SideBySide`,
and nowhere else.
"""

from __future__ import annotations

import importlib.util
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

import numpy as np

from ocr_watcher.errors import UnavailableError
from ocr_watcher.ocr import graph

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    _Run: TypeAlias = Callable[[Sequence[NDArray[np.float32]]], list[NDArray[np.float32]]]

Provider: TypeAlias = Literal["onnxruntime", "openvino"]
Precision: TypeAlias = Literal["fp32", "bf16", "int8"]

# What a short line is padded by, at a height of 48 px, where PaddleX pads it to 320 px; then on to a
# multiple of the step, so that there are few different shapes. On 20 receipts padding to the next 32 px
# alone changed the text of 8 in 100 lines and took 0.0017 off the word F1; 64 more, of 2 in 100 and nothing.
_PADDING_PX: Final = 64
_STEP_PX: Final = 32
# More lines at once would take more memory than they save time.
_MAX_SIDE_BY_SIDE: Final = 4
# Together they are at most this wide, at a height of 48 px: as wide as PaddleX makes the widest line, which
# takes up to 145 MiB alone (docs/memory.md).
_MAX_WIDTH_TOGETHER_PX: Final = 3200
# Compiled shapes of pages that OpenVINO keeps. Unlimited, memory grows with every new one; with 8 an image
# of receipts took a few per cent more time.
_OPENVINO_SHAPES: Final = 32


@dataclass(frozen=True)
class _In8Bits:
    """Which convolutions of a recogniser, by their names in its ONNX file: see `graph.Recogniser`."""

    plain: tuple[int, ...]
    by_pixel: tuple[int, ...]


# Those that cost time, but for what loses more text than all of these together. Other models than these are
# computed as they are.
_IN_8_BITS: Final[Mapping[str, _In8Bits]] = MappingProxyType(
    {
        "PP-OCRv6_small_rec": _In8Bits(
            plain=(8, 9, 11, 12, 14, 15, 17, 22, 25, 30, 31, 33, 38, 39, 41, 42, 44, 45, 49, 52),
            by_pixel=(18, 23, 26, 34, 50, 53),
        ),
        "PP-OCRv6_tiny_rec": _In8Bits(
            plain=(11, 16, 17, 19, 20, 22, 27, 30, 31, 33),
            by_pixel=(28, 34),
        ),
    }
)


# -- which provider ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """What runs the detector, in which numbers that and the recogniser compute, and why, for `doctor`."""

    provider: Provider
    detector: Precision
    recogniser: Precision
    reason: str


def choose(provider: str, precision: str = "auto", cpuinfo: Path = Path("/proc/cpuinfo")) -> Choice:
    """Decide `ocr.provider` and `ocr.precision`. Loads OpenVINO only where it is installed.

    Raises `UnavailableError` where OpenVINO is asked for and not installed.
    """
    exact = precision == "fp32"
    recogniser: Precision = "int8" if not exact and _has_vnni(cpuinfo) else "fp32"

    def onnxruntime(reason: str) -> Choice:
        return Choice("onnxruntime", "fp32", recogniser, reason)

    if provider == "onnxruntime":
        return onnxruntime("as configured")
    if importlib.util.find_spec("openvino") is None:
        if provider == "openvino":
            raise UnavailableError(
                "ocr.provider is openvino, which is not installed",
                hint="`make openvino`, or pip install openvino; or set ocr.provider: auto",
            )
        return onnxruntime("OpenVINO is not installed")
    bf16 = not exact and _has_bf16(_openvino_core())
    if provider == "openvino":
        return Choice("openvino", "bf16" if bf16 else "fp32", recogniser, "as configured")
    if bf16:
        return Choice("openvino", "bf16", recogniser, "it is installed, and this processor computes in bf16")
    return onnxruntime("OpenVINO is no faster without bf16")


def _has_vnni(cpuinfo: Path) -> bool:
    """Whether the processor multiplies 8-bit integers in one go; without, their sums overflow or are slow."""
    try:
        flags = set(cpuinfo.read_text("ascii", "replace").split())
    except OSError:
        return False
    return bool(flags & {"avx512_vnni", "avx_vnni"})


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
    """A model in ONNX Runtime, each run on `threads` threads.

    With `pooled`, what a run frees is used again within the run, and returned to the system after it. That is
    for a model whose tensors are so large that the C library would ask the system for each: half as many
    page faults, and less at the peak.
    """

    def __init__(
        self, model: Path | bytes, threads: int, options: Mapping[str, Any], *, pooled: bool = False
    ) -> None:
        import onnxruntime  # noqa: PLC0415 - heavy

        settings = onnxruntime.SessionOptions()
        for name, value in options.items():
            setattr(settings, name, value)
        settings.intra_op_num_threads = threads
        self._each_run = onnxruntime.RunOptions()
        if pooled:
            settings.enable_cpu_mem_arena = True
            self._each_run.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        # Threads that spin while they wait win a little on an idle machine, and lose everything
        # beside other work.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def __call__(self, x: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """See `Runner`."""
        outputs: list[NDArray[np.float32]] = self._session.run(
            None, {self._input: np.ascontiguousarray(x[0])}, self._each_run
        )
        return outputs

    def close(self) -> None:
        """See `Runner`."""
        self._session = None


class OpenVino:
    """A model in OpenVINO, each run on `threads` threads; one run at a time."""

    def __init__(self, file: Path, threads: int, precision: Precision) -> None:
        core = _openvino_core()
        self._model = core.compile_model(
            str(file),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else "bf16",
                "NUM_STREAMS": 1,
                "INFERENCE_NUM_THREADS": threads,
                "CPU_RUNTIME_CACHE_CAPACITY": _OPENVINO_SHAPES,
            },
        )
        self._request = self._model.create_infer_request()

    def __call__(self, x: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """See `Runner`."""
        try:
            # A copy: what is released next is where it stands.
            return [self._request.infer({0: np.ascontiguousarray(x[0])})[0].copy()]
        finally:
            self._model.release_memory()  # else as much as the largest page took stays

    def close(self) -> None:
        """See `Runner`."""
        self._request = self._model = None


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


class _Likelihoods:
    """A runner of logits that gives what PaddleX expects: likelihoods, of shape (1, columns, characters)."""

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


class SideBySide:
    """Stands in for PaddleX's recogniser: the same lines in, the same results out.

    `recogniser` is the one it stands in for; its own steps before and after the model are used. `logits`
    runs its model, ending in these, as `graph.Recogniser` makes it.
    """

    def __init__(self, recogniser: Any, logits: _Run, workers: int) -> None:  # noqa: ANN401 - PaddleX ships no types
        self._recogniser = recogniser
        self._logits = logits
        self._resize = recogniser.pre_tfs["ReisizeNorm"]
        self._room = _Room(_MAX_WIDTH_TOGETHER_PX)
        self._pool = ThreadPoolExecutor(workers, "recogniser") if workers > 1 else None

    def __call__(
        self,
        lines: Sequence[NDArray[np.uint8]],
        return_word_box: bool | None = None,  # noqa: FBT001 - PaddleX's signature
    ) -> Iterator[dict[str, Any]]:
        """Recognise cut-out lines; yields PaddleX's results, in the order of `lines`."""
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
        if height_px * ratio < least_px:
            padded_px = math.ceil(height_px * ratio) + _PADDING_PX
            padded_px = min(least_px, -(-padded_px // _STEP_PX) * _STEP_PX)
            ratio = (padded_px + 0.5) / height_px
        prepared = self._resize.resize_norm_img(image, ratio)[np.newaxis]
        with self._room.taken(prepared.shape[-1]):
            (logits,) = self._logits([prepared])
            best, likely = _best(logits)
        ((text, score),) = self._recogniser.post_op.decode(
            best[np.newaxis], likely[np.newaxis], is_remove_duplicate=True
        )
        return {"rec_text": text, "rec_score": score, "vis_font": self._recogniser.vis_font}

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
        self._recogniser.close()


def _best(logits: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The most likely character of every column, and its likelihood where decoding will look at it.

    That is where another character than a blank (0) begins; elsewhere it is 0. Logits are (columns,
    characters).
    """
    best = logits.argmax(axis=1)
    begins = np.flatnonzero((best != 0) & (np.diff(best, prepend=0) != 0))
    likely = np.zeros(len(best), np.float32)
    # In place of a softmax over every column: e^0 over the sum.
    rows = logits[begins]
    likely[begins] = 1 / np.exp(rows - rows.max(axis=1, keepdims=True)).sum(axis=1)
    return best, likely


def take_over(ocr: Any, choice: Choice, threads: int, options: Mapping[str, Any]) -> None:  # noqa: ANN401 - PaddleOCR ships no types
    """Run the detector and the recogniser of a loaded `PaddleOCR` (ONNX models) by the classes above.

    Args:
        ocr: `paddleocr.PaddleOCR`, made with engine `onnxruntime`.
        choice: what runs the models, and in which numbers.
        threads: how many threads to compute with.
        options: session options of ONNX Runtime.
    """
    pipeline = ocr.paddlex_pipeline._pipeline  # noqa: SLF001 - PaddleX offers no way to give it a model
    detector, recogniser = pipeline.text_det_model, pipeline.text_rec_model
    detector.runner.close()
    if choice.provider == "openvino":
        detector.runner = OpenVino(_file_of(detector), threads, choice.detector)
    else:
        detector.runner = OnnxRuntime(_file_of(detector), threads, options, pooled=True)
    recogniser.runner.close()
    model = graph.Recogniser(_file_of(recogniser))
    # Right-to-left scripts are turned round after decoding, and a fixed input shape is squeezed into: both
    # are PaddleX's business.
    theirs = recogniser.model_name.startswith("arabic") or recogniser.input_shape is not None
    if theirs or not model.end_in_logits():
        recogniser.runner = OnnxRuntime(_file_of(recogniser), threads, options)
        return
    if choice.recogniser == "int8" and (chosen := _IN_8_BITS.get(recogniser.model_name)):
        by_pixel = [f"Conv.{n}" for n in chosen.by_pixel]
        model.compute_in_8_bits([graph.LOGITS, *(f"Conv.{n}" for n in chosen.plain), *by_pixel], by_pixel)
    workers = min(threads, _MAX_SIDE_BY_SIDE)
    logits = OnnxRuntime(model.serialised(), max(1, threads // workers), options)
    recogniser.runner = _Likelihoods(logits)
    pipeline.text_rec_model = SideBySide(recogniser, logits, workers)


def _file_of(model: Any) -> Path:  # noqa: ANN401 - PaddleX ships no types
    file: Path = model.runner.model_dir / f"{model.runner.model_file_prefix}.onnx"
    return file
