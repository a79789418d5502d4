"""What looking for lines on a smaller page changes: word F1, lines and time, by `text_det_limit_side_len`.

`detector_size.py [CORPUS] [--model PP-OCRv6_tiny]`: images with the truth in NAME.txt, as for compare.py;
without, drawn A4 pages of small print. Lines are always cut out of the page of 1024 px; the engine alone, the
sizes in turn image by image.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path

import compare_corpus as corpus

from ocr_watcher import config, memory
from ocr_watcher.ocr import models, paddle_ocr, result

SIZES_PX = (1024, 960, 896, 832, 768, 704)
# Letters of 7 to 12 points on A4 at 175 dpi, in pixels.
POINTS = {7: 17, 8: 19, 9: 22, 10: 24, 12: 29}
PAGES = 6
_A4_PX = (1448, 2048)


def main() -> None:
    """Print a Markdown table for the corpus, or one for each size of letters."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path, nargs="?")
    parser.add_argument("--model", default="PP-OCRv6_tiny")
    asked = parser.parse_args()
    memory.use_one_heap()
    spec = models.resolve(asked.model, config.OcrSettings().model_store, "onnxruntime", None)
    readers = {
        px: paddle_ocr.create(
            "onnxruntime", spec, 0, {"text_det_limit_side_len": px, "text_det_limit_type": "max"}
        )
        for px in SIZES_PX
    }
    print("| images | detected at, px | lines | word F1 | time |\n|---|---|---|---|---|")
    if asked.corpus is not None:
        compare(asked.corpus.name, corpus.find(asked.corpus, None), readers)
        return
    for points, letters_px in POINTS.items():
        with tempfile.TemporaryDirectory(prefix="detector-size-") as folder:
            compare(f"{points} pt", small_print(Path(folder), letters_px), readers)


def small_print(folder: Path, letters_px: int) -> list[corpus.Picture]:
    """Pages full of letters of one size."""
    pictures = []
    for index in range(PAGES):
        chance = random.Random(1000 * letters_px + index)  # noqa: S311 - the same every time
        page, truth = corpus.page(chance, *_A4_PX, letters_px)
        pictures.append(corpus.Picture(folder / f"{index}.png", truth))
        page.save(pictures[-1].path)
    return pictures


def compare(
    name: str, pictures: list[corpus.Picture], readers: dict[int, paddle_ocr.PaddleOcrEngine]
) -> None:
    """Read everything with every reader, in turn, and print a row for each."""
    took: dict[int, list[float]] = {px: [] for px in readers}
    found = {px: [0, 0, 0] for px in readers}
    lines = dict.fromkeys(readers, 0)
    for picture in pictures:
        pages = list(corpus.pages(picture.path))
        for px, reader in readers.items():
            began = time.perf_counter()
            texts = [line.text for page in pages for line in result.normalise(reader.read(page))]
            took[px].append(time.perf_counter() - began)
            lines[px] += len(texts)
            one = corpus.score("\n".join(texts), picture.truth or "")
            found[px] = [a + b for a, b in zip(found[px], (one.hit, one.got, one.there), strict=True)]
    for px in readers:
        hit, got, there = found[px]
        ratio = statistics.median(a / b for a, b in zip(took[px], took[SIZES_PX[0]], strict=True))
        word_f1 = corpus.f1(hit, got, there)
        print(f"| {name} | {px} | {lines[px]} | {word_f1:.4f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
