"""The real program on the fake engine: `python -m tests.fake_daemon run -c config.yaml`.

What the engine does comes from the environment: `FAKE_READ_S` is how long it takes over an image;
a width in `FAKE_HANG`, `FAKE_SEGFAULT`, `FAKE_EXIT` or `FAKE_RAISE` makes it misbehave over images
of that width (px); `FAKE_LEAK_MB` is lost at every image. A file `reading` in the working folder says
that an image is in hand.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ocr_watcher import cli, daemon
from ocr_watcher.engine import FakeEngine

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ocr_watcher.config import Settings


_lost: list[bytearray] = []


class _Scripted(FakeEngine):
    def read(self, bgr: NDArray[np.uint8]) -> object:
        width = str(bgr.shape[1])
        Path("reading").touch()
        time.sleep(float(os.environ.get("FAKE_READ_S", "0")))
        if leak := int(os.environ.get("FAKE_LEAK_MB", "0")):
            _lost.append(bytearray(os.urandom(1)) * (leak << 20))
        if width == os.environ.get("FAKE_HANG"):
            time.sleep(3600)
        if width == os.environ.get("FAKE_SEGFAULT"):
            ctypes.string_at(0)
        if width == os.environ.get("FAKE_EXIT"):
            os._exit(3)
        if width == os.environ.get("FAKE_RAISE"):
            raise RuntimeError("scripted")
        return super().read(bgr)


def _make(settings: Settings) -> FakeEngine:  # noqa: ARG001 - the signature of what it replaces
    return _Scripted()


if __name__ == "__main__":
    daemon.make_engine = _make
    sys.exit(cli.main())
