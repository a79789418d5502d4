"""What computing the recogniser in 8 bits changes: for each convolution alone, and for those that are chosen.

`precision.py CORPUS [--model PP-OCRv6_tiny] [--images N] [--each]`. The lines of the images are cut out once;
each way then recognises the same ones, one thread. CORPUS as for compare.py. Needs a processor with VNNI.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import compare_corpus as corpus
import numpy as np

from ocr_watcher import config
from ocr_watcher.ocr import graph, inference, models, paddle_ocr, paddlex

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

_CONVOLUTIONS = range(100)  # more than there are


def lines_of(model: str, pictures: Sequence[corpus.Picture]) -> tuple[list[NDArray[np.float32]], Path]:
    """Every line as the recogniser gets it, and the recogniser's file."""
    spec = models.resolve(model, config.OcrSettings().model_store, "onnxruntime", None)
    reader = paddle_ocr.create("onnxruntime", spec, 0, {}, precision="fp32")
    recogniser: Any = paddlex.pipeline_of(reader._ocr).text_rec_model  # noqa: SLF001 - the subject
    run, lines = recogniser._logits, []  # noqa: SLF001 - the subject

    def tap(x: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        lines.append(x[0].copy())
        found: list[NDArray[np.float32]] = run(x)
        return found

    recogniser._logits = tap  # noqa: SLF001 - the subject
    for picture in pictures:
        for page in corpus.pages(picture.path):
            reader.read(page)
    reader.close()
    return lines, Path(spec.kwargs["text_recognition_model_dir"]) / "inference.onnx"


def recognise(
    file: Path, lines: list[NDArray[np.float32]], names: Sequence[str], per_pixel: Sequence[str]
) -> Iterator[tuple[NDArray[np.float32], float]]:
    """Logits of every line with these convolutions in 8 bits, and the seconds each took."""
    model = graph.RecogniserGraph(file)
    model.end_in_logits()
    if names:
        model.quantise(names, per_pixel)
    run = inference.OnnxRuntime(model.serialised(), 1)
    for line in lines:
        began = time.perf_counter()
        (logits,) = run([line])
        yield logits, time.perf_counter() - began


def read(logits: NDArray[np.float32]) -> tuple[list[int], float]:
    """The characters, as numbers, and their mean likelihood."""
    best, likely = inference.best_characters(logits)
    scores = likely[likely > 0]
    return [int(c) for c, _ in itertools.groupby(best) if c], float(scores.mean()) if scores.size else 0.0


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--images", type=int)
    parser.add_argument("--model", default="PP-OCRv6_small")
    parser.add_argument("--each", action="store_true", help="also every convolution alone")
    asked = parser.parse_args()
    lines, file = lines_of(asked.model, corpus.find(asked.corpus, asked.images))
    chosen = inference.QUANTISED[f"{asked.model}_rec"]
    every = [f"Conv.{n}" for n in _CONVOLUTIONS]
    ways: dict[str, tuple[list[str], list[str]]] = {
        "none": ([], []),
        "the chosen": (chosen.nodes, chosen.per_pixel_nodes),
        "the chosen, none by pixel": (chosen.nodes, []),
        "all": ([graph.LOGITS, *every], []),
    }
    if asked.each:
        ways |= {name: ([name], []) for name in (graph.LOGITS, *every)}
    print(f"{len(lines)} lines\n")
    print("| in 8 bits | error of the logits | other text | score off by more than 0.02 | time |")
    print("|---|---|---|---|---|")
    exact: list[NDArray[np.float32]] = []
    whole_s = 0.0
    for title, (some, pixels) in ways.items():
        found, seconds = zip(*recognise(file, lines, some, pixels), strict=True)
        if not exact:
            exact, whole_s = list(found), sum(seconds)
        errors = [float(((a - b) ** 2).mean() / a.var()) for a, b in zip(exact, found, strict=True)]
        if title.startswith("Conv") and not any(errors):
            continue  # not pointwise, or not there
        pairs = [(read(a), read(b)) for a, b in zip(exact, found, strict=True)]
        text = sum(a[0] != b[0] for a, b in pairs)
        score = sum(abs(a[1] - b[1]) > 0.02 for a, b in pairs)
        print(
            f"| {title} | {np.mean(errors):.5f} | {text} | {score} | {sum(seconds) / whole_s:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
