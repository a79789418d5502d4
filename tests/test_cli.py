"""The command line as a shell sees it: output and exit codes, on the fake engine where one is needed."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from PIL import Image

import ocr_watcher
from tests.support import daemon, dot, draw, error_of, sidecar_of, until, write_config

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[1]


def run(
    folder: Path, *arguments: str, module: str = "tests.fake_daemon", **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_config(tmp_path)
    return tmp_path


@pytest.mark.parametrize("arguments", [[], ["fly"], ["run", "--fast"], ["models"], ["run", "-c"]])
def test_a_wrong_command_line_is_64(home: Path, arguments: Sequence[str]) -> None:
    result = run(home, *arguments, module="ocr_watcher")
    assert result.returncode == 64
    assert "usage:" in result.stderr
    assert result.stdout == ""


def test_help_and_version(home: Path) -> None:
    assert "check-config" in run(home, "--help", module="ocr_watcher").stdout
    assert ocr_watcher.__version__ in run(home, "--version", module="ocr_watcher").stdout


# -- check-config ------------------------------------------------------------------------------


def test_check_config_prints_what_is_in_force(home: Path) -> None:
    result = run(home, "check-config", "-c", "config.yaml", module="ocr_watcher")
    assert result.returncode == 0
    shown = yaml.safe_load(result.stdout)
    assert shown["watch"]["inbox"] in ([str(home / "inbox")], str(home / "inbox"))
    assert shown["watch"]["settle_s"] == 0.1
    assert shown["memory"]["rss_limit_mb"] == 1536


def test_check_config_shows_no_password(home: Path) -> None:
    write_config(
        home,
        pdf={"passwords": ["hunter2"]},
        cluster={"broker": "redis://ocr:hunter3@queue/1", "roots": {"scans": "s"}},
    )
    result = run(home, "check-config", module="ocr_watcher")
    assert result.returncode == 0
    assert "hunter" not in result.stdout + result.stderr
    assert yaml.safe_load(result.stdout)["cluster"]["broker"] == "redis://ocr:***@queue/1"
    assert "# note: pdf.passwords has what is not shown here: a password\n" in result.stdout
    assert "# note: cluster.broker has what is not shown here: a password\n" in result.stdout


def test_check_config_shows_every_mistake(home: Path) -> None:
    (home / "config.yaml").write_text("watch:\n  modee: auto\nimage:\n  max_side_px: -5\n")
    result = run(home, "check-config", module="ocr_watcher")
    assert result.returncode == 78
    assert "config.yaml:2: watch.modee" in result.stderr
    assert "config.yaml:4: image.max_side_px" in result.stderr


def test_check_config_knows_paddleocrs_parameters(home: Path) -> None:
    write_config(home, ocr={"params": {"det_limit_side_len": 960, "text_det_tresh": 0.3}})
    result = run(home, "check-config", module="ocr_watcher")
    assert result.returncode == 78
    assert "text_det_thresh" in result.stderr
    write_config(home, ocr={"params": {"det_limit_side_len": 960}})
    result = run(home, "check-config", module="ocr_watcher")
    assert result.returncode == 0
    assert "text_det_limit_side_len" in result.stdout


def test_check_config_reports_the_model_among_all_other_mistakes(home: Path) -> None:
    (home / "config.yaml").write_text("ocr:\n  model: PP-OCRv6_smal\nimage:\n  max_side_px: -5\n")
    for verb in ("check-config", "run", "once", "doctor"):
        result = run(home, verb, module="ocr_watcher")
        assert result.returncode == 78
        first, second, *_ = result.stderr.splitlines()
        assert first.startswith("ocr-watcher: config.yaml:2: ocr.model: there is no model 'PP-OCRv6_smal'.")
        assert second.startswith("config.yaml:4: image.max_side_px: found -5")


def test_check_config_says_what_run_will_need(home: Path) -> None:
    (home / "inbox").rmdir()
    result = run(home, "check-config", module="ocr_watcher", OCR_WATCHER_MODEL_STORE=str(home / "store"))
    assert result.returncode == 0
    assert f"# note: `run` will end with 69: the inbox {home}/inbox is missing\n" in result.stdout
    assert "# note: `run` will end with 69: model PP-OCRv6_small is not in the model store" in result.stdout
    assert "#       run: ocr-watcher models pull PP-OCRv6_small\n" in result.stdout
    assert yaml.safe_load(result.stdout)["ocr"]["model"] == "PP-OCRv6_small"  # notes are comments
    assert not (home / "store").exists()


# -- which configuration -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "max_size"),
    [
        (["check-config"], 1),
        (["-c", "b.yaml", "check-config"], 2),
        (["--config=b.yaml", "check-config"], 2),
        (["check-config", "-c", "b.yaml"], 2),
        (["-c", "b.yaml", "check-config", "-c", "c.yaml"], 3),
    ],
)
def test_the_configuration_is_named_before_or_after_the_verb_and_the_last_one_counts(
    home: Path, arguments: list[str], max_size: int
) -> None:
    for number, name in enumerate(["config.yaml", "b.yaml", "c.yaml"], 1):
        (home / name).write_text(f"queue: {{max_size: {number}}}")
    result = run(home, *arguments, module="ocr_watcher")
    assert result.returncode == 0, result.stderr
    assert yaml.safe_load(result.stdout)["queue"]["max_size"] == max_size


@pytest.mark.parametrize(
    "arguments",
    [
        ["-c", "b.yaml", "models", "list"],
        ["models", "-c", "b.yaml", "list"],
        ["models", "list", "-c", "b.yaml"],
    ],
)
def test_the_configuration_of_models_is_named_anywhere(home: Path, arguments: list[str]) -> None:
    (home / "b.yaml").write_text("ocr: {model_store: mine}")
    assert run(home, *arguments, module="ocr_watcher").stdout.startswith(f"model store: {home}/mine\n")


@pytest.mark.parametrize("arguments", [["status"], ["status", "--json"], ["retry", "--all"]])
def test_asked_about_no_service_the_answer_is_not_that_nothing_runs(
    tmp_path: Path, arguments: list[str]
) -> None:
    result = run(tmp_path, *arguments, module="ocr_watcher", OCR_WATCHER_CONFIG="")
    assert result.returncode == 78
    assert result.stdout == ""
    assert "No configuration is named" in result.stderr
    assert "-c " in result.stderr


# -- once --------------------------------------------------------------------------------------


def test_once_drains_the_inbox_and_says_how_it_went(home: Path) -> None:
    (home / "inbox" / "sub").mkdir()
    images = [dot(home / "inbox" / f"{n}.png") for n in range(5)] + [dot(home / "inbox" / "sub" / "x.png")]
    result = run(home, "once")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("6 done, 0 failed in ")
    for image in images:
        assert sidecar_of(image)["status"] == "ok"
    assert all(json.loads(row)["event"] for row in result.stderr.splitlines())  # no progress bar in a pipe
    again = run(home, "once")
    assert again.returncode == 0
    assert again.stdout.startswith("0 done, 6 already done, 0 failed")


def test_once_tells_failures_apart(home: Path) -> None:
    dot(home / "inbox" / "good.png")
    (home / "inbox" / "bad.png").write_text("no image")
    dot(home / "inbox" / "hard.png", (77, 10))
    result = run(home, "once", FAKE_RAISE="77")
    assert result.returncode == 3
    assert result.stdout.startswith("1 done, 2 failed")
    assert "bad.png: " in result.stdout
    assert error_of(home / "inbox" / "bad.png")["error"]["code"] == "unsupported_format"
    assert error_of(home / "inbox" / "hard.png")["error"]["attempts"] == 3
    again = run(home, "once")
    assert again.returncode == 3  # they have not become good by being old
    assert again.stdout.startswith("0 done, 1 already done, 2 failed")


def test_once_does_more_than_the_queue_holds(home: Path) -> None:
    write_config(home, queue={"max_size": 2})
    for number in range(30):
        dot(home / "inbox" / f"{number}.png")
    result = run(home, "once")
    assert result.returncode == 0
    assert result.stdout.startswith("30 done, 0 failed")


def test_once_does_named_files_and_folders_anywhere(home: Path) -> None:
    odd = home / "scan without ending"
    odd.write_bytes(dot(home / "x.png").read_bytes())
    (home / "folder").mkdir()
    inside = dot(home / "folder" / "y.png")
    waiting = dot(home / "inbox" / "z.png")
    result = run(home, "once", str(odd), "folder")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("2 done, 0 failed")
    assert sidecar_of(odd)["text"] == sidecar_of(inside)["text"] == "48x64"
    assert not waiting.with_name("z.png.json").exists()
    result = run(home, "once", str(odd), "none.png")
    assert result.returncode == 3
    assert result.stdout.startswith("0 done, 1 already done, 1 failed")


def test_once_beside_a_daemon(home: Path) -> None:
    outside = dot(home / "outside.png")
    with daemon(home) as running:
        running.wait_for("daemon.ready")
        refused = run(home, "once")
        assert refused.returncode == 69
        assert str(running.pid) in refused.stderr
        assert run(home, "once", str(outside)).returncode == 0
        running.stop()


@pytest.mark.parametrize(
    "arguments",
    [
        ("check-config",),
        ("doctor",),
        ("text", "../a.png"),
        ("once", "../a.png"),  # with the real engine: its libraries have caches
        ("once", "../notes.txt"),
        ("once", "../folder"),
    ],
)
def test_nothing_is_left_in_the_current_folder(
    tmp_path: Path, model_store: Path, arguments: tuple[str, ...]
) -> None:
    for name in ("home", "here", "folder"):
        (tmp_path / name).mkdir()
    draw(tmp_path / "a.png", "INVOICE 12345")
    (tmp_path / "notes.txt").write_text("no image")
    home = tmp_path / "home"
    run(
        tmp_path / "here",
        *arguments,
        module="ocr_watcher" if arguments == ("once", "../a.png") else "tests.fake_daemon",
        HOME=str(home),
        XDG_CACHE_HOME="",
        OCR_WATCHER_MODEL_STORE=str(model_store),
    )
    assert [
        name for name in os.listdir(tmp_path / "here") if name != "reading"
    ] == []  # the fake engine's mark
    assert {path.relative_to(home).parts[:2] for path in home.rglob("*")} <= {
        (".cache",),
        (".cache", "ocr-watcher"),
    }
    assert (tmp_path / "a.png.json").exists() is (arguments == ("once", "../a.png"))


def test_once_goes_on_with_a_long_document_from_any_folder(tmp_path: Path) -> None:
    """Its pages are kept without a configuration too."""
    first, *others = (Image.new("L", (60, 40 + n), 255) for n in range(4))
    first.save(tmp_path / "a.tif", save_all=True, append_images=others)
    for name in ("home", "one", "other"):
        (tmp_path / name).mkdir()
    home = str(tmp_path / "home")
    path = str(tmp_path / "a.tif")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HOME": home,
        "XDG_CACHE_HOME": "",
        "FAKE_READS": "1",
    }
    command = [sys.executable, "-m", "tests.fake_daemon", "once", path]
    with subprocess.Popen(
        command, cwd=tmp_path / "one", env={**environment, "FAKE_READ_S": "1"}, stdout=subprocess.DEVNULL
    ) as process:
        until((tmp_path / "one" / "reads").exists)
        process.terminate()
    result = run(tmp_path / "other", "once", path, HOME=home, XDG_CACHE_HOME="", FAKE_READS="1")
    assert result.returncode == 0
    assert len(sidecar_of(Path(path))["pages"]) == 4
    reads = [len((tmp_path / name / "reads").read_text().splitlines()) for name in ("one", "other")]
    assert sum(reads) == 4
    assert (Path(home) / ".cache/ocr-watcher/once").stat().st_mode & 0o077 == 0


def test_once_shows_a_progress_bar_on_a_terminal(home: Path) -> None:
    for number in range(2):
        dot(home / "inbox" / f"{number}.png")
    frames = [Image.new("L", (9, 9), 255) for _ in range(3)]
    frames[0].save(home / "inbox" / "long.tif", save_all=True, append_images=frames[1:])
    (home / "inbox" / "bad.png").write_text("no image")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fake_daemon", "once"],
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    output, _ = process.communicate()
    assert process.returncode == 3
    assert b"4/4" in shown
    assert b"long.tif, page 3 of 3" in shown
    assert b'"event"' not in shown
    assert output.startswith(b"3 done, 1 failed")
    assert b"bad.png: " in output
    assert "ocr.done" in (home / "log" / "log").read_text()


# -- models and doctor -------------------------------------------------------------------------


def test_models_list_marks_what_is_missing(home: Path) -> None:
    result = run(home, "models", "list", module="ocr_watcher", OCR_WATCHER_MODEL_STORE=str(home / "store"))
    assert result.returncode == 0
    assert "PP-OCRv6_small" in result.stdout
    assert "missing" in result.stdout


def test_a_missing_model_is_69_and_says_how_to_get_it(home: Path) -> None:
    with daemon(home, {"OCR_WATCHER_MODEL_STORE": str(home / "store")}, real=True) as running:
        assert running.wait() == 69
        assert "models pull PP-OCRv6_small" in running.events("daemon.failed")[0]["hint"]


def test_an_unknown_model_name_is_a_wrong_command_line(home: Path) -> None:
    result = run(home, "models", "pull", "PP-OCRv6_smal", module="ocr_watcher")
    assert result.returncode == 64
    assert "PP-OCRv6_small" in result.stderr


def test_doctor_says_what_is_wrong_and_what_to_do(home: Path) -> None:
    (home / "inbox").rmdir()
    result = run(home, "doctor", module="ocr_watcher", OCR_WATCHER_MODEL_STORE=str(home / "store"))
    assert result.returncode == 69
    failed = [row for row in result.stdout.splitlines() if row.startswith("FAIL")]
    assert any("inbox" in row for row in failed)
    assert any("models" in row for row in failed)
    assert "models pull" in result.stdout
    assert len(failed) == 2  # the test image needs the model: that is no third problem
    assert "2 problems to mend" in result.stdout


def test_doctor_finds_nothing_wrong_where_all_is_well(home: Path, model_store: Path) -> None:
    result = run(home, "doctor", module="ocr_watcher", OCR_WATCHER_MODEL_STORE=str(model_store))
    assert result.returncode == 0, result.stdout
    assert "FAIL" not in result.stdout
    assert "2468" in result.stdout


def test_parameters_that_no_image_can_be_read_with_are_named(home: Path, model_store: Path) -> None:
    write_config(home, ocr={"params": {"text_rec_input_shape": [3, 32, 320]}})  # the model wants 48
    result = run(home, "doctor", module="ocr_watcher", OCR_WATCHER_MODEL_STORE=str(model_store))
    assert result.returncode == 69
    assert "each of ocr.params" in result.stdout
    with daemon(home, {"OCR_WATCHER_MODEL_STORE": str(model_store)}, real=True) as running:
        assert running.wait() == 69
        assert "each of ocr.params" in running.events("daemon.failed")[0]["hint"]
        assert "Traceback" not in running.text


# -- the real thing ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "model"), [("onnxruntime", "PP-OCRv6_small"), ("paddle", "PP-OCRv5_mobile")]
)
def test_a_dropped_scan_is_read(home: Path, model_store: Path, engine: str, model: str) -> None:
    write_config(home, ocr={"engine": engine, "model": model})
    with daemon(home, {"OCR_WATCHER_MODEL_STORE": str(model_store)}, real=True) as running:
        running.wait_for("daemon.ready")
        image = draw(home / "inbox" / "scan.png", "INVOICE 12345")
        running.wait_for("ocr.done")
        Image.new("L", (1000, 12), 255).save(home / "inbox" / "thin.png")  # PaddleX warns of it
        running.wait_for("ocr.done", 2)
        assert running.stop() == 0
        assert running.text.count("\n") == len(running.events())  # nothing is printed past the log
    document = sidecar_of(image)
    assert "12345" in document["text"]
    assert document["engine"]["name"] == engine
    assert document["engine"]["model"] == model
    until(lambda: not (home / "inbox" / "scan.png.error.json").exists())


def test_a_ceiling_is_never_passed_and_never_fatal(home: Path, model_store: Path) -> None:
    """`memory.hard_limit_mb` 250 above the loaded process, and images that would take far more."""
    store = {"OCR_WATCHER_MODEL_STORE": str(model_store)}
    with daemon(home, store, real=True) as running:
        running.wait_for("daemon.ready")
        reserved_mb = status_mb(running.pid, "VmData")
        running.stop()
    ceiling_mb = int(reserved_mb) + 250
    write_config(
        home,
        memory={"hard_limit_mb": ceiling_mb},
        image={"max_megapixels": 200, "max_file_mb": 50, "max_side_px": 4000},
    )
    inbox = home / "inbox"
    Image.new("RGB", (12_000, 9_000), "white").save(inbox / "page.png")
    Image.new("L", (10_000, 10_000), 255).save(inbox / "photo.jpg")
    Image.new("L", (10_000, 10_000), 255).save(inbox / "progressive.jpg", progressive=True)
    with daemon(home, store, real=True) as running:
        running.wait_for("daemon.ready")
        until(lambda: len(list(inbox.glob("*.json"))) == 3, 60)
        draw(inbox / "after.png", "INVOICE 12345")
        until((inbox / "after.png.json").exists, 60)
        assert status_mb(running.pid, "VmData") <= ceiling_mb
        assert status_mb(running.pid, "VmHWM") <= ceiling_mb
        assert running.stop() == 0
    assert "12345" in sidecar_of(inbox / "after.png")["text"]
    for name in ("page.png", "photo.jpg", "progressive.jpg"):
        sidecar = inbox / f"{name}.json"
        if sidecar.exists():
            assert sidecar_of(inbox / name)["pages"][0]["scale"] < 0.4
        else:
            error = error_of(inbox / name)["error"]
            assert error["code"] == "out_of_memory"
            assert "MiB" in error["message"]


def status_mb(pid: int, key: str) -> float:
    rows = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    return next(int(row.split()[1]) / 1024 for row in rows if row.startswith(f"{key}:"))
