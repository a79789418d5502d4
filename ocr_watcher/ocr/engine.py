"""The OCR engine: one image in, PaddleOCR's raw result out.

Imports `errors`, `models`, numpy and Pillow; it alone imports PaddleOCR, and only when an engine is
created, because that takes seconds and hundreds of megabytes. One engine belongs to one thread: PaddleX
predictors are not thread-safe (PaddleOCR #18268, #14836).
"""

from __future__ import annotations

import difflib
import importlib.metadata
import logging
import math
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ocr_watcher.errors import ConfigError, EngineError, FileError, OutOfMemoryError, UnavailableError
from ocr_watcher.ocr import inference, models

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ocr_watcher.ocr.models import ModelSpec

logger = logging.getLogger(__name__)


class Engine(Protocol):
    """What the worker knows of an OCR engine."""

    @property
    def name(self) -> str:
        """`onnxruntime` or `paddle`, as in the sidecar."""

    @property
    def provider(self) -> str:
        """What runs the models: `onnxruntime`, `openvino` or `paddle`."""

    @property
    def model(self) -> str:
        """The model's name, as in the sidecar."""

    @property
    def version(self) -> str:
        """PaddleOCR's version, as in the sidecar."""

    def read(self, bgr: NDArray[np.uint8]) -> object:
        """Read one image.

        Args:
            bgr: uint8 of shape (height, width, 3), at least 1x1 px, channels blue, green, red.

        Returns:
            The raw result, for `result.normalise`; coordinates are pixels of `bgr`.

        Raises:
            OutOfMemoryError: a memory request was refused; the engine stays usable.
            EngineError: anything else went wrong.
        """

    def page_mb(self) -> tuple[float, float]:
        """What reading a page takes at its peak, beyond the loaded model: MiB, and MiB per megapixel."""

    def warm_up(self) -> None:
        """Read a small drawn image, so that the first real file is not the slow one. Raises as `read`."""

    def close(self) -> None:
        """Let go of the model. The engine is of no use afterwards."""


# -- PaddleOCR's arguments ---------------------------------------------------------------------


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_Values: TypeAlias = tuple[Callable[[Any], bool], str]

_SWITCH: Final[_Values] = (lambda v: isinstance(v, bool), "true or false")
_COUNT: Final[_Values] = (lambda v: type(v) is int and v >= 1, "a whole number of at least 1")
_SHARE: Final[_Values] = (lambda v: _is_number(v) and 0 <= v <= 1, "a number from 0 to 1")
_TEXT: Final[_Values] = (lambda v: isinstance(v, str), "text")
_SHAPE: Final[_Values] = (
    lambda v: isinstance(v, (list, tuple)) and len(v) == 3 and all(_COUNT[0](n) for n in v),
    "a list of three whole numbers: channels, height, width",
)

# The named arguments of PaddleOCR 3.7 and those it shares with its other pipelines: which values each takes,
# and that in words. PaddleOCR itself finds out at the first image, or never. A literal: `check-config` must
# know them without the seconds that importing PaddleOCR takes; a test compares.
PARAM_VALUES: Final[Mapping[str, _Values]] = MappingProxyType(
    {
        "doc_orientation_classify_model_dir": _TEXT,
        "doc_orientation_classify_model_name": _TEXT,
        "doc_unwarping_model_dir": _TEXT,
        "doc_unwarping_model_name": _TEXT,
        "return_word_box": _SWITCH,
        "text_det_box_thresh": _SHARE,
        "text_det_input_shape": _SHAPE,
        "text_det_limit_side_len": _COUNT,
        "text_det_limit_type": (lambda v: v in ("min", "max", "resize_long"), "min, max or resize_long"),
        "text_det_thresh": _SHARE,
        "text_det_unclip_ratio": (lambda v: _is_number(v) and 0 < v < math.inf, "a number above 0"),
        "text_detection_model_dir": _TEXT,
        "text_detection_model_name": _TEXT,
        "text_rec_input_shape": _SHAPE,
        "text_rec_score_thresh": _SHARE,
        "text_recognition_batch_size": _COUNT,
        "text_recognition_model_dir": _TEXT,
        "text_recognition_model_name": _TEXT,
        "textline_orientation_batch_size": _COUNT,
        "textline_orientation_model_dir": _TEXT,
        "textline_orientation_model_name": _TEXT,
        "use_doc_orientation_classify": _SWITCH,
        "use_doc_unwarping": _SWITCH,
        "use_textline_orientation": _SWITCH,
        "cpu_threads": (lambda v: type(v) is int and v >= 0, "a whole number, 0 for all processors"),
        "enable_cinn": _SWITCH,
        "enable_mkldnn": _SWITCH,
        "engine_config": (lambda v: isinstance(v, Mapping), "a mapping"),
        "mkldnn_cache_capacity": (lambda v: type(v) is int, "a whole number"),
        "paddlex_config": (lambda v: isinstance(v, (str, Mapping)), "a file or a mapping"),
    }
)
# The same with those that are never passed on.
PADDLEOCR_PARAMS: Final = PARAM_VALUES.keys() | {
    "device",
    "enable_hpi",
    "engine",
    "lang",
    "ocr_version",
    "precision",
    "use_tensorrt",
}

# PaddleOCR's own table of 2.x names, and `drop_score`, which it forgot.
RENAMED_PARAMS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "cls_batch_num": "textline_orientation_batch_size",
        "cls_model_dir": "textline_orientation_model_dir",
        "det_db_box_thresh": "text_det_box_thresh",
        "det_db_thresh": "text_det_thresh",
        "det_db_unclip_ratio": "text_det_unclip_ratio",
        "det_limit_side_len": "text_det_limit_side_len",
        "det_limit_type": "text_det_limit_type",
        "det_model_dir": "text_detection_model_dir",
        "drop_score": "text_rec_score_thresh",
        "rec_batch_num": "text_recognition_batch_size",
        "rec_model_dir": "text_recognition_model_dir",
        "use_angle_cls": "use_textline_orientation",
    }
)

_ANY: Final = object()  # as an allowed value: dropped whatever it says
_CPU_ONLY: Final = "this is a CPU service"
_BY_SETTING: Final = "ocr.engine chooses it: onnxruntime or paddle"
_IN_MODEL: Final = "it is part of the model: choose it by ocr.model"

# Names that are known but not passed on: the one value that changes nothing (dropped with a note), and
# why any other is refused. 2.x names, and 3.x names that a setting of ours or the CPU decides.
_TAKEN_PARAMS: Final[Mapping[str, tuple[object, str]]] = MappingProxyType(
    {
        "cls": (False, "set use_textline_orientation: true"),
        "det": (True, "text is always detected first"),
        "det_algorithm": ("DB", _IN_MODEL),
        "device": ("cpu", _CPU_ONLY),
        "enable_hpi": (False, _BY_SETTING),
        "engine": (None, _BY_SETTING),
        "gpu_id": (_ANY, _CPU_ONLY),
        "gpu_mem": (_ANY, _CPU_ONLY),
        "lang": (None, "set ocr.lang"),
        "ocr_version": (None, "set ocr.model, for example to PP-OCRv5"),
        "precision": ("fp32", _CPU_ONLY),
        "rec": (True, "detected text is always recognised"),
        "rec_algorithm": ("SVTR_LCNet", _IN_MODEL),
        "rec_char_dict_path": (None, "the characters are listed in the model's inference.yml"),
        "rec_image_shape": (None, "set text_rec_input_shape"),
        "show_log": (_ANY, "logging.level decides what is logged"),
        "structure_version": (None, "tables and layout are not read"),
        "total_process_num": (1, "there is one worker; run several services for several inboxes"),
        "use_gpu": (False, _CPU_ONLY),
        "use_mp": (False, "there is one worker; run several services for several inboxes"),
        "use_npu": (False, _CPU_ONLY),
        "use_onnx": (False, "set ocr.engine: onnxruntime"),
        "use_space_char": (True, "the model decides about spaces"),
        "use_tensorrt": (False, _CPU_ONLY),
        "use_xpu": (False, _CPU_ONLY),
        "vis_font_path": (_ANY, "nothing is drawn"),
    }
)


def translate_params(params: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Bring `ocr.params` to the names of PaddleOCR 3.x. Imports nothing heavy.

    Args:
        params: arguments by their 3.x or 2.x names.

    Returns:
        Arguments by their 3.x names, and one note for the log on each that was renamed or dropped.

    Raises:
        ConfigError: some arguments mean nothing here; the message lists them all, one a line.
    """
    kwargs: dict[str, Any] = {}
    notes: list[str] = []
    problems: list[str] = []
    for given, value in params.items():
        if given in _TAKEN_PARAMS:
            inert, reason = _TAKEN_PARAMS[given]
            # By type too: 1 and True are equal, and mean different things.
            if inert is _ANY or value is None or (type(value) is type(inert) and value == inert):
                notes.append(f"ocr.params.{given} is left out: {reason}")
            else:
                problems.append(f"ocr.params.{given}: {value!r} is not possible: {reason}")
            continue
        name = RENAMED_PARAMS.get(given, given)
        if name not in PADDLEOCR_PARAMS:
            problems.append(f"ocr.params.{given}: PaddleOCR has no such argument{_did_you_mean(given)}")
        elif value is None:
            # Passed on, it would mean PaddleOCR's default, which is on for the orientation models.
            notes.append(f"ocr.params.{given} is left out: it is empty")
        elif not PARAM_VALUES[name][0](value):
            problems.append(f"ocr.params.{given}: must be {PARAM_VALUES[name][1]}, not {value!r}")
        elif name in kwargs and kwargs[name] != value:
            problems.append(f"ocr.params: {name} is given under two names, with two values")
        else:
            if name != given:
                notes.append(f"ocr.params.{given} is called {name} since PaddleOCR 3.0")
            kwargs[name] = value
    if problems:
        raise ConfigError("\n".join(problems))
    return kwargs, notes


def _did_you_mean(name: str) -> str:
    # Names a user may set, under either spelling; those we refuse are no advice.
    known = (PADDLEOCR_PARAMS | RENAMED_PARAMS.keys()) - _TAKEN_PARAMS.keys()
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {RENAMED_PARAMS.get(close[0], close[0])}?" if close else ""


# -- the machine -------------------------------------------------------------------------------

# Fail on the first image when oneDNN is on: ConvertPirAttribute2RuntimeAttribute not support
# [pir::ArrayAttribute<pir::DoubleAttribute>] (Paddle #77340, #79749; fixed on develop only).
KNOWN_BAD_PADDLE: Final = frozenset({"3.3.0", "3.3.1"})


def check_paddle_version(version: str) -> None:
    """Refuse a Paddle release that cannot read images with oneDNN.

    Raises:
        UnavailableError: `version` is one of `KNOWN_BAD_PADDLE`.
    """
    if version in KNOWN_BAD_PADDLE:
        raise UnavailableError(
            f"paddlepaddle {version} fails on every image with oneDNN on "
            "(ConvertPirAttribute2RuntimeAttribute, Paddle #77340)",
            hint="pip install paddlepaddle==3.2.2, or use ocr.engine: onnxruntime",
        )


def usable_cpus(root: Path = Path("/")) -> int:
    """How many processors this process may use: affinity and cgroup CPU quota (v1 and v2), at least 1.

    More threads than that only wait for each other. A quota of 1.5 processors counts as 2, as in Go's
    runtime: rounding down would leave half a processor idle. `root` is where `/proc` and `/sys` are.
    """
    quotas = (_cgroup_cpus(folder) for folder in _cgroup_folders(root))
    return max(1, min(len(os.sched_getaffinity(0)), *(math.ceil(cpus) for cpus in quotas if cpus), 1 << 16))


def _cgroup_folders(root: Path) -> list[Path]:
    """Every folder whose CPU quota binds this process: its own cgroup and those above."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    folders: list[Path] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounts = ("",) if not controllers else (controllers, "cpu")
        relative = Path(path.lstrip("/"))
        # In a container the path may be the host's, and only its root is mounted: ancestors include it.
        for ancestor in (relative, *relative.parents):
            folders += [root / "sys/fs/cgroup" / mount / ancestor for mount in mounts]
    return folders


def _cgroup_cpus(folder: Path) -> float | None:
    """The quota set in one cgroup folder, in processors; None where there is none."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        cpus = int(quota) / int(period)
    except (OSError, ValueError):  # not there, or "max"
        return None
    return cpus if cpus > 0 else None  # v1 says -1 for no limit


# -- PaddleOCR ---------------------------------------------------------------------------------

# Peak RSS beyond the loaded model, blank and dense pages of 256 to 4,000 px square and pages of the widest
# lines (docs/memory.md): upper lines through PP-OCRv6_small, and PP-OCRv5_mobile with paddle.
_PAGE_MB: Final = {"onnxruntime": (160.0, 195.0), "openvino": (160.0, 195.0), "paddle": (450.0, 160.0)}
_NAMES_IN_PADDLEX: Final = {"onnxruntime": "onnxruntime", "paddle": "paddle_static"}
_PADDLE_ONLY_PARAMS: Final = ("enable_mkldnn", "mkldnn_cache_capacity", "enable_cinn")
_SWITCHES: Final = ("use_doc_orientation_classify", "use_doc_unwarping", "use_textline_orientation")
_LOGGERS: Final = ("paddlex", "paddleocr")


def create(
    engine: str,
    spec: ModelSpec,
    threads: int,
    params: Mapping[str, Any],
    *,
    provider: str = "onnxruntime",
    precision: str = "auto",
) -> PaddleOcrEngine:
    """Load PaddleOCR with a model. Takes 5 s and 270 MB (onnxruntime), or 10 s and 520 MB (paddle).

    Orientation and unwarping of the document and of lines are off unless `params` switches them on;
    their models are then PaddleOCR's own download. With unwarping on, coordinates are those of the
    unwarped image: there is no exact way back.

    Args:
        engine: `onnxruntime` or `paddle`.
        spec: the model, from `models.resolve`.
        threads: how many threads to compute with; 0: `usable_cpus()`.
        params: `ocr.params`; wins over what `spec` says. `engine_config` in it is merged over ours, and
            leaves the models to PaddleX as it does them, as `text_recognition_batch_size` does.
        provider: `ocr.provider`, for engine `onnxruntime`.
        precision: `ocr.precision`, for the same.

    Raises:
        ConfigError: `params` holds what cannot be passed on.
        UnavailableError: a library is missing or known to be bad, or PaddleOCR refuses to start.
    """
    kwargs, _ = translate_params(params)
    threads = kwargs.pop("cpu_threads", threads) or usable_cpus()
    own = {name: kwargs.pop(name) for name in _PADDLE_ONLY_PARAMS if name in kwargs}
    if engine == "paddle":
        config = _paddle_config(threads, **own)
    else:
        for name in own:
            logger.warning("ocr.params.%s has no effect with ocr.engine %s", name, engine)
        config = _onnxruntime_config(threads)
        choice = inference.choose(provider, precision)
        as_paddlex = kwargs.keys() & {"engine_config", "text_recognition_batch_size"}
        if as_paddlex and choice.provider != "onnxruntime":
            if provider != "auto":
                raise ConfigError(
                    f"ocr.provider: {provider} does not go with ocr.params.{min(as_paddlex)}",
                    hint="Leave one of them out.",
                )
            choice = inference.Choice("onnxruntime", "fp32", "fp32", f"ocr.params.{min(as_paddlex)} is set")
        # A batch is padded to its widest line; alone, a line costs what it is.
        kwargs.setdefault("text_recognition_batch_size", 1)
    config |= kwargs.pop("engine_config", {})
    if engine == "paddle" and config.get("run_mode") != "paddle":
        check_paddle_version(_version_of("paddlepaddle"))
    arguments = {**dict.fromkeys(_SWITCHES, False), **_with_user_models(spec, kwargs), **kwargs}
    version = _version_of("paddleocr")
    try:
        # device: without it PaddleX imports Paddle to look for a GPU, for the ONNX engine too.
        ocr = _load(engine=_NAMES_IN_PADDLEX[engine], device="cpu", engine_config=config, **arguments)
    except Exception as error:
        raise UnavailableError(
            f"PaddleOCR cannot start with ocr.engine {engine}, ocr.model {spec.name}: {_summary(error)}",
            hint=_hint(arguments),
        ) from error
    if engine == "paddle":
        return PaddleOcrEngine(engine, engine, spec.name, version, ocr)
    if not as_paddlex:
        inference.take_over(ocr, choice, threads, _onnxruntime_config(threads))
    return PaddleOcrEngine(engine, choice.provider, spec.name, version, ocr)


def _hint(arguments: Mapping[str, Any]) -> str:
    """What to do when PaddleOCR does not start with these arguments."""
    on = [f"ocr.params.{name}" for name in _SWITCHES if arguments.get(name)]
    if on:
        return (
            f"{' and '.join(on)} needs a model of its own, which PaddleOCR downloads at the first start: "
            "leave it out where its model hub cannot be reached."
        )
    return (
        "Check ocr.model and ocr.params. Models outside the store need PaddleOCR's model hub to be reachable "
        f"once; `ocr-watcher models pull` brings {', '.join(models.CATALOGUE)}."
    )


def _onnxruntime_config(threads: int) -> dict[str, Any]:
    return {
        # With the arena and memory patterns on, 634 MiB stay after eight receipts; off, 246
        # (docs/memory.md).
        "enable_cpu_mem_arena": False,
        "enable_mem_pattern": False,
        "intra_op_num_threads": threads,
        "inter_op_num_threads": 1,
        # Fatal only: what it would print to stderr, past the log, it raises as well.
        "log_severity_level": 4,
    }


def _paddle_config(
    threads: int,
    *,
    enable_mkldnn: bool = True,
    # shapes: 150 MB less than PaddleOCR's 10 for 12 % of time (docs/memory.md); unlimited was the old
    # leak (PaddleOCR #15631)
    mkldnn_cache_capacity: int = 1,
    enable_cinn: bool = False,
) -> dict[str, Any]:
    config = {
        "cpu_threads": threads,
        "mkldnn_cache_capacity": mkldnn_cache_capacity,
        "enable_cinn": enable_cinn,
    }
    # Without a run mode PaddleX takes oneDNN, but for the models it knows to fail with it.
    return config if enable_mkldnn else {**config, "run_mode": "paddle"}


def _with_user_models(spec: ModelSpec, params: Mapping[str, Any]) -> dict[str, Any]:
    """The spec's arguments, without those of a part for which the user names a model of his own.

    Half of one and half of the other would be refused by PaddleX as a mismatch of names.
    """
    arguments = dict(spec.kwargs)
    for role in ("text_detection", "text_recognition"):
        name, folder = params.get(f"{role}_model_name"), params.get(f"{role}_model_dir")
        if name is not None or folder is not None:
            arguments.pop(f"{role}_model_dir", None)
            arguments[f"{role}_model_name"] = name or models.model_name_of(Path(str(folder)))
    return arguments


def _version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise UnavailableError(f"{package} is not installed", hint="Install ocr-watcher again.") from error


def _load(**arguments: object) -> Any:  # noqa: ANN401 -- PaddleOCR ships no types
    with warnings.catch_warnings():
        # Paddle says so at import; nothing is compiled here.
        warnings.filterwarnings("ignore", message="No ccache found", category=UserWarning)
        from paddleocr import PaddleOCR  # noqa: PLC0415 -- 4 s and 250 MB: only when wanted

        # They come with handlers of their own and say "Creating model" at level info, in colour.
        for name in _LOGGERS:
            third_party = logging.getLogger(name)
            third_party.handlers.clear()
            third_party.propagate = True
            third_party.setLevel(logging.WARNING)
        return PaddleOCR(**arguments)


class PaddleOcrEngine:
    """PaddleOCR as an `Engine`; made by `create`.

    A result sits in reference cycles of PaddleX with the arrays it was made from: it is freed by the
    garbage collector, not when the last name goes.
    """

    def __init__(self, name: str, provider: str, model: str, version: str, ocr: Any) -> None:  # noqa: ANN401 -- as _load
        self.name = name
        self.provider = provider
        self.model = model
        self.version = version
        self._ocr = ocr

    def read(self, bgr: NDArray[np.uint8]) -> object:
        """See `Engine.read`. A document turned by PaddleOCR has its coordinates turned back."""
        try:
            (result,) = self._ocr.predict(bgr)
            angle = (result.get("doc_preprocessor_res") or {}).get("angle", 0)
            return _turned_back(result, angle, bgr.shape[1], bgr.shape[0])
        except Exception as error:
            raise _as_file_error(error, bgr.shape) from error

    def page_mb(self) -> tuple[float, float]:
        """See `Engine.page_mb`."""
        return _PAGE_MB[self.provider]

    def warm_up(self) -> None:
        """See `Engine.warm_up`."""
        self.read(drawn_text("ocr-watcher 0123"))

    def close(self) -> None:
        """See `Engine.close`."""
        self._ocr.close()
        self._ocr = None


def drawn_text(text: str, *, size_px: int = 32) -> NDArray[np.uint8]:
    """One line of black text on white, as BGR of shape (3 * size_px, width, 3): something any model reads."""
    font = ImageFont.load_default(size_px)
    width_px = int(font.getlength(text)) + 2 * size_px
    image = Image.new("RGB", (width_px, 3 * size_px), "white")
    ImageDraw.Draw(image).text((size_px, size_px), text, "black", font)
    return np.ascontiguousarray(np.asarray(image)[:, :, ::-1])


# What the libraries say when memory runs out: Paddle, its allocator, OpenCV, C++, ONNX Runtime, OpenVINO.
_OUT_OF_MEMORY: Final = (
    "ResourceExhaustedError",
    "Fail to alloc memory",
    "Insufficient memory",
    "bad_alloc",
    "Failed to allocate",
    "can't alloc",
)


def _as_file_error(error: Exception, shape: tuple[int, ...]) -> FileError:
    message = f"{_summary(error)} (image of shape {shape})"
    # oneDNN says no more than "std::exception" when it is refused memory (seen under RLIMIT_DATA), and
    # was seen to say it for no other reason.
    known = any(sign in str(error) for sign in _OUT_OF_MEMORY) or str(error) == "std::exception"
    if isinstance(error, MemoryError) or known:
        return OutOfMemoryError(message)
    return EngineError(message)


def _summary(error: Exception) -> str:
    """Type and message on one line. Paddle's messages are pages of C++ stack with the reason at the end."""
    reason = str(error).rpartition("Error Message Summary:")[2]
    return f"{type(error).__name__}: {' '.join(reason.strip().strip('-').split())[:500]}"


def _turned_back(result: dict[str, Any], angle: int, width_px: int, height_px: int) -> dict[str, Any]:
    """The result with line coordinates of the image as it came in; word boxes are left as they are.

    PaddleOCR turns a document by `angle` degrees counter-clockwise before it looks for text (0 when
    upright, -1 when not asked) and gives coordinates of the turned image.
    """
    if angle not in {90, 180, 270}:
        return result
    for key in ("dt_polys", "rec_polys"):
        result[key] = [turn_back(np.asarray(polygon), angle, width_px, height_px) for polygon in result[key]]
    boxes = [[*polygon.min(axis=0), *polygon.max(axis=0)] for polygon in result["rec_polys"]]
    result["rec_boxes"] = np.array(boxes).reshape(-1, 4)
    return result


def turn_back(points: NDArray[Any], angle: int, width_px: int, height_px: int) -> NDArray[Any]:
    """Map points of an image that was turned counter-clockwise back into the image before.

    Args:
        points: shape (n, 2), x and y in pixels of the turned image.
        angle: 90, 180 or 270 degrees.
        width_px: width of the image before it was turned.
        height_px: height of the image before it was turned.
    """
    x, y = points[:, 0], points[:, 1]
    before = {90: (width_px - y, x), 180: (width_px - x, height_px - y), 270: (y, height_px - x)}[angle]
    return np.stack(before, axis=1)


# -- for tests ---------------------------------------------------------------------------------


@dataclass
class FakeEngine:
    """A test double that lives in the package, so that it cannot drift from the protocol.

    Deterministic and without models. By default every image holds one line, whose text is the array's
    shape as `<height>x<width>`. `on_read` scripts something else: its value is the result, what it
    raises is raised, and it may block or leave the process.
    """

    on_read: Callable[[NDArray[np.uint8]], object] | None = None
    name: str = "fake"
    provider: str = "fake"
    model: str = "fake"
    version: str = "0"
    shapes: list[tuple[int, ...]] = field(default_factory=list)  # of what was read, in order
    warmed_up: bool = False
    closed: bool = False

    def read(self, bgr: NDArray[np.uint8]) -> object:
        """See `Engine.read`."""
        self.shapes.append(bgr.shape)
        if self.on_read is not None:
            return self.on_read(bgr)
        height, width = bgr.shape[:2]
        polygon = np.array([[0, 0], [width, 0], [width, height], [0, height]])
        return {
            "rec_texts": [f"{height}x{width}"],
            "rec_scores": [1.0],
            "dt_polys": [polygon],
            "rec_polys": [polygon],
            "rec_boxes": np.array([[0, 0, width, height]]),
        }

    def page_mb(self) -> tuple[float, float]:
        """See `Engine.page_mb`."""
        return 0.0, 0.0

    def warm_up(self) -> None:
        """See `Engine.warm_up`."""
        self.warmed_up = True

    def close(self) -> None:
        """See `Engine.close`."""
        self.closed = True
