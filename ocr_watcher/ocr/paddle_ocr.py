"""PaddleOCR as an `Engine`: how it is started, what its errors mean, and turning coordinates back.

PaddleOCR itself is imported when an engine is created, because that takes seconds and hundreds of megabytes.
"""

from __future__ import annotations

import importlib.metadata
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ocr_watcher.errors import ConfigError, EngineError, FileError, OutOfMemoryError, UnavailableError
from ocr_watcher.ocr import inference, models, paddlex
from ocr_watcher.ocr.cpus import usable_cpus
from ocr_watcher.ocr.engine import drawn_text
from ocr_watcher.ocr.orientation import PageOrientation
from ocr_watcher.ocr.params import translate_params

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ocr_watcher.ocr.models import ModelSpec

logger = logging.getLogger(__name__)

# These fail on the first image when oneDNN is on: ConvertPirAttribute2RuntimeAttribute not support
# [pir::ArrayAttribute<pir::DoubleAttribute>] (Paddle #77340, #79749; fixed on develop only).
KNOWN_BAD_PADDLE: Final = frozenset({"3.3.0", "3.3.1"})

# The highest peaks of RSS beyond the loaded model, as a line above all measurements: MiB for any page, and
# MiB for each megapixel. Measured with PP-OCRv6_small (paddle: PP-OCRv5_mobile) on blank and dense pages of
# 256 to 4,000 px square and on pages of the widest lines (docs/memory.md).
_PAGE_MB: Final = {"onnxruntime": (160.0, 195.0), "openvino": (160.0, 195.0), "paddle": (450.0, 160.0)}

_PADDLE_ONLY_PARAMS: Final = ("enable_mkldnn", "mkldnn_cache_capacity", "enable_cinn")
# These set how PaddleX runs the models. Who sets one of them has the models run by PaddleX.
_PADDLEX_RUN_PARAMS: Final = frozenset({"engine_config", "text_recognition_batch_size"})
# Each of these has models of its own. PaddleOCR switches them on where they are not mentioned.
_FURTHER_STEPS: Final = ("use_doc_orientation_classify", "use_doc_unwarping", "use_textline_orientation")


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


# -- starting it -------------------------------------------------------------------------------


def create(
    engine: str,
    spec: ModelSpec,
    threads: int,
    params: Mapping[str, Any],
    *,
    provider: str = "onnxruntime",
    precision: str = "auto",
    orientation: Path | None = None,
    line_orientation: Path | None = None,
) -> PaddleOcrEngine:
    """Load PaddleOCR with a model. Takes 5 s and 270 MB (onnxruntime), or 10 s and 520 MB (paddle).

    Orientation and unwarping of the document, and orientation of lines, are off unless `params` switches
    them on; PaddleOCR then downloads their models itself. With unwarping on, coordinates are those of the
    unwarped image, because there is no exact way back.

    Args:
        engine: `onnxruntime` or `paddle`.
        spec: the model, from `models.resolve`.
        threads: how many threads to compute with; 0: `usable_cpus()`.
        params: `ocr.params`. They win over what `spec` says. `engine_config` in them is merged over ours.
            With `engine_config` or `text_recognition_batch_size` PaddleX runs the models its own way.
        provider: `ocr.provider`, for engine `onnxruntime`.
        precision: `ocr.precision`, for engine `onnxruntime`.
        orientation: file of the model that tells how a page lies; None: pages are taken as they lie.
        line_orientation: file of the model that tells lines on their head; None: as `params` say.

    Raises:
        ConfigError: `params` holds what cannot be passed on, or does not go with `provider`.
        UnavailableError: a library is missing or known to be bad, or PaddleOCR refuses to start.
    """
    kwargs, _ = translate_params(params)
    threads = kwargs.pop("cpu_threads", threads) or usable_cpus()
    paddle_only = {name: kwargs.pop(name) for name in _PADDLE_ONLY_PARAMS if name in kwargs}
    if engine == "paddle":
        made = _with_paddle(spec, kwargs, _paddle_config(threads, **paddle_only))
    else:
        for name in paddle_only:
            logger.warning("ocr.params.%s has no effect with ocr.engine %s", name, engine)
        made = _with_onnxruntime(spec, kwargs, threads, provider, precision)
    if orientation is not None:
        made.orientation = PageOrientation(orientation, threads)
    if line_orientation is not None:
        made.turn_lines(line_orientation, threads)
    return made


def _with_paddle(spec: ModelSpec, kwargs: dict[str, Any], config: dict[str, Any]) -> PaddleOcrEngine:
    config |= kwargs.pop("engine_config", {})
    if config.get("run_mode") != "paddle":
        check_paddle_version(_version_of("paddlepaddle"))
    version = _version_of("paddleocr")
    return PaddleOcrEngine("paddle", "paddle", spec.name, version, _start("paddle", spec, kwargs, config))


def _with_onnxruntime(
    spec: ModelSpec, kwargs: dict[str, Any], threads: int, provider: str, precision: str
) -> PaddleOcrEngine:
    choice = inference.choose(provider, precision)
    run_by_paddlex = kwargs.keys() & _PADDLEX_RUN_PARAMS
    if run_by_paddlex and choice.provider != "onnxruntime" and provider != "auto":
        raise ConfigError(
            f"ocr.provider: {provider} does not go with ocr.params.{min(run_by_paddlex)}",
            hint="Leave one of them out.",
        )
    # PaddleX pads all lines of a batch to the widest. Alone, a line takes no more than its own width does.
    kwargs.setdefault("text_recognition_batch_size", 1)
    config = inference.session_options(threads) | kwargs.pop("engine_config", {})
    version = _version_of("paddleocr")
    ocr = _start("onnxruntime", spec, kwargs, config)
    if run_by_paddlex:
        return PaddleOcrEngine("onnxruntime", "onnxruntime", spec.name, version, ocr)
    paddlex.replace_runners(ocr, choice, threads)
    return PaddleOcrEngine("onnxruntime", choice.provider, spec.name, version, ocr)


def _start(engine: str, spec: ModelSpec, kwargs: dict[str, Any], config: dict[str, Any]) -> Any:  # noqa: ANN401 -- PaddleOCR ships no types
    arguments = {**dict.fromkeys(_FURTHER_STEPS, False), **_with_user_models(spec, kwargs), **kwargs}
    try:
        return paddlex.load(engine, config, arguments)
    except Exception as error:
        raise UnavailableError(
            f"PaddleOCR cannot start with ocr.engine {engine}, ocr.model {spec.name}: {_summary(error)}",
            hint=_start_hint(arguments),
        ) from error


def _start_hint(arguments: Mapping[str, Any]) -> str:
    """What to do when PaddleOCR does not start with these arguments."""
    switched_on = [f"ocr.params.{name}" for name in _FURTHER_STEPS if arguments.get(name)]
    if switched_on:
        return (
            f"{' and '.join(switched_on)} needs a model of its own, which PaddleOCR downloads at the first "
            "start: leave it out where its model hub cannot be reached."
        )
    return (
        "Check ocr.model and ocr.params. Models outside the store need PaddleOCR's model hub to be reachable "
        f"once; `ocr-watcher models pull` brings {', '.join(models.CATALOGUE)}."
    )


def _paddle_config(
    threads: int,
    *,
    enable_mkldnn: bool = True,
    # How many shapes of images oneDNN keeps. 1 takes 150 MB less than PaddleOCR's 10 and 12 % more time
    # (docs/memory.md). Without a limit memory grows without end (PaddleOCR #15631).
    mkldnn_cache_capacity: int = 1,
    enable_cinn: bool = False,
) -> dict[str, Any]:
    config = {
        "cpu_threads": threads,
        "mkldnn_cache_capacity": mkldnn_cache_capacity,
        "enable_cinn": enable_cinn,
    }
    # Without a run mode PaddleX uses oneDNN, except for the models that it knows to fail with it.
    return config if enable_mkldnn else {**config, "run_mode": "paddle"}


def _with_user_models(spec: ModelSpec, params: Mapping[str, Any]) -> dict[str, Any]:
    """The spec's arguments, except those of a part for which `params` names another model.

    A name from one and a folder from the other would not match, and PaddleX would refuse them.
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


# -- reading with it ---------------------------------------------------------------------------


class PaddleOcrEngine:
    """PaddleOCR as an `Engine`; made by `create`.

    PaddleX ties a result and the arrays it was made from into reference cycles. So the garbage collector
    frees it, and not the last name that goes.
    """

    def __init__(self, name: str, provider: str, model: str, version: str, ocr: Any) -> None:  # noqa: ANN401 -- PaddleOCR ships no types
        self.name = name
        self.provider = provider
        self.model = model
        self.version = version
        self.orientation: PageOrientation | None = None
        self._ocr = ocr

    def turn_lines(self, model: Path, threads: int) -> None:
        """From now on, read lines that stand on their head too."""
        paddlex.turn_lines(self._ocr, model, threads)

    def read(self, bgr: NDArray[np.uint8]) -> object:
        """See `Engine.read`. Where PaddleOCR turned the document, coordinates are turned back."""
        try:
            (result,) = self._ocr.predict(bgr)
            _begin_where_the_text_does(result)
            angle_deg = (result.get("doc_preprocessor_res") or {}).get("angle", 0)
            return _turned_back(result, angle_deg, bgr.shape[1], bgr.shape[0])
        except Exception as error:
            raise _as_file_error(error, bgr.shape) from error

    def turn_deg(self, bgr: NDArray[np.uint8]) -> int:
        """See `Engine.turn_deg`."""
        if self.orientation is None:
            return 0
        try:
            return self.orientation.turn_deg(bgr)
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
        if self.orientation is not None:
            self.orientation.close()


# -- its errors --------------------------------------------------------------------------------

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
    # When oneDNN is refused memory it says no more than "std::exception" (seen under RLIMIT_DATA). It was not
    # seen to say that for any other reason.
    known = any(sign in str(error) for sign in _OUT_OF_MEMORY) or str(error) == "std::exception"
    if isinstance(error, MemoryError) or known:
        return OutOfMemoryError(message)
    return EngineError(message)


def _summary(error: Exception) -> str:
    """Type and message on one line. Paddle's messages are pages of C++ stack with the reason at the end."""
    reason = str(error).rpartition("Error Message Summary:")[2]
    return f"{type(error).__name__}: {' '.join(reason.strip().strip('-').split())[:500]}"


# -- a turned line, a turned document ----------------------------------------------------------


def _begin_where_the_text_does(result: dict[str, Any]) -> None:
    """Have the polygon of a line that was turned by 180 degrees begin at the top left of its text."""
    angles = result.get("textline_orientation_angles") or []
    turned = {
        np.asarray(polygon).tobytes()
        for polygon, angle in zip(result["dt_polys"], angles, strict=bool(angles))
        if angle == 1
    }
    for key in ("dt_polys", "rec_polys"):
        result[key] = [
            np.roll(polygon, 2, axis=0) if np.asarray(polygon).tobytes() in turned else polygon
            for polygon in result[key]
        ]


def _turned_back(result: dict[str, Any], angle_deg: int, width_px: int, height_px: int) -> dict[str, Any]:
    """The result with the lines' coordinates in the image as it came in; word boxes are left as they are.

    PaddleOCR turns a document by `angle_deg` counter-clockwise before it looks for text, and then gives
    coordinates of the turned image. The angle is 0 where the document was upright, and -1 where PaddleOCR was
    not asked to look.
    """
    if angle_deg not in {90, 180, 270}:
        return result
    for key in ("dt_polys", "rec_polys"):
        result[key] = [
            turn_back(np.asarray(polygon), angle_deg, width_px, height_px) for polygon in result[key]
        ]
    boxes = [[*polygon.min(axis=0), *polygon.max(axis=0)] for polygon in result["rec_polys"]]
    result["rec_boxes"] = np.array(boxes).reshape(-1, 4)
    return result


def turn_back(points: NDArray[Any], angle_deg: int, width_px: int, height_px: int) -> NDArray[Any]:
    """Map points of an image that was turned counter-clockwise back into the image before it was turned.

    Args:
        points: shape (n, 2), x and y in pixels of the turned image.
        angle_deg: 90, 180 or 270.
        width_px: width of the image before it was turned.
        height_px: height of the image before it was turned.

    Returns:
        The points in pixels of the image before, in the same shape.
    """
    x, y = points[:, 0], points[:, 1]
    before = {90: (width_px - y, x), 180: (width_px - x, height_px - y), 270: (y, height_px - x)}[angle_deg]
    return np.stack(before, axis=1)
