"""An engine that one consumer at a time uses, also where one was given up and may come back.

Everything about it is the engine's own, except that a consumer that was given up is turned away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ocr_watcher.jobs.supervision import Supervision
    from ocr_watcher.ocr.engine import Engine


class EngineInTurns:
    """See `Engine`."""

    def __init__(self, engine: Engine, supervision: Supervision) -> None:
        self._engine = engine
        self._supervision = supervision
        self.name = engine.name
        self.provider = engine.provider
        self.model = engine.model
        self.version = engine.version

    def read(self, bgr: NDArray[np.uint8]) -> object:
        """See `Engine`; also raises `Interruption`."""
        with self._supervision.engine_turn():
            return self._engine.read(bgr)

    def turn_deg(self, bgr: NDArray[np.uint8]) -> int:
        """See `Engine`; also raises `Interruption`."""
        with self._supervision.engine_turn():
            return self._engine.turn_deg(bgr)

    def page_mb(self) -> tuple[float, float]:
        """See `Engine`."""
        return self._engine.page_mb()

    def warm_up(self) -> None:
        """See `Engine`; also raises `Interruption`."""
        with self._supervision.engine_turn():
            self._engine.warm_up()

    def close(self) -> None:
        """See `Engine`."""
        self._engine.close()
