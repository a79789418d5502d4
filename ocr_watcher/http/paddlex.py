"""PaddleX serving's shapes: what clients of PaddleOCR's basic serving and of its hosted API send and expect.

Taken from PaddleX 3.7.2, `inference/serving/schemas/ocr.py` and `pipelines/ocr/result.py`. One engine is
shared by all, so a parameter is taken only where it asks for what is set anyway, or switches something off.
"""

from __future__ import annotations

import base64
import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ocr_watcher.http.problems import Problem
from ocr_watcher.outputs import reading

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ocr_watcher.config import Settings
    from ocr_watcher.document import Page
    from ocr_watcher.http.spool import Job

# The parameters of a request, by what the engine calls them; see `ocr.params`.
_PARAMETERS: Final = {
    "useDocOrientationClassify": "use_doc_orientation_classify",
    "useDocUnwarping": "use_doc_unwarping",
    "useTextlineOrientation": "use_textline_orientation",
    "textDetLimitSideLen": "text_det_limit_side_len",
    "textDetLimitType": "text_det_limit_type",
    "textDetThresh": "text_det_thresh",
    "textDetBoxThresh": "text_det_box_thresh",
    "textDetUnclipRatio": "text_det_unclip_ratio",
    "returnWordBox": "return_word_box",
}
# What the detector takes where nothing is set, in PaddleX's configs/pipelines/OCR.yaml.
_DETECTOR: Final = {"thresh": 0.3, "box_thresh": 0.6, "unclip_ratio": 1.5}
_TYPES: Final = {".pdf": "pdf", ".tif": "tiff"}
_FILE_TYPES: Final = (None, 0, 1)


@dataclass(frozen=True)
class Options:
    """What is done of a request's parameters: lines below `min_score` are left out, `overlay` is sent."""

    min_score: float = 0.0
    overlay: bool = False


class Parameters:
    """What the engine is set to, against which requests are held."""

    def __init__(self, settings: Settings) -> None:
        ocr = settings.ocr
        self._set: dict[str, Any] = {
            "text_det_limit_side_len": settings.image.max_side_px,
            "text_det_limit_type": "max",
            **{f"text_det_{name}": value for name, value in _DETECTOR.items()},
            "use_doc_orientation_classify": ocr.orientation == "auto",
            **ocr.params,
        }
        self._min_score = max(ocr.min_score, float(ocr.params.get("text_rec_score_thresh") or 0))

    def check(self, fields: Mapping[str, Any]) -> Options:
        """Raise `Problem` 422 for a parameter that asks for something else than what is set."""
        for name, argument in _PARAMETERS.items():
            value = fields.get(name)
            if value is None or value is False or value == self._set.get(argument):
                continue
            raise Problem(
                422,
                "parameter_not_taken",
                f"{name} cannot be set for a single request",
                hint=f"Leave it out, or set ocr.params: {{{argument}: …}} in the server's configuration.",
            )
        if fields.get("fileType") not in _FILE_TYPES or isinstance(fields.get("fileType"), bool):
            raise Problem(422, "bad_parameter", "fileType is 0 (PDF) or 1 (image)")
        score, visualize = fields.get("textRecScoreThresh"), fields.get("visualize")
        if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
            raise Problem(422, "bad_parameter", "textRecScoreThresh is a number")
        if score is not None and score < self._min_score:
            raise Problem(
                422,
                "parameter_not_taken",
                f"textRecScoreThresh cannot be below what is set ({self._min_score:g})",
                hint="Lower ocr.min_score in the server's configuration.",
            )
        if visualize is not None and not isinstance(visualize, bool):
            raise Problem(422, "bad_parameter", "visualize is true or false")
        return Options(self._min_score if score is None else float(score), overlay=visualize is not False)

    def model_settings(self) -> dict[str, bool]:
        """For the answer."""
        turns = bool(self._set.get("use_doc_orientation_classify"))
        unwarps = bool(self._set.get("use_doc_unwarping"))
        return {
            "use_doc_preprocessor": turns or unwarps,
            "use_textline_orientation": bool(self._set.get("use_textline_orientation")),
        }

    def detector(self) -> dict[str, Any]:
        """For the answer."""
        names = ("limit_side_len", "limit_type", *_DETECTOR)
        return {name: self._set[f"text_det_{name}"] for name in names}


def new_log_id() -> str:
    """A name for a request, as PaddleX makes them."""
    return str(uuid.uuid4())


def log_id_of(fields: Mapping[str, Any]) -> str:
    """The name that the client gave its request, or a new one."""
    given = fields.get("logId")
    return given if isinstance(given, str) and given else new_log_id()


def pruned_result(page: Page, parameters: Parameters, options: Options) -> dict[str, Any]:
    """One page in PaddleX's shape; coordinates are whole pixels there."""
    lines = [line for line in page.lines if line.score >= options.min_score]
    polygons = [[[round(x), round(y)] for x, y in line.polygon] for line in lines]
    return {
        "model_settings": parameters.model_settings(),
        "dt_polys": polygons,
        "text_det_params": parameters.detector(),
        "text_type": "general",
        "text_rec_score_thresh": options.min_score,
        "return_word_box": False,
        "rec_texts": [line.text for line in lines],
        "rec_scores": [line.score for line in lines],
        "rec_polys": polygons,
        "rec_boxes": [[round(value) for value in line.box] for line in lines],
    }


def data_info(extension: str, sizes: list[dict[str, int]]) -> dict[str, Any]:
    """What is said of the document: one size for an image, one a page for the others."""
    kind = _TYPES.get(extension, "image")
    if kind == "image":
        return {**(sizes[0] if sizes else {"width": 0, "height": 0}), "type": kind}
    return {"numPages": len(sizes), "pages": sizes, "type": kind}


def answer(job: Job, parameters: Parameters, options: Options, log_id: str) -> Iterator[bytes]:
    """The answer to `POST /ocr` for a finished job, page by page. Raises OSError."""
    head = {"logId": log_id, "errorCode": 0, "errorMsg": "Success"}
    yield _bytes(head)[:-1] + b', "result": {"ocrResults": ['
    sizes = []
    with open(job.record, "rb") as file:
        for number, page in enumerate(reading.pages(file)):
            sizes.append({"width": page.width_px, "height": page.height_px})
            image = _overlay(job) if options.overlay and number == 0 else None
            result = {
                "prunedResult": pruned_result(page, parameters, options),
                "ocrImage": image,
                "inputImage": None,
            }
            yield (b", " if number else b"") + _bytes(result)
    yield b'], "dataInfo": ' + _bytes(data_info(job.extension, sizes)) + b"}}"


def lines(job: Job, parameters: Parameters, options: Options) -> Iterator[bytes]:
    """The result of a finished job as JSON Lines, a page a line. Raises OSError."""
    with open(job.record, "rb") as file:
        for page in reading.pages(file):
            size = {"width": page.width_px, "height": page.height_px}
            result = {
                "ocrResults": [
                    {
                        "prunedResult": pruned_result(page, parameters, options),
                        "ocrImage": None,
                        "inputImage": None,
                    }
                ],
                "dataInfo": data_info(job.extension, [size]),
            }
            yield _bytes({"result": result}) + b"\n"


def _overlay(job: Job) -> str | None:
    """The picture with boxes, where the daemon made one."""
    try:
        with open(job.output("overlay"), "rb") as file:
            return base64.b64encode(file.read()).decode("ascii")
    except OSError:
        return None


def _bytes(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
