"""Nothing leaves the machine, nothing is written where it does not belong: the real daemon under strace."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import draw, until, write_config

# ONNX Runtime's telemetry begins twelve seconds after its import.
WATCHED_S = 60.0
ROOT = Path(__file__).parents[1]


def test_every_process_is_told_to_keep_to_this_machine() -> None:
    """Also where somebody has switched it on: it is a promise, not a default."""
    code = "import ocr_watcher, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "0"}
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert told.stdout == "1\n"
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"  # in the tests too


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed: nothing can be traced")
def test_nothing_is_looked_up_connected_to_or_written_elsewhere(tmp_path: Path, model_store: Path) -> None:
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    home.mkdir()
    temporary.mkdir()
    write_config(tmp_path, ocr={"model_store": str(model_store)}, memory={"stats_interval_s": 1})
    trace = tmp_path / "trace"
    calls = "network,openat,open,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat"
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}
    for name in ("XDG_CACHE_HOME", "MPLCONFIGDIR", "PADDLE_PDX_CACHE_HOME", "PYTHONPYCACHEPREFIX"):
        environment.pop(name, None)
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    with (tmp_path / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            [
                *("strace", "-f", "-qq", "-e", f"trace={calls}", "-o", str(trace)),
                *(sys.executable, "-m", "ocr_watcher", "run", "-c", "config.yaml"),
            ],
            cwd=tmp_path,
            env=environment,
            stderr=stderr,
            start_new_session=True,
        )
        try:
            began = time.monotonic()
            for number in range(5):
                draw(tmp_path / "inbox" / f"{number}.png", f"INVOICE {number}")
            until(lambda: len(list((tmp_path / "inbox").glob("*.json"))) == 5, 120)
            time.sleep(max(0.0, WATCHED_S - (time.monotonic() - began)))
            os.killpg(process.pid, signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    rows = trace.read_text("utf-8", "replace").splitlines()
    assert len(rows) > 1000
    abroad = [row for row in rows if re.search(r"\b(connect|sendto|sendmsg|sendmmsg|listen)\(", row)]
    assert abroad == []
    ours = (tmp_path / "inbox", tmp_path / ".ocr-watcher", tmp_path / "log", temporary)
    allowed = (*map(str, ours), str(home / ".cache" / "ocr-watcher"), "/dev/")
    elsewhere = [
        row
        for row in rows
        if re.search(r"O_CREAT|O_WRONLY|O_RDWR|\b(creat|mkdir|rename|link|symlink)\w*\(", row)
        and not re.search(r"= -1 E", row)
        and (path := re.search(r'"(/[^"]*)"', row))  # a relative path is below a folder opened before
        and not path[1].startswith(allowed)
        and path[1] != str(home / ".cache")
    ]
    assert elsewhere == []
    assert {path.name for path in home.iterdir()} <= {".cache"}
    assert [path.name for path in (home / ".cache").iterdir()] == ["ocr-watcher"]
