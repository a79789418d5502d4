"""Profiles: sets of defaults for what somebody is after, by the name in `ocr.profile`.

A profile is laid under the file: what the file says itself always holds. Which values stand here was measured
on scans of three kinds (docs/accuracy.md).
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

BALANCED: Final = "balanced"

BOXES: Final[Mapping[str, Any]] = MappingProxyType({"text_det_box_thresh": 0.5, "text_det_unclip_ratio": 1.6})
"""Of `ocr.params`: a box of text may be less certain than PaddleOCR's default demands, and is cut out with
more around it. For no time, docs/accuracy.md."""

PROFILES: Final[Mapping[str, Mapping[str, Mapping[str, Any]]]] = MappingProxyType(
    {
        BALANCED: {"ocr": {"params": BOXES}},
        "fast": {"ocr": {"model": "PP-OCRv6_tiny", "params": BOXES}},
        # In full numbers, and with small pages enlarged where lines are looked for.
        "accurate": {
            "ocr": {
                "precision": "fp32",
                "params": {**BOXES, "text_det_limit_side_len": 736, "text_det_limit_type": "min"},
            }
        },
        "small-memory": {
            "ocr": {
                "model": "PP-OCRv6_tiny",
                "params": {**BOXES, "text_det_limit_side_len": 768, "text_det_limit_type": "max"},
            },
            "image": {"max_megapixels": 40},
            "memory": {"soft_limit_mb": 512, "rss_limit_mb": 768},
        },
    }
)
"""Values by section and key."""

_MEASURED_WITH: Final = "PP-OCRv6_"

OLD_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "text_det_box_thresh": "det_db_box_thresh",
        "text_det_unclip_ratio": "det_db_unclip_ratio",
        "text_det_limit_side_len": "det_limit_side_len",
        "text_det_limit_type": "det_limit_type",
    }
)
"""What PaddleOCR 2.x calls the arguments above, as the file may do."""
_TOGETHER: Final = frozenset({"soft_limit_mb", "rss_limit_mb"})


def laid_under(data: Mapping[str, Any]) -> dict[str, Any]:
    """The file's sections with what its profile says beside what it says itself.

    Args:
        data: the file's sections; values may be wrong in any way, and stay as they are.

    Returns:
        The same, with further keys. Of `ocr.params`, each argument counts for itself, and the profile's hold
        only for the models that they were measured with; of the two limits on memory the profile's hold only
        where the file has neither, since one must not be above the other.
    """
    ocr = data.get("ocr")
    name = ocr.get("profile", BALANCED) if isinstance(ocr, dict) else BALANCED
    result = dict(data)
    for section, values in (PROFILES.get(name, {}) if isinstance(name, str) else {}).items():
        given = result.get(section, {})
        if not isinstance(given, dict):
            continue
        under = dict(values)
        if _TOGETHER & given.keys():
            under = {key: value for key, value in under.items() if key not in _TOGETHER}
        merged = {**under, **given}
        if section == "ocr":
            merged["params"] = _params(merged.get("model"), under["params"], given.get("params", {}))
        result[section] = merged
    return result


def _params(model: object, under: Mapping[str, Any], given: object) -> object:
    """`ocr.params` as given, with the profile's under them."""
    measured = model is None or (isinstance(model, str) and model.startswith(_MEASURED_WITH))
    if not measured or not isinstance(given, dict):
        return given
    return {name: value for name, value in under.items() if OLD_NAMES[name] not in given} | given
