"""structlog set-up: JSON lines to a rotating file; readable lines on a terminal, JSON lines elsewhere.

Library messages (logging, warnings) take the same road, so nothing is printed past the log.
Nothing that comes from a file name or a file reaches a line unescaped, and whoever reads the lines slowly or
not at all holds up nobody.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import select
import signal
import stat
import sys
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

import structlog

from ocr_watcher.errors import UnavailableError

if TYPE_CHECKING:
    from pathlib import Path

    from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

_MIB = 1 << 20


def get() -> FilteringBoundLogger:
    """The program's logger."""
    logger: FilteringBoundLogger = structlog.get_logger("ocr_watcher")
    return logger


def _clean(value: object) -> object:
    r"""Make any value JSON can hold: names that are not UTF-8 show their bytes as \\xff."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if isinstance(value, dict):
        return {str(_clean(str(key))): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    if isinstance(value, os.PathLike):
        return _clean(os.fspath(value))
    return value


def _clean_all(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {key: value if key.startswith("_") else _clean(value) for key, value in event.items()}


def _escape_controls(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """For the terminal: no control character gets through, so no name can move the cursor or forge a line."""
    for key, value in event.items():
        if isinstance(value, str) and key != "exception" and not value.isprintable():
            event[key] = json.dumps(value)
    return event


def _dumps(event: EventDict, **_: Any) -> str:  # noqa: ANN401 - structlog passes its own options
    # Names as they are, so that grep finds them; but no control or direction character gets through.
    line = json.dumps(event, default=repr, ensure_ascii=False)
    return (
        line if line.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)
    )


def _order(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    first = ("timestamp", "level", "event")
    return {key: event[key] for key in (*first, *(k for k in event if k not in first)) if key in event}


def one_line(text: str) -> str:
    """Text of unknown origin for a terminal: one line, with nothing in it that could command it."""
    return (
        os.fsencode(text).decode("utf-8", "backslashreplace").encode("unicode_escape").decode("ascii")
        if not (text.isprintable())
        else text
    )


def _common() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _clean_all,
    ]


class _RotatingFile(logging.handlers.RotatingFileHandler):
    """A rotating file whose trouble (no space, folder gone) never reaches the work.

    It is opened again where somebody else has moved or removed it, as logrotate does.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        with suppress(OSError):
            self._follow()
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Drop the line: the terminal or the journal of systemd still gets it."""

    def _follow(self) -> None:
        """Let go of the open file where it is not the one of that name any more; the next line opens that."""
        stream: TextIO | None = self.stream  # None after trouble
        if stream is not None:
            own = os.fstat(stream.fileno())
            with suppress(FileNotFoundError):
                named = os.stat(self.baseFilename)
                if (named.st_dev, named.st_ino) == (own.st_dev, own.st_ino):
                    return
            self.stream = None  # as the base class does between two files
            stream.close()
        os.makedirs(os.path.dirname(self.baseFilename), exist_ok=True)


# Lines that a reader who stalls may be behind (characters): some thousands.
_MAX_PENDING = 1 << 20
# How long the end of the process waits for such a reader.
_FLUSH_S = 0.5


class _NeverBlocks(logging.Handler):
    """Writes to a pipe, a socket or a terminal, whose reader may stall: nobody who logs waits for it.

    A thread of its own writes. What has no room any more is dropped and counted, and the log says so.
    """

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._lines: deque[bytes] = deque()
        self._pending = 0
        self._dropped = 0
        self._changed = threading.Condition()
        self._ends = False
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line; never waits."""
        try:
            line = (self.format(record) + "\n").encode("utf-8", "backslashreplace")
        except Exception:  # noqa: BLE001 - no memory left, most likely: the line is lost
            return
        with self._changed:
            has_room = self._pending + len(line) <= _MAX_PENDING
            if has_room:
                self._lines.append(line)
                self._pending += len(line)
                self._changed.notify_all()
            else:
                self._dropped += 1
            first = self._dropped == 1 and not has_room
        if first:  # the file can still take it
            get().warning(
                "log.stalled", message="nobody reads standard error: lines are dropped there until it goes on"
            )

    def flush(self) -> None:
        """Wait until all is written, but no longer than half a second."""
        with self._changed:
            self._changed.wait_for(lambda: not self._pending, _FLUSH_S)

    def close(self) -> None:
        """No line comes any more; the thread ends when it has written those that are there."""
        super().close()
        with self._changed:
            self._ends = True
            self._changed.notify_all()

    def _run(self) -> None:
        # Signals are the main thread's, also while a library has handlers of its own.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._ends)
                if not self._lines:
                    return
                line = self._lines.popleft()
            self._write(line)
            with self._changed:
                self._pending -= len(line)
                self._changed.notify_all()
                dropped = 0
                if not self._lines:
                    dropped, self._dropped = self._dropped, 0
            if dropped:
                get().warning("log.dropped", lines=dropped)

    def _write(self, line: bytes) -> None:
        view = memoryview(line)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:  # somebody has made it non-blocking: it is theirs too
                select.select([], [self._fd], [])
            except OSError:  # a closed pipe, a terminal that is gone
                return


def _screen(stream: TextIO) -> logging.Handler:
    """A handler for a stream, by what it leads to."""
    try:
        fd = stream.fileno()
        mode = os.fstat(fd).st_mode
    except (OSError, ValueError):  # nothing of the operating system's
        return logging.StreamHandler(stream)
    return logging.StreamHandler(stream) if stat.S_ISREG(mode) else _NeverBlocks(fd)


def _tell_of_thread(died: threading.ExceptHookArgs) -> None:
    """Say what has ended a thread; Python would print it past the log."""
    if died.exc_type is not SystemExit:
        name = died.thread.name if died.thread is not None else None
        get().error("thread.failed", thread=name, exc_info=died.exc_value)


def _formatter(*last: Processor) -> structlog.stdlib.ProcessorFormatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *_common()],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )


def set_up(
    level: str, file: Path | None, max_mb: float, backups: int, *, stream: TextIO | None = None
) -> None:
    """Send everything at `level` and above to `stream` (standard error unless given) and to `file`.

    `file` is rotated at `max_mb` MiB, `backups` old ones are kept. May be called again.
    Raises `UnavailableError` where the file cannot be opened.
    """
    stream = stream if stream is not None else sys.stderr
    lines = _formatter(_order, structlog.processors.JSONRenderer(serializer=_dumps))
    screen = _screen(stream)
    if stream.isatty():
        screen.setFormatter(
            _formatter(
                _escape_controls, structlog.dev.ConsoleRenderer(colors=True, pad_event_to=16, sort_keys=False)
            )
        )
    else:
        screen.setFormatter(lines)
    handlers: list[logging.Handler] = [screen]
    if file is not None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            rotating = _RotatingFile(file, maxBytes=int(max_mb * _MIB), backupCount=backups, encoding="utf-8")
        except OSError as error:
            raise UnavailableError(
                f"cannot write the log file {file}: {error.strerror}",
                hint="Set logging.file to a file that the service may write.",
            ) from error
        rotating.setFormatter(lines)
        handlers.append(rotating)

    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(logging.WARNING)  # libraries: their warnings
    logging.getLogger("ocr_watcher").setLevel(level.upper())
    logging.captureWarnings(capture=True)
    # The reader of this log must never be shown a traceback of the logging itself.
    logging.raiseExceptions = False
    threading.excepthook = _tell_of_thread
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_common(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def flush() -> None:
    """Write out what is buffered, within half a second: before the process leaves without its usual end."""
    for handler in logging.getLogger().handlers:
        handler.flush()
