"""Every error this program raises on purpose, on one page.

Two branches. `FileError`: one image cannot be done; the class says whether trying again can help
and carries the code of the error record. `ServiceError`: the program cannot go on; the class
carries its exit code. Both carry a hint: what the person reading the log can do about it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """Exit statuses of the program; the numbers follow sysexits.h where it has one."""

    OK = 0
    BUG = 1
    SOME_FAILED = 3
    USAGE = 64
    UNAVAILABLE = 69
    RECYCLE = 75
    CONFIG = 78


class OcrWatcherError(Exception):
    """Root of the tree. `str(error)` is the message; `hint` says what to do about it."""

    hint: str = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint


# -- one image ---------------------------------------------------------------------------------


class FileError(OcrWatcherError):
    """One image cannot be done.

    `code` goes into the error record and the log. `retryable` says whether the same file may
    succeed later without being changed: such a file is tried `retry.max_attempts` times.
    `transient` says that the cause lies outside the file: attempts then do not count, and it is
    tried again, with growing pauses, for as long as the cause lasts.
    """

    code: str = "engine_error"
    retryable: ClassVar[bool] = False
    transient: ClassVar[bool] = False


class UnreadableError(FileError):
    """The file is there but its bytes cannot be read or do not decode."""

    code = "unreadable"
    hint = "Open the file in an image viewer; if it does not open there either, scan or export it again."


class AccessError(UnreadableError):
    """The operating system refuses the bytes: permission, I/O error, stale share."""

    transient = True
    hint = "Make the file readable for the user that runs ocr-watcher; it is tried again on its own."


class TruncatedError(FileError):
    """The file ends before the image does."""

    code = "truncated"
    hint = "The copy was probably interrupted: copy or send the file again."


class UnsupportedFormatError(FileError):
    """The content is no image format that is allowed in."""

    code = "unsupported_format"
    hint = (
        "Save it as PDF, PNG, JPEG, TIFF, BMP, WebP, GIF, AVIF or JPEG 2000. "
        "The content decides, not the file name."
    )


class FileTooLargeError(FileError):
    """More bytes than `image.max_file_mb`."""

    code = "file_too_large"
    hint = "Raise image.max_file_mb, or scan with stronger compression."


class TooManyPagesError(FileError):
    """More pages than `pdf.max_pages`."""

    code = "too_many_pages"
    hint = "Raise pdf.max_pages, or split the file."


class EncryptedError(FileError):
    """The document asks for a password that is not in `pdf.passwords`."""

    code = "encrypted"
    hint = "Add its password to pdf.passwords, restart, and run `ocr-watcher retry`; or save it without one."


class TooManyPixelsError(FileError):
    """More pixels than `image.max_megapixels`, by the header."""

    code = "too_many_pixels"
    hint = "Raise image.max_megapixels if memory allows, or scan at a lower resolution."


class OutOfMemoryError(FileError):
    """Decoding or inference could not get the memory it asked for."""

    code = "out_of_memory"
    hint = "Lower image.max_side_px or image.max_megapixels, or give the service more memory."


class ShortOfMemoryError(FileError):
    """Memory is short just now: an idle machine or a fresh process could read the file."""

    code = "out_of_memory"
    transient = True
    hint = (
        "The machine or memory.hard_limit_mb left no room for a moment; the file is tried again on its own."
    )


class MemoryBudgetError(FileError):
    """By its header the image needs more memory than there can ever be; nothing of it was decoded."""

    code = "out_of_memory"
    hint = "Raise memory.rss_limit_mb, or save the image smaller, or as baseline JPEG, which needs least."


class HeavyPageError(FileError):
    """Decoding a page took more memory than a page may have, at half the size too."""

    code = "out_of_memory"
    hint = "Print the page to a new PDF at a lower resolution, or save it as an image."


class SlowPageError(FileError):
    """Decoding a page took longer than `pdf.page_timeout_s`, at half the size too."""

    code = "timeout"
    hint = "Raise pdf.page_timeout_s if the machine is slow; otherwise print the page to a new PDF."


class NoPageError(FileError):
    """Of a document of several pages none can be read; `code` is that of the first."""

    hint = "Open it in the program that is made for it; where it looks well there, print it to a new PDF."

    def __init__(self, message: str, *, hint: str | None = None, code: str = UnreadableError.code) -> None:
        super().__init__(message, hint=hint)
        self.code = code


class EngineError(FileError):
    """The OCR engine raised, or returned something that is not understood."""

    code = "engine_error"
    retryable = True
    hint = "Run `ocr-watcher doctor`; if it is fine, this image is worth a bug report."


class EngineLostError(EngineError):
    """The engine does not work any more: only a fresh process helps."""


class EngineCrashedError(FileError):
    """The process died during this file's attempts."""

    code = "engine_crashed"
    hint = "This image ends the process each time. `ocr-watcher retry` tries it again after an upgrade."


class JobTimeoutError(FileError):
    """One page took longer than `ocr.job_timeout_s`."""

    code = "timeout"
    retryable = True
    hint = "Raise ocr.job_timeout_s if the machine is slow; otherwise the image makes the engine hang."


class VanishedError(FileError):
    """The file was removed, renamed or replaced before its result was written. Only ever logged."""

    code = "vanished"


class ChangedError(FileError):
    """The file is not the version that was queued. Only ever logged."""

    code = "changed"


class OutputError(FileError):
    """A record cannot be written: no space, no permission, I/O error. Never recorded, only logged."""

    code = "output_error"
    transient = True
    hint = "Check free space and write permission of the image's folder; the file is tried again on its own."


class StateError(OutputError):
    """What was kept in the state folder cannot be read back. Never recorded, only logged."""

    hint = "Check the disk that holds state_dir; the file is read again from its first page."


class OutputExistsError(FileError):
    """A file of somebody else has the name of the sidecar or of another output."""

    code = "output_exists"
    transient = True
    hint = "Move that file away or rename the document; ocr-watcher replaces only files it wrote itself."

    def __init__(self, message: str, *, hint: str | None = None, kind: str = "") -> None:
        """`kind` is the format of the output whose name the file has; empty where that is the sidecar's."""
        super().__init__(message, hint=hint)
        self.kind = kind


class OutputNotPossibleError(OcrWatcherError):
    """A format cannot hold this document; its others are written. Only ever logged."""


# -- the whole program -------------------------------------------------------------------------


class ServiceError(OcrWatcherError):
    """The program cannot go on. `exit_code` is what it exits with."""

    exit_code: ClassVar[ExitCode] = ExitCode.BUG


class UsageError(ServiceError):
    """The command line is wrong."""

    exit_code = ExitCode.USAGE


class UnavailableError(ServiceError):
    """Something the program needs is not there: models, inbox, lock, a working engine."""

    exit_code = ExitCode.UNAVAILABLE


class ConfigError(ServiceError):
    """The configuration is wrong. The message lists every mistake, one a line."""

    exit_code = ExitCode.CONFIG
