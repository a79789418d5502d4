"""`status` and `retry`, beside a running daemon and without one, as the command line runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ocr_watcher import cli, config, names
from ocr_watcher.errors import ConfigError, UnavailableError, UnsupportedFormatError
from ocr_watcher.service import lock
from ocr_watcher.verbs import status
from tests.support import daemon, dot, error_of, sidecar_of, unprivileged, until, write_config


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_config(tmp_path)
    return tmp_path


class Said:
    """Runs a verb and gives what it printed."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._config = str(home / "config.yaml")
        self._capsys = capsys

    def __call__(self, verb: str, *arguments: str | Path, code: int = 0) -> str:
        self._capsys.readouterr()
        assert cli.main([verb, "-c", self._config, *map(str, arguments)]) == code
        out, err = self._capsys.readouterr()
        return str(out + err)

    def json(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self("status", "--json"))
        return document


@pytest.fixture
def said(home: Path, capsys: pytest.CaptureFixture[str]) -> Said:
    return Said(home, capsys)


# -- status ------------------------------------------------------------------------------------


def test_without_a_daemon_the_disk_tells(home: Path, said: Said) -> None:
    dot(home / "inbox" / "a.png")
    document = said.json()
    assert document["running"] is False
    assert document["files"] == {"found": 1, "done": 0, "failed": 0, "waiting": 1, "retrying": 0}
    assert document["pid"] is document["rss_mb"] is document["last_error"] is document["last_exit"] is None
    text = said("status")
    assert "not running" in text
    assert "1 waiting" in text


def test_beside_a_daemon(home: Path, said: Said) -> None:
    for number in range(3):
        dot(home / "inbox" / f"{number}.png")
    (home / "inbox" / "bad.png").write_text("no image")
    with daemon(home) as running:
        running.wait_for("ocr.done", 3)
        running.wait_for("file.quarantined")
        until(lambda: (said.json()["since_start"] or {}).get("failed"))
        document = said.json()
        assert document["running"] is True
        assert document["pid"] == running.pid
        assert document["files"] == {"found": 4, "done": 3, "failed": 1, "waiting": 0, "retrying": 0}
        assert document["since_start"] == {"done": 3, "failed": 1}
        queue = {"size": 0, "max_size": 256, "settling": 0, "failed": 1, "oldest": None}
        until(lambda: said.json()["queue"] == queue)
        assert 10 < document["rss_mb"] <= document["peak_rss_mb"]
        assert document["rss_limit_mb"] == 1536
        assert document["last_error"]["code"] == "unsupported_format"
        assert document["last_error"]["path"] == str(home / "inbox" / "bad.png")
        text = said("status")
        assert f"running (process {running.pid})" in text
        assert "4: 3 done, 1 failed, 0 waiting" in text
        running.stop()
    document = said.json()
    assert document["running"] is False
    assert document["last_exit"]["reason"] == "SIGTERM"
    assert document["last_exit"]["exit_code"] == 0
    assert document["last_error"]["code"] == "unsupported_format"
    assert "code 0: SIGTERM" in said("status")


def test_the_file_in_hand_and_the_last_exit(home: Path, said: Said) -> None:
    write_config(home, ocr={"job_timeout_s": 3})
    dot(home / "inbox" / "slow.png", (77, 10))
    with daemon(home, {"FAKE_HANG": "77"}) as running:
        until(lambda: said.json()["in_hand"])
        reading = said.json()["in_hand"]
        assert (reading["path"], reading["page"]) == (str(home / "inbox" / "slow.png"), 1)
        assert "reading" in said("status")
        assert running.wait() == 75
    left = said.json()["last_exit"]
    assert (left["reason"], left["exit_code"]) == ("a job hung", 75)
    with daemon(home) as running:  # what went wrong outlives the restart
        running.wait_for("ocr.done")
        document = said.json()
        assert document["running"]
        assert document["last_exit"] == left


def test_a_killed_daemon_does_not_look_alive(home: Path, said: Said) -> None:
    with daemon(home) as running:
        running.wait_for("daemon.ready")
        running.signal(signal.SIGKILL)
        running.wait()
    document = said.json()
    assert document["running"] is False
    assert document["rss_mb"] is None


def test_looking_never_keeps_a_daemon_from_starting(home: Path) -> None:
    settings = config.load(home / "config.yaml")
    with lock.hold_all(settings):
        assert lock.running(settings.state_dir) == os.getpid()
    fd = os.open(settings.state_dir / "lock", os.O_RDONLY)
    try:
        assert lock.running(settings.state_dir) is None
        with lock.hold_all(settings):
            pass
    finally:
        os.close(fd)


def test_a_status_file_that_makes_no_sense_is_as_good_as_none(home: Path, said: Said) -> None:
    state = home / ".ocr-watcher"
    state.mkdir()
    for content in (b"", b"{", b"[1]", b"\xff" * 100):
        (state / "status.json").write_bytes(content)
        assert said.json()["running"] is False


def test_a_state_folder_of_somebody_else_is_69(home: Path, said: Said) -> None:
    settings = config.load(home / "config.yaml")
    with lock.hold_all(settings):
        pass
    os.chmod(settings.state_dir, 0)
    with unprivileged(), pytest.raises(UnavailableError, match="state folder"):
        status.collect(settings)
    os.chmod(settings.state_dir, 0o700)
    assert said.json()["running"] is False


def test_names_cannot_forge_a_line(home: Path, said: Said) -> None:
    (home / "inbox" / "a\n\x1b[2Jocr-watcher is fine.png").write_text("no image")
    with daemon(home) as running:
        running.wait_for("file.quarantined")
        running.stop()
    text = said("status")
    assert "\x1b" not in text
    assert r"a\n" in text
    assert len([line for line in text.splitlines() if "fine" in line]) == 1
    assert "\x1b" not in said("retry", "--all")


def test_status_agrees_with_the_disk_while_500_files_run_through(home: Path, said: Said) -> None:
    """Each answer lies between what was there before it was asked and what is there after."""
    inbox = home / "inbox"

    def on_disk() -> tuple[int, int]:
        names = os.listdir(inbox)
        failed = sum(name.endswith(".error.json") for name in names)
        return sum(name.endswith(".json") for name in names) - failed, failed

    answers = 0
    with daemon(home) as running:
        running.wait_for("daemon.ready")
        for number in range(500):
            path = inbox / f"{number}.png"
            if number % 10:
                dot(path)
            else:
                path.write_text("no image")
            if number % 50 == 0 or number == 499:
                before = on_disk()
                document = said.json()
                after = on_disk()
                files = document["files"]
                assert before[0] <= files["done"] <= after[0]
                assert before[1] <= files["failed"] <= after[1]
                assert files["found"] == files["done"] + files["failed"] + files["waiting"] == number + 1
                answers += 1
        until(lambda: sum(on_disk()) == 500)
        until(lambda: said.json()["since_start"] == {"done": 450, "failed": 50})
        assert said.json()["files"] == {"found": 500, "done": 450, "failed": 50, "waiting": 0, "retrying": 0}
        running.stop()
    print(f"{answers} answers while 500 files ran through")


# -- retry -------------------------------------------------------------------------------------


def test_retry_beside_a_daemon(home: Path, said: Said) -> None:
    path = home / "inbox" / "a.png"
    dot(path, (77, 10))
    with daemon(home, {"FAKE_RAISE": "77", "FAKE_PAUSE_S": "0.1"}) as running:
        running.wait_for("file.quarantined")
        assert error_of(path)["error"]["attempts"] == 3
        assert said("retry", path) == f"will be tried again: {path}\n"
        running.wait_for("file.quarantined", 2)
        assert error_of(path)["error"]["attempts"] == 3  # counted anew
        running.stop()
    with daemon(home) as running:
        running.wait_for("scan.done")
        assert said("retry", "--all") == f"will be tried again: {path}\n"
        running.wait_for("ocr.done")
        running.stop()
    assert sidecar_of(path)["status"] == "ok"
    assert said("retry", "--all") == "no file has failed\n"
    assert "it has not failed: its result is there" in said("retry", path, code=3)


def test_retry_without_a_daemon_by_image_record_and_folder(home: Path, said: Said) -> None:
    inbox = home / "inbox"
    (inbox / "sub").mkdir()
    long = "x" * 250 + ".png"
    names = ["a.png", "b.png", "sub/c.png", "sub/d.png", long]
    for name in names:
        (inbox / name).write_text("no image")
    with daemon(home) as running:
        running.wait_for("file.quarantined", 5)
        running.stop()
    said("retry", inbox / "a.png", inbox / "b.png.error.json")
    assert not (inbox / "a.png.error.json").exists()
    assert not (inbox / "b.png.error.json").exists()
    *paths, last = said("retry", inbox / "sub").splitlines()
    assert len(paths) == 2
    assert last == "ocr-watcher is not running: at its next start"
    assert list((inbox / "sub").glob("*.json")) == []
    said("retry", inbox / long)
    assert list(inbox.glob("*.json")) == []


def test_retry_beside_a_daemon_of_a_file_whose_record_has_a_shortened_name(home: Path, said: Said) -> None:
    path = home / "inbox" / ("x" * 250 + ".png")
    path.write_text("no image")
    with daemon(home) as running:
        running.wait_for("file.quarantined")
        said("retry", path)
        running.wait_for("file.quarantined", 2)
        running.stop()


def test_what_cannot_be_retried_is_said(home: Path, said: Said) -> None:
    inbox = home / "inbox"
    dot(inbox / "good.png")
    (inbox / "foreign.png").write_text("x")
    (inbox / "foreign.png.error.json").write_text("[]")
    (home / "away").mkdir()
    (home / "away" / "a.png.error.json").write_text("{}")
    (inbox / "link").symlink_to(home / "away")
    (inbox / "notes.txt").write_text("never work")
    text = said(
        "retry",
        inbox / "good.png",
        inbox / "notes.txt",
        inbox / "none.png",
        inbox / "foreign.png",
        home / "x.png",
        inbox / "link/a.png",
        code=3,
    )
    assert f"waits to be read already: {inbox / 'good.png'}" in text
    assert "notes.txt: it is never read: see watch.extensions" in text
    assert "none.png: there is no such file" in text
    assert "foreign.png: its error record is not a file of ocr-watcher" in text
    assert "x.png: it is in no inbox" in text
    assert (inbox / "foreign.png.error.json").read_text() == "[]"
    assert (home / "away" / "a.png.error.json").exists()


def test_retry_wants_to_be_told_what(said: Said) -> None:
    with pytest.raises(SystemExit) as left:
        said("retry")
    assert left.value.code == 64
    with pytest.raises(SystemExit):
        said("retry", "--all", "a.png")


def test_a_shortened_name_is_told_apart() -> None:
    own = names.records_of("é" * 126 + ".png").error
    image = names.document_of(own)
    assert image is not None
    assert names.is_shortened(image)
    assert not names.is_shortened("a.png")


def test_a_wrong_configuration_is_said(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("watch: 1\n")
    with pytest.raises(ConfigError):
        config.load(tmp_path / "config.yaml")
    assert cli.main(["status", "-c", str(tmp_path / "config.yaml")]) == 78


def test_failed_says_which_why_and_what_to_do(home: Path, said: Said) -> None:
    inbox = home / "inbox"
    assert said("status", "--failed") == "no file has failed\n"
    (inbox / "bad.png").write_text("no image")
    (inbox / "line\nbreak.png").write_bytes(b"")
    dot(inbox / "good.png")
    dot(inbox / "waits.png")
    (inbox / "waits.png.json").write_text("somebody else's")
    with daemon(home) as running:
        running.wait_for("ocr.done")
        running.wait_for("file.quarantined", 2)
        running.wait_for("ocr.failed", 3)
        running.stop()
    told = said("status", "--failed").splitlines()
    assert f"{inbox}/bad.png: failed: unsupported_format: this is text, not an image" in told
    assert f"  {UnsupportedFormatError.hint}" in told
    assert f"{inbox}/line\\nbreak.png: failed: truncated: the file is empty" in told
    assert any(row.startswith(f"{inbox}/waits.png: is tried again: output_exists: ") for row in told)
    assert told[-1] == "3 files"
    assert "`status --failed` says why" in said("status")


def test_watch_refreshes_until_it_is_interrupted(home: Path) -> None:
    command = [sys.executable, "-m", "ocr_watcher", "status", "-c", "config.yaml", "--watch"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, cwd=home, env=environment, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline() == "ocr-watcher is not running\n"
        dot(home / "inbox" / "a.png")
        while (row := watching.stdout.readline()) != "files        1: 0 done, 0 failed, 1 waiting\n":
            assert row
        watching.send_signal(signal.SIGINT)
        watching.stdout.read()
    assert watching.returncode == 0
