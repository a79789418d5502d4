"""The images of compare.py, what is written on them, and how well a text matches it."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFilter, ImageFont

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
SEED = 20
_WORDS = (
    "invoice total amount date cash change receipt number tax item price table service discount rounding "
    "customer member street company order delivery quantity balance thank you come again goods sold are "
    "not returnable opening hours telephone subtotal payment card approved terminal cashier"
)
# (width, height, size of the letters) in pixels: receipts, a photo-sized page, A4 at 100, 150 and 200 dpi.
_SHAPES = (
    (480, 960, 20),
    (620, 1500, 24),
    (1024, 768, 26),
    (827, 1169, 18),
    (1240, 1754, 26),
    (1654, 2339, 34),
)


@dataclass(frozen=True)
class Picture:
    """An image file and the words on it, where they are known."""

    path: Path
    truth: str | None


@dataclass(frozen=True)
class Score:
    """Words in common, words read, words there."""

    hit: int
    got: int
    there: int


def words(text: str) -> Counter[str]:
    """Runs of A-Z and 0-9 after upper-casing."""
    return Counter(re.findall(r"[A-Z0-9]+", text.upper()))


def score(text: str, truth: str) -> Score:
    """Compare words as bags: order and position do not count."""
    got, there = words(text), words(truth)
    return Score(sum((got & there).values()), sum(got.values()), sum(there.values()))


def f1(hit: int, got: int, there: int) -> float:
    """Harmonic mean of precision and recall over all images taken together."""
    return 2 * hit / max(got + there, 1)


def find(folder: Path, count: int | None) -> list[Picture]:
    """Images of a folder, a seeded choice where it has more than `count`.

    The truth about `scan.jpg` is `scan.txt` or `scan.jpg.txt` beside it. Leaves the program where there is
    no such folder.
    """
    if not folder.is_dir():
        raise SystemExit(f"there is no folder {folder}")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if count is not None and count < len(paths):
        paths = sorted(random.Random(SEED).sample(paths, count))  # noqa: S311 - the same ones every time
    return [Picture(path, _truth(path)) for path in paths]


def _truth(image: Path) -> str | None:
    for path in (image.with_suffix(".txt"), image.with_name(f"{image.name}.txt")):
        if path.is_file():
            return path.read_text(encoding="utf-8")
    return None


def draw(folder: Path, count: int) -> list[Picture]:
    """`count` pages, the same ones every time: slightly grey, blurred, turned by up to one degree."""
    pictures = []
    for index in range(count):
        chance = random.Random(SEED * 1000 + index)  # noqa: S311 - the same every time
        image, truth = page(chance, *_SHAPES[index % len(_SHAPES)])
        path = folder / f"page-{index:03}.{chance.choice(('jpg', 'png'))}"
        image.save(path)
        pictures.append(Picture(path, truth))
    return pictures


def warm_up(folder: Path) -> Picture:
    """One page that every contestant reads first, so that loading is not counted as reading."""
    image, truth = page(random.Random(SEED), 640, 480, 26)  # noqa: S311 - the same every time
    path = folder / "warm-up.png"
    image.save(path)
    return Picture(path, truth)


def page(chance: random.Random, width: int, height: int, text_px: int) -> tuple[Image.Image, str]:
    """A page full of rows of letters of `text_px`, and what is written on it; sizes in pixels."""
    paper, ink = chance.randint(225, 255), chance.randint(0, 70)
    image = Image.new("RGB", (width, height), (paper, paper, paper))
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=text_px)
    rows, y = [], 2 * text_px
    while y + 3 * text_px < height:
        row = _row(chance)
        while font.getlength(row) > width - 4 * text_px:
            row = row.rpartition(" ")[0]
        pen.text((2 * text_px, y), row, (ink, ink, ink), font)
        rows.append(row)
        y += int(text_px * chance.choice((1.3, 1.5, 2.2)))
    turned = image.rotate(
        chance.uniform(-1, 1), Image.Resampling.BICUBIC, fillcolor=(paper, paper, paper)
    ).filter(ImageFilter.GaussianBlur(text_px / 50))
    return turned, "\n".join(rows)


def _row(chance: random.Random) -> str:
    row = [chance.choice(_WORDS.split()) for _ in range(chance.randint(2, 7))]
    number = f"{chance.randint(0, 9999)}.{chance.randint(0, 99):02}"
    row.insert(chance.randint(0, len(row)), number)
    return chance.choice((str.lower, str.title, str.upper))(" ".join(row))


def pages(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Every page of an image file as the engine gets it: BGR, at most 1024 px long."""
    from ocr_watcher.inputs.base import DecodeLimits  # noqa: PLC0415 - others' workers have it not
    from ocr_watcher.inputs.table import open_document  # noqa: PLC0415 - as above

    limits = DecodeLimits(max_file_bytes=100 << 20, max_pixels=100_000_000, max_side_px=1024)
    with path.open("rb") as file:
        opened = open_document(file, limits)
        for index in range(opened.pages):
            yield opened.picture(index, limits).bgr
        opened.close()
