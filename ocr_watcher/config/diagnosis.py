"""Mistakes in plain words: what was found, what is allowed, and what was probably meant.

pydantic's errors and keys that do not exist become `Mistake`s, each with its line and its key.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any

from ocr_watcher.config.settings import SECTIONS, TOP_LEVEL
from ocr_watcher.config.yaml_file import At, Mistake, YamlFile, dotted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic_core import ErrorDetails

_WORDS = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "dict_type": "must be keys and values",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "refused": "{text}",
}
"""pydantic's error types in our words. The names in braces are keys of the error's context."""

_UNITS = {"_s": "seconds", "_mb": "MiB", "_px": "pixels"}
_VALUE_CUTOFF = 0.45  # an allowed value is one of a few words: at 0.46 `inotify` still finds `native`


def suggest(word: str, allowed: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The one of `allowed` that `word` was probably meant to be; None when none is near. Case does not count.

    `cutoff` is difflib's similarity, 0 to 1; 0.6 is its own default.
    """
    by_lower = {name.lower(): name for name in allowed}
    near = difflib.get_close_matches(word[:100].lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[near[0]] if near else None


def set_aside_unknown_keys(file: YamlFile) -> None:
    """Take keys that do not exist out of the file's data, and sections that are none. Notes the mistakes."""
    for key, value in list(file.data.items()):
        if key not in TOP_LEVEL:
            file.mistakes.append(_unknown((key,), file))
            del file.data[key]
        elif key in SECTIONS and not isinstance(value, dict):
            del file.data[key]
            if value is None:  # a section in which everything is commented out
                file.data[key] = {}
            else:
                line, found = file.spots[(key,)]
                allowed = ", ".join(SECTIONS[key].model_fields)
                text = f"found {found}; must be a section (allowed here: {allowed})"
                file.mistakes.append(Mistake(line, (key,), text))
        elif key in SECTIONS:
            for name in [name for name in value if name not in SECTIONS[key].model_fields]:
                file.mistakes.append(_unknown((key, name), file))
                del value[name]


def _unknown(at: tuple[str, ...], file: YamlFile) -> Mistake:
    *sections, key = at
    allowed = list(SECTIONS[sections[0]].model_fields) if sections else TOP_LEVEL
    name = key.rpartition(".")[2]  # the key may be written in one word, `watch.inbox:`
    home = next((section for section, model in SECTIONS.items() if name in model.model_fields), None)
    if home is not None:
        advice = f"; {name} belongs under {home}"
    elif sections and key in TOP_LEVEL:
        advice = f"; {key} belongs at the top level, without indentation"
    elif near := suggest(key, allowed):
        advice = f"; did you mean {near}?"
    else:
        advice = ""
    return Mistake(file.spots[at].line, at, f"unknown key{advice} (allowed here: {', '.join(allowed)})")


def key_of(detail: ErrorDetails) -> At:
    """The key that one of pydantic's errors is about."""
    blamed: At = detail.get("ctx", {}).get("at", ())
    return blamed or tuple(part for part in detail["loc"] if part != "[key]")


def in_words(detail: ErrorDetails, file: YamlFile) -> Mistake:
    """One of pydantic's errors as a mistake: line, key, what was found, what is allowed."""
    context: dict[str, Any] = {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in detail.get("ctx", {}).items()
    }
    at = key_of(detail)
    # A single folder is written as text, but validated as item 0 of a list that the file does not have.
    spot = file.spots.get(at) or file.spots.get(at[:-1] if isinstance(at[-1], int) else at)
    found = f"found {spot.found}" if spot else _not_set(detail["input"])
    if detail["type"] == "literal_error":
        allowed = re.findall("'(.*?)'", context["expected"])
        wanted = f"must be one of {', '.join(allowed)}"
        if near := suggest(str(detail["input"]), allowed, cutoff=_VALUE_CUTOFF):
            wanted += f"; did you mean {near}?"
    else:
        wanted = _WORDS.get(detail["type"], "cannot be used here").format(**context)
    if detail["type"] == "string_type" and detail["input"] is None:
        wanted += "; text that begins with # needs quotes"
    elif detail["type"] == "string_type" and isinstance(detail["input"], int | float):
        wanted += "; write it in quotes"
    unit = next((unit for suffix, unit in _UNITS.items() if dotted(at).endswith(suffix)), None)
    if unit and "le" in context:
        wanted += f" {unit}"
    return Mistake(file.line_of(at, at[:2], at[:1]), at, f"{found}; {wanted}")


def _not_set(default: object) -> str:
    return f"not set (default {default})" if isinstance(default, str | int | float) else "not set"
