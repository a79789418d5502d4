"""Text for XML: what its characters may be, and how they are written."""

from __future__ import annotations

import re
from xml.sax.saxutils import escape, quoteattr

# XML 1.0 has no others, not even as references.
_IMPOSSIBLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def text(value: str) -> str:
    """A string between two tags."""
    return escape(_possible(value))


def attribute(value: str) -> str:
    """A string as the value of an attribute, with its quotes."""
    return quoteattr(_possible(value))


def _possible(value: str) -> str:
    return _IMPOSSIBLE.sub("\ufffd", value)
