"""What an upload is, by its first bytes: the extension under which it goes into the spool, or nothing.

The decoders have their own marks and the last word; a test holds the two against each other.
"""

from __future__ import annotations

import re
from typing import Final

HEAD_BYTES: Final = 1024
"""How much of a file is looked at: a PDF's mark may stand behind other bytes."""

# The brands that say AVIF may be any of those that a file is compatible with, in its first box.
_AVIF = rb".{4}ftyp(avif|avis|(mif1|msf1|miaf).{4}(.{4})*?avif)"
_HEIF = rb".{4}ftyp(heic|heix|heim|heis|hevc|hevx|mif1|msf1)"
_MARKS: Final = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), ".png"),
    (re.compile(rb"\xff\xd8\xff"), ".jpg"),
    (re.compile(rb"GIF8[79]a"), ".gif"),
    (re.compile(rb"BM"), ".bmp"),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), ".webp"),
    (re.compile(rb"II[*+]\x00|MM\x00[*+]"), ".tif"),
    (re.compile(rb"\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"), ".jp2"),
    (re.compile(_AVIF, re.DOTALL), ".avif"),
    (re.compile(_HEIF, re.DOTALL), ".heic"),
    (re.compile(rb".*%PDF-", re.DOTALL), ".pdf"),
)


def extension_of(head: bytes) -> str | None:
    """The extension for a file that begins with `head` (its first `HEAD_BYTES`); None: nothing we read."""
    for mark, extension in _MARKS:
        if mark.match(head):
            return extension
    return None
