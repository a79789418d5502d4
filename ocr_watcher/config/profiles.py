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

PROFILES: Final[Mapping[str, Mapping[str, Mapping[str, Any]]]] = MappingProxyType(
    {
        BALANCED: {},
        "fast": {
            "ocr": {
                "model": "PP-OCRv6_tiny",
                "params": {"text_det_limit_side_len": 896, "text_det_limit_type": "max"},
            }
        },
        "small-memory": {
            "ocr": {
                "model": "PP-OCRv6_tiny",
                "params": {"text_det_limit_side_len": 768, "text_det_limit_type": "max"},
            },
            "image": {"max_megapixels": 40},
            "memory": {"soft_limit_mb": 512, "rss_limit_mb": 768},
        },
    }
)
"""Values by section and key."""

_TOGETHER: Final = frozenset({"soft_limit_mb", "rss_limit_mb"})


def laid_under(data: Mapping[str, Any]) -> dict[str, Any]:
    """The file's sections with what its profile says beside what it says itself.

    Args:
        data: the file's sections; values may be wrong in any way, and stay as they are.

    Returns:
        The same, with further keys. Of `ocr.params`, each argument counts for itself; of the two limits on
        memory the profile's hold only where the file has neither, since one must not be above the other.
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
        if isinstance(given.get("params"), dict) and "params" in under:
            merged["params"] = {**under["params"], **given["params"]}
        result[section] = merged
    return result
