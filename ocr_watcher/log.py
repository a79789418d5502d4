"""structlog set-up: JSON lines to a rotating file; readable lines on a terminal, JSON lines elsewhere.

Library messages (logging, warnings) take the same road, so nothing is printed past the log.
Nothing that comes from a file name or a file reaches a line unescaped.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import sys
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
    """A rotating file whose trouble (no space, folder gone) never reaches the work."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Drop the line: the terminal or the journal of systemd still gets it."""


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
    screen = logging.StreamHandler(stream)
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
    """Write out what is buffered: before the process leaves without its usual end."""
    for handler in logging.getLogger().handlers:
        handler.flush()
