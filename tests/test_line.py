"""The whole line with the real engines: the words of a drawn page, and where they are in the source."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont

from ocr_watcher.inputs.base import DecodeLimits
from ocr_watcher.job import Job, Outcome, Stamp
from ocr_watcher.jobs.journal import Journal
from ocr_watcher.jobs.worker import Worker
from ocr_watcher.ocr.paddle_ocr import PaddleOcrEngine
from tests.support import Log, sidecar_of, tools

SIZE = (4000, 2800)
WORDS = {"INVOICE": (300, 300), "TOTAL": (2600, 700), "31415": (900, 2300)}
# EXIF orientation -> what turns the upright picture into the stored one
STORED = {
    1: None,
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}


@pytest.fixture(params=["onnxruntime_engine", "paddle_engine"])
def engine(request: pytest.FixtureRequest) -> PaddleOcrEngine:
    found: PaddleOcrEngine = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("orientation", list(STORED))
def test_words_are_found_where_they_are(tmp_path: Path, engine: PaddleOcrEngine, orientation: int) -> None:
    page = Image.new("L", SIZE, 255)
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(size=160)
    truth = {}
    for word, place in WORDS.items():
        draw.text(place, word, 0, font)
        truth[word] = draw.textbbox(place, word, font)
    turn = STORED[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo.jpg"
    (page.transpose(turn) if turn is not None else page).save(path, exif=exif)

    journal = Journal(tmp_path / "journal", Log())  # type: ignore[arg-type] # a log that collects
    limits = DecodeLimits(max_file_bytes=10 << 20, max_pixels=100_000_000, max_side_px=1024)
    worker = Worker(tools(engine, journal, Log(), limits=limits, max_attempts=1))
    job = Job(tmp_path, (), path.name, Stamp.of(path.stat()), settled=True, queued_at=0.0)
    assert worker.step(job) is Outcome.DONE
    journal.close()

    (found,) = sidecar_of(path)["pages"]
    assert (found["width_px"], found["height_px"]) == SIZE
    assert found["scale"] == 0.256
    lines = {line["text"].strip(): line for line in found["lines"]}
    assert set(lines) == set(WORDS)
    for word, box in truth.items():
        for seen, true, side in zip(lines[word]["box"], box, (*SIZE, *SIZE), strict=True):
            assert abs(seen - true) <= 0.02 * side, (word, lines[word]["box"], box)
        first_x, first_y = lines[word]["polygon"][0]
        assert abs(first_x - box[0]) <= 0.02 * SIZE[0]
        assert abs(first_y - box[1]) <= 0.02 * SIZE[1]
