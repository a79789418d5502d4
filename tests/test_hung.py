"""One inbox whose file system does not answer, in the real daemon: the others are worked on."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ocr_watcher import config
from ocr_watcher.config import real_path
from ocr_watcher.verbs import status
from tests.fuse import mounted, why_not
from tests.support import Process, daemon, dot, until, write_config

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(bool(why_not()), reason=f"NO MOUNT CAN HANG ON THIS MACHINE: {why_not()}")
SOON = {"FAKE_HUNG_S": "2"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(real_path, "_PATIENCE_S", 0.2)  # of `status` here
    monkeypatch.setattr(status, "_PATIENCE_S", 1.0)
    for name in ("inbox", "mount", "source"):
        (tmp_path / name).mkdir()
    write_config(
        tmp_path,
        watch={"inbox": ["mount", "inbox"], "poll_interval_s": 0.2},
        ocr={"job_timeout_s": 30},
        retry={"max_attempts": 1},
    )
    return tmp_path


def read_one(home: Path, running: Process, name: str) -> None:
    """A file put into the other inbox is read."""
    dot(home / "inbox" / name)
    until((home / "inbox" / f"{name}.json").exists, 20)
    assert not running.ended


@contextlib.contextmanager
def hanging(home: Path) -> Iterator[None]:
    """The mount does not answer meanwhile."""
    with mounted(home / "source", home / "mount") as server:
        server.send_signal(signal.SIGSTOP)
        yield
        server.send_signal(signal.SIGCONT)


def stop(running: Process) -> None:
    began = time.monotonic()
    assert running.stop() == 0
    assert time.monotonic() - began < 10


def test_an_inbox_that_hangs_from_the_start_holds_up_nobody(home: Path) -> None:
    with hanging(home), daemon(home, SOON) as running:
        running.wait_for("daemon.ready")
        (hung,) = running.events("watch.inbox_hung")
        assert (hung["inbox"], hung["level"]) == (str(home / "mount"), "error")
        read_one(home, running, "a.png")
        now = status.collect(config.load(home / "config.yaml"))
        assert now.inboxes_hung == (str(home / "mount"),)
        assert any("does not answer" in trouble for trouble in now.troubles)
        assert now.files.done == 1
        stop(running)


def test_an_inbox_that_hangs_while_it_is_watched_is_said_and_goes_on_by_itself(home: Path) -> None:
    with mounted(home / "source", home / "mount") as server, daemon(home, SOON) as running:
        running.wait_for("scan.done", 2)
        read_one(home, running, "a.png")
        server.send_signal(signal.SIGSTOP)
        running.wait_for("watch.inbox_hung")
        read_one(home, running, "b.png")
        server.send_signal(signal.SIGCONT)
        running.wait_for("watch.inbox_answers")
        dot(home / "source" / "on-the-mount.png")
        running.wait_for("ocr.failed")  # it is read, and its record has no place there
        until(lambda: status.collect(config.load(home / "config.yaml")).inboxes_hung == ())
        server.send_signal(signal.SIGSTOP)
        running.wait_for("watch.inbox_hung", 2)
        stop(running)


def test_a_file_in_hand_when_its_inbox_hangs_is_not_blamed_and_the_others_are_read(home: Path) -> None:
    """Its thread waits in the kernel, and so would the process at its end: another thread takes its place."""
    (home / "source" / "large.png").write_bytes(os.urandom(1 << 20))
    with mounted(home / "source", home / "mount") as server:
        (home / "hang").touch()
        with daemon(home, {**SOON, "FAKE_STOP": str(server.pid), "FAKE_PAUSE_S": "0.2"}) as running:
            for turn in range(2):
                running.wait_for("daemon.consumer_replaced", turn + 1)
                read_one(home, running, f"{turn}.png")
                if turn < 1:
                    (home / "hang").touch()
                server.send_signal(signal.SIGCONT)
                running.wait_for("watch.inbox_answers", turn + 1)
            (failed, *_) = running.wait_for("ocr.failed")
            assert failed["path"].endswith("large.png")
            assert failed["code"] == "unsupported_format"  # and not `engine_crashed`, nor `timeout`
            read_one(home, running, "last.png")
            stop(running)


def test_the_next_process_starts_while_the_kernel_keeps_the_last_one(home: Path) -> None:
    """The server has taken the request of its consumer, and only its answer lets the process end."""
    dot(home / "source" / "swallowed.png")
    with mounted(home / "source", home / "mount") as server, daemon(home, {"FAKE_HUNG_S": "60"}) as running:
        until(lambda: "T" in Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()[0])
        running.signal(signal.SIGTERM)
        began = time.monotonic()
        running.wait_for("daemon.exiting")
        assert time.monotonic() - began < 10
        (home / "again").mkdir()
        write_config(
            home / "again", state_dir=str(home / ".ocr-watcher"), watch={"inbox": str(home / "inbox")}
        )
        try:
            with daemon(home / "again") as second:
                dot(home / "inbox" / "a.png")
                second.wait_for("ocr.done")
                assert second.stop() == 0
        finally:
            server.send_signal(signal.SIGCONT)
        assert running.wait() == 0


def test_an_inbox_that_answers_at_last_and_is_gone_by_then_is_waited_for(home: Path) -> None:
    with contextlib.ExitStack() as mounts:
        mounts.enter_context(hanging(home))
        with daemon(home, SOON) as running:
            running.wait_for("watch.inbox_hung")
            read_one(home, running, "a.png")
            mounts.close()
            (home / "mount").rename(home / "away")
            read_one(home, running, "b.png")
            (home / "away").rename(home / "mount")
            dot(home / "mount" / "c.png")
            until((home / "mount" / "c.png.json").exists)
            stop(running)
