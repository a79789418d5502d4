"""Fixtures more than one test module uses."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ocr_watcher.ocr import models, paddle_ocr

if TYPE_CHECKING:
    from collections.abc import Iterator


# Ignored under nohup, and so it would be by every daemon under test; the next one behind a shell's &.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _threads_fail_their_test() -> Iterator[None]:
    """Setting up the log takes what pytest has in place to notice a thread that fails."""
    hook = threading.excepthook
    yield
    threading.excepthook = hook


@pytest.fixture(scope="session")
def model_store() -> Path:
    """A store with the models the tests read with: the user's own, filled when it lacks them."""
    store = os.environ.get("OCR_WATCHER_MODEL_STORE") or "~/.cache/ocr-watcher/models"
    path = Path(store).expanduser()
    models.pull(["PP-OCRv6_small", "PP-OCRv5_mobile", *models.FURTHER], path)
    return path


@pytest.fixture(scope="session")
def onnxruntime_engine(model_store: Path) -> Iterator[paddle_ocr.PaddleOcrEngine]:
    """The default engine with the default model, loaded once for all tests."""
    spec = models.resolve("PP-OCRv6_small", model_store, "onnxruntime", None)
    made = paddle_ocr.create("onnxruntime", spec, 0, {})
    yield made
    made.close()


@pytest.fixture(scope="session")
def paddle_engine(model_store: Path) -> Iterator[paddle_ocr.PaddleOcrEngine]:
    """Paddle Inference with oneDNN, loaded once for all tests."""
    spec = models.resolve("PP-OCRv5_mobile", model_store, "paddle", None)
    made = paddle_ocr.create("paddle", spec, 0, {})
    yield made
    made.close()
