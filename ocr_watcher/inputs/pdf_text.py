"""The text layer of a PDF page: from placed characters to lines, and whether it may stand for the page.

Pure functions; the characters come from `pdf_pages`. Runs in the helper process: standard library only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# paperless-ngx takes a document with 50 characters of text for one that was never scanned.
MIN_CHARACTERS = 50
# Share of characters without a Unicode value. Sound documents stay below 1 % (bullets of symbol fonts, a
# formula); of those with a font that cannot be mapped, 96 to 100 % are without.
_MAX_UNMAPPED = 0.02
# Share of the page under pictures. Logos, photographs and figures stay below; a scan does not, whatever was
# printed over it. (What is written within a figure is then not read; `pdf.text: ocr` reads it.)
_MAX_PICTURES = 0.5
# Characters a line. Vertical writing comes as lines of one character, and is better read from the picture.
_MIN_PER_LINE = 2.0

# In multiples of the height of the type: how far the middles of neighbours on one line lie apart across the
# line (a full stop and an apostrophe), and how wide the gap between them is along it. Justified prose stays
# below; the columns of a table do not.
_MAX_OFFSET = 0.6
_MAX_GAP = 1.5

# What a font has in one glyph and nobody types as one character.
_LIGATURES = {
    "\ufb00": "ff",
    "\ufb01": "fi",
    "\ufb02": "fl",
    "\ufb03": "ffi",
    "\ufb04": "ffl",
    "\ufb06": "st",
}
# PDFium gives this for the hyphen at the end of a line.
_LINE_END_HYPHEN = "\x02"

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


class Character(NamedTuple):
    """One character as a viewer shows it.

    Attributes:
        text: One Unicode character; a blank separates words, a line feed lines.
        box: Around its ink, in pixels of the page, y downwards. Of no matter where it separates.
        height: Of its type, pixels.
        quarter: Which way its line runs: 0 to the right, 1 down, 2 to the left, 3 up.
    """

    text: str
    box: Box
    height: float
    quarter: int


class Word(NamedTuple):
    """Characters without a blank between them."""

    text: str
    box: Box


class TextLine(NamedTuple):
    """A piece of text on one base line; at least one word."""

    words: list[Word]
    quarter: int


class Layer:
    """What is on a page beside the characters themselves; no dataclass, which takes 5 ms to import.

    Attributes:
        visible: Characters that are shown.
        invisible: Characters in render mode 3, with which OCR programs put text under a scan.
        unmapped: Visible ones whose font does not say which character they are.
        pictures: Sum of the areas of all pictures / area of the page.
        drawn_over: Something on top that may have text of its own: a stamp, a filled form field.
    """

    def __init__(
        self,
        *,
        visible: int = 0,
        invisible: int = 0,
        unmapped: int = 0,
        pictures: float = 0.0,
        drawn_over: bool = False,
    ) -> None:
        self.visible = visible
        self.invisible = invisible
        self.unmapped = unmapped
        self.pictures = pictures
        self.drawn_over = drawn_over


def is_usable(layer: Layer, lines: Sequence[TextLine]) -> bool:
    """Decide whether the layer says all that can be read on the page, so that nobody needs to look."""
    characters = sum(len(word.text) for line in lines for word in line.words)
    return (
        layer.visible >= MIN_CHARACTERS
        and layer.invisible <= layer.visible
        and layer.unmapped <= _MAX_UNMAPPED * layer.visible
        and layer.pictures <= _MAX_PICTURES
        and not layer.drawn_over
        and characters >= _MIN_PER_LINE * len(lines)
    )


def plain(codepoint: int) -> str:
    """Give the text of a character's code point, empty where there is none that a person would type."""
    if codepoint == ord(_LINE_END_HYPHEN):
        return "-"
    character = chr(codepoint) if 0 < codepoint < 0x110000 else ""
    if not is_mapped(codepoint) or 0xD800 <= codepoint < 0xE000:
        return ""
    return _LIGATURES.get(character, character)


def is_mapped(codepoint: int) -> bool:
    """Tell whether a code point is a character that has a meaning outside its font."""
    private = 0xE000 <= codepoint < 0xF900 or codepoint >= 0xF0000
    return codepoint >= 0x20 and not private and codepoint not in (0xFFFD, 0xFFFE, 0xFFFF)


def lines_of(characters: Iterable[Character]) -> list[TextLine]:
    """Put characters, which come in the order of the text, together to words and lines."""
    lines: list[TextLine] = []
    line, last, apart = None, None, True
    for character in characters:
        if character.text == "\n":
            line, last = None, None
        elif character.text.isspace():
            apart = True
        else:
            if line is None or last is None or not _goes_on(last, character):
                line, apart = TextLine([], character.quarter), True
                lines.append(line)
            if apart:
                line.words.append(Word("", character.box))
                apart = False
            line.words[-1] = _longer(line.words[-1], character)
            last = character
    return lines


def _longer(word: Word, character: Character) -> Word:
    return Word(word.text + character.text, around(word.box, character.box))


def around(one: Box, other: Box) -> Box:
    """Give the box around two boxes."""
    return min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])


def _goes_on(last: Character, character: Character) -> bool:
    """Tell whether a character is of the same line as the one before it."""
    if last.quarter != character.quarter:
        return False
    height = max(last.height, character.height)
    along, across = (1, 0) if character.quarter % 2 else (0, 1)
    middles = [(one.box[across] + one.box[across + 2]) / 2 for one in (last, character)]
    gap = max(character.box[along] - last.box[along + 2], last.box[along] - character.box[along + 2])
    return abs(middles[0] - middles[1]) <= height * _MAX_OFFSET and gap <= height * _MAX_GAP
