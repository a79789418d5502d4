"""Log lines as a reader gets them."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import logging
import os
import shutil
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import pytest

from ocr_watcher import log
from ocr_watcher.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, raising = root.handlers[:], root.level, logging.raiseExceptions
    root.handlers.clear()
    yield
    logging.captureWarnings(capture=False)
    for handler in root.handlers:
        with contextlib.suppress(OSError):  # the full disk of a test below
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.raiseExceptions = raising


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(row) for row in text.splitlines()]


def test_json_lines_to_the_file_and_to_a_pipe(tmp_path: Path) -> None:
    pipe = io.StringIO()
    file = tmp_path / "logs" / "log"
    log.set_up("info", file, 1, 1, stream=pipe)
    log.get().info("ocr.done", path=Path("/in/ü.png"), lines=3, rss_mb=1.5)
    log.get().debug("unseen")
    (line,) = lines(file.read_text())
    assert lines(pipe.getvalue()) == [line]
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert line["event"] == "ocr.done"
    assert line["level"] == "info"
    assert line["path"] == "/in/ü.png"
    assert "/in/ü.png" in file.read_text("utf-8")  # so that grep finds it
    assert line["timestamp"].endswith("Z")


def test_readable_on_a_terminal(tmp_path: Path) -> None:
    terminal = Terminal()
    log.set_up("info", tmp_path / "log", 1, 1, stream=terminal)
    log.get().info("ocr.done", path="/in/a.png", lines=3)
    assert "ocr.done" in terminal.getvalue()
    assert "{" not in terminal.getvalue()


HOSTILE = ["a\nb", "\x1b[2J", "\udcff", '"}', "\u2028", "\x00", "\u202egnp.exe"]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_can_forge_a_line_or_move_the_cursor(tmp_path: Path, name: str) -> None:
    terminal = Terminal()
    log.set_up("info", tmp_path / "log", 1, 1, stream=terminal)
    log.get().info("file.queued", path=name, nested={"x": [name]})
    (line,) = lines((tmp_path / "log").read_text("utf-8"))
    assert line["event"] == "file.queued"
    assert (tmp_path / "log").read_text("utf-8").rstrip("\n").isprintable()
    shown = terminal.getvalue()
    assert shown.count("\n") == 1
    assert name not in shown or name.isprintable()


def test_an_exception_carries_its_traceback(tmp_path: Path) -> None:
    log.set_up("info", tmp_path / "log", 1, 1, stream=io.StringIO())
    try:
        raise ValueError("why")
    except ValueError:
        log.get().exception("daemon.bug")
    (line,) = lines((tmp_path / "log").read_text())
    assert "ValueError: why" in line["exception"]
    assert line["level"] == "error"


def test_what_ends_a_thread_is_told_by_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up("info", tmp_path / "log", 1, 1, stream=io.StringIO())
    for error in (ValueError("why"), SystemExit()):
        thread = threading.Thread(target=_raise, args=(error,), name="of a library")
        thread.start()
        thread.join()
    (line,) = lines((tmp_path / "log").read_text())
    assert (line["event"], line["thread"]) == ("thread.failed", "of a library")
    assert "ValueError: why" in line["exception"]
    assert capsys.readouterr() == ("", "")


def _raise(error: BaseException) -> None:
    raise error


def test_libraries_and_warnings_take_the_same_road(tmp_path: Path) -> None:
    log.set_up("info", tmp_path / "log", 1, 1, stream=io.StringIO())
    logging.getLogger("paddlex").warning("careful: %s", "x")
    logging.getLogger("paddlex").info("chatter")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.warn("old thing", stacklevel=1)
    said = [line["event"] for line in lines((tmp_path / "log").read_text())]
    assert said[0] == "careful: x"
    assert "old thing" in said[1]
    assert len(said) == 2


def test_the_file_is_rotated(tmp_path: Path) -> None:
    log.set_up("info", tmp_path / "log", 0.01, 2, stream=io.StringIO())
    for _ in range(400):
        log.get().info("memory.stats", filling="x" * 100)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    assert all(path.stat().st_size <= 0.01 * 2**20 for path in tmp_path.iterdir())


def test_a_log_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnavailableError, match="log file") as caught:
        log.set_up("info", tmp_path / "file" / "log", 1, 1)
    assert "logging.file" in caught.value.hint


def test_a_full_disk_does_not_stop_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = io.StringIO()
    log.set_up("info", Path("/dev/full"), 1, 0, stream=pipe)
    for _ in range(3):
        log.get().info("ocr.done")
    assert len(lines(pipe.getvalue())) == 3
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


# -- whoever reads ------------------------------------------------------------------------------


@pytest.fixture
def pipe() -> Iterator[tuple[int, TextIO]]:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    with os.fdopen(writer, "w") as stream:
        yield reader, stream
        for handler in logging.getLogger().handlers:
            handler.close()
        os.close(reader)


def test_a_reader_who_stalls_holds_up_nobody_and_is_told_what_was_dropped(
    tmp_path: Path, pipe: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_MAX_PENDING", 20_000)
    reader, stream = pipe
    log.set_up("info", tmp_path / "log", 10, 1, stream=stream)
    for number in range(1000):
        log.get().info("ocr.done", number=number)
    log.flush()  # gives up soon
    said = lines((tmp_path / "log").read_text())
    assert [line["event"] for line in said].count("ocr.done") == 1000
    assert [line["event"] for line in said].count("log.stalled") == 1
    seen = b""
    while b"log.dropped" not in seen:
        seen += os.read(reader, 65536)
    shown = lines(seen.decode())
    numbers = [line["number"] for line in shown if line["event"] == "ocr.done"]
    assert numbers == list(range(len(numbers)))
    assert 10 < len(numbers) < 1000
    # `log.stalled` was dropped too
    assert shown[-1]["lines"] == 1000 - len(numbers) + 1
    log.get().info("goes.on")
    assert lines(os.read(reader, 65536).decode())[-1]["event"] == "goes.on"


def test_a_reader_who_leaves_holds_up_nobody(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        log.set_up("info", tmp_path / "log", 10, 1, stream=stream)
        os.close(reader)
        for _ in range(10):
            log.get().info("ocr.done")
        log.flush()
        assert len(lines((tmp_path / "log").read_text())) == 10
        for handler in logging.getLogger().handlers:
            handler.close()


@pytest.mark.parametrize("what", ["moved", "removed", "folder removed"])
def test_a_log_file_that_somebody_else_moves_or_removes_is_opened_again(tmp_path: Path, what: str) -> None:
    file = tmp_path / "logs" / "log"
    log.set_up("info", file, 1, 1, stream=io.StringIO())
    log.get().info("before")
    match what:
        case "moved":
            file.rename(file.with_name("log-20260101"))
        case "removed":
            file.unlink()
        case _:
            shutil.rmtree(file.parent)
    log.get().info("after")
    log.get().info("again")
    assert [line["event"] for line in lines(file.read_text())] == ["after", "again"]
    if what == "moved":
        (line,) = lines(file.with_name("log-20260101").read_text())
        assert line["event"] == "before"
