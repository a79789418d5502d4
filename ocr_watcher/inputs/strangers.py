"""Says what a file of none of the families looks like, so that whoever reads the record knows what to do."""

from __future__ import annotations

import re

from ocr_watcher.errors import FileError, TruncatedError, UnsupportedFormatError

_STRANGERS = (
    (rb"%!PS", "a PostScript document"),
    (rb"PK\x03\x04", "a ZIP archive or an Office document"),
    (rb".{4}ftyp", "a video"),
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "a JPEG XL image"),
    (rb"8BPS", "a Photoshop document"),
    (rb"AT&TFORM", "a DjVu document"),
    (rb"\x00\x00\x01\x00", "an icon"),
    (rb"\x1f\x8b|7z\xbc\xaf\x27\x1c|Rar!", "a compressed archive"),
    (rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!DOCTYPE svg[^>]*>\s*)?<svg", "an SVG drawing"),
    (rb"\s*(<!--.*?-->\s*)?<(!DOCTYPE html|html|head|body)", "an HTML page"),
    (rb"\s*<\?xml", "an XML document"),
)


def stranger(head: bytes, *, whole: bool) -> FileError:
    """Give the error for a file that begins with `head`; `whole` where that is all of it."""
    if not head.strip(b"\0"):
        return TruncatedError("the file begins with zero bytes only: its copy was probably interrupted")
    for pattern, name in _STRANGERS:
        if re.match(pattern, head, re.DOTALL | re.IGNORECASE):
            return UnsupportedFormatError(f"this is {name}, not an image that can be read")
    try:
        text = head.decode("utf-8", errors="strict" if whole else "ignore")
    except UnicodeDecodeError:
        text = "\0"
    if all(character.isprintable() or character.isspace() for character in text):
        return UnsupportedFormatError("this is text, not an image")
    return UnsupportedFormatError("this is no image of a known format")
