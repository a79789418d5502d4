"""PaddleOCR's arguments, as they may stand in `ocr.params`: which there are, their values, their older names.

All of it is written out here instead of asked of PaddleOCR: `check-config` needs it, and importing PaddleOCR
takes seconds. A test compares it with the installed PaddleOCR.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from ocr_watcher.errors import ConfigError


@dataclass(frozen=True)
class Values:
    """The values that an argument takes: a function that tells them, and what to say of them to the user."""

    accept: Callable[[Any], bool]
    described: str


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_SWITCH: Final = Values(lambda v: isinstance(v, bool), "true or false")
_COUNT: Final = Values(lambda v: type(v) is int and v >= 1, "a whole number of at least 1")
_SHARE: Final = Values(lambda v: _is_number(v) and 0 <= v <= 1, "a number from 0 to 1")
_TEXT: Final = Values(lambda v: isinstance(v, str), "text")
_SHAPE: Final = Values(
    lambda v: isinstance(v, (list, tuple)) and len(v) == 3 and all(_COUNT.accept(n) for n in v),
    "a list of three whole numbers: channels, height, width",
)

# The arguments of PaddleOCR 3.7 that may be given, its own and those that all its pipelines have, with the
# values that each takes. They are checked here because PaddleOCR reports a wrong value at the first image, or
# never.
PARAM_VALUES: Final[Mapping[str, Values]] = MappingProxyType(
    {
        "doc_orientation_classify_model_dir": _TEXT,
        "doc_orientation_classify_model_name": _TEXT,
        "doc_unwarping_model_dir": _TEXT,
        "doc_unwarping_model_name": _TEXT,
        "return_word_box": _SWITCH,
        "text_det_box_thresh": _SHARE,
        "text_det_input_shape": _SHAPE,
        "text_det_limit_side_len": _COUNT,
        "text_det_limit_type": Values(
            lambda v: v in ("min", "max", "resize_long"), "min, max or resize_long"
        ),
        "text_det_thresh": _SHARE,
        "text_det_unclip_ratio": Values(lambda v: _is_number(v) and 0 < v < math.inf, "a number above 0"),
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
        "cpu_threads": Values(lambda v: type(v) is int and v >= 0, "a whole number, 0 for all processors"),
        "enable_cinn": _SWITCH,
        "enable_mkldnn": _SWITCH,
        "engine_config": Values(lambda v: isinstance(v, Mapping), "a mapping"),
        "mkldnn_cache_capacity": Values(lambda v: type(v) is int, "a whole number"),
        "paddlex_config": Values(lambda v: isinstance(v, (str, Mapping)), "a file or a mapping"),
    }
)
# All arguments of PaddleOCR 3.7: those above, and those that are never passed on.
PADDLEOCR_PARAMS: Final = PARAM_VALUES.keys() | {
    "device",
    "enable_hpi",
    "engine",
    "lang",
    "ocr_version",
    "precision",
    "use_tensorrt",
}

# 2.x names and what they are called in 3.x: PaddleOCR's own table, and `drop_score`, which is missing there.
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

_ANY: Final = object()  # stands for every value in the table below
_CPU_ONLY: Final = "this is a CPU service"
_BY_SETTING: Final = "ocr.engine chooses it: onnxruntime or paddle"
_IN_MODEL: Final = "it is part of the model: choose it by ocr.model"

# Arguments that are never passed on: 2.x names that 3.x does not have, and 3.x names whose value follows from
# another setting, or from this being a CPU service. The first entry is the one value that changes nothing; it
# is left out with a note. The second says why any other value is refused.
_NOT_PASSED_ON: Final[Mapping[str, tuple[object, str]]] = MappingProxyType(
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


@dataclass(frozen=True)
class Translation:
    """What became of `ocr.params`.

    `kwargs` are arguments by their 3.x names. `notes` are sentences for the log, one on each argument that
    was renamed or left out. `problems` are arguments that cannot be used: the name as given, and what is
    wrong.
    """

    kwargs: dict[str, Any]
    notes: list[str]
    problems: list[tuple[str, str]]


def examine_params(params: Mapping[str, Any]) -> Translation:
    """Bring `ocr.params` to the names of PaddleOCR 3.x, and check the values. Raises nothing.

    Args:
        params: arguments by their 3.x or 2.x names.
    """
    kwargs: dict[str, Any] = {}
    notes: list[str] = []
    problems: list[tuple[str, str]] = []
    given_as: dict[str, str] = {}
    for given, value in params.items():
        if given in _NOT_PASSED_ON:
            inert, reason = _NOT_PASSED_ON[given]
            # The type is compared too: in Python 1 equals True, and here they mean different things.
            if inert is _ANY or value is None or (type(value) is type(inert) and value == inert):
                notes.append(f"ocr.params.{given} is left out: {reason}")
            else:
                problems.append((given, f"{value!r} is not possible: {reason}"))
            continue
        name = RENAMED_PARAMS.get(given, given)
        if name not in PADDLEOCR_PARAMS:
            problems.append((given, f"PaddleOCR has no such argument{_did_you_mean(given)}"))
        elif value is None:
            # PaddleOCR reads None as its own default, which is on for the orientation models.
            notes.append(f"ocr.params.{given} is left out: it is empty")
        elif not PARAM_VALUES[name].accept(value):
            problems.append((given, f"must be {PARAM_VALUES[name].described}, not {value!r}"))
        elif name in kwargs and kwargs[name] != value:
            problems.append((given, f"is the same argument as {given_as[name]}, which has another value"))
        else:
            if name != given:
                notes.append(f"ocr.params.{given} is called {name} since PaddleOCR 3.0")
            kwargs[name] = value
            given_as[name] = given
    return Translation(kwargs, notes, problems)


def translate_params(params: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The arguments and the notes of `examine_params`.

    Raises:
        ConfigError: some arguments are unknown, or have values that are not possible. The message lists
            them all, one a line.
    """
    translation = examine_params(params)
    if translation.problems:
        raise ConfigError("\n".join(f"ocr.params.{name}: {text}" for name, text in translation.problems))
    return translation.kwargs, translation.notes


def _did_you_mean(name: str) -> str:
    """The end of a message: the nearest argument there is, by its 3.x name; empty where none is near."""
    # Only names that a user may set are good advice, in their 3.x or their 2.x spelling.
    known = (PADDLEOCR_PARAMS | RENAMED_PARAMS.keys()) - _NOT_PASSED_ON.keys()
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {RENAMED_PARAMS.get(close[0], close[0])}?" if close else ""
