"""The shipped service, installed by its installer and run by a real systemd.

One container for all tests, each of which leaves the service stopped and the inbox empty.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import urllib3
import yaml
from PIL import Image

from tests import page_house, pdfs
from tests.support import dot, draw, record, until
from tests.systemd.container import Container, container, why_not

if TYPE_CHECKING:
    from collections.abc import Iterator

UNIT = "ocr-watcher.service"
DROP_IN = "/etc/systemd/system/ocr-watcher.service.d/test.conf"
CONFIG = "/etc/ocr-watcher/config.yaml"
FOLDER = "/var/lib/ocr-watcher"
INBOX = f"{FOLDER}/inbox"
STATE = f"{FOLDER}/state"
LOG = "/var/log/ocr-watcher/ocr_watcher.log"
MEMBER = "dropper"
OLD = Path(__file__).parent / "old"

pytestmark = [
    pytest.mark.skipif(bool(why_not()), reason=f"NO SYSTEMD TEST ON THIS MACHINE: {why_not()}"),
    pytest.mark.timeout(900),  # the installation fetches every library
]


class Service:
    """The service inside the container."""

    def __init__(self, machine: Container) -> None:
        self.machine = machine
        self.shipped = yaml.safe_load(machine.path(CONFIG).read_text())

    def configure(self, drop_in: str = "", **sections: dict[str, Any]) -> None:
        """The shipped configuration and unit, with these changes."""
        document = {**self.shipped}
        for name, values in sections.items():
            document[name] = {**document.get(name, {}), **values}
        self.machine.path(CONFIG).write_text(yaml.safe_dump(document))
        path = self.machine.path(DROP_IN)
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"[Service]\n{drop_in}\n")
        assert self.machine.call("systemctl", "daemon-reload").returncode == 0

    def fake(self, **script: str) -> str:
        """A drop-in that puts the scripted engine in place of the real one."""
        variables = " ".join(f"{name}={value}" for name, value in script.items())
        python = "/opt/ocr-watcher/venv/bin/python"
        return (
            f"ExecStart=\nExecStart={python} -m tests.fake_daemon run -c {CONFIG}\n"
            f"Environment=PYTHONPATH=/src {variables}"
        )

    def start(self) -> None:
        result = self.machine.call("systemctl", "start", UNIT)
        assert result.returncode == 0, self.journal()

    def drop(self, image: Path) -> None:
        """Put an image into the inbox as somebody of the group would."""
        shutil.copy(image, self.machine.path(INBOX))

    def events(self, name: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for path in (f"{LOG}.1", LOG):
            with contextlib.suppress(FileNotFoundError):
                rows += [json.loads(row) for row in self.machine.path(path).read_text().splitlines()]
        return [row for row in rows if row["event"] == name]

    def journal(self) -> str:
        return self.machine.call("journalctl", "--no-pager", "--unit", UNIT, "--lines", "200").stdout

    def records(self) -> dict[str, dict[str, Any]]:
        return {path.name: record(path) for path in self.machine.path(INBOX).glob("*.json")}

    def wait_for_records(self, count: int, seconds: float = 120) -> None:
        try:
            until(lambda: len(list(self.machine.path(INBOX).glob("*.json"))) >= count, seconds)
        except AssertionError:
            raise AssertionError(self.journal()) from None

    @property
    def state(self) -> str:
        return self.machine.show(UNIT, "ActiveState")

    @property
    def restarts(self) -> int:
        return int(self.machine.show(UNIT, "NRestarts"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with container(tmp_path_factory.mktemp("systemd")) as machine:
        machine.run_unbooted("/src/systemd/install.sh", "install")
        machine.boot(UNIT)
        made = machine.call("useradd", "--user-group", "--groups", "ocr-watcher", MEMBER)
        assert made.returncode == 0, made.stderr
        yield Service(machine)


@pytest.fixture
def service(installed: Service) -> Iterator[Service]:
    machine = installed.machine
    installed.configure()
    yield installed
    machine.call("systemctl", "stop", UNIT)
    machine.call("systemctl", "reset-failed", UNIT)
    for folder in (INBOX, "/var/log/ocr-watcher"):
        for path in machine.path(folder).iterdir():
            path.unlink()
    for name in ("journal*", "reading"):
        for path in machine.path(STATE).glob(name):
            path.unlink()


def test_it_starts_at_boot_says_ready_and_reads(service: Service, tmp_path: Path) -> None:
    until(lambda: service.state == "active", 60)
    for number in range(3):
        service.drop(draw(tmp_path / f"{number}.png", f"INVOICE 1234{number}"))
    service.wait_for_records(3)
    until(lambda: "3 done" in service.machine.show(UNIT, "StatusText"))
    shown = service.machine.call("systemctl", "--no-pager", "status", UNIT).stdout
    assert "active (running)" in shown
    assert "3 done, 0 failed" in shown
    assert "of 1536 MiB" in shown
    for number in range(3):
        assert f"1234{number}" in service.records()[f"{number}.png.json"]["text"]


def test_documents_are_decoded_within_the_sandbox(service: Service, tmp_path: Path) -> None:
    """The helper process starts, confines itself still more, and is stopped where it takes too much."""
    service.configure(service.fake())
    service.start()
    scanned = pdfs.Pdf()
    scanned.scan(Image.new("L", (600, 800), 255))
    (tmp_path / "text.pdf").write_bytes(pdfs.prose())
    (tmp_path / "scan.pdf").write_bytes(scanned.bytes())
    (tmp_path / "hostile.pdf").write_bytes(pdfs.soft_mask())
    Image.new("RGB", (600, 800), "white").save(tmp_path / "photo.avif")
    for path in sorted(tmp_path.glob("*.*f")):
        service.drop(path)
    service.wait_for_records(4)
    records = service.records()
    assert records["text.pdf.json"]["text"].splitlines() == pdfs.PROSE
    assert records["scan.pdf.json"]["pages"][0]["read_from"] == "pixels"
    assert records["photo.avif.json"]["status"] == "ok"
    assert records["hostile.pdf.error.json"]["error"]["code"] == "out_of_memory"
    assert service.restarts == 0


def test_ten_recycles_lose_and_double_nothing(service: Service, tmp_path: Path) -> None:
    service.configure(memory={"max_jobs": 3})
    service.start()
    image = draw(tmp_path / "a.png", "INVOICE 12345")
    for number in range(31):
        shutil.copy(image, service.machine.path(f"{INBOX}/{number}.png"))
    service.wait_for_records(31, 300)
    until(lambda: service.state == "active" and service.restarts >= 10, 60)
    done = collections.Counter(event["path"] for event in service.events("ocr.done"))
    assert len(done) == 31
    assert set(done.values()) == {1}
    assert all(r["status"] == "ok" for r in service.records().values())
    exits = [event for event in service.events("daemon.exiting") if event["exit_code"] == 75]
    assert len(exits) >= 10
    readies = [datetime.fromisoformat(event["timestamp"]) for event in service.events("daemon.ready")]
    gaps = []
    for event in exits:
        left = datetime.fromisoformat(event["timestamp"])
        gaps.append(min((ready - left).total_seconds() for ready in readies if ready > left))
    median = statistics.median(gaps)
    print(f"{len(gaps)} recycles; without service: median {median:.1f} s, most {max(gaps):.1f} s")
    assert median < 8


HTTP_SOCKET = "ocr-watcher-http.socket"
HTTP_UNIT = "ocr-watcher-http.service"


@pytest.fixture
def served(service: Service) -> Iterator[str]:
    """The address of the server, which systemd listens at; the machine's network is this one's."""
    machine = service.machine
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    drop_in = machine.path(f"/etc/systemd/system/{HTTP_SOCKET}.d/test.conf")
    drop_in.parent.mkdir(exist_ok=True)
    drop_in.write_text(f"[Socket]\nListenStream=\nListenStream={address}\n")
    assert machine.show(HTTP_SOCKET, "UnitFileState") == "disabled"  # the installer switches nothing on
    machine.call("systemctl", "daemon-reload")
    started = machine.call("systemctl", "start", HTTP_SOCKET)
    assert started.returncode == 0, started.stderr
    yield f"http://{address}"
    machine.call("systemctl", "stop", HTTP_SOCKET, HTTP_UNIT)
    machine.call("systemctl", "reset-failed", HTTP_SOCKET, HTTP_UNIT)
    drop_in.unlink()


def post(address: str, body: bytes) -> tuple[int, Any]:
    with urllib3.PoolManager(retries=False, timeout=60) as pool:
        answer = pool.request("POST", f"{address}/v1/ocr", body=body)
        return answer.status, json.loads(answer.data)


def test_the_server_is_started_by_its_first_request_and_cannot_call_out(
    service: Service, served: str, tmp_path: Path
) -> None:
    service.configure()
    service.start()
    assert service.machine.show(HTTP_UNIT, "ActiveState") == "inactive"
    status, record = post(served, draw(tmp_path / "a.png", "INVOICE 12345").read_bytes())
    assert (status, record["text"]) == (200, "INVOICE 12345")
    pid = service.machine.show(HTTP_UNIT, "MainPID")
    python = "/opt/ocr-watcher/venv/bin/python"
    code = "import socket; socket.create_connection(('127.0.0.1', 9), 1)"
    inside = service.machine.call(
        "systemd-run", "--quiet", "--pipe", "--wait",
        *("--property=PrivateNetwork=yes", "--property=RestrictAddressFamilies=AF_UNIX"), python, "-c", code,
    )  # fmt: skip
    assert "Address family not supported" in inside.stderr
    # What it may write, by its own mounts.
    refused = service.machine.call("nsenter", "--target", pid, "--mount", "touch", f"{STATE}/x", f"{INBOX}/x")
    assert refused.stderr.count("Read-only file system") == 2
    allowed = service.machine.call("nsenter", "--target", pid, "--mount", "touch", f"{STATE}-http/x")
    assert allowed.returncode == 0, allowed.stderr


def test_not_one_connection_is_refused_over_recycles_and_restarts(
    service: Service, served: str, tmp_path: Path
) -> None:
    service.configure(service.fake(FAKE_READ_S="0.02"), memory={"max_jobs": 8})
    service.start()
    body = dot(tmp_path / "a.png").read_bytes()
    statuses: collections.Counter[int] = collections.Counter()
    ends = threading.Event()

    def ask() -> None:
        while not ends.is_set():
            statuses[post(served, body)[0]] += 1

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        try:
            for _ in range(5):
                assert service.machine.call("systemctl", "restart", HTTP_UNIT).returncode == 0
                count = sum(statuses.values())
                until(lambda count=count: sum(statuses.values()) > count + 10 or ends.is_set(), 60)  # type: ignore[misc]
        finally:
            ends.set()
        for one in asking:
            one.result(60)  # raises what a client met
    assert set(statuses) <= {200, 202}
    assert service.restarts >= 2
    print(f"{sum(statuses.values())} requests over 5 restarts of the server and {service.restarts} recycles")


def test_a_document_is_read_again_when_the_page_asks_for_it(
    service: Service, served: str, tmp_path: Path
) -> None:
    """The server may not write into inbox and state; its wish reaches the daemon all the same."""
    service.configure(service.fake())
    service.start()
    (tmp_path / "locked.pdf").write_bytes(pdfs.locked("open sesame"))
    service.drop(tmp_path / "locked.pdf")
    service.wait_for_records(1)
    with page_house.chromium() as browser:
        tab = page_house.Tab(browser, served)
        page = tab.open()
        page.locator("tr[data-state=failed]", has_text="locked.pdf").locator(".why").wait_for()
        service.configure(service.fake(), pdf={"passwords": ["open sesame"]})
        assert service.machine.call("systemctl", "reload", UNIT).returncode == 0
        until(lambda: len(service.events("daemon.ready")) == 2, 60)
        assert set(service.records()) == {"locked.pdf.error.json"}  # nobody has asked for it yet
        page.locator("tr", has_text="locked.pdf").locator("button", has_text="Try again").click()
        page.locator("tr[data-state=done]", has_text="locked.pdf").wait_for()
        tab.check()
        tab.close()
    assert {name: one["status"] for name, one in service.records().items()} == {"locked.pdf.json": "ok"}
    assert [row["path"] for row in service.events("file.retried")] == [f"{INBOX}/locked.pdf"]


def test_a_job_that_hangs_is_restarted_and_in_the_end_recorded(service: Service, tmp_path: Path) -> None:
    service.configure(service.fake(FAKE_HANG="77"), ocr={"job_timeout_s": 1}, retry={"max_attempts": 2})
    service.start()
    service.drop(dot(tmp_path / "hang.png", (77, 10)))
    service.drop(dot(tmp_path / "good.png"))
    service.wait_for_records(2)
    records = service.records()
    assert records["good.png.json"]["status"] == "ok"
    assert records["hang.png.error.json"]["error"]["code"] == "timeout"
    assert service.restarts == 2


def test_a_main_loop_that_stands_still_is_restarted_by_the_watchdog(service: Service, tmp_path: Path) -> None:
    service.configure(service.fake() + "\nWatchdogSec=2\nTimeoutAbortSec=1")
    service.start()
    time.sleep(3)  # the subject is time across processes: beats keep it alive
    assert service.restarts == 0
    os.kill(service.machine.host_pid(UNIT), 19)  # SIGSTOP
    until(lambda: service.restarts == 1 and service.state == "active", 60)
    service.drop(dot(tmp_path / "a.png"))
    service.wait_for_records(1)


def test_a_kill_is_survived(service: Service, tmp_path: Path) -> None:
    service.configure(service.fake(FAKE_READ_S="0.5"))
    service.start()
    for number in range(6):
        service.drop(dot(tmp_path / f"{number}.png"))
    service.wait_for_records(1)
    os.kill(service.machine.host_pid(UNIT), 9)
    service.wait_for_records(6)
    assert service.restarts == 1
    assert {r["status"] for r in service.records().values()} == {"ok"}


def test_an_out_of_memory_kill_is_survived(service: Service, tmp_path: Path) -> None:
    """The kernel's own kill, by a memory limit around the service as MemoryMax sets one.

    The container has no memory controller of its own, so the limit is laid around the process from
    outside it.
    """
    group = Path("/sys/fs/cgroup/memory/ocr-watcher-test")
    if not group.parent.is_dir() or not os.access(group.parent, os.W_OK):
        pytest.skip("NO OUT-OF-MEMORY TEST ON THIS MACHINE: no writable memory controller (cgroup v1)")
    service.configure(service.fake(FAKE_LEAK_MB="40"))
    service.start()
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(200 << 20))
        (group / "cgroup.procs").write_text(str(service.machine.host_pid(UNIT)))
        for number in range(8):
            service.drop(dot(tmp_path / f"{number}.png"))
        service.wait_for_records(8)
        assert service.restarts == 1
        assert "status=9/KILL" in service.journal()
        assert {r["status"] for r in service.records().values()} == {"ok"}
    finally:
        until(lambda: not (group / "cgroup.procs").read_text(), 10)
        group.rmdir()


def test_a_wrong_configuration_stops_for_good_with_its_reason(service: Service) -> None:
    service.machine.call("systemctl", "stop", UNIT)
    service.configure(image={"max_side_pixels": 5})
    service.machine.call("systemctl", "start", UNIT)
    until(lambda: service.state == "failed")
    assert service.machine.show(UNIT, "ExecMainStatus") == "78"
    time.sleep(3)  # longer than RestartSec
    assert service.state == "failed"
    assert service.restarts == 0
    assert "image.max_side_pixels" in service.journal()
    assert "max_side_px" in service.journal()


def test_a_reload_starts_afresh_with_the_new_configuration_unless_it_is_wrong(service: Service) -> None:
    service.configure(service.fake())
    service.start()
    pid = service.machine.show(UNIT, "MainPID")
    path = service.machine.path(CONFIG)
    right = path.read_text()
    path.write_text(right + "\nnonsense: 1\n")
    assert service.machine.call("systemctl", "reload", UNIT).returncode == 0
    until(lambda: service.events("config.rejected"), 30)
    assert service.machine.show(UNIT, "MainPID") == pid
    path.write_text(right)
    assert service.machine.call("systemctl", "reload", UNIT).returncode == 0
    until(lambda: service.restarts == 1 and service.state == "active", 60)
    assert service.machine.show(UNIT, "MainPID") != pid


def test_a_stop_finishes_the_file_in_hand(service: Service, tmp_path: Path) -> None:
    service.configure(service.fake(FAKE_READ_S="1"))
    service.start()
    for number in range(5):
        service.drop(dot(tmp_path / f"{number}.png"))
    until(lambda: len(service.events("file.queued")) == 5)
    assert service.machine.call("systemctl", "stop", UNIT).returncode == 0
    assert service.state == "inactive"
    assert len(service.records()) == len(service.events("ocr.done")) == 1
    assert service.events("daemon.exiting")[-1]["exit_code"] == 0


def test_nothing_but_inbox_state_caches_and_logs_can_be_written(service: Service) -> None:
    service.start()
    pid = service.machine.host_pid(UNIT)
    script = "for d in {}; do touch $d/probe 2>/dev/null && echo $d && rm $d/probe; done; true"
    own = [INBOX, STATE, "/var/cache/ocr-watcher", "/var/log/ocr-watcher", "/run/ocr-watcher"]
    folders = (
        "/ /etc /etc/ocr-watcher /usr /opt/ocr-watcher /opt/ocr-watcher/models /boot /var /var/lib /var/log "
        f"/var/cache /run /srv /src /home /root {FOLDER} " + " ".join(own)
    )
    view = ["nsenter", "--target", str(pid), "--mount", "--"]
    sh = ["sh", "-c", script.format(folders)]
    # As root in the service's view of the file system: what is refused is refused by the view itself.
    as_root = subprocess.run([*view, *sh], capture_output=True, text=True, check=True)
    assert as_root.stdout.split() == [FOLDER, *own]
    who = ["setpriv", "--reuid=ocr-watcher", "--regid=ocr-watcher", "--clear-groups", "--"]
    as_itself = subprocess.run([*view, *who, *sh], capture_output=True, text=True, check=True)
    assert as_itself.stdout.split() == own
    status = Path(f"/proc/{pid}/status").read_text()
    rows = dict(row.split(":\t", 1) for row in status.splitlines() if ":\t" in row)
    assert rows["NoNewPrivs"] == "1"
    assert int(rows["CapEff"], 16) == int(rows["CapPrm"], 16) == 0
    assert rows["Seccomp"] == "2"
    assert rows["Uid"].split()[0] != "0"


def test_paddle_runs_in_the_sandbox_too(service: Service, tmp_path: Path) -> None:
    store = "/opt/ocr-watcher/models"
    program = "/opt/ocr-watcher/venv/bin/ocr-watcher"
    pulled = service.machine.call(
        "env", f"OCR_WATCHER_MODEL_STORE={store}", program, "models", "pull", "PP-OCRv5_mobile"
    )
    assert pulled.returncode == 0, pulled.stderr
    service.configure(ocr={"engine": "paddle", "model": "PP-OCRv5_mobile"})
    service.machine.call("systemctl", "restart", UNIT)
    service.drop(draw(tmp_path / "a.png", "INVOICE 12345"))
    service.wait_for_records(1)
    document = service.records()["a.png.json"]
    assert "12345" in document["text"]
    assert document["engine"]["name"] == "paddle"


def configure_instance(machine: Container, name: str) -> None:
    """The configuration of the main instance, with folders of its own, as that of the instance `name`."""
    text = machine.path(CONFIG).read_text()
    for kind in ("lib", "log"):
        text = text.replace(f"/var/{kind}/ocr-watcher", f"/var/{kind}/ocr-watcher-{name}")
    machine.path(f"/etc/ocr-watcher/{name}.yaml").write_text(text)


def can_be_done(machine: Container, folder: str) -> list[str]:
    """Which of the things succeed that somebody of the group might try on an instance."""
    inbox, state = f"/var/lib/{folder}/inbox", f"/var/lib/{folder}/state"
    log = f"/var/log/{folder}/ocr_watcher.log"
    attempts = {
        "look": f"ls {state}",
        "create": f"touch {state}/new",
        "delete": f"rm -f {state}/journal.sqlite3 && test ! -e {state}/journal.sqlite3",
        "replace": f"ln -sf /etc/passwd {state}/status.json",
        "hold": f"flock --nonblock {state}/lock true",
        "hold the folder": f"flock --nonblock {state} true",
        "create beside": f"touch /var/lib/{folder}/new",
        "plant a link": f"ln -s /etc /var/lib/{folder}/journal.sqlite3",
        "move the state": f"mv {state} {inbox}/",
        "move the inbox": f"mv {inbox} /var/lib/{folder}/away",
        "delete the inbox": f"rmdir {inbox}",
        "open the folder": f"chmod g+w /var/lib/{folder}",
        "cache": f"touch /var/cache/{folder}/new",
        "claim": "touch /run/ocr-watcher/new",
        "look at claims": "ls /run/ocr-watcher",
        "log": f"echo forged >>{log}",
        "delete the log": f"rm -f {log}",
    }
    return [name for name, sh in attempts.items() if machine.call_as(MEMBER, "sh", "-c", sh).returncode == 0]


def drop_as_member(machine: Container, image: Path, inbox: str) -> None:
    """Copy an image into the inbox with nothing but the rights of the group."""
    away = machine.path(f"/home/{image.name}")
    shutil.copy(image, away)
    away.chmod(0o644)
    result = machine.call_as(MEMBER, "cp", f"/home/{image.name}", f"{inbox}/")
    assert result.returncode == 0, result.stderr
    away.unlink()


def test_a_member_of_the_group_drops_files_and_can_touch_nothing_else(
    service: Service, tmp_path: Path
) -> None:
    machine = service.machine
    service.configure(service.fake())
    service.start()
    drop_as_member(machine, dot(tmp_path / "a.png"), INBOX)
    service.wait_for_records(1)
    assert machine.call_as(MEMBER, "cat", f"{INBOX}/a.png.json").returncode == 0
    assert machine.call_as(MEMBER, "rm", f"{INBOX}/a.png.json", f"{INBOX}/a.png").returncode == 0
    assert machine.call_as(MEMBER, "cat", LOG).returncode == 0
    for name in ("journal.sqlite3", "lock"):  # otherwise the attempts below would try nothing
        assert machine.path(f"{STATE}/{name}").is_file()
    assert can_be_done(machine, "ocr-watcher") == []
    assert service.machine.call("systemctl", "restart", UNIT).returncode == 0, service.journal()
    assert can_be_done(machine, "ocr-watcher") == []


def test_an_instance_for_each_configuration(service: Service, tmp_path: Path) -> None:
    machine = service.machine
    configure_instance(machine, "second")
    service.start()
    assert machine.call("systemctl", "start", "ocr-watcher@second.service").returncode == 0
    drop_as_member(machine, draw(tmp_path / "a.png", "INVOICE 12345"), "/var/lib/ocr-watcher-second/inbox")
    until(machine.path("/var/lib/ocr-watcher-second/inbox/a.png.json").exists, 60)
    assert can_be_done(machine, "ocr-watcher-second") == []
    assert machine.call("systemctl", "stop", "ocr-watcher@second.service").returncode == 0
    assert service.state == "active"


def test_an_instance_has_a_server_of_its_own(service: Service, tmp_path: Path) -> None:
    machine = service.machine
    server = "ocr-watcher-http@second.socket"
    configure_instance(machine, "second")
    refused = machine.call("systemctl", "start", server)
    assert refused.returncode != 0  # two addresses cannot be the same, so the unit has none
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    drop_in = machine.path(f"/etc/systemd/system/{server}.d/test.conf")
    drop_in.parent.mkdir()
    drop_in.write_text(f"[Socket]\nListenStream={address}\n")
    try:
        assert machine.call("systemctl", "daemon-reload").returncode == 0
        started = machine.call("systemctl", "start", server)
        assert started.returncode == 0, started.stderr
        status, record = post(f"http://{address}", draw(tmp_path / "a.png", "INVOICE 12345").read_bytes())
        assert (status, record["text"]) == (200, "INVOICE 12345")
        assert machine.show("ocr-watcher@second.service", "ActiveState") == "active"
        spool = machine.path("/var/lib/ocr-watcher-second/state-http")
        assert len([path for path in spool.iterdir() if path.name.endswith(".json")]) == 1
    finally:
        machine.call(
            "systemctl", "stop", server, server.replace("socket", "service"), "ocr-watcher@second.service"
        )
        shutil.rmtree(drop_in.parent)
        machine.call("systemctl", "daemon-reload")


def test_a_second_instance_on_the_same_inbox_is_told_apart_in_the_sandbox_too(service: Service) -> None:
    machine = service.machine
    unit = "ocr-watcher@second.service"
    configure_instance(machine, "second")
    path = machine.path("/etc/ocr-watcher/second.yaml")
    path.write_text(path.read_text().replace("/var/lib/ocr-watcher-second/inbox", INBOX))
    drop_in = machine.path(f"/etc/systemd/system/{unit}.d/test.conf")
    drop_in.parent.mkdir()
    drop_in.write_text(f"[Service]\nReadWritePaths={INBOX}\n")
    service.start()
    try:
        assert machine.call("systemctl", "daemon-reload").returncode == 0
        machine.call("systemctl", "start", "--no-block", unit)
        told = ("journalctl", "--no-pager", "--unit", unit)
        until(lambda: "another instance already works on" in machine.call(*told).stdout, 60)
        assert service.state == "active"
    finally:
        machine.call("systemctl", "stop", unit)
        shutil.rmtree(drop_in.parent)
        machine.call("systemctl", "daemon-reload")


def test_an_inbox_may_be_moved_away_and_made_anew_while_the_service_runs_or_not(
    service: Service, tmp_path: Path
) -> None:
    """Root does that. The sandbox must let the service write the new one as well."""
    machine = service.machine
    service.configure(service.fake(), watch={"rescan_interval_s": 1})
    service.start()
    machine.path(INBOX).rename(machine.path(f"{FOLDER}/away"))
    machine.call("install", "-d", "-m", "2770", "-o", "ocr-watcher", "-g", "ocr-watcher", INBOX)
    drop_as_member(machine, dot(tmp_path / "a.png"), INBOX)
    service.wait_for_records(1)
    assert machine.call("systemctl", "stop", UNIT).returncode == 0
    shutil.rmtree(machine.path(INBOX))
    machine.path(f"{FOLDER}/away").rmdir()
    service.start()
    drop_as_member(machine, dot(tmp_path / "a.png"), INBOX)
    service.wait_for_records(1)


def make_old(machine: Container) -> str:
    """The units of the older layout in the place of ours, and nothing of ours below /var.

    Beside the main instance there is one with the name `older`; returns its unit.
    """
    for instance in ("", "-older"):
        for kind in ("lib", "cache", "log"):
            shutil.rmtree(machine.path(f"/var/{kind}/ocr-watcher{instance}"), ignore_errors=True)
    for name in (UNIT, "ocr-watcher@.service"):
        shutil.copy(OLD / name, machine.path(f"/etc/systemd/system/{name}"))
    shutil.copy(OLD / "config.yaml", machine.path(CONFIG))
    configure_instance(machine, "older")
    return "ocr-watcher@older.service"


def test_an_installation_of_the_older_layout_is_migrated_with_its_records_and_attempts(
    service: Service, tmp_path: Path
) -> None:
    machine = service.machine
    machine.call("systemctl", "stop", UNIT)
    older = make_old(machine)
    older_inbox = machine.path("/var/lib/ocr-watcher-older/inbox")
    drop_in = machine.path(f"/etc/systemd/system/{older}.d/test.conf")
    drop_in.parent.mkdir()
    drop_in.write_text(f"[Service]\n{service.fake().replace(CONFIG, '/etc/ocr-watcher/older.yaml')}\n")
    current, service.shipped = service.shipped, yaml.safe_load((OLD / "config.yaml").read_text())
    service.configure(service.fake(FAKE_HANG="77"), ocr={"job_timeout_s": 600}, retry={"max_attempts": 3})
    service.shipped = current

    # Under the old units: records, a file that has ended the process once and is in hand again, a link.
    service.start()
    assert machine.call("systemctl", "start", older).returncode == 0
    drop_as_member(machine, dot(tmp_path / "a.png"), INBOX)
    drop_as_member(machine, dot(tmp_path / "b.png"), "/var/lib/ocr-watcher-older/inbox")
    service.wait_for_records(1)
    until((older_inbox / "b.png.json").exists)
    reading = machine.path(f"{FOLDER}/reading")
    for _ in range(2):
        reading.unlink()
        if "hang.png" in os.listdir(machine.path(INBOX)):
            os.kill(service.machine.host_pid(UNIT), 9)
        else:
            drop_as_member(machine, dot(tmp_path / "hang.png", (77, 10)), INBOX)
        until(reading.exists)
    planted = machine.call_as(MEMBER, "ln", "-s", "/etc", STATE)
    assert planted.returncode == 0, planted.stderr  # otherwise these are not the old units
    records = [machine.path(f"{INBOX}/a.png.json"), older_inbox / "b.png.json"]
    before = [path.stat() for path in records]

    result = machine.call("/src/systemd/install.sh", "install", timeout_s=600)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{CONFIG}: changed one line" in result.stdout
    assert "/etc/ocr-watcher/older.yaml: changed one line" in result.stdout
    assert f"{STATE} is not a folder of ocr-watcher: set aside" in result.stdout
    assert machine.path("/etc").stat().st_mode & 0o777 == 0o755
    assert service.state == "active"
    assert machine.show(older, "ActiveState") == "active"
    for folder in ("ocr-watcher", "ocr-watcher-older"):
        assert machine.path(f"/var/lib/{folder}/state/lock").is_file()
        assert can_be_done(machine, folder) == []

    # The same files count as done, new ones are read.
    drop_as_member(machine, dot(tmp_path / "c.png"), "/var/lib/ocr-watcher-older/inbox")
    until((older_inbox / "c.png.json").exists)
    assert [(s.st_ino, s.st_mtime_ns) for s in before] == [
        (s.st_ino, s.st_mtime_ns) for s in (path.stat() for path in records)
    ]
    # The attempt that ended the process under the old units counts: two more, not three.
    assert machine.call("systemctl", "stop", UNIT).returncode == 0
    config = machine.path(CONFIG)
    config.write_text(config.read_text().replace("job_timeout_s: 600", "job_timeout_s: 1"))
    service.start()
    until(machine.path(f"{INBOX}/hang.png.error.json").exists)
    until(lambda: service.state == "active")
    assert service.records()["hang.png.error.json"]["error"]["attempts"] == 3
    assert service.restarts == 2

    assert machine.call("systemctl", "stop", older).returncode == 0
    shutil.rmtree(drop_in.parent)


def test_uninstalling_takes_everything_but_the_data_and_says_what_it_leaves(service: Service) -> None:
    """Last: the container has no service any more after it."""
    machine = service.machine
    second = "ocr-watcher@second.service"
    configure_instance(machine, "second")
    service.start()
    assert machine.call("systemctl", "enable", "--now", second).returncode == 0
    result = machine.call("/src/systemd/install.sh", "uninstall", timeout_s=300)
    assert result.returncode == 0, result.stderr
    for unit in (UNIT, second):
        assert machine.show(unit, "ActiveState") == "inactive"
    gone = [
        "/opt/ocr-watcher",
        "/usr/local/bin/ocr-watcher",
        "/var/cache/ocr-watcher",
        "/var/cache/ocr-watcher-second",
    ]
    units = "/etc/systemd/system"
    gone += [f"{units}/{UNIT}", f"{units}/ocr-watcher@.service", f"{units}/multi-user.target.wants/{second}"]
    for path in gone:
        assert machine.call("test", "-L", path, "-o", "-e", path).returncode == 1, path
    kept = {row.strip() for row in result.stdout.splitlines() if row.startswith("  ")}
    assert {"/etc/ocr-watcher", FOLDER, f"{FOLDER}-second", "/var/log/ocr-watcher"} <= kept
    for path in kept:
        assert machine.call("test", "-e", path).returncode == 0
    assert machine.call("test", "-d", INBOX).returncode == 0

    result = machine.call("/src/systemd/install.sh", "uninstall", "--purge", timeout_s=300)
    assert result.returncode == 0, result.stderr
    for path in kept:
        assert machine.call("test", "-e", path).returncode == 1
    for kind in ("passwd", "group"):
        assert machine.call("getent", kind, "ocr-watcher").returncode != 0
    machine.path(INBOX).mkdir(parents=True)  # for what the fixture clears away
    machine.path("/var/log/ocr-watcher").mkdir(parents=True)
