"""The table of decoder families, and the one way in: the first bytes of a file choose its family.

A new kind of input is a new file and a new row here. The name of the file never counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from ocr_watcher.errors import FileError
from ocr_watcher.inputs.avif import AVIF
from ocr_watcher.inputs.bmp import BMP
from ocr_watcher.inputs.gif import GIF
from ocr_watcher.inputs.heif import HEIF
from ocr_watcher.inputs.jpeg import JPEG
from ocr_watcher.inputs.jpeg2000 import JPEG2000
from ocr_watcher.inputs.limits import check_size, read_head
from ocr_watcher.inputs.pdf import PDF
from ocr_watcher.inputs.png import PNG
from ocr_watcher.inputs.strangers import stranger
from ocr_watcher.inputs.tiff import TIFF
from ocr_watcher.inputs.webp import WEBP

if TYPE_CHECKING:
    from ocr_watcher.inputs.base import DecodeLimits, Family, OpenDocument

# Nothing else ever sees the bytes. The first that knows the file's mark has it.
# PDF is the last: its mark may stand behind other bytes.
FAMILIES: tuple[Family, ...] = (PNG, JPEG, GIF, BMP, WEBP, TIFF, JPEG2000, AVIF, HEIF, PDF)

# What a family may look at to know its files.
HEAD_BYTES = 1024


def open_document(file: BinaryIO, limits: DecodeLimits) -> OpenDocument:
    """Open a file of any family: all pages of a PDF or TIFF, the first picture of other images.

    Where the file stands does not matter; closing it is the caller's, and not before the document was closed.

    Raises:
        AccessError: The operating system refuses the bytes.
        FileTooLargeError: More bytes than allowed.
        TruncatedError: Empty, or it ends before its structure does.
        UnsupportedFormatError: Of none of `FAMILIES`, or a kind of one that is not decoded.
        TooManyPixelsError: By the header.
        TooManyPagesError, EncryptedError: Of a PDF.
        OutOfMemoryError: Memory ran out.
        UnreadableError: Everything else that is wrong with the bytes.
    """
    head = read_head(file, HEAD_BYTES)
    family = _family_of(head)
    if family is not None:
        return family.open(file, limits)
    size_bytes = check_size(file, limits)
    raise stranger(head, whole=size_bytes <= len(head))


def max_file_bytes(file: BinaryIO, limits: DecodeLimits) -> int:
    """Give how many bytes a file may have, by its family; where that cannot be told, as an image may."""
    try:
        family = _family_of(read_head(file, HEAD_BYTES))
    except FileError:  # which opening it raises too
        family = None
    return limits.max_file_bytes if family is None else family.max_file_bytes(limits)


def _family_of(head: bytes) -> Family | None:
    return next((family for family in FAMILIES if family.sniff(head)), None)
