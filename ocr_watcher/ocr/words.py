"""Where the words of a line are, told from where the recogniser saw its characters.

Scripts with blanks are cut at them. Scripts without are cut where they begin and end: a run of Chinese
characters is one word. Where nothing is known but the text of a line, places are estimated from it.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import median
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Characters of scripts that put no blanks between words: Thai, Lao, Burmese, Khmer; CJK radicals,
# punctuation, kana, bopomofo and ideographs, with their half-width, full-width and supplementary forms. Not
# Hangul, which is written with blanks.
_UNSPACED: Final = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u312f\u31a0-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\ufe30-\ufe4f\uff00-\uffef\U00020000-\U0003ffff]"
)


@dataclass(frozen=True, slots=True)
class Span:
    """A word, its score as in `document.Word`, and from where to where of its line it runs, from 0 to 1."""

    text: str
    score: float
    start: float
    end: float


class Recognised(str):
    """The text of a line that knows where its characters were seen.

    PaddleX hands on a text as it is, so this comes through its pipeline unharmed.

    Attributes:
        characters: What the text is made of; normally single characters.
        scores: How likely each of them is.
        middles: Where the middle of each was seen, as a share of the line's length.
    """

    __slots__ = ("characters", "middles", "scores")

    characters: Sequence[str]
    scores: Sequence[float]
    middles: Sequence[float]

    @classmethod
    def of(
        cls, text: str, characters: Sequence[str], scores: Sequence[float], middles: Sequence[float]
    ) -> Recognised:
        """Make one; the three sequences are of one length."""
        made = cls(text)
        made.characters, made.scores, made.middles = characters, scores, middles
        return made


def spans(text: str, score: float) -> list[Span]:
    """The words of a line, in the order of its text; `score` is the line's, for words that have none."""
    if isinstance(text, Recognised):
        return list(_seen(text))
    return list(_estimated(text, score))


def _seen(text: Recognised) -> Iterator[Span]:
    characters, middles = text.characters, text.middles
    usual = median(b - a for a, b in pairwise(middles)) if len(middles) > 1 else 1.0
    for first, last in _words(characters):
        # Half a character before the middle of the first and behind that of the last, but not into others.
        half = ((middles[last] - middles[first]) / (last - first) if last > first else usual) / 2
        start, end = middles[first] - half, middles[last] + half
        if first > 0:
            start = max(start, _border(characters, middles, first, first - 1))
        if last + 1 < len(characters):
            end = min(end, _border(characters, middles, last, last + 1))
        yield Span(
            "".join(characters[first : last + 1]),
            sum(text.scores[first : last + 1]) / (last + 1 - first),
            min(max(start, 0.0), 1.0),
            min(max(end, 0.0), 1.0),
        )


def _border(characters: Sequence[str], middles: Sequence[float], own: int, other: int) -> float:
    """How far a word may reach towards the character beside it: to the middle of a blank, or half way."""
    return middles[other] if characters[other].isspace() else (middles[own] + middles[other]) / 2


def _estimated(text: str, score: float) -> Iterator[Span]:
    ends = list(accumulate(map(_width, text), initial=0.0))
    total = ends[-1] or 1.0
    to_the_left = text != "" and unicodedata.bidirectional(text[0]) in {"R", "AL"}
    for first, last in _words(text):
        start, end = ends[first] / total, ends[last + 1] / total
        if to_the_left:
            start, end = 1.0 - end, 1.0 - start
        yield Span(text[first : last + 1], score, start, end)


def _width(character: str) -> float:
    """About how wide a character is, in Latin letters."""
    if unicodedata.combining(character):
        return 0.0
    return 2.0 if unicodedata.east_asian_width(character) in "WF" else 1.0


def _words(characters: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Index of the first and last character of every word."""
    first: int | None = None
    unspaced: bool | None = None  # whether the word so far is of a script without blanks; None: no letter yet
    for index, character in enumerate(characters):
        if not character or character.isspace():
            if first is not None:
                yield first, index - 1
            first = unspaced = None
            continue
        kind = _is_unspaced(character)
        if first is None:
            first = index
        elif kind is not None and unspaced is not None and kind is not unspaced:
            yield first, index - 1
            first = index
        unspaced = unspaced if kind is None else kind
    if first is not None:
        yield first, len(characters) - 1


def _is_unspaced(character: str) -> bool | None:
    """Whether it is of a script without blanks; None of what may stand in any: punctuation, accents."""
    if _UNSPACED.match(character):
        return True
    return False if character[0].isalnum() else None
