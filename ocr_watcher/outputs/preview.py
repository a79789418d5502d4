"""Small pictures of pages that no browser shows, for the HTTP server's page; made of what the reader decoded.

They are no outputs: no record names them, nothing waits for them, and what goes wrong with them is no matter.
"""

from __future__ import annotations

import io
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from ocr_watcher import names

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

MAX_PAGES: Final = 200
"""Of a document: about 20 MB."""
MAX_RENDERED: Final = 10
"""Pages whose text is in the file are decoded for their preview alone, so no more of them are."""
RENDER_S: Final = 3.0
"""Which may take so long."""
_MAX_SIDE_PX: Final = 1280
_QUALITY: Final = 75


@dataclass
class Previews:
    """Those of one document. `folder` is its own; it is made with the first page."""

    folder: Path
    _to_render: int = MAX_RENDERED

    def wants_rendered(self, index: int) -> bool:
        """Whether page `index` is to be decoded for its preview alone."""
        self._to_render -= 1
        return index < MAX_PAGES and self._to_render >= 0

    def render_no_more(self) -> None:
        """The document is one of those that are not decoded in no time."""
        self._to_render = 0

    def add(self, index: int, bgr: NDArray[np.uint8]) -> None:
        """Write that of page `index`: uint8, (height, width, 3), blue first."""
        if index >= MAX_PAGES:
            return
        with suppress(OSError, ValueError, MemoryError):
            image = Image.fromarray(np.ascontiguousarray(bgr[:, :, ::-1]))
            image.thumbnail((_MAX_SIDE_PX, _MAX_SIDE_PX))
            made = io.BytesIO()
            image.save(made, "JPEG", quality=_QUALITY)
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = self.folder / names.preview_of(index)
            fresh = path.with_suffix(".tmp")
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(made.getbuffer())
            os.replace(fresh, path)
