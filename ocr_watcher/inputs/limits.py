"""Holds a file against the limits: bytes before they are read; pixels and memory by a page's header."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, BinaryIO

from ocr_watcher.errors import (
    AccessError,
    FileTooLargeError,
    MemoryBudgetError,
    OutOfMemoryError,
    ShortOfMemoryError,
    TooManyPixelsError,
    TruncatedError,
    UnreadableError,
)

if TYPE_CHECKING:
    from ocr_watcher.inputs.base import DecodeLimits

MIB = 1 << 20


def read_head(file: BinaryIO, size_bytes: int) -> bytes:
    """Read the first bytes of a file, fewer where it is shorter.

    Raises:
        AccessError: The operating system refuses the bytes.
        TruncatedError: There is not one.
    """
    return _read(file, size_bytes)


def read_whole(file: BinaryIO, limits: DecodeLimits) -> bytes:
    """Read a file that is no longer than `limits.max_file_bytes`, in one piece, from its start.

    One read instead of many small ones means that a file that changes meanwhile, or a share that goes away,
    cannot harm a decoder.

    Raises:
        AccessError: The operating system refuses the bytes.
        FileTooLargeError: More bytes than allowed.
        TruncatedError: It is empty.
        OutOfMemoryError: There is no memory for the bytes.
    """
    return _read(file, check_size(file, limits))


def check_size(
    file: BinaryIO, limits: DecodeLimits, *, at_most: int | None = None, hint: str | None = None
) -> int:
    """Give the size of a file in bytes.

    Args:
        file: Wherever it stands.
        limits: Of which `max_file_bytes` holds, unless `at_most` says another number of bytes.
        at_most: See `limits`.
        hint: What to do about a file that is larger, where that is not the usual.

    Raises:
        AccessError: The operating system does not say.
        FileTooLargeError: It is more than allowed.
    """
    at_most = limits.max_file_bytes if at_most is None else at_most
    try:
        size_bytes = file.seek(0, os.SEEK_END)
    except OSError as error:
        raise AccessError(f"the file cannot be read: {error.strerror or error}") from error
    if size_bytes > at_most:
        raise FileTooLargeError(
            f"the file has {_mib(size_bytes)} MiB; the limit is {_mib(at_most)} MiB", hint=hint
        )
    return size_bytes


def _read(file: BinaryIO, size_bytes: int) -> bytes:
    try:
        file.seek(0)
        data = file.read(size_bytes)
    except OSError as error:
        raise AccessError(f"the file cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise OutOfMemoryError("there is not enough memory to read the file") from error
    if not data:
        raise TruncatedError("the file is empty")
    return data


def _mib(size_bytes: int) -> str:
    return f"{math.ceil(size_bytes / MIB * 100) / 100:.2f}"  # rounded up: one byte too many must show


def check_pixels(width_px: int, height_px: int, *, limits: DecodeLimits, what: str) -> None:
    """Hold the size of a page, by its header, against `limits.max_pixels`; `what` is its name in a message.

    Raises:
        UnreadableError: The header says that there are no pixels.
        TooManyPixelsError: More pixels than allowed.
    """
    if width_px < 1 or height_px < 1:
        raise UnreadableError(f"{what} is damaged: its header says {width_px} x {height_px} pixels")
    if width_px * height_px > limits.max_pixels:
        raise TooManyPixelsError(
            f"{what} is {width_px} x {height_px} pixels, {width_px * height_px / 1e6:.1f} megapixels; "
            f"the limit is {limits.max_pixels / 1e6:.1f} megapixels"
        )


def check_budget(needed_mb: float, arithmetic: str, *, limits: DecodeLimits, what: str) -> None:
    """Hold what decoding takes (MiB) against the memory; `arithmetic` says in a message what it is made of.

    Raises:
        MemoryBudgetError: It takes more than `limits.max_decode_mb_ever`.
        ShortOfMemoryError: It takes more than `limits.max_decode_mb`.
    """
    takes = f"decoding {what} takes about {needed_mb:.0f} MiB ({arithmetic})"
    if needed_mb > limits.max_decode_mb_ever:
        left_mb = max(0.0, limits.max_decode_mb_ever)
        raise MemoryBudgetError(f"{takes}; {left_mb:.0f} MiB are left of the memory limits")
    if needed_mb > limits.max_decode_mb:
        left_mb = max(0.0, limits.max_decode_mb)
        raise ShortOfMemoryError(f"{takes}; {left_mb:.0f} MiB are left of the memory limits at the moment")


def fit(width_px: int, height_px: int, limits: DecodeLimits) -> tuple[int, int]:
    """Give the size (width, height) of the picture that is handed out for a page of this size."""
    ratio = min(
        1.0,
        limits.max_side_px / max(width_px, height_px),
        math.sqrt(limits.max_page_pixels / (width_px * height_px)),
    )
    return max(1, round(width_px * ratio)), max(1, round(height_px * ratio))
