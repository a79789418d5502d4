"""Turn whatever PaddleOCR returned for one page into lines of text: one shape, checked, in its own order.

No lines means that the page has no text. So a result that is not understood raises an error, and never
becomes an empty one. The functions are pure; numpy's objects are recognised by their `tolist()`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from ocr_watcher.document import Line, Polygon, Word, line_text
from ocr_watcher.errors import EngineError
from ocr_watcher.ocr.order import part_of
from ocr_watcher.ocr.words import Recognised, spans

# PaddleOCR 3.x: one mapping per page, one list per field.
_FIELDS = ("rec_texts", "rec_scores", "rec_polys", "dt_polys", "rec_boxes")
# One mapping per line, with the names of PaddleOCR's services and PP-Structure (text, confidence,
# text_region), those of its label files (transcription, points), and other usual ones.
_TEXT = ("text", "transcription")
_SCORE = ("confidence", "score")
_POSITION = ("text_region", "polygon", "points", "box")

# The deepest nesting that is known is four: a generator, its one result, the `.json` of that, {"res": ...}.
# The limit also ends the search in a structure that contains itself.
_MAX_WRAPPERS = 8
# A score is a mean of float32 probabilities, so rounding may take it this far out of 0 to 1.
_SCORE_TOLERANCE = 1e-3


def normalise(raw: object, *, words: bool = False) -> tuple[Line, ...]:
    """Bring the result of one page to lines, in its own order; there are none if the page has no text.

    Polygons stay in the pixels that `raw` has them in. The following is understood, with lists, tuples or
    numpy arrays inside:

    - the result of PaddleOCR 3.x, a mapping or object with `rec_texts`, `rec_scores` and `rec_polys` (without
      them `dt_polys`, then `rec_boxes`): alone, under "res", behind `.json`, or as the one item of a list or
      generator;
    - a list of one mapping per line;
    - `[[polygon, (text, score)], ...]` of 2.x, with or without its list of pages;
    - None and empty lists: a page without text.

    A position is a polygon of shape (N, 2), the same as one flat list, or `[left, top, right, bottom]`. Lines
    without text are left out: PaddleOCR returns '' for a crop that it cannot read. A score that is no
    probability is an error and not clamped: NaN means that inference broke, so no text of the page can be
    trusted.

    With `words` every line has its words: from where its characters were seen where the text is a
    `words.Recognised`, otherwise estimated from the text.

    Raises:
        EngineError: `raw` is something else, has lists of different lengths, more than one page, text without
            positions, or positions without text.
        Exception: whatever a generator raises while it computes.
    """
    page = _page(raw)
    cells = _columns(page) if isinstance(page, Mapping) else [_row(item) for item in page]
    lines: list[Line] = []
    for raw_text, raw_score, raw_position in cells:
        text = _text(raw_text)
        if text:  # looked at before the score: in early 2.x the score of '' was the mean of nothing, NaN
            score, polygon = _score(raw_score), _polygon(raw_position)
            seen = raw_text if isinstance(raw_text, Recognised) else text
            lines.append(Line(text, score, polygon, _words(seen, score, polygon) if words else ()))
    return tuple(lines)


# -- finding the page --------------------------------------------------------------------------


def _page(raw: object) -> Mapping[object, object] | list[object]:
    """The page without its wrappers: the fields of a 3.x result, or a list with one item per line."""
    for _ in range(_MAX_WRAPPERS):
        if isinstance(raw, Iterator):
            raw = list(raw)
        items = [] if raw is None else _items(raw)
        if items is not None:
            if not items or _is_row(items[0]):
                return items
            if len(items) > 1:
                raise _several(items)
            raw = items[0]
            continue
        fields = raw if isinstance(raw, Mapping) else _attributes(raw)
        if "rec_texts" in fields:
            return fields
        if "res" not in fields:
            break
        raw = fields["res"]
    raise _not_understood(raw)


def _attributes(value: object) -> Mapping[object, object]:
    """Fields of a result that is an object instead of a mapping; empty if it is no result."""
    fields: dict[object, object] = {name: getattr(value, name) for name in _FIELDS if hasattr(value, name)}
    inner = getattr(value, "json", None)
    return inner if not fields and isinstance(inner, Mapping) else fields


def _is_row(item: object) -> bool:
    """Whether a list that starts with `item` is a list of lines.

    Raises:
        EngineError: it is a list of texts without positions, or of positions without texts.
    """
    if isinstance(item, Mapping):
        return any(key in item for key in _TEXT)
    parts = _items(item) or []
    if not parts:
        return False
    if isinstance(parts[0], str):
        raise EngineError(
            "The engine returned text without positions.",
            hint="Remove `det: false` from ocr.params: positions are part of the result.",
        )
    if _is_polygon(parts):
        raise EngineError(
            "The engine returned positions without text.",
            hint="Remove `rec: false` from ocr.params: there is nothing to write.",
        )
    return len(parts) > 1 and isinstance((_items(parts[1]) or [None])[0], str)


def _is_polygon(parts: list[object]) -> bool:
    """Whether this is a list of at least three points."""
    points = [_items(part) for part in parts]
    return len(points) > 2 and all(
        point is not None and len(point) == 2 and _is_number(point[0]) for point in points
    )


def _several(items: list[object]) -> EngineError:
    """The error for a list of several items that are no lines.

    It names the first item that is no page. If all are pages, it says how many.
    """
    for item in items:
        fields = item if isinstance(item, Mapping) else _attributes(item)
        if item is not None and _items(item) is None and not {"rec_texts", "res"} & fields.keys():
            return _not_understood(item)
    return EngineError(f"The engine returned {len(items)} pages where one was expected.")


def _not_understood(value: object) -> EngineError:
    """The error that names a type, and the keys of a mapping; never values, which may be the user's."""
    kind = type(value).__name__
    if isinstance(value, Mapping):
        keys = [ascii(key)[:40] if isinstance(key, str) else type(key).__name__ for key in list(value)[:10]]
        kind += f" with the keys {', '.join(keys) or 'none'}{', …' if len(value) > len(keys) else ''}"
    return EngineError(f"The engine returned something that is not understood: {kind}.")


# -- reading its lines -------------------------------------------------------------------------


def _columns(page: Mapping[object, object]) -> Iterable[tuple[object, object, object]]:
    """(text, score, position) of each line of a 3.x result."""
    fields = {name: _field(page, name) for name in _FIELDS}
    texts, scores = fields["rec_texts"], fields["rec_scores"]
    positions = fields["rec_polys"]
    if not positions and len(fields["dt_polys"]) == len(texts):
        # The two have different lengths if a line was below the score threshold: they do not belong together.
        positions = fields["dt_polys"]
    if not positions:
        positions = fields["rec_boxes"]
    if not len(texts) == len(scores) == len(positions):
        raise EngineError(
            "The engine's lists do not belong together: "
            f"{len(texts)} texts, {len(scores)} scores, {len(positions)} positions."
        )
    return zip(texts, scores, positions, strict=True)


def _field(page: Mapping[object, object], name: str) -> list[object]:
    """One list of a 3.x result; empty if it is missing."""
    value = page.get(name, [])
    items = _items(value)
    if items is None:
        raise EngineError(f"The engine's {name} is a {type(value).__name__}, not a list.")
    return items


def _row(item: object) -> tuple[object, object, object]:
    """(text, score, position) of one line: a mapping, or `[position, (text, score)]`."""
    if isinstance(item, Mapping):
        return _first(item, _TEXT), _first(item, _SCORE), _first(item, _POSITION)
    parts = _items(item) or []
    recognised = _items(parts[1]) or [] if len(parts) > 1 else []
    if len(recognised) < 2:  # return_word_box of 2.x adds a third
        raise EngineError("The engine returned a line that is not [position, (text, score)].")
    return recognised[0], recognised[1], parts[0]


def _first(item: Mapping[object, object], names: tuple[str, ...]) -> object:
    """Value of the first of these keys that is there."""
    for name in names:
        if name in item:
            return item[name]
    raise EngineError(f"The engine returned a line without {' or '.join(names)}.")


def _text(value: object) -> str:
    """One line of valid Unicode, stripped: no surrogates, no control characters, no line breaks."""
    value = _plain(value)
    if isinstance(value, list | tuple) and value:
        value = value[0]  # with return_word_box the recogniser itself gives (text, word positions)
    if not isinstance(value, str):
        raise EngineError(f"The engine returned a {type(value).__name__} where text was expected.")
    return line_text(value)


def _words(text: str, score: float, polygon: Polygon) -> tuple[Word, ...]:
    """Words of a line, clean as its text is."""
    return tuple(
        Word(clean, _score(span.score), part_of(polygon, span.start, span.end))
        for span in spans(text, score)
        if (clean := _text(span.text))
    )


def _score(value: object) -> float:
    """Probability between 0 and 1."""
    score = _number(value)
    if not -_SCORE_TOLERANCE <= score <= 1 + _SCORE_TOLERANCE:
        raise EngineError(f"The engine returned the score {score:g}, which is no probability.")
    return min(max(score, 0.0), 1.0)


def _polygon(value: object) -> Polygon:
    """Points of a position: (N, 2) with N ≥ 3, the same flat, or [left, top, right, bottom]."""
    parts = _items(value) or []
    if _is_polygon(parts):
        return tuple((_number(x), _number(y)) for x, y in (_items(part) or [] for part in parts))
    if len(parts) == 4:
        left, top, right, bottom = (_number(part) for part in parts)
        return (left, top), (right, top), (right, bottom), (left, bottom)
    if len(parts) > 4 and len(parts) % 2 == 0:
        flat = [_number(part) for part in parts]
        return tuple(zip(flat[::2], flat[1::2], strict=True))
    raise EngineError("The engine returned a position that is neither a polygon nor a box.")


def _number(value: object) -> float:
    """A finite number."""
    value = _plain(value)
    if not _is_number(value):
        raise EngineError(f"The engine returned a {type(value).__name__} where a number was expected.")
    try:
        number = float(value)  # type: ignore[arg-type]
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise EngineError("The engine returned a number that is not finite.")
    return number


def _is_number(value: object) -> bool:
    value = _plain(value)
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(value: object) -> object:
    """Python's own form of a numpy array or scalar; anything else as it is."""
    tolist = getattr(value, "tolist", None)
    return tolist() if callable(tolist) else value


def _items(value: object) -> list[object] | None:
    """Items of a list, tuple or array; None if it is none of these."""
    value = _plain(value)
    return list(value) if isinstance(value, list | tuple) else None
