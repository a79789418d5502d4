"""Running ONNX models: on which library, in which numbers, and how text lines are prepared for it.

The detector runs in ONNX Runtime, or in OpenVINO where that is installed and wanted. The recogniser runs in
ONNX Runtime, in 8-bit integers where the processor has instructions for that (docs/benchmarks.md).
"""

from __future__ import annotations

import importlib.util
import math
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

import numpy as np

from ocr_watcher.errors import UnavailableError
from ocr_watcher.ocr import graph

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

Provider: TypeAlias = Literal["onnxruntime", "openvino"]
Precision: TypeAlias = Literal["fp32", "bf16", "int8"]

# PaddleX pads a line to at least 320 px at a height of 48 px. We pad a shorter line by this much, and then on
# to a multiple of the step, so that there are few different shapes. On 20 receipts, 64 px changed the text of
# 2 in 100 lines and left the word F1 as it was; no padding but the step changed 8 in 100 and took 0.0017 off.
_PADDING_PX: Final = 64
_STEP_PX: Final = 32
# How many compiled shapes of pages OpenVINO keeps. Without a limit memory grows with every new shape. With 8,
# an image of receipts took a few per cent more time.
_OPENVINO_SHAPES: Final = 32


@dataclass(frozen=True)
class Quantised:
    """The convolutions of a recogniser that are computed in 8 bits: N for the node `Conv.N` of its ONNX file.

    Attributes:
        per_line: Their input is rounded to one range for the whole line.
        per_pixel: Their input is rounded to a range for each pixel; see `graph.RecogniserGraph.quantise`.
    """

    per_line: tuple[int, ...]
    per_pixel: tuple[int, ...]

    @property
    def nodes(self) -> list[str]:
        """Names of all nodes to quantise, with the last layer."""
        return [graph.LOGITS, *(f"Conv.{n}" for n in self.per_line), *self.per_pixel_nodes]

    @property
    def per_pixel_nodes(self) -> list[str]:
        """Names of the nodes to quantise per pixel."""
        return [f"Conv.{n}" for n in self.per_pixel]


# The convolutions that take the most time, except those few whose 8-bit form loses more text than all others
# (benchmarks/precision.py --each). Models that are not listed are computed in 32 bits.
QUANTISED: Final[Mapping[str, Quantised]] = MappingProxyType(
    {
        "PP-OCRv6_small_rec": Quantised(
            per_line=(8, 9, 11, 12, 14, 15, 17, 22, 25, 30, 31, 33, 38, 39, 41, 42, 44, 45, 49, 52),
            per_pixel=(18, 23, 26, 34, 50, 53),
        ),
        "PP-OCRv6_tiny_rec": Quantised(
            per_line=(11, 16, 17, 19, 20, 22, 27, 30, 31, 33),
            per_pixel=(28, 34),
        ),
    }
)


@dataclass(frozen=True)
class LineShape:
    """How a line is scaled for the recogniser.

    Attributes:
        height_px: Its height.
        width_as_px: Its width is that of the line at this height.
    """

    height_px: int
    width_as_px: int


@dataclass(frozen=True)
class TwoLooks:
    """A line is read small first, and once more at the model's own height where that gave no clear result.

    Attributes:
        first: The shape of the first look.
        score: A lower mean likelihood of its characters is no clear result,
        columns: nor are fewer columns for each character: characters that follow closely need a blank between
            them, and so two columns, or a wide one.
    """

    first: LineShape
    score: float
    columns: float


# In 8 bits, on 76 scans (docs/accuracy.md): the first look takes 0.58 of the time. Chosen on receipts and
# pages of PDFs, confirmed on other receipts. At 32 px without the width, F1 is 0.02 lower; the tiny model
# cannot read lines of 32 px.
TWO_LOOKS: Final[Mapping[str, TwoLooks]] = MappingProxyType(
    {"PP-OCRv6_small_rec": TwoLooks(LineShape(32, 40), score=0.96, columns=1.5)}
)


# -- which library, which numbers --------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """The library that runs the detector, the numbers that each model computes in, and why, for `doctor`."""

    provider: Provider
    detector: Precision
    recogniser: Precision
    reason: str


def choose(provider: str, precision: str = "auto", cpuinfo: Path = Path("/proc/cpuinfo")) -> Choice:
    """Decide by `ocr.provider`, `ocr.precision` and the processor. Loads OpenVINO only where it is installed.

    Raises:
        UnavailableError: OpenVINO is asked for and not installed.
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
    """Whether the processor multiplies 8-bit integers and adds them up in one instruction.

    Without that, the sums overflow 16 bits or are slow.
    """
    try:
        flags = set(cpuinfo.read_text("ascii", "replace").split())
    except OSError:
        return False
    return bool(flags & {"avx512_vnni", "avx_vnni"})


def _openvino_core() -> Any:  # noqa: ANN401 - OpenVINO is untyped here
    import openvino  # noqa: PLC0415 - optional, and heavy

    return openvino.Core()


def _has_bf16(core: Any) -> bool:  # noqa: ANN401 - as above
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


# -- loaded models -----------------------------------------------------------------------------


class Runner(Protocol):
    """A loaded model with one input and one output."""

    def __call__(self, x: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Run the model on the one array in `x`; the one array of the result is its output."""

    def close(self) -> None:
        """Let go of the model."""


def session_options(threads: int) -> dict[str, Any]:
    """Options of an ONNX Runtime session that computes on `threads` threads; those of `SessionOptions`."""
    return {
        # With the arena and memory patterns on, 634 MiB stay after eight receipts; off, 246
        # (docs/memory.md).
        "enable_cpu_mem_arena": False,
        "enable_mem_pattern": False,
        "intra_op_num_threads": threads,
        "inter_op_num_threads": 1,
        # Only fatal errors: what it would print to standard error, past the log, it raises as well.
        "log_severity_level": 4,
    }


class OnnxRuntime:
    """A model in ONNX Runtime. Several threads may run it at once.

    Args:
        model: the model's file, or its bytes.
        threads: how many threads each run computes on.
        pooled: use memory that was freed again within a run, and give it back to the system after the run.
            That is for a model whose tensors are so large that the C library would ask the system for each:
            it halves the page faults and lowers the peak.
    """

    def __init__(self, model: Path | bytes, threads: int, *, pooled: bool = False) -> None:
        import onnxruntime  # noqa: PLC0415 - heavy

        options = onnxruntime.SessionOptions()
        for name, value in session_options(threads).items():
            setattr(options, name, value)
        self._each_run = onnxruntime.RunOptions()
        if pooled:
            options.enable_cpu_mem_arena = True
            self._each_run.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        # Threads that spin while they wait gain a little on an idle machine. Beside other work they lose
        # far more than that.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
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
    """A model in OpenVINO. One thread may run it at a time; a run computes on `threads` threads."""

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
            # A copy, because the result lies in the memory that is released next.
            return [self._request.infer({0: np.ascontiguousarray(x[0])})[0].copy()]
        finally:
            # Otherwise the process keeps as much memory as the largest page took.
            self._model.release_memory()

    def close(self) -> None:
        """See `Runner`."""
        self._request = self._model = None


# -- the recogniser ----------------------------------------------------------------------------


def logits_model(file: Path, name: str, precision: Precision) -> bytes | None:
    """A recogniser changed to give logits, and to compute in 8 bits where `precision` says `int8`.

    Args:
        file: the recogniser's ONNX file, which is left as it is.
        name: the recogniser's name in `QUANTISED`; one that is not there computes in 32 bits.
        precision: `int8` or `fp32`.

    Returns:
        The ONNX model: one line in, logits of shape (columns, characters) out. None where the file cannot be
        changed so, see `graph.RecogniserGraph.end_in_logits`.
    """
    model = graph.RecogniserGraph(file)
    if not model.end_in_logits():
        return None
    if precision == "int8" and (quantised := QUANTISED.get(name)):
        if name in TWO_LOOKS:
            model.take_any_height()
        model.quantise(quantised.nodes, quantised.per_pixel_nodes)
    return model.serialised()


def padded_ratio(ratio: float, height_px: int, padded_by_paddlex_px: int) -> float:
    """The width of a line divided by its height, once the line is padded.

    Args:
        ratio: width of the line divided by its height.
        height_px: the height that the recogniser scales lines to.
        padded_by_paddlex_px: the width that PaddleX pads shorter lines to, at that height.
    """
    if height_px * ratio >= padded_by_paddlex_px:
        return ratio
    wanted_px = math.ceil(height_px * ratio) + _PADDING_PX
    steps = math.ceil(wanted_px / _STEP_PX)
    # PaddleX multiplies by the height and rounds down: half a pixel more makes sure that it gets this width.
    return (min(padded_by_paddlex_px, steps * _STEP_PX) + 0.5) / height_px


def small_line(line: NDArray[np.uint8], shape: LineShape, padded_by_paddlex_px: int) -> NDArray[np.float32]:
    """A line as the recogniser takes it, in another shape than PaddleX gives it.

    Args:
        line: BGR, of shape (height, width, 3).
        shape: what it is scaled to.
        padded_by_paddlex_px: as in `padded_ratio`, at `shape.width_as_px`.

    Returns:
        Of shape (1, 3, height, width), from -1 to 1, zeros to the right of the line: what PaddleX's
        `OCRReisizeNormImg` does.
    """
    import cv2  # noqa: PLC0415 - heavy, and loaded by PaddleX by now

    ratio = line.shape[1] / line.shape[0]
    total_px = int(padded_ratio(ratio, shape.width_as_px, padded_by_paddlex_px) * shape.width_as_px)
    line_px = min(total_px, math.ceil(shape.width_as_px * ratio))
    scaled = cv2.resize(line, (line_px, shape.height_px)).astype(np.float32)
    prepared = np.zeros((1, 3, shape.height_px, total_px), np.float32)
    prepared[0, :, :, :line_px] = scaled.transpose(2, 0, 1) / 127.5 - 1
    return prepared


def widest_beside_narrowest(ratios: Sequence[float]) -> list[int]:
    """An order to recognise lines in: the widest, the narrowest, the second widest, and so on.

    Lines that are recognised at once share a total width (`WeightedSemaphore`), so a wide one should have a
    narrow one beside it. And no wide one should be left for the end, when the other threads are out of work.

    Args:
        ratios: width of each line divided by its height.

    Returns:
        Indices into `ratios`.
    """
    widest_first = sorted(range(len(ratios)), key=lambda i: ratios[i], reverse=True)
    from_both_ends = [i for pair in zip(widest_first, reversed(widest_first), strict=True) for i in pair]
    return list(dict.fromkeys(from_both_ends))  # each index comes twice, once from each end


def best_characters(logits: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The most likely character of every column, and how likely it is.

    Args:
        logits: shape (columns, characters); character 0 is the blank.

    Returns:
        Characters and likelihoods, each of shape (columns,). A likelihood is given where CTC decoding reads
        it, which is in the first column of a run of the same character; elsewhere, and for blanks, it is 0.
    """
    best = logits.argmax(axis=1)
    begins = np.flatnonzero((best != 0) & (np.diff(best, prepend=0) != 0))
    likely = np.zeros(len(best), np.float32)
    # The softmax of the largest logit is e^0 / sum; it is computed for these columns only, to save time.
    rows = logits[begins]
    likely[begins] = 1 / np.exp(rows - rows.max(axis=1, keepdims=True)).sum(axis=1)
    return best, likely


def runs(best: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Where the characters of a line are, by the most likely character of every column.

    Args:
        best: shape (columns,), 0 for the blank.

    Returns:
        The first column of each run of one character that is no blank, and the column after its last, each of
        shape (characters,).
    """
    begins = np.flatnonzero((best != 0) & (np.diff(best, prepend=0) != 0))
    ends = np.flatnonzero((best != 0) & (np.diff(best, append=0) != 0)) + 1
    return begins, ends


class WeightedSemaphore:
    """An amount that several threads share. A thread that wants more than is left waits."""

    def __init__(self, size: int) -> None:
        self._size = self._left = size
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, weight: int) -> Iterator[None]:
        """Take `weight` of the amount for the time of a `with` block; a larger weight counts as all of it."""
        weight = min(weight, self._size)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= weight)
            self._left -= weight
        try:
            yield
        finally:
            with self._changed:
                self._left += weight
                self._changed.notify_all()
