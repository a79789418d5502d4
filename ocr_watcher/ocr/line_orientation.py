"""Single lines on their head within an upright page: a small model proposes, reading both ways decides.

Of 626 lines of receipts it turned 4 that stood upright, and 595 of the same lines on their head. The
model alone would have turned one upright line in seventeen, most of them a few characters long.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from ocr_watcher.ocr import inference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Recognise = Callable[[Sequence[NDArray[np.uint8]]], Iterable[dict[str, Any]]]

# What the model was trained on (PaddleOCR's `cls_image_shape`): lines of 48 px, cut off or filled up to 192.
_HEIGHT_PX: Final = 48
_WIDTH_PX: Final = 192
# Lines that the model looks at in one run: they take 25 MiB.
_BATCH: Final = 16
_UPSIDE_DOWN: Final = 1  # the model's class, and PaddleX's


class LineOrientation:
    """Stands in for PaddleX's classifier of lines: tells which lines are to be turned.

    Args:
        file: the model ch_ppocr_mobile_v2.0_cls.
        recognise: PaddleX's recogniser, or what stands in for it.
        threads: how many threads the model computes on.
    """

    def __init__(self, file: Path, recognise: Recognise, threads: int) -> None:
        self._run = inference.OnnxRuntime(file, threads)
        self._recognise = recognise

    def __call__(self, lines: Sequence[NDArray[np.uint8]]) -> Iterator[dict[str, list[int]]]:
        """Decide about lines that were cut out of a page: BGR, uint8 of shape (height, width, 3).

        Yields:
            For each of them PaddleX's result: `{"class_ids": [1]}` where it is to be turned by 180 degrees.
        """
        proposed = [index for index, likely in enumerate(self._likely(lines)) if likely > 0.5]
        both = [way for index in proposed for way in (lines[index], _turned(lines[index]))]
        read_well = (
            [len(read["rec_text"]) * read["rec_score"] for read in self._recognise(both)] if both else []
        )
        turned = {
            index
            for index, as_it_is, on_its_head in zip(proposed, read_well[::2], read_well[1::2], strict=True)
            if on_its_head > as_it_is
        }
        for index in range(len(lines)):
            yield {"class_ids": [_UPSIDE_DOWN if index in turned else 0]}

    def _likely(self, lines: Sequence[NDArray[np.uint8]]) -> Iterator[float]:
        """How likely each line is upside down, by the model."""
        for start in range(0, len(lines), _BATCH):
            (classes,) = self._run([np.stack([_prepared(line) for line in lines[start : start + _BATCH]])])
            yield from classes[:, _UPSIDE_DOWN].tolist()

    def close(self) -> None:
        """Let go of the model."""
        self._run.close()


def _turned(line: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(line[::-1, ::-1])


def _prepared(line: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A line as the model wants it: float32, (3, 48, 192), from -1 to 1, filled up with 0."""
    height, width = line.shape[:2]
    wide_px = max(1, min(_WIDTH_PX, math.ceil(_HEIGHT_PX * width / height)))
    small = Image.fromarray(np.ascontiguousarray(line)).resize(
        (wide_px, _HEIGHT_PX), Image.Resampling.BILINEAR
    )
    prepared = np.zeros((3, _HEIGHT_PX, _WIDTH_PX), np.float32)
    prepared[:, :, :wide_px] = (np.asarray(small, np.float32) / 127.5 - 1).transpose(2, 0, 1)
    return prepared
