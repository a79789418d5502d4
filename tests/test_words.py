"""Words and where they are: at blanks, or runs of characters; from what the recogniser saw, or estimated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from ocr_watcher.document import box_around
from ocr_watcher.ocr import inference, result
from ocr_watcher.ocr.words import Recognised, spans

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ocr_watcher.document import Box
    from ocr_watcher.ocr.paddle_ocr import PaddleOcrEngine


def seen(text: str) -> Recognised:
    """A text whose characters are all of one width, from edge to edge of the line."""
    count = len(text)
    return Recognised.of(
        text, list(text), [0.5 + 0.01 * n for n in range(count)], [(n + 0.5) / count for n in range(count)]
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Größe 12,50 €", ["Größe", "12,50", "€"]),
        ("naïve façade e\u0301te\u0301", ["naïve", "façade", "e\u0301te\u0301"]),
        ("Счёт № 7 от 3.5.2024", ["Счёт", "№", "7", "от", "3.5.2024"]),
        ("ΤΙΜΟΛΟΓΙΟ αριθμός", ["ΤΙΜΟΛΟΓΙΟ", "αριθμός"]),
        ("영수증 번호 12", ["영수증", "번호", "12"]),
        ("領収書", ["領収書"]),
        ("合計 12,500円", ["合計", "12,500", "円"]),
        ("東京都、カタカナとひらがな。", ["東京都、カタカナとひらがな。"]),
        ("第3章ABC", ["第", "3", "章", "ABC"]),
        ("ใบเสร็จ 12", ["ใบเสร็จ", "12"]),
        ("don't (well-known) e-mail@x.org", ["don't", "(well-known)", "e-mail@x.org"]),
        ("  two\u3000blanks  ", ["two", "blanks"]),
        ("…", ["…"]),
        ("", []),
        (" ", []),
    ],
)
def test_words_of_a_line(text: str, words: list[str]) -> None:
    assert [span.text for span in spans(text, 0.9)] == words
    assert [span.text for span in spans(seen(text), 0.9)] == words


def test_where_words_are_seen_and_estimated() -> None:
    for text in ("abcd efg", seen("abcd efg")):
        first, second = spans(text, 0.9)
        assert first.start == 0.0
        assert first.end == pytest.approx(0.5)
        assert second.start == pytest.approx(5 / 8)
        assert second.end == 1.0
    assert [span.score for span in spans("abcd efg", 0.9)] == [0.9, 0.9]
    assert [span.score for span in spans(seen("abcd efg"), 0.9)] == [
        pytest.approx(0.515),
        pytest.approx(0.56),
    ]
    wide, narrow = spans("領収 ab", 0.9)
    assert wide.end == pytest.approx(4 / 7)
    assert narrow.start == pytest.approx(5 / 7)
    first, second = spans("שלום עולם", 0.9)
    assert first.end == 1.0
    assert second.start == 0.0


@given(st.text(max_size=30), st.data())
def test_words_are_the_text_without_its_blanks(text: str, data: st.DataObject) -> None:
    places = data.draw(st.lists(st.floats(0, 1), min_size=len(text), max_size=len(text)).map(sorted))
    for some in (text, Recognised.of(text, list(text), [0.5] * len(text), places)):
        found = spans(some, 0.5)
        assert "".join(span.text for span in found) == "".join(text.split())
        assert all(0 <= span.start <= 1 and 0 <= span.end <= 1 for span in found)
        assert all(span.text for span in found)


@given(st.lists(st.integers(0, 3), max_size=12))
def test_runs_are_the_characters_that_ctc_reads(best: list[int]) -> None:
    begins, ends = inference.runs(np.array(best, np.intp))
    expected = [
        (index, best[index])
        for index in range(len(best))
        if best[index] and (index == 0 or best[index - 1] != best[index])
    ]
    assert begins.tolist() == [index for index, _ in expected]
    for (begin, character), end in zip(expected, ends, strict=True):
        assert best[begin:end] == [character] * (end - begin)
        assert end == len(best) or best[end] != character


def test_a_line_has_its_words_where_they_are_asked_for() -> None:
    raw = {
        "rec_texts": [seen("ab\x00cd ef")],
        "rec_scores": [0.5],
        "rec_polys": [[[0, 0], [80, 8], [80, 18], [0, 10]]],
    }
    (line,) = result.normalise(raw)
    assert line.words == ()
    (line,) = result.normalise(raw, words=True)
    assert line.text == "ab cd ef"
    assert [word.text for word in line.words] == ["ab cd", "ef"]
    first, second = (box_around(word.polygon) for word in line.words)
    assert first == pytest.approx((0, 0, 50, 15))
    assert second == pytest.approx((60, 6, 80, 18))


# Pillow's own font has no accents.
WORDS = """Gross invoice total 12.50 Rechnung from the quick brown fox payable within thirty days state native
facade illinois minimum WWW mmm I 2024 No. strange or"""


def drawn(degrees: int) -> tuple[NDArray[np.uint8], list[tuple[str, Box]]]:
    """A page of words 1,000 px wide, turned clockwise; and where each word's box is."""
    page = Image.new("RGB", (1000, 1000), "white")
    pen = ImageDraw.Draw(page)
    truth: list[tuple[str, Box]] = []
    words = WORDS.split()
    for row in range(16):
        size_px = (16, 20, 26, 34)[row % 4]
        font = ImageFont.load_default(size=size_px)
        x, y = 25.0, 25 + 60 * row
        for number in range(3 + row % 5):
            word = words[(7 * row + number) % len(words)]
            pen.text((x, y), word, "black", font)
            truth.append((word, pen.textbbox((x, y), word, font)))
            x += font.getlength(word) + 0.5 * size_px
    page = page.rotate(-degrees)
    if degrees == 90:
        truth = [
            (word, (1000 - bottom, left, 1000 - top, right)) for word, (left, top, right, bottom) in truth
        ]
    return np.ascontiguousarray(np.asarray(page)[:, :, ::-1]), truth


@pytest.mark.parametrize("degrees", [0, 90])
def test_word_boxes_are_where_the_words_were_drawn(onnxruntime_engine: PaddleOcrEngine, degrees: int) -> None:
    bgr, truth = drawn(degrees)
    lines = result.normalise(onnxruntime_engine.read(bgr), words=True)
    read = [word for line in lines for word in line.words]
    # Left and right of a word; on the page that lies on its side, its top and bottom.
    first, second = (0, 2) if degrees == 0 else (1, 3)
    found, furthest = 0, 0.0
    for text, box in truth:
        off = [
            max(abs(one[first] - box[first]), abs(one[second] - box[second]))
            for word in read
            if word.text == text and abs((one := box_around(word.polygon))[1 - first] - box[1 - first]) < 30
        ]
        if off:
            found += 1
            furthest = max(furthest, min(off))
    print(f"turned by {degrees}: {found} of {len(truth)} words, none further off than {furthest:.1f} px")
    assert found >= 0.95 * len(truth)
    assert furthest < 0.02 * 1000


def test_words_of_an_engine_that_does_not_say_where_are_estimated(paddle_engine: PaddleOcrEngine) -> None:
    bgr, _ = drawn(0)
    lines = result.normalise(paddle_engine.read(bgr), words=True)
    for line in lines:
        assert [word.text for word in line.words] == line.text.split()
        assert all(word.score == line.score for word in line.words)
