"""Is text read in the order of the page? How alike its words are to the truth (difflib; 1 is equal).

`reading_order.py FOLDER... [--model PP-OCRv6_tiny]`: each FOLDER holds images with the truth in NAME.txt, as
for compare.py. Words are runs of A-Z and 0-9 after upper-casing. Misread words cost as well, so the same
words in rows across the whole page stand beside. The time is that of finding the order, the longest of all.
"""

from __future__ import annotations

import argparse
import difflib
import re
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

import compare_corpus as corpus

from ocr_watcher import config, memory
from ocr_watcher.inputs.base import DecodeLimits
from ocr_watcher.inputs.table import open_document
from ocr_watcher.ocr import models, order, paddle_ocr, result

if TYPE_CHECKING:
    from ocr_watcher.document import Line

_LIMITS = DecodeLimits(max_file_bytes=1 << 30, max_pixels=1_000_000_000, max_side_px=1024)


def main() -> None:
    """Print a line for each folder, and one for each page that is far from the truth."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--model", default="PP-OCRv6_small")
    asked = parser.parse_args()
    memory.use_one_heap()
    spec = models.resolve(asked.model, config.OcrSettings().model_store, "onnxruntime", None)
    reader = paddle_ocr.create("onnxruntime", spec, 0, {})
    for folder in asked.folders:
        before, after, longest_s = [], [], 0.0
        for picture in corpus.find(folder, None):
            with picture.path.open("rb") as file:
                lines = result.normalise(reader.read(open_document(file, _LIMITS).picture(0, _LIMITS).bgr))
            began = time.perf_counter()
            ordered = order.reading_order(lines)
            longest_s = max(longest_s, time.perf_counter() - began)
            before.append(similarity(across(lines), picture.truth or ""))
            after.append(similarity(ordered, picture.truth or ""))
            if after[-1] < 0.85:
                print(f"  {picture.path.name}: {before[-1]:.3f}, {after[-1]:.3f}")
        print(
            f"{folder.name}: {len(after)} pages, rows across {statistics.mean(before):.3f}, "
            f"columns {statistics.mean(after):.3f}, {1000 * longest_s:.1f} ms at most"
        )


def across(lines: tuple[Line, ...]) -> list[Line]:
    """Lines in rows across the whole page, as if there were no columns and nothing ran down."""
    pieces = order._straightened(lines, order.Direction.RIGHT)  # noqa: SLF001 - the way that it is compared with
    pieces.sort(key=lambda piece: (piece.middle, piece.left))
    return [piece.line for row in order._rows(pieces) for piece in row] if pieces else []  # noqa: SLF001


def similarity(lines: tuple[Line, ...] | list[Line], truth: str) -> float:
    """How alike the two sequences of words are."""
    read = words("\n".join(line.text for line in lines))
    return difflib.SequenceMatcher(None, read, words(truth), autojunk=False).ratio()


def words(text: str) -> list[str]:
    """Runs of A-Z and 0-9."""
    return re.findall(r"[A-Z0-9]+", text.upper())


if __name__ == "__main__":
    main()
