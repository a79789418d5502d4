"""What the process uses of the machine's memory, and giving it back after a job.

Every figure is in MiB. Imports `errors` only; knows nothing of images or engines.
"""

from __future__ import annotations

import ctypes
import gc
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping

_MIB = 1 << 20


@dataclass(frozen=True)
class Figures:
    """One reading: resident set now and at its highest, and what the machine can still give (MiB)."""

    rss_mb: float
    peak_rss_mb: float
    available_mb: float


def apply_environment(variables: Mapping[str, str]) -> None:
    """Set `variables` for libraries that read the environment when they are imported.

    Call it before the engine is created: Paddle reads its FLAGS once, at import. A variable that
    the person who started the process has set stays as it is.
    """
    for name, value in variables.items():
        os.environ.setdefault(name, value)


class Memory:
    """Reads this process's memory. Cheap enough for every job: two small reads from /proc."""

    def __init__(self, status: Path = Path("/proc/self/status")) -> None:
        self._status = status
        # None where the C library is not glibc
        self._malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)

    def rss_mb(self) -> float:
        """The resident set now."""
        return self._resident()[0]

    def figures(self) -> Figures:
        """All figures at once."""
        rss, peak = self._resident()
        return Figures(rss, peak, round(psutil.virtual_memory().available / _MIB, 1))

    def settle(self) -> None:
        """Call once when everything is loaded: what lives now lives as long as the process.

        Modules and models are hundreds of thousands of objects; frozen, they cost later
        collections nothing.
        """
        self.give_back()
        gc.freeze()

    def give_back(self) -> None:
        """Return freed memory to the system after a job.

        PaddleX result objects sit in reference cycles and hold the page's pixels, so only a
        collection frees them; glibc then keeps the freed pages unless it is told to trim.
        """
        gc.collect()
        if self._malloc_trim is not None:
            self._malloc_trim(0)

    def _resident(self) -> tuple[float, float]:
        kib = {"VmRSS": 0, "VmHWM": 0}
        for row in self._status.read_text("ascii", "replace").splitlines():
            key, _, value = row.partition(":")
            if key in kib:
                kib[key] = int(value.split()[0])
        return round(kib["VmRSS"] / 1024, 1), round(kib["VmHWM"] / 1024, 1)
