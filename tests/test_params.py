"""`ocr.params`: which arguments pass, which are translated, and what is said of all others."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from ocr_watcher.errors import ConfigError
from ocr_watcher.ocr.params import (
    _NOT_PASSED_ON,
    PADDLEOCR_PARAMS,
    PARAM_VALUES,
    RENAMED_PARAMS,
    examine_params,
    translate_params,
)


def test_a_configuration_is_checked_without_the_heavy_libraries() -> None:
    code = (
        "import sys; from ocr_watcher.ocr import models, params;"
        "heavy = {'numpy', 'PIL', 'onnx', 'onnxruntime', 'paddleocr', 'paddlex', 'paddle', 'cv2'};"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_known_names_are_those_of_the_installed_paddleocr() -> None:
    from paddleocr import PaddleOCR, _common_args  # noqa: PLC0415 -- seconds
    from paddleocr._pipelines import ocr  # noqa: PLC0415 -- seconds

    own = inspect.signature(PaddleOCR.__init__).parameters.keys() - {"self", "kwargs"}
    shared = _common_args.parse_common_args({}, default_enable_hpi=None).keys() | {"paddlex_config"}
    renamed_inside = {"use_pptrt": "use_tensorrt", "pptrt_precision": "precision"}
    assert own | {renamed_inside.get(name, name) for name in shared} == PADDLEOCR_PARAMS
    assert _NOT_PASSED_ON.keys() | PARAM_VALUES.keys() >= PADDLEOCR_PARAMS
    assert ocr._DEPRECATED_PARAM_NAME_MAPPING.items() <= RENAMED_PARAMS.items()
    assert set(RENAMED_PARAMS.values()) <= PADDLEOCR_PARAMS


def test_new_names_pass_and_old_names_are_translated() -> None:
    kwargs, notes = translate_params({"text_det_thresh": 0.4, "det_db_box_thresh": 0.5, "drop_score": 0.6})
    assert kwargs == {"text_det_thresh": 0.4, "text_det_box_thresh": 0.5, "text_rec_score_thresh": 0.6}
    assert notes == [
        "ocr.params.det_db_box_thresh is called text_det_box_thresh since PaddleOCR 3.0",
        "ocr.params.drop_score is called text_rec_score_thresh since PaddleOCR 3.0",
    ]


def test_what_changes_nothing_is_left_out_with_a_note() -> None:
    given = {"use_gpu": False, "show_log": True, "device": "cpu", "lang": None, "use_angle_cls": None}
    kwargs, notes = translate_params(given)
    assert kwargs == {}
    assert notes[:2] == [
        "ocr.params.use_gpu is left out: this is a CPU service",
        "ocr.params.show_log is left out: logging.level decides what is logged",
    ]
    assert notes[-1] == "ocr.params.use_angle_cls is left out: it is empty"
    assert len(notes) == len(given)


def test_every_refusal_is_listed() -> None:
    with pytest.raises(ConfigError) as caught:
        translate_params(
            {
                "use_gpu": True,
                "lang": "de",
                "ocr_version": "PP-OCRv4",
                "use_onnx": True,
                "text_det_tresh": 0.3,
                "det_db_tresh": 0.3,
                "qqq": 1,
                "rec_batch_num": 6,
                "text_recognition_batch_size": 8,
                "engine_config": 3,
            }
        )
    assert str(caught.value).splitlines() == [
        "ocr.params.use_gpu: True is not possible: this is a CPU service",
        "ocr.params.lang: 'de' is not possible: set ocr.lang",
        "ocr.params.ocr_version: 'PP-OCRv4' is not possible: set ocr.model, for example to PP-OCRv5",
        "ocr.params.use_onnx: True is not possible: set ocr.engine: onnxruntime",
        "ocr.params.text_det_tresh: PaddleOCR has no such argument; did you mean text_det_thresh?",
        "ocr.params.det_db_tresh: PaddleOCR has no such argument; did you mean text_det_thresh?",
        "ocr.params.qqq: PaddleOCR has no such argument",
        (
            "ocr.params.text_recognition_batch_size: is the same argument as rec_batch_num, "
            "which has another value"
        ),
        "ocr.params.engine_config: must be a mapping, not 3",
    ]


@pytest.mark.parametrize(
    ("name", "value", "must_be"),
    [
        ("text_det_limit_type", "maxx", "min, max or resize_long"),
        ("det_limit_side_len", "896px", "a whole number of at least 1"),
        ("text_det_limit_side_len", 0, "a whole number of at least 1"),
        ("text_recognition_batch_size", True, "a whole number of at least 1"),
        ("text_det_box_thresh", 60, "a number from 0 to 1"),
        ("text_det_thresh", True, "a number from 0 to 1"),
        ("text_det_unclip_ratio", 0, "a number above 0"),
        ("text_rec_input_shape", [48, 320], "a list of three whole numbers: channels, height, width"),
        ("use_angle_cls", "yes", "true or false"),
        ("rec_model_dir", 3, "text"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(name: str, value: object, must_be: str) -> None:
    with pytest.raises(ConfigError) as caught:
        translate_params({name: value})
    assert str(caught.value) == f"ocr.params.{name}: must be {must_be}, not {value!r}"


def test_values_of_the_right_kind_pass() -> None:
    given = {
        "text_det_limit_type": "resize_long",
        "text_det_limit_side_len": 896,
        "text_det_thresh": 0.3,
        "text_rec_score_thresh": 0,
        "text_det_unclip_ratio": 2,
        "text_rec_input_shape": (3, 48, 320),
        "mkldnn_cache_capacity": -1,
        "paddlex_config": {"pipeline_name": "OCR"},
        "use_textline_orientation": False,
    }
    assert translate_params(given) == (given, [])


def test_problems_are_told_apart_and_keep_nobody_from_the_rest() -> None:
    found = examine_params({"qqq": 1, "use_gpu": True, "show_log": 1, "drop_score": 0.6})
    assert found.kwargs == {"text_rec_score_thresh": 0.6}
    assert len(found.notes) == 2
    assert found.problems == [
        ("qqq", "PaddleOCR has no such argument"),
        ("use_gpu", "True is not possible: this is a CPU service"),
    ]


def test_the_same_value_under_both_names_is_no_conflict() -> None:
    kwargs, _ = translate_params({"rec_batch_num": 6, "text_recognition_batch_size": 6})
    assert kwargs == {"text_recognition_batch_size": 6}
