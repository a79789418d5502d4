"""What one page takes: peak RSS beyond the loaded model, for blank and dense square pages of several sizes.

Then a strip of one line and one of ten, as wide as lines get.

`page_memory.py [--engine paddle --model PP-OCRv5_mobile] [--provider openvino]`. The peak is set back before
each page (/proc/self/clear_refs), so it is the page's own. Linux only.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ocr_watcher import config, memory
from ocr_watcher.ocr import models, paddle_ocr

SIDES_PX = (256, 512, 1024, 1536, 2048, 3000, 4000)


def dense(side: int) -> Image.Image:
    """A page full of small print."""
    number = random.Random(side)  # noqa: S311 - the same page every time
    page = Image.new("RGB", (side, side), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=14)
    for y in range(8, side - 16, 19):
        x = 8
        while x < side:
            word = "".join(number.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=number.randint(2, 9)))
            draw.text((x, y), word, "black", font)
            x += int(font.getlength(word + " "))
    return page


def strip(lines: int) -> Image.Image:
    """Lines of some 60 times their height: PaddleX makes no wider ones."""
    page = Image.new("RGB", (1024, 10 + 18 * lines), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=12)
    for i in range(lines):
        draw.text((2, 4 + 18 * i), f"{i} receipt 4711 total amount " * 6, "black", font)
    return page


def main() -> None:
    """Read every page three times; print the highest peak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="onnxruntime")
    parser.add_argument("--provider", default="onnxruntime")
    parser.add_argument("--model", default="PP-OCRv6_small")
    parser.add_argument("--sides", type=int, nargs="*", default=SIDES_PX, metavar="PX")
    asked = parser.parse_args()
    spec = models.resolve(asked.model, config.OcrSettings().model_store, asked.engine, None)
    memory.use_one_heap()  # as the daemon does
    reader = paddle_ocr.create(asked.engine, spec, 0, {}, provider=asked.provider)
    reader.warm_up()
    probe = memory.Memory()
    probe.settle()

    def highest(page: Image.Image) -> str:
        bgr = np.ascontiguousarray(np.asarray(page)[:, :, ::-1])
        taken = []
        for _ in range(3):
            probe.give_back()
            before = probe.rss_mb()
            Path("/proc/self/clear_refs").write_text("5", "ascii")
            reader.read(bgr)
            taken.append(probe.figures().peak_rss_mb - before)
        return f"{max(taken):.0f}"

    print("| side, px | blank | dense |\n|---|---|---|", flush=True)
    for side in asked.sides:
        blank = Image.new("RGB", (side, side), "white")
        print(f"| {side} | {highest(blank)} | {highest(dense(side))} |", flush=True)
    print(f"one widest line: {highest(strip(1))}; ten: {highest(strip(10))}")


if __name__ == "__main__":
    main()
