"""Plain text: UTF-8, a form feed between pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocr_watcher.document import Page
    from ocr_watcher.outputs.base import About, Pictures


class TextWriter:
    """See `base.Writer`."""

    def __init__(self, _about: About, _pictures: Pictures) -> None:
        self._between = b""

    def begin(self) -> Iterator[bytes]:
        """Nothing."""
        yield from ()

    def page(self, page: Page) -> Iterator[bytes]:
        """The page's text; a line ends with a line break, the last one too."""
        yield self._between
        self._between = b"\f"
        if page.text:
            yield page.text.encode() + b"\n"

    def end(self) -> Iterator[bytes]:
        """Nothing."""
        yield from ()
