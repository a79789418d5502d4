"""The boxes that AVIF, HEIC and JPEG 2000 files are made of: does the file have all of its last one?"""

from __future__ import annotations

import os
from typing import BinaryIO

# A file has a handful.
_MAX_BOXES = 1000


def has_end(file: BinaryIO) -> bool:
    """Tell whether the last box of a file ends within it; True where the file cannot be read.

    A box that goes to the end of the file, whatever that is, counts as whole.
    """
    try:
        size_bytes = file.seek(0, os.SEEK_END)
        at = 0
        for _ in range(_MAX_BOXES):
            if at >= size_bytes:
                break
            file.seek(at)
            head = file.read(16)
            length = int.from_bytes(head[:4], "big")
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            if length == 0:
                return True
            at += max(8, length)
    except OSError:
        return True
    return at <= size_bytes
