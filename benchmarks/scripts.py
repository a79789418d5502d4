"""Which scripts a model reads, and what 8 bits change in them: character error rates of drawn pages.

`scripts.py FONTS [--pages N] [--model PP-OCRv6_tiny]`, FONTS a folder with the fonts that `scripts.tsv`
names, as Debian's fonts-noto-core and fonts-noto-cjk bring them to /usr/share/fonts: for each language its
error rate, and how many lines score so low that they count as not read. Without its font, one is left out.

`scripts.py FONT …`, FONT one that has them all, such as NotoSansCJK-Regular.ttc: error rates in fp32 and in 8
bits. Needs a processor with VNNI. Characters are drawn at random there, so no language helps.

`scripts.py PICTURES --scans …`, PICTURES a folder of scans: how many lines of each score so low.

Drawn pages are turned, blurred and noisy as by a bad scanner.
"""

from __future__ import annotations

import argparse
import random
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from ocr_watcher import config
from ocr_watcher.errors import FileError
from ocr_watcher.inputs import table
from ocr_watcher.inputs.base import DecodeLimits
from ocr_watcher.ocr import models, paddle_ocr, result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ocr_watcher.document import Line
    from ocr_watcher.ocr.engine import Engine


def hanzi() -> str:
    """The 3,755 most frequent Chinese characters, by the first level of GB 2312."""
    codes = (bytes((row, cell)) for row in range(0xB0, 0xD8) for cell in range(0xA1, 0xFF))
    return "".join(code.decode("gb2312", "ignore") for code in codes)


_LIMITS = DecodeLimits(max_file_bytes=100 << 20, max_pixels=100_000_000, max_side_px=1024)
SCRIPTS = {
    "English": "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789",
    "Latin with accents": "aeiounscéèêàâîïôùûçäöüßñáíóúãõåøæ",
    "Chinese": hanzi(),
    "Japanese": "あいうえおかきくけこさしすせそたちつてとなにぬねのはひふへほまみむめもやゆよらりるれろわをん"
    "アイウエオカキクケコサシスセソタチツテトナニヌネノハヒフヘホマミムメモヤユヨラリルレロワヲン日本語東京大学生",
}


def page(number: random.Random, characters: str, font: Path) -> tuple[NDArray[np.uint8], str]:
    """A page of 18 lines of random characters as BGR, and its text."""
    lines = ["".join(number.choices(characters, k=number.randint(4, 18))) for _ in range(18)]
    return drawn(number, lines, font, width_px=700), "".join(lines)


def page_of_words(number: random.Random, text: str, font: Path) -> tuple[NDArray[np.uint8], str]:
    """A page of 18 pieces of a text as BGR, and what stands on it without blanks."""
    words = text.split(" ")
    lines = []
    for _ in range(18):
        if len(words) > 10:
            start = number.randrange(len(words) - 4)
            lines.append(" ".join(words[start : start + number.randint(2, 4)]))
        else:  # no blanks between its words
            start = number.randrange(len(text) - 16)
            lines.append(text[start : start + number.randint(4, 16)])
    return drawn(number, lines, font, width_px=1000), "".join(lines).replace(" ", "")


def drawn(number: random.Random, lines: Sequence[str], font: Path, *, width_px: int) -> NDArray[np.uint8]:
    """A page with these lines as BGR, as by a bad scanner."""
    image = Image.new("L", (width_px, 1000), 245)
    draw, y = ImageDraw.Draw(image), 25
    for line in lines:
        size = number.choice((20, 24, 30))
        draw.text((number.randint(15, 60), y), line, 30, ImageFont.truetype(font, size))
        y += 53
    image = image.rotate(number.uniform(-0.5, 0.5), Image.Resampling.BICUBIC, fillcolor=245)
    image = image.filter(ImageFilter.GaussianBlur(0.7))
    noise = np.random.default_rng(number.randrange(1 << 30)).normal(0, 7, (image.height, image.width))
    grey = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(grey[:, :, np.newaxis], 3, axis=2))


def distance(one: str, other: str) -> int:
    """Levenshtein's."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def read(reader: Engine, bgr: NDArray[np.uint8]) -> Sequence[Line]:
    """Lines from top to bottom."""
    return sorted(result.normalise(reader.read(bgr)), key=_top)


def _top(line: Line) -> float:
    return min(y for _, y in line.polygon)


def languages(reader: Engine, fonts: Path, pages: int) -> None:
    """Print a row for each language."""
    print("| language | characters | error rate | lines that count as not read | pages with a warning |")
    print("|---|---|---|---|---|")
    files = {path.name: path for path in fonts.rglob("*.tt[fc]")}
    for row in (Path(__file__).parent / "scripts.tsv").read_text("utf-8").splitlines():
        language, font, text = row.split("\t")
        if font not in files:
            print(f"{language} left out: no {font} in {fonts}", file=sys.stderr)
            continue
        number = random.Random(language)  # noqa: S311 - the same pages every time
        total = wrong = places = unread = warned = 0
        for _ in range(pages):
            bgr, truth = page_of_words(number, text, files[font])
            found = result.found(reader.read(bgr))
            lines = sorted(found.lines, key=_top)
            total += len(truth)
            wrong += distance(truth, "".join(line.text for line in lines).replace(" ", ""))
            places += found.places
            unread += found.unread
            warned += found.is_unreadable
        print(
            f"| {language} | {total} | {wrong / total:.3f} | {unread / places:.2f} | {warned} of {pages} |",
            flush=True,
        )


def scans(reader: Engine, folder: Path) -> None:
    """Print the share of lines of each scan that count as not read, the worst last."""
    shares = []
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file, suppress(FileError):
            opened = table.open_document(file, _LIMITS)
            found = result.found(reader.read(opened.picture(0, _LIMITS).bgr))
            shares.append((found.unread / max(found.places, 1), found.places, path.name))
    for share, places, name in sorted(shares)[-5:]:
        print(f"{name}: {share:.2f} of {places} lines")
    print(f"{len(shares)} scans, {sum(share > 0.5 for share, *_ in shares)} with a warning")


def eight_bits(readers: Sequence[Engine], font: Path, pages: int) -> None:
    """Print a row for each script."""
    print("| script | characters | error rate, fp32 | 8 bits | lines | other text | score off by > 0.02 |")
    print("|---|---|---|---|---|---|---|")
    for script, characters in SCRIPTS.items():
        number = random.Random(script)  # noqa: S311 - the same pages every time
        total = lines = text = score = 0
        wrong = [0, 0]
        for _ in range(pages):
            bgr, truth = page(number, characters, font)
            total += len(truth)
            exact, rounded = (read(reader, bgr) for reader in readers)
            for n, found in enumerate((exact, rounded)):
                wrong[n] += distance(truth, "".join(line.text for line in found).replace(" ", ""))
            lines += len(exact)
            for one, other in zip(exact, rounded, strict=True):
                text += one.text != other.text
                score += abs(one.score - other.score) > 0.02
        print(
            f"| {script} | {total} | {wrong[0] / total:.4f} | {wrong[1] / total:.4f} "
            f"| {lines} | {text} | {score} |",
            flush=True,
        )


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("fonts", type=Path)
    parser.add_argument("--pages", type=int, default=10, help="of each script or language")
    parser.add_argument("--model", default="PP-OCRv6_small")
    parser.add_argument("--scans", action="store_true", help="the folder holds scans")
    asked = parser.parse_args()
    spec = models.resolve(asked.model, config.OcrSettings().model_store, "onnxruntime", None)

    def reader(precision: str) -> Engine:
        return paddle_ocr.create("onnxruntime", spec, 0, {}, precision=precision)

    if asked.scans:
        scans(reader("auto"), asked.fonts)
    elif asked.fonts.is_dir():
        languages(reader("auto"), asked.fonts, asked.pages)
    else:
        eight_bits([reader("fp32"), reader("auto")], asked.fonts, asked.pages)


if __name__ == "__main__":
    main()
