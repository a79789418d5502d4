"""The PDF helper as a prisoner: in it, a stand-in for PDFium tries to write, to connect and to get out."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ocr_watcher.inputs import helper_process, sandbox
from ocr_watcher.inputs.helper_process import Budget, Helper, HelperEndedError
from ocr_watcher.inputs.pdf import _KIND as PDF
from tests import pdfs
from tests.support import daemon, until, write_config

# A package with the name of PDFium's bindings. When the document is opened, which is after the helper was
# confined, it tries everything and tells what came of it in the place of an error.
STAND_IN = """
import ctypes, errno, json, mmap, os, signal, socket, subprocess, sys, threading

def __getattr__(name):
    return type(name, (ctypes.Structure,), {}) if name.startswith(("FPDF_DOC", "FPDF_PAGE", "FS_")) else 0

def attempts():
    scratch = SCRATCH
    yield "import a library", lambda: __import__("numpy")
    yield "create a file", lambda: open(scratch + "/new", "w")
    yield "write a file", lambda: open(scratch + "/there", "r+b").write(b"x")
    yield "append to a file", lambda: os.open(scratch + "/there", os.O_WRONLY | os.O_APPEND)
    yield "cut a file off", lambda: os.truncate(scratch + "/there", 0)
    yield "read a file", lambda: open(scratch + "/there").read()
    yield "read the passwords", lambda: open("/etc/passwd").read()
    yield "list a folder", lambda: os.listdir("/etc")
    for descriptor in range(3, 30):
        yield f"write to descriptor {descriptor}", lambda fd=descriptor: os.pwrite(fd, b"x", 0)
    yield "remove a file", lambda: os.unlink(scratch + "/there")
    yield "rename a file", lambda: os.rename(scratch + "/there", scratch + "/other")
    yield "make a folder", lambda: os.mkdir(scratch + "/folder")
    yield "make a link", lambda: os.link(scratch + "/there", scratch + "/linked")
    yield "change a mode", lambda: os.chmod(scratch + "/there", 0o777)
    for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK):
        yield f"make a socket of family {family}", lambda f=family: socket.socket(f, socket.SOCK_DGRAM)
    yield "fork", os.fork
    yield "start a thread", threading.Thread(target=int).start
    yield "become another program", lambda: os.execv("/bin/true", ["true"])
    yield "start another program", lambda: subprocess.run(["/bin/true"])
    yield "kill its parent", lambda: os.kill(PARENT, 0)
    yield "trace its parent", lambda: call("ptrace", 16, PARENT, 0, 0)
    yield "read its parent's memory", lambda: open(f"/proc/{PARENT}/mem", "rb")
    yield "map code", lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)
    yield "raise a limit", lambda: __import__("resource").setrlimit(7, (999, 999))
    yield "mount", lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, None)
    yield "change its root", lambda: os.chroot("/")
    yield "become another user", lambda: os.setuid(12345)
    yield "open more than a few files", lambda: [os.open("/usr/share/fonts", 0) for _ in range(99)]

def call(name, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)

def FPDF_InitLibrary():
    told = {}
    for name, act in attempts():
        try:
            told[name] = f"done: {act()!r}"
        except (OSError, ImportError, RuntimeError, SystemError, ValueError) as error:
            told[name] = f"refused: {error!r}"
    raise sys.modules["ocr_watcher.inputs.messages"].RefusalError(json.dumps(told))
"""


def misbehaving(act: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Helper:
    """A helper that does this when it is to open the document, and then sleeps."""
    folder = tmp_path / "pypdfium2_raw"
    folder.mkdir()
    source = STAND_IN[: STAND_IN.index("def attempts")]
    source += (
        f"def FPDF_InitLibrary():\n    channel = int(sys.argv[4])\n    {act}\n    threading.Event().wait()\n"
    )
    (folder / "__init__.py").write_text(source)
    spec = type("Spec", (), {"origin": str(folder / "__init__.py")})()
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: spec)
    document = tmp_path / "a.pdf"
    document.write_bytes(pdfs.prose())
    with document.open("rb") as file:
        return Helper(PDF, file.fileno(), 3)


@pytest.fixture
def prisoner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What came of each attempt."""
    folder = tmp_path / "pypdfium2_raw"
    folder.mkdir()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "there").write_bytes(b"sound")
    scratch.chmod(0o777)
    (scratch / "there").chmod(0o666)
    document = tmp_path / "a.pdf"
    document.write_bytes(pdfs.prose())
    with document.open("r+b") as file:
        source = STAND_IN.replace("SCRATCH", repr(str(scratch)))
        source = source.replace("PARENT", str(os.getpid()))
        (folder / "__init__.py").write_text(source)
        spec = type("Spec", (), {"origin": str(folder / "__init__.py")})()
        monkeypatch.setattr("importlib.util.find_spec", lambda _name: spec)
        helper = Helper(PDF, file.fileno(), 3)
        try:
            answer = helper.ask({"do": "open", "passwords": []}, Budget(20, 200))
        finally:
            helper.close()
    assert (scratch / "there").read_bytes() == b"sound"
    assert [path.name for path in scratch.iterdir()] == ["there"]
    assert document.read_bytes() == pdfs.prose()
    told: dict[str, str] = json.loads(answer["error"])
    return told


def test_the_helper_can_do_nothing_but_answer(prisoner: dict[str, str]) -> None:
    assert len(prisoner) > 25
    for name, what in prisoner.items():
        print(f"{name}: {what}")
    assert [name for name, what in prisoner.items() if not what.startswith("refused")] == []


@pytest.fixture
def helper(tmp_path: Path) -> Any:
    path = tmp_path / "a.pdf"
    path.write_bytes(pdfs.prose())
    with path.open("rb") as file:
        made = Helper(PDF, file.fileno(), 3 * 100 * 100)
    yield made
    made.close()


def test_what_the_kernel_says_of_a_real_helper(helper: Helper) -> None:
    helper.ask({"do": "open", "passwords": []}, Budget(20, 200))
    folder = Path(f"/proc/{helper.pid}")
    status = dict(row.split(":\t", 1) for row in (folder / "status").read_text().splitlines() if ":\t" in row)
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == ("2" if helper.protection.seccomp else "0")
    assert status["Threads"] == "1"
    limits = {row[:26].strip(): row[26:].split() for row in (folder / "limits").read_text().splitlines()[1:]}
    assert limits["Max file size"][:2] == ["0", "0"]
    assert limits["Max processes"][:2] == ["0", "0"]
    assert limits["Max open files"][:2] == ["16", "16"]
    assert limits["Max core file size"][:2] == ["0", "0"]
    assert limits["Max data size"][:2] == ["unlimited", "unlimited"]
    assert (folder / "environ").read_bytes() == b""
    assert len(list((folder / "fd").iterdir())) <= 6
    assert os.getsid(helper.pid) == helper.pid
    assert helper.protection.seccomp or os.uname().machine not in sandbox._ARCHITECTURES


def test_a_limit_on_data_is_not_handed_down(tmp_path: Path) -> None:
    """PDFium would leave pictures out and report success."""
    path = tmp_path / "a.pdf"
    path.write_bytes(pdfs.prose())
    code = (
        "import resource, sys; from ocr_watcher.inputs.helper_process import *;"
        "from ocr_watcher.inputs.pdf import _KIND;"
        "resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, resource.RLIM_INFINITY));"
        f"file = open({str(path)!r}, 'rb'); helper = Helper(_KIND, file.fileno(), 3);"
        "print(Path(f'/proc/{helper.pid}/limits').read_text()); helper.close()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (row,) = (row for row in done.stdout.splitlines() if row.startswith("Max data size"))
    assert row.split()[3:5] == ["unlimited", "unlimited"]


@pytest.mark.parametrize("busy", [False, True])
def test_the_helper_does_not_outlive_its_parent(tmp_path: Path, busy: bool) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(pdfs.tiling())
    ask = (
        "helper.ask({'do': 'draw', 'page': 0, 'width': 1000, 'height': 1000}, Budget(60, 200))"
        if busy
        else ""
    )
    code = (
        "import time; from ocr_watcher.inputs.helper_process import *;"
        "from ocr_watcher.inputs.pdf import _KIND;"
        f"file = open({str(path)!r}, 'rb'); helper = Helper(_KIND, file.fileno(), 3_000_000);"
        "helper.ask({'do': 'open', 'passwords': []}, Budget(60, 200)); print(helper.pid, flush=True);"
        f"{ask or 'time.sleep(60)'}"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        helper = int(parent.stdout.readline())
        started = Path(f"/proc/{helper}/stat").read_text().split()[21]
        if busy:
            until(lambda: Path(f"/proc/{helper}/stat").read_text().split()[2] == "R")
        parent.kill()
        parent.wait()
    until(lambda: not _runs(helper, started), 5)


def test_a_killed_daemon_leaves_no_helper(tmp_path: Path) -> None:
    write_config(tmp_path, pdf={"text": "ocr"})
    (tmp_path / "inbox" / "tiles.pdf").write_bytes(pdfs.tiling())  # takes pdf.page_timeout_s to draw
    with daemon(tmp_path) as running:
        until(lambda: _children(running.pid))
        (helper,) = _children(running.pid)
        until(lambda: Path(f"/proc/{helper}/stat").read_text().split()[2] == "R")
        started = Path(f"/proc/{helper}/stat").read_text().split()[21]
        running.signal(signal.SIGKILL)
        running.wait()
        until(lambda: not _runs(helper, started), 5)


def _children(pid: int) -> list[int]:
    """Helpers that a process has started, once they run their own program."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for task in tasks for child in task.read_text().split()]
    return [child for child in children if b"helper.py" in Path(f"/proc/{child}/cmdline").read_bytes()]


def _runs(pid: int, started: str) -> bool:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return fields[19] == started and fields[0] not in "ZX"


def test_the_helper_dies_with_the_thread_that_started_it(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(pdfs.prose())
    made: list[Helper] = []

    def start() -> None:
        with path.open("rb") as file:
            made.append(Helper(PDF, file.fileno(), 3))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    (helper,) = made
    with pytest.raises(HelperEndedError) as caught:
        helper.ask({"do": "open", "passwords": []}, Budget(20, 200))
    assert caught.value.why == "killed"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_to_the_whole_group_do_not_end_the_helper(helper: Helper, number: int) -> None:
    os.kill(helper.pid, number)
    assert helper.ask({"do": "open", "passwords": []}, Budget(20, 200)) == {"pages": 1}


def test_a_helper_that_is_killed_is_told_as_that(helper: Helper) -> None:
    os.kill(helper.pid, signal.SIGKILL)
    with pytest.raises(HelperEndedError, match="the system ended"):
        helper.ask({"do": "open", "passwords": []}, Budget(20, 200))
    assert helper.pid == 0


@pytest.mark.parametrize("act", ["os.close(channel)", "os.write(channel, b'x' * 200)"])
def test_what_a_helper_does_to_its_channel_is_not_taken_for_want_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    monkeypatch.setattr(helper_process, "_END_TIMEOUT_S", 0.1)
    made = misbehaving(act, tmp_path, monkeypatch)
    with pytest.raises(HelperEndedError) as caught:
        made.ask({"do": "open", "passwords": []}, Budget(5, 200))
    assert caught.value.why in ("crash", "memory")  # "xxxx" is the length of a very long answer
    assert made.pid == 0


def test_an_answer_that_trickles_in_does_not_keep_a_helper_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trickle = (
        "os.write(channel, (32 << 20).to_bytes(4, 'little')); [os.write(channel, b' ') for _ in iter(int, 1)]"
    )
    made = misbehaving(trickle, tmp_path, monkeypatch)
    with pytest.raises(HelperEndedError) as caught:
        made.ask({"do": "open", "passwords": []}, Budget(0.3, 200))
    assert caught.value.why == "time"


def test_a_helper_that_takes_too_long_is_killed(helper: Helper) -> None:
    pid = helper.pid
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(HelperEndedError, match=r"longer than 0\.2 s") as caught:
        helper.ask({"do": "open", "passwords": []}, Budget(0.2, 200))
    assert caught.value.why == "time"
    assert time.monotonic() - began < 5
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("threads", [False, True])
def test_the_filter_is_sound_for_every_architecture(threads: bool) -> None:
    """Jumps land on instructions, and every path ends in a decision."""
    for architecture, column in sandbox._ARCHITECTURES.values():
        rows = sandbox._program(architecture, column, threads=threads)
        assert rows[-1][0] == sandbox._RETURN
        for at, (code, if_true, if_false, _) in enumerate(rows):
            if code in (sandbox._EQUAL, sandbox._ANY_BIT):
                assert max(at + 1 + if_true, at + 1 + if_false) < len(rows)
        assert len(rows) < 4096
    assert ctypes.sizeof(sandbox._Program) == 16
