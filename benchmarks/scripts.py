"""What 8 bits change in other scripts: character error rates of drawn pages, in fp32 and in 8 bits.

`scripts.py FONT [--pages N] [--model PP-OCRv6_tiny]`, FONT one that has them all, such as Debian's
/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc. Characters are drawn at random, so no language helps;
turned, blurred and noisy as by a bad scanner. Needs a processor with VNNI.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from ocr_watcher import config
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


SCRIPTS = {
    "English": "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789",
    "Latin with accents": "aeiounscéèêàâîïôùûçäöüßñáíóúãõåøæ",
    "Chinese": hanzi(),
    "Japanese": "あいうえおかきくけこさしすせそたちつてとなにぬねのはひふへほまみむめもやゆよらりるれろわをん"
    "アイウエオカキクケコサシスセソタチツテトナニヌネノハヒフヘホマミムメモヤユヨラリルレロワヲン日本語東京大学生",
}


def page(number: random.Random, characters: str, font: Path) -> tuple[NDArray[np.uint8], str]:
    """A page of 18 lines as BGR, and its text."""
    image = Image.new("L", (700, 1000), 245)
    draw, y, lines = ImageDraw.Draw(image), 25, []
    for _ in range(18):
        size = number.choice((20, 24, 30))
        line = "".join(number.choices(characters, k=number.randint(4, 18)))
        draw.text((number.randint(15, 60), y), line, 30, ImageFont.truetype(font, size))
        lines.append(line)
        y += 53
    image = image.rotate(number.uniform(-0.5, 0.5), Image.Resampling.BICUBIC, fillcolor=245)
    image = image.filter(ImageFilter.GaussianBlur(0.7))
    noise = np.random.default_rng(number.randrange(1 << 30)).normal(0, 7, (image.height, image.width))
    grey = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(grey[:, :, np.newaxis], 3, axis=2)), "".join(lines)


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
    return sorted(result.normalise(reader.read(bgr)), key=lambda line: min(y for _, y in line.polygon))


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("font", type=Path)
    parser.add_argument("--pages", type=int, default=10, help="of each script")
    parser.add_argument("--model", default="PP-OCRv6_small")
    asked = parser.parse_args()
    spec = models.resolve(asked.model, config.OcrSettings().model_store, "onnxruntime", None)
    readers = [
        paddle_ocr.create("onnxruntime", spec, 0, {}, precision=precision) for precision in ("fp32", "auto")
    ]
    print("| script | characters | error rate, fp32 | 8 bits | lines | other text | score off by > 0.02 |")
    print("|---|---|---|---|---|---|---|")
    for script, characters in SCRIPTS.items():
        number = random.Random(script)  # noqa: S311 - the same pages every time
        total = lines = text = score = 0
        wrong = [0, 0]
        for _ in range(asked.pages):
            bgr, truth = page(number, characters, asked.font)
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


if __name__ == "__main__":
    main()
