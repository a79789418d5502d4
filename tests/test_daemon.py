"""The daemon in a process of its own, on the fake engine: life, signals, threads, locks."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from ocr_watcher import config
from ocr_watcher.verbs import status
from tests.support import Process, daemon, dot, error_of, sidecar_of, until, write_config


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_config(tmp_path)
    return tmp_path


def test_drop_an_image_get_its_text(home: Path) -> None:
    dot(home / "inbox" / "before.png")
    with daemon(home) as running:
        running.wait_for("daemon.ready")
        dot(home / "inbox" / "after.png", (30, 20))
        running.wait_for("ocr.done", 2)
        assert running.stop() == 0
        assert sidecar_of(home / "inbox" / "before.png")["text"] == "48x64"
        assert sidecar_of(home / "inbox" / "after.png")["text"] == "20x30"
        names = [event["event"] for event in running.events()]
        assert names[0] == "daemon.starting"
        assert names[-2:] == ["daemon.stopping", "daemon.exiting"]
        assert running.events("daemon.exiting")[0]["exit_code"] == 0
        (started,) = running.events("watch.started")
        assert started["mode"] == "native"
        assert running.events("memory.stats")[0]["rss_limit_mb"] == 1536
        assert (home / "log" / "log").read_text() == running.text


def test_the_log_says_when_the_last_file_that_waited_is_done(home: Path) -> None:
    inbox = home / "inbox"
    for number in range(5):
        dot(inbox / f"{number}.png")
    (inbox / "bad.png").write_text("no image")
    with daemon(home) as running:
        (drained,) = running.wait_for("queue.drained")
        assert (drained["done"], drained["failed"]) == (5, 1)
        assert drained["duration_s"] > 0
        assert drained["files_per_s"] == pytest.approx(6 / drained["duration_s"], rel=0.5)
        dot(inbox / "late.png")
        drained = running.wait_for("queue.drained", 2)[1]
        assert (drained["done"], drained["failed"]) == (1, 0)
        running.stop()
    with daemon(home) as running:  # nothing to do is nothing drained
        running.wait_for("scan.done")
        running.stop()
        assert running.events("queue.drained") == []


def test_a_restart_queues_nothing_again(home: Path) -> None:
    for number in range(20):
        dot(home / "inbox" / f"{number}.png")
    (home / "inbox" / "bad.png").write_text("no image")
    with daemon(home) as running:
        running.wait_for("ocr.done", 20)
        running.wait_for("file.quarantined")
        running.stop()
    with daemon(home) as running:
        (scan,) = running.wait_for("scan.done")
        assert (scan["found"], scan["queued"], scan["current"]) == (21, 0, 21)
        assert running.events("file.queued") == []
        running.stop()


def test_a_copy_that_takes_its_time_is_read_once_when_complete(home: Path) -> None:
    whole = dot(home / "whole.png", (300, 200)).read_bytes()
    with daemon(home) as running:
        running.wait_for("daemon.ready")
        with (home / "inbox" / "slow.png").open("wb", buffering=0) as file:
            for start in range(0, len(whole), max(1, len(whole) // 20)):
                file.write(whole[start : start + max(1, len(whole) // 20)])
                time.sleep(0.05)  # the subject is time across processes
        running.wait_for("ocr.done")
        running.stop()
        assert len(running.events("file.queued")) == 1
        assert running.events("ocr.failed") == []


def test_a_writer_that_closes_in_between_ends_well_too(home: Path) -> None:
    whole = dot(home / "whole.png", (300, 200)).read_bytes()
    half = len(whole) // 2
    path = home / "inbox" / "slow.png"
    write_config(home, watch={"settle_s": 2.0})
    with daemon(home) as running:
        running.wait_for("daemon.ready")
        path.write_bytes(whole[:half])
        running.wait_for("file.queued")
        with path.open("ab") as file:
            file.write(whole[half:])
        running.wait_for("ocr.done")
        running.stop()
        assert running.events("ocr.failed") == []
        assert sidecar_of(path)["text"] == "200x300"


def test_files_come_in_by_every_way(home: Path) -> None:
    inbox = home / "inbox"
    dot(home / "moved.png").rename(inbox / "moved.png")
    with daemon(home) as running:
        running.wait_for("ocr.done")
        dot(home / "late.png").rename(inbox / "late.png")
        os.link(inbox / "late.png", inbox / "linked.png")
        (home / "folder" / "deep").mkdir(parents=True)
        dot(home / "folder" / "deep" / "inside.png")
        (home / "folder").rename(inbox / "folder")
        dot(inbox / "part.part.png").rename(inbox / "renamed.png")
        running.wait_for("ocr.done", 5)
        running.stop()
    for name in ("moved.png", "late.png", "linked.png", "folder/deep/inside.png", "renamed.png"):
        assert sidecar_of(inbox / name)["status"] == "ok"


def test_polling_finds_files_without_events(home: Path) -> None:
    write_config(home, watch={"mode": "polling", "poll_interval_s": 0.2})
    with daemon(home) as running:
        assert running.wait_for("watch.started")[0]["mode"] == "polling"
        dot(home / "inbox" / "a.png")
        running.wait_for("ocr.done")
        running.stop()


def test_more_files_than_the_queue_holds(home: Path) -> None:
    write_config(home, queue={"max_size": 3})
    with daemon(home) as running:
        running.wait_for("daemon.ready")
        for number in range(60):
            dot(home / "inbox" / f"{number}.png")
        running.wait_for("ocr.done", 60)
        running.stop()
        done = [event["path"] for event in running.events("ocr.done")]
        assert len(done) == len(set(done)) == 60
        assert max(event["queue_depth"] for event in running.events("file.queued")) <= 3


def test_the_inbox_may_go_away_and_come_back(home: Path) -> None:
    with daemon(home) as running:
        running.wait_for("watch.started")
        (home / "inbox").rename(home / "away")
        running.wait_for("watch.inbox_missing")
        (home / "inbox").mkdir()
        running.wait_for("watch.started", 2)
        dot(home / "inbox" / "a.png")
        running.wait_for("ocr.done")
        assert running.stop() == 0


def test_folders_that_appear_lead_to_scans_at_a_rate(home: Path) -> None:
    write_config(home, logging={"level": "debug"}, watch={"rescan_interval_s": 3600})
    inbox = home / "inbox"
    dot(home / "good.png")
    with daemon(home) as running:
        running.wait_for("scan.done")
        began = time.monotonic()
        for number in range(200):
            (home / "made").mkdir()
            os.link(home / "good.png", home / "made" / "a.png")
            (home / "made").rename(inbox / f"{number}")
        running.wait_for("ocr.done", 200)
        took_s = time.monotonic() - began
        assert running.stop() == 0
        assert len(running.events("scan.done")) <= 3 + took_s  # one at once, then one a second


def test_deleting_a_record_means_try_again(home: Path) -> None:
    path = home / "inbox" / "a.png"
    path.write_text("no image")
    with daemon(home) as running:
        running.wait_for("file.quarantined")
        (home / "inbox" / "a.png.error.json").unlink()
        running.wait_for("file.quarantined", 2)
        dot(path)
        running.wait_for("ocr.done")
        (home / "inbox" / "a.png.json").unlink()
        running.wait_for("ocr.done", 2)
        running.stop()
    assert sorted(os.listdir(home / "inbox")) == ["a.png", "a.png.json"]


def test_bad_things_with_an_images_name(home: Path) -> None:
    inbox = home / "inbox"
    (inbox / "zero.png").touch()
    (inbox / "text.png").write_text("hello")
    (inbox / "folder.png").mkdir()
    (inbox / "dangling.png").symlink_to("nowhere")
    os.mkfifo(inbox / "pipe.png")
    (inbox / "large.png").write_bytes(bytes(11 << 20))
    Image.new("1", (30_000, 30_000)).save(inbox / "bomb.png")
    with daemon(home) as running:
        running.wait_for("file.quarantined", 4)
        running.wait_for("file.ignored", 3)
        dot(inbox / "good.png")
        running.wait_for("ocr.done")
        assert running.stop() == 0
    codes = {
        name: error_of(inbox / name)["error"]["code"]
        for name in ("zero.png", "text.png", "large.png", "bomb.png")
    }
    assert codes == {
        "zero.png": "truncated",
        "text.png": "unsupported_format",
        "large.png": "file_too_large",
        "bomb.png": "too_many_pixels",
    }


# -- stopping ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_finishes_the_file_in_hand(home: Path, number: signal.Signals) -> None:
    for count in range(10):
        dot(home / "inbox" / f"{count}.png")
    with daemon(home, {"FAKE_READ_S": "0.5"}) as running:
        running.wait_for("file.queued", 10)
        until((home / "reading").exists)
        running.signal(number)
        assert running.wait() == 0
        done = running.events("ocr.done")
        assert len(done) == len(list((home / "inbox").glob("*.json"))) == 1
        assert running.events("daemon.stopping")[0]["reason"] == number.name


def test_a_full_queue_does_not_hold_up_the_stop(home: Path) -> None:
    write_config(home, queue={"max_size": 2})
    for count in range(20):
        dot(home / "inbox" / f"{count}.png")
    with daemon(home, {"FAKE_READ_S": "0.5"}) as running:
        running.wait_for("file.queued", 3)
        started = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - started < 8


def test_a_second_signal_leaves_at_once_and_the_file_is_not_blamed(home: Path) -> None:
    dot(home / "inbox" / "a.png", (77, 10))
    for _ in range(4):
        with daemon(home, {"FAKE_HANG": "77"}) as running:
            until((home / "reading").exists)
            (home / "reading").unlink()
            running.signal(signal.SIGTERM)
            running.wait_for("daemon.stopping")
            running.signal(signal.SIGTERM)
            assert running.wait(5) == 0
            assert running.events("daemon.abandoned")
    assert os.listdir(home / "inbox") == ["a.png"]
    with daemon(home) as running:
        running.wait_for("ocr.done")
        running.stop()


def test_a_hangup_checks_the_configuration_and_starts_afresh_without_blame(home: Path) -> None:
    write_config(home, retry={"max_attempts": 1})
    dot(home / "inbox" / "a.png", (77, 10))
    for _ in range(3):
        with daemon(home, {"FAKE_HANG": "77"}) as running:
            until((home / "reading").exists)
            (home / "reading").unlink()
            running.signal(signal.SIGHUP)
            running.wait_for("daemon.stopping")
            until(lambda: _insist(running), 5)
            assert running.wait() == 75
    with daemon(home, {"FAKE_READ_S": "0.5"}) as running:
        until((home / "reading").exists)
        running.signal(signal.SIGHUP)
        assert running.wait() == 75
        assert len(running.events("ocr.done")) == 1  # the page in hand was finished
        assert [one["applied"] for one in running.events("config.changed")] == [True]
    assert sidecar_of(home / "inbox" / "a.png")["status"] == "ok"


def _insist(running: Process) -> bool:
    """Ask for a stop once more; whether it has ended."""
    running.signal(signal.SIGTERM)
    return running.ended


def test_a_hangup_with_mistakes_in_the_configuration_tells_them_and_goes_on(home: Path) -> None:
    with daemon(home) as running:
        running.wait_for("daemon.ready")
        right = (home / "config.yaml").read_text()
        (home / "config.yaml").write_text("watch:\n  modee: auto\n")
        running.signal(signal.SIGHUP)
        (rejected,) = running.wait_for("config.rejected")
        assert "config.yaml:2" in rejected["message"]
        dot(home / "inbox" / "a.png")
        running.wait_for("ocr.done")
        (home / "config.yaml").write_text(right)
        running.signal(signal.SIGHUP)
        assert running.wait() == 75


def test_a_hangup_does_not_make_way_for_a_daemon_that_could_not_start(home: Path) -> None:
    with daemon(home) as running:
        running.wait_for("daemon.ready")
        write_config(home, ocr={"model_store": "none"})
        running.signal(signal.SIGHUP)
        (rejected,) = running.wait_for("config.rejected")
        assert "PP-OCRv6_small is not in the model store" in rejected["message"]
        assert "models pull" in rejected["hint"]
        dot(home / "inbox" / "a.png")
        running.wait_for("ocr.done")
        assert running.stop() == 0


def test_a_changed_configuration_is_told_once(home: Path) -> None:
    here = config.load(home / "config.yaml")

    def look() -> status.ServiceStatus:
        return status.collect(here)

    with daemon(home, {"FAKE_CONFIG_S": "0.1"}) as running:
        running.wait_for("daemon.ready")
        write_config(home, image={"max_side_px": 500})
        (told,) = running.wait_for("config.changed")
        assert (told["level"], told["applied"]) == ("info", False)
        assert f"kill -HUP {running.pid}" in told["hint"]
        until(lambda: "changed since the start" in "\n".join(status.in_words(look())))
        (home / "config.yaml").write_text("watch:\n  modee: auto\n")
        wrong = running.wait_for("config.changed", 2)[1]
        assert wrong["level"] == "warning"
        assert "config.yaml:2" in wrong["message"]
        write_config(home)  # as it was: nothing to say
        until(lambda: not look().config_changed)
        dot(home / "inbox" / "a.png")
        running.wait_for("ocr.done")
        assert running.stop() == 0
        assert len(running.events("config.changed")) == 2


def test_a_closed_terminal_stops_it_after_the_file_in_hand(home: Path) -> None:
    dot(home / "inbox" / "a.png")
    dot(home / "inbox" / "b.png")
    child, terminal = pty.fork()
    if not child:
        os.chdir(home)
        os.environ |= {"PYTHONPATH": str(Path(__file__).parents[1]), "FAKE_READ_S": "1"}
        program = [sys.executable, "-m", "tests.fake_daemon", "run", "-c", "config.yaml"]
        os.execv(sys.executable, program)  # noqa: S606 - on the terminal that `fork` made
    try:
        until((home / "reading").exists)
    finally:
        os.close(terminal)  # the kernel sends SIGHUP
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    said = (home / "log" / "log").read_text()
    assert '"reason": "SIGHUP"' in said
    assert len(list((home / "inbox").glob("*.json"))) == 1


def test_a_hangup_that_was_ignored_from_the_start_is_ignored(home: Path) -> None:
    with daemon(home, prefix=["nohup"]) as running:
        running.wait_for("daemon.ready")
        running.signal(signal.SIGHUP)
        dot(home / "inbox" / "a.png")
        running.wait_for("ocr.done")
        assert running.stop() == 0
        assert running.events("config.changed") == []


def test_no_signal_without_a_meaning_ends_it_with_a_file_in_hand(home: Path) -> None:
    """All that there are, but those that nobody can handle and those of a crash."""
    meant = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGKILL, signal.SIGSTOP}
    crashes = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP}
    stops = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}  # SIGCONT goes on
    limits = {signal.SIGSYS, signal.SIGXCPU}  # from the kernel only
    dot(home / "inbox" / "a.png")
    with daemon(home, {"FAKE_READ_S": "3"}) as running:
        until((home / "reading").exists)
        for number in sorted(signal.valid_signals() - meant - crashes - stops - limits):
            running.signal(number)
        ignored = running.wait_for("signal.ignored", 8 + signal.SIGRTMAX - signal.SIGRTMIN + 1)
        assert {"SIGUSR1", "SIGALRM", "SIGSTKFLT", "SIGRTMIN", "SIGRTMIN+1", "SIGRTMAX"} <= {
            event["signal"] for event in ignored
        }
        running.wait_for("ocr.done")
        assert running.stop() == 0


def test_time_in_which_the_process_was_stopped_is_not_the_pages(home: Path) -> None:
    """As with a container that is paused: the clock goes on, the engine does not."""
    write_config(home, ocr={"job_timeout_s": 3}, retry={"max_attempts": 1})
    dot(home / "inbox" / "a.png")
    with daemon(home, {"FAKE_READ_S": "6"}) as running:
        until((home / "reading").exists)
        running.signal(signal.SIGSTOP)
        time.sleep(4.5)  # the subject is time across processes
        running.signal(signal.SIGCONT)
        (suspended,) = running.wait_for("daemon.suspended")
        assert 3 < suspended["seconds"] < 6
        running.wait_for("ocr.done")
        assert running.stop() == 0


def test_nobody_who_reads_standard_error_stops_nothing(home: Path) -> None:
    """As with `… | less`: the pipe is full after a few lines."""
    os.mkfifo(home / "pipe")
    reader = os.open(home / "pipe", os.O_RDWR)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    log = home / "log" / "log"
    with daemon(home, prefix=["sh", "-c", 'exec "$@" 2>pipe', "sh"]) as running:
        for number in range(60):
            dot(home / "inbox" / f"{number}.png")
        until(lambda: len(list((home / "inbox").glob("*.json"))) == 60)
        began = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - began < 5
    os.close(reader)
    assert '"daemon.exiting"' in log.read_text()


# -- what must not go on -----------------------------------------------------------------------


def test_a_job_that_hangs_ends_the_process_and_in_the_end_the_file(home: Path) -> None:
    write_config(home, ocr={"job_timeout_s": 0.5}, retry={"max_attempts": 2})
    dot(home / "inbox" / "a.png", (77, 10))
    dot(home / "inbox" / "b.png")
    codes = []
    for _ in range(2):
        with daemon(home, {"FAKE_HANG": "77"}) as running:
            codes.append(running.wait())
            assert running.events("ocr.failed")[0]["code"] == "timeout"
            assert running.events("daemon.exiting")[0]["exit_code"] == 75
    assert codes == [75, 75]
    with daemon(home, {"FAKE_HANG": "77"}) as running:
        running.wait_for("file.quarantined")
        until((home / "inbox" / "b.png.json").exists)
        running.stop()
    error = error_of(home / "inbox" / "a.png")["error"]
    assert (error["code"], error["attempts"]) == ("timeout", 2)
    assert sidecar_of(home / "inbox" / "b.png")["status"] == "ok"


@pytest.mark.parametrize("way", ["FAKE_SEGFAULT", "FAKE_EXIT"])
def test_a_file_that_ends_the_process_is_quarantined(home: Path, way: str) -> None:
    script = {way: "77"}
    write_config(home, retry={"max_attempts": 2})
    dot(home / "inbox" / "a.png", (77, 10))
    for _ in range(2):
        with daemon(home, script) as running:
            assert running.wait() not in (0, 75)
    with daemon(home, script) as running:
        running.wait_for("file.quarantined")
        running.stop()
    error = error_of(home / "inbox" / "a.png")["error"]
    assert (error["code"], error["attempts"]) == ("engine_crashed", 2)


def test_a_handler_that_fails_is_logged_and_its_files_are_found_by_the_scan_it_asks_for(home: Path) -> None:
    write_config(home, watch={"rescan_interval_s": 3600})
    inbox = home / "inbox"
    whole = dot(home / "whole.png", (300, 200)).read_bytes()
    with daemon(home, {"FAKE_HANDLER_RAISES": "odd"}) as running:
        running.wait_for("scan.done")
        for number in range(20):
            dot(inbox / f"odd-{number}.png")
        (home / "odd").mkdir()
        dot(home / "odd" / "inside.png")
        (home / "odd").rename(inbox / "odd")
        dot(home / "late.png").rename(inbox / "odd-moved.png")
        with (inbox / "odd-slow.png").open("wb", buffering=0) as file:
            file.write(whole[:100])
            running.wait_for("ocr.done", 22)
            file.write(whole[100:])
        running.wait_for("ocr.done", 23)
        dot(inbox / "even.png")
        running.wait_for("ocr.done", 24)
        failures = running.events("watch.event_failed")
        assert "RuntimeError: scripted" in running.text
        assert running.stop() == 0
        done = [event["path"] for event in running.events("ocr.done")]
    assert len(set(done)) == len(done) == 24
    assert sidecar_of(inbox / "odd-slow.png")["text"] == "200x300"
    print(f"{len(failures)} events failed in the handler: 23 of 23 files done without them")


@pytest.mark.parametrize("thread", ["dispatcher", "reader"])
def test_a_dead_observer_ends_the_process_and_the_next_one_does_what_it_missed(
    home: Path, thread: str
) -> None:
    write_config(home, watch={"rescan_interval_s": 3600})
    inbox = home / "inbox"
    with daemon(home, {"FAKE_DIES": thread}) as running:
        dot(inbox / "before.png")
        running.wait_for("ocr.done")
        (home / "die").touch()
        for number in range(10):
            dot(inbox / f"{number}.png")
        assert running.wait() == 1
        (died,) = running.events("daemon.thread_died")
        assert (died["thread"], died["level"]) == ("observer", "error")
        assert running.events("daemon.exiting")[0]["exit_code"] == 1
        done = len(running.events("ocr.done"))
    with daemon(home) as running:
        running.wait_for("ocr.done", 11 - done)
        assert running.stop() == 0
    names = ["before", *(str(number) for number in range(10))]
    assert sorted(os.listdir(inbox)) == sorted(f"{name}.png{end}" for name in names for end in ("", ".json"))
    print(f"the {thread} died, exit code 1: {done} files done before, {11 - done} after the restart")


def test_a_dead_emitter_is_replaced_and_what_it_missed_is_found(home: Path) -> None:
    write_config(home, watch={"rescan_interval_s": 3600})
    inbox = home / "inbox"
    with daemon(home, {"FAKE_DIES": "emitter"}) as running:
        running.wait_for("scan.done")
        (home / "die").touch()
        for number in range(10):
            dot(inbox / f"{number}.png")
        running.wait_for("watch.started", 2)
        (home / "die").unlink()  # or the next one dies too
        running.wait_for("ocr.done", 10)
        dot(inbox / "after.png")
        running.wait_for("ocr.done", 11)
        assert running.stop() == 0
        print(f"{len(running.events('watch.started')) - 1} emitters died: 11 files done")


def test_a_dead_consumer_ends_the_process_and_the_next_one_goes_on(home: Path) -> None:
    inbox = home / "inbox"
    (home / "die").touch()
    for number in range(10):
        dot(inbox / f"{number}.png")
    with daemon(home, {"FAKE_DIES": "consumer"}) as running:
        assert running.wait() == 1
        (died,) = running.events("daemon.thread_died")
        assert (died["thread"], died["level"]) == ("consumer", "error")
        assert "SystemExit" in died["exception"]
        assert running.events("daemon.exiting")[0]["exit_code"] == 1
    with daemon(home) as running:
        running.wait_for("ocr.done", 10)
        assert running.stop() == 0
    assert {sidecar_of(inbox / f"{number}.png")["status"] for number in range(10)} == {"ok"}


def test_an_exit_called_for_by_a_library_ends_the_file_and_not_the_process(home: Path) -> None:
    """`sys.exit` in a thread ends the thread without a word; in `once` it would end the program."""
    inbox = home / "inbox"
    dot(inbox / "bad.png", (77, 10))
    with daemon(home, {"FAKE_SYSTEM_EXIT": "77", "FAKE_PAUSE_S": "0.01"}) as running:
        running.wait_for("file.quarantined")
        dot(inbox / "good.png")
        running.wait_for("ocr.done")
        assert running.stop() == 0
    error = error_of(inbox / "bad.png")["error"]
    assert (error["code"], error["attempts"]) == ("engine_error", 3)


def test_a_leak_recycles_the_process_between_files_and_nothing_is_lost_or_doubled(home: Path) -> None:
    write_config(home, memory={"soft_limit_mb": 300, "rss_limit_mb": 400})
    for number in range(60):
        dot(home / "inbox" / f"{number}.png")
    done: list[str] = []
    exits = []
    while len(done) < 60:
        with daemon(home, {"FAKE_LEAK_MB": "20"}) as running:
            until(lambda: running.ended or len(running.events("ocr.done")) + len(done) == 60)  # noqa: B023
            if not running.ended:
                running.stop()
            exits.append(running.wait())
            done += [event["path"] for event in running.events("ocr.done")]
            if exits[-1] == 75:
                (reached,) = running.events("memory.limit_reached")
                assert reached["rss_mb"] >= reached["rss_limit_mb"] == 400
                assert running.events("daemon.exiting")[0]["exit_code"] == 75
                assert len(running.events("memory.soft_limit")) == 1
    assert len(done) == len(set(done)) == 60
    assert len(list((home / "inbox").glob("*.json"))) == 60
    assert set(exits[:-1]) == {75}
    assert len(exits) >= 3


def test_a_limit_below_the_loaded_process_is_78_not_a_restart_loop(home: Path) -> None:
    write_config(home, memory={"soft_limit_mb": 20, "rss_limit_mb": 20})
    with daemon(home) as running:
        assert running.wait() == 78
        failed = running.events("daemon.failed")[0]
        assert "rss_limit_mb is 20" in failed["message"]
        assert "rss_limit_mb to" in failed["hint"]


def test_a_missing_inbox_is_69_and_is_not_created(home: Path) -> None:
    (home / "inbox").rmdir()
    with daemon(home) as running:
        assert running.wait() == 69
        assert "inbox" in running.events("daemon.failed")[0]["message"]
        assert running.events("daemon.exiting")[0]["exit_code"] == 69
    assert not (home / "inbox").exists()


def test_a_second_instance_is_69_and_names_the_first(
    home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    write_config(other, watch={"inbox": str(home / "inbox")})
    with daemon(home) as running:
        running.wait_for("daemon.ready")
        (home / "second").mkdir()
        write_config(home, logging={"file": "second/log"})
        for folder in (home, other):  # the same state folder, then another one on the same inbox
            with daemon(folder) if folder is other else _again(home) as second:
                assert second.wait() == 69
                assert str(running.pid) in second.events("daemon.failed")[0]["message"]
        assert running.stop() == 0
    with daemon(home) as running:  # a lock dies with its process
        running.wait_for("daemon.ready")
        running.signal(signal.SIGKILL)
        running.wait()
    with daemon(home) as running:
        running.wait_for("daemon.ready")
        running.stop()


def _again(home: Path) -> contextlib.closing[Process]:
    """A second process in the same folder, its output elsewhere."""
    arguments = ["-m", "tests.fake_daemon", "run", "-c", str(home / "config.yaml")]
    return contextlib.closing(Process(arguments, home / "second"))


def test_a_bad_configuration_is_78(home: Path) -> None:
    (home / "config.yaml").write_text("watch:\n  modee: auto\n")
    with daemon(home) as running:
        assert running.wait() == 78
        assert "config.yaml:2" in running.text
        assert "mode" in running.text


def test_files_in_the_page_cache_are_no_want_of_memory(home: Path) -> None:
    """In a container that has read many scans the page cache fills the limit: it counts as free."""
    group = Path("/sys/fs/cgroup/memory/ocr-watcher-cache-test")
    if not group.parent.is_dir() or not os.access(group.parent, os.W_OK):
        pytest.skip("NO MEMORY LIMIT CAN BE MADE ON THIS MACHINE: no writable memory controller (cgroup v1)")
    limit = 300 << 20
    Image.new("RGB", (5000, 5000), "white").save(home / "large.png")  # 115 MiB to decode
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(limit))
        # Who writes a file is charged for its pages in the cache.
        fill = f"echo $$ > {group}/cgroup.procs && head -c {limit} /dev/zero > cached && sync cached"
        subprocess.run(["sh", "-c", fill], cwd=home, check=True)
        with daemon(
            home, prefix=["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
        ) as running:
            (stats,) = running.wait_for("memory.stats")[:1]
            used_mb = int((group / "memory.usage_in_bytes").read_text()) / (1 << 20)
            assert used_mb > 250
            assert stats["available_mb"] > 150
            (home / "large.png").rename(home / "inbox" / "large.png")
            running.wait_for("ocr.done")
            assert running.stop() == 0
        assert sidecar_of(home / "inbox" / "large.png")["text"] == "1024x1024"
    finally:
        until(lambda: not (group / "cgroup.procs").read_text(), 10)
        group.rmdir()
