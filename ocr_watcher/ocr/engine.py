"""What the rest of the program knows of an OCR engine, and a test double of it.

The real one is made by `paddle_ocr.create`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


class Engine(Protocol):
    """An OCR engine with its models loaded.

    It belongs to one thread: PaddleX predictors are not thread-safe (PaddleOCR #18268, #14836).
    """

    @property
    def name(self) -> str:
        """`onnxruntime` or `paddle`, as in the sidecar."""

    @property
    def provider(self) -> str:
        """The library that runs the models: `onnxruntime`, `openvino` or `paddle`."""

    @property
    def model(self) -> str:
        """The model's name, as in the sidecar."""

    @property
    def version(self) -> str:
        """PaddleOCR's version, as in the sidecar."""

    def read(self, bgr: NDArray[np.uint8]) -> object:
        """Read one image.

        Args:
            bgr: uint8 of shape (height, width, 3), at least 1x1 px, channels blue, green, red.

        Returns:
            The raw result, for `result.normalise`; coordinates are pixels of `bgr`.

        Raises:
            OutOfMemoryError: a memory request was refused; the engine stays usable.
            EngineError: anything else went wrong.
        """

    def turn_deg(self, bgr: NDArray[np.uint8]) -> int:
        """Propose the clockwise turn that makes a page upright, by a glance at it: 0, 90, 180 or 270.

        0 where the engine was not told to look. A proposal is wrong now and then: see `orientation.decide`.
        Raises as `read`.
        """

    def page_mb(self) -> tuple[float, float]:
        """The memory that reading a page takes at its peak, beyond the loaded model.

        Returns:
            MiB for any page, and MiB more for each megapixel of it.
        """

    def warm_up(self) -> None:
        """Read a small drawn image, so that the first real file is not the slow one. Raises as `read`."""

    def close(self) -> None:
        """Let go of the models. The engine cannot be used afterwards."""


def drawn_text(text: str, *, size_px: int = 32) -> NDArray[np.uint8]:
    """Draw one line of black text on white, for a first test of an engine.

    Returns:
        BGR, uint8 of shape (3 * size_px, width, 3); the width follows from the text.
    """
    font = ImageFont.load_default(size_px)
    width_px = int(font.getlength(text)) + 2 * size_px
    image = Image.new("RGB", (width_px, 3 * size_px), "white")
    ImageDraw.Draw(image).text((size_px, size_px), text, "black", font)
    return np.ascontiguousarray(np.asarray(image)[:, :, ::-1])


@dataclass
class FakeEngine:
    """An `Engine` for tests, without models. It stands beside the protocol, so that both change together.

    By default every image holds one line, whose text is the array's shape as `<height>x<width>`.

    Attributes:
        on_read: A function that replaces this. Its value is the result of `read`, and what it raises is
            raised. It may block, or end the process.
        on_turn: A function that replaces what `turn_deg` does, which is to propose nothing.
        shapes: The shapes of all arrays that were read, in order.
    """

    on_read: Callable[[NDArray[np.uint8]], object] | None = None
    on_turn: Callable[[NDArray[np.uint8]], int] | None = None
    name: str = "fake"
    provider: str = "fake"
    model: str = "fake"
    version: str = "0"
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    warmed_up: bool = False
    closed: bool = False

    def read(self, bgr: NDArray[np.uint8]) -> object:
        """See `Engine.read`."""
        self.shapes.append(bgr.shape)
        if self.on_read is not None:
            return self.on_read(bgr)
        height, width = bgr.shape[:2]
        polygon = np.array([[0, 0], [width, 0], [width, height], [0, height]])
        return {
            "rec_texts": [f"{height}x{width}"],
            "rec_scores": [1.0],
            "dt_polys": [polygon],
            "rec_polys": [polygon],
            "rec_boxes": np.array([[0, 0, width, height]]),
        }

    def turn_deg(self, bgr: NDArray[np.uint8]) -> int:
        """See `Engine.turn_deg`."""
        return self.on_turn(bgr) if self.on_turn is not None else 0

    def page_mb(self) -> tuple[float, float]:
        """See `Engine.page_mb`."""
        return 0.0, 0.0

    def warm_up(self) -> None:
        """See `Engine.warm_up`."""
        self.warmed_up = True

    def close(self) -> None:
        """See `Engine.close`."""
        self.closed = True
