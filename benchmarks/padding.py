"""What padding short lines less than PaddleX does changes: texts, scores, word F1 and time.

`padding.py CORPUS [--images N]`: images with the truth in NAME.txt, as for compare.py. The same pages are
read PaddleX's way and with several `inference._PADDING_PX`; the engine alone, one image after the other.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

import compare_corpus as corpus

from ocr_watcher import config
from ocr_watcher.ocr import inference, models, paddle_ocr, result

if TYPE_CHECKING:
    from ocr_watcher.document import Line

PADDINGS_PX = (0, 32, 64, 96)


def main() -> None:
    """Read everything in every way, in turn, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--images", type=int)
    parser.add_argument("--model", default="PP-OCRv6_small")
    asked = parser.parse_args()
    spec = models.resolve(asked.model, config.OcrSettings().model_store, "onnxruntime", None)
    as_paddlex = paddle_ocr.create("onnxruntime", spec, 0, {"text_recognition_batch_size": 1})
    ours = paddle_ocr.create("onnxruntime", spec, 0, {}, precision="fp32")
    pictures = corpus.find(asked.corpus, asked.images)
    ways = ("PaddleX", *PADDINGS_PX)
    total = dict.fromkeys(ways, 0)
    text, score, took = dict.fromkeys(ways, 0), dict.fromkeys(ways, 0), dict.fromkeys(ways, 0.0)
    found = {way: [0, 0, 0] for way in ways}
    for picture in pictures:
        pages = list(corpus.pages(picture.path))
        lines: dict[int | str, list[Line]] = {}
        for way in ways:
            if isinstance(way, int):
                inference._PADDING_PX = way  # type: ignore[misc] # noqa: SLF001 - the subject
            began = time.perf_counter()
            reader = ours if isinstance(way, int) else as_paddlex
            lines[way] = [line for page in pages for line in result.normalise(reader.read(page))]
            took[way] += time.perf_counter() - began
            total[way] += len(lines[way])
            # By place: a line without any text is no line in one way, and may be one in another.
            reference = {str(line.polygon): line for line in lines["PaddleX"]}
            read = {str(line.polygon): line for line in lines[way]}
            for place in reference.keys() | read.keys():
                own, other = read.get(place), reference.get(place)
                if own is None or other is None:
                    text[way] += 1
                    continue
                text[way] += own.text != other.text
                score[way] += abs(own.score - other.score) > 0.02
            if picture.truth is not None:
                one = corpus.score("\n".join(line.text for line in lines[way]), picture.truth)
                found[way] = [a + b for a, b in zip(found[way], (one.hit, one.got, one.there), strict=True)]
    print("| padding, px | lines | other text | score off by more than 0.02 | word F1 | s/image |")
    print("|---|---|---|---|---|---|")
    for way in ways:
        hit, got, there = found[way]
        print(
            f"| {way} | {total[way]} | {text[way]} | {score[way]} | {2 * hit / max(1, got + there):.4f} "
            f"| {took[way] / len(pictures):.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
