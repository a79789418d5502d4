"""A cluster on one machine: a real broker, a dispatcher, and hosts with a daemon and a bridge each.

Each host has folders of its own; all share one. The daemons read with the fake engine.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tests.support import Process, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SERVER = "redis-server"
# Quick to notice what is lost; a heartbeat still has a tenth of the time that one may be away.
QUICK = {
    "FAKE_HEARTBEAT_S": "0.2",
    "FAKE_AWAY_S": "6",
    "FAKE_LOST_S": "4",
    "FAKE_LISTEN_S": "1",
    "FAKE_DAEMON_AWAY_S": "5",
}


# A mount namespace and a host name of its own. The process stays the same: it can be killed and stopped.
_APART = (
    *("unshare", "--mount", "--uts", "--propagation", "private", "sh", "-c"),
    'hostname "$1" && mount --bind "$2" "$3" && shift 3 && exec "$@"',
    "sh",
)


def why_not_apart() -> str:
    """Why hosts can have no namespaces of their own here; empty where they can."""
    tried = subprocess.run(
        [*_APART, "host", "/tmp", "/tmp", "true"],  # noqa: S108 - mounted onto itself, for nobody else
        capture_output=True,
        text=True,
        check=False,
    )
    return tried.stderr.strip() if tried.returncode else ""


def why_not() -> str:
    """Why there can be no cluster here; empty where there can."""
    if shutil.which(SERVER) is None:
        return "redis-server is missing: apt install redis-server"
    try:
        import celery  # noqa: F401, PLC0415 - whether it is there
        import redis  # noqa: F401, PLC0415
    except ImportError as error:
        return f"{error.name} is missing: make test-cluster"
    return ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Redis:
    """A broker of its own, which forgets everything when it ends."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                SERVER,
                "--port",
                str(self.port),
                "--save",
                "",
                "--bind",
                "127.0.0.1",
                "--dir",
                str(self._folder),
            ],
            stdout=subprocess.DEVNULL,
        )
        until(self._answers)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def client(self) -> Any:
        import redis  # noqa: PLC0415 - an extra

        return redis.Redis(port=self.port)

    def _answers(self) -> bool:
        with contextlib.suppress(Exception):
            return bool(self.client().ping())
        return False


@dataclass
class Host:
    """One machine: its folder, its daemon, its bridge. Each can be started anew."""

    name: str
    folder: Path
    environment: dict[str, str]
    prefix: tuple[str, ...] = ()  # a command that runs the others, in namespaces of their own
    daemon: Process | None = None
    bridge: Process | None = None
    daemon_module: str = "tests.fake_daemon"

    def start_daemon(self) -> Process:
        if self.daemon is not None:
            self.daemon.close()
        self.daemon = Process(
            ["-m", self.daemon_module, "run", "-c", "config.yaml"],
            self.folder,
            self.environment,
            self.prefix,
        )
        return self.daemon

    def start_bridge(self) -> Process:
        home = self.folder / "bridge"
        home.mkdir(exist_ok=True)
        if self.bridge is not None:
            self.bridge.close()
        self.bridge = Process(
            [
                "-m",
                "tests.fake_cluster",
                "bridge",
                "--metrics",
                "0",
                "--name",
                self.name,
                "-c",
                "../config.yaml",
            ],
            home,
            self.environment,
            self.prefix,
        )
        return self.bridge


@dataclass
class Cluster:
    """All of it."""

    folder: Path
    redis: Redis
    share: Path
    sections: dict[str, Any]
    environment: dict[str, str] = field(default_factory=dict)
    hosts: list[Host] = field(default_factory=list)
    dispatcher: Process | None = None

    def config(self, name: str, share: Path | None = None) -> Path:
        """A folder of its own with a configuration for it; `share` is where it sees that."""
        home = self.folder / name
        home.mkdir()
        (home / "inbox").mkdir()
        document: dict[str, Any] = {
            "watch": {"inbox": "inbox", "settle_s": 0.05, "rescan_interval_s": 2},
            "logging": {"file": "log/log"},
            "cluster": {"broker": self.redis.url, "roots": {"scans": str(share or self.share)}},
        }
        for section, values in self.sections.items():
            document[section] = {**document.get(section, {}), **values}
        (home / "config.yaml").write_text(yaml.safe_dump(document), "utf-8")
        return home

    def add_host(
        self, environment: Mapping[str, str] | None = None, *, apart: bool = False, real: bool = False
    ) -> Host:
        """One more host; `apart`: in namespaces of its own, with the share mounted somewhere else."""
        name = f"host{len(self.hosts) + 1}"
        mount = self.folder / name / "mnt"
        home = self.config(name, mount if apart else None)
        host = Host(name, home, {"FAKE_READS": "1", **self.environment, **(environment or {})})
        if real:
            host.daemon_module = "ocr_watcher"
        if apart:
            mount.mkdir()
            host.prefix = (*_APART, name, str(self.share), str(mount))
        self.hosts.append(host)
        host.start_daemon()
        host.start_bridge()
        return host

    def start_dispatcher(self) -> Process:
        home = self.folder / "dispatch"
        if not home.exists():
            self.config("dispatch")
        if self.dispatcher is not None:
            self.dispatcher.close()
        self.dispatcher = Process(
            ["-m", "tests.fake_cluster", "dispatch", "--metrics", "0", "-c", "config.yaml"],
            home,
            self.environment,
        )
        return self.dispatcher

    def reads(self) -> list[tuple[str, int]]:
        """Host and width of every image begun."""
        found = []
        for host in self.hosts:
            with contextlib.suppress(FileNotFoundError):
                rows = (host.folder / "reads").read_text("ascii").splitlines()
                found += [(host.name, int(row.split()[1])) for row in rows]
        return found

    def processes(self) -> list[Process]:
        all_of_them = [self.dispatcher]
        for host in self.hosts:
            all_of_them += [host.daemon, host.bridge]
        return [process for process in all_of_them if process is not None]


@contextlib.contextmanager
def cluster(
    folder: Path, hosts: int = 1, environment: Mapping[str, str] | None = None, **sections: Any
) -> Iterator[Cluster]:
    """A broker, a dispatcher and hosts, all started; everything ends with the block."""
    share = folder / "share"
    share.mkdir()
    made = Cluster(folder, Redis(folder), share, sections, {**QUICK, **(environment or {})})
    try:
        for _ in range(hosts):
            made.add_host()
        made.start_dispatcher().wait_for("dispatch.ready")
        yield made
    finally:
        for process in made.processes():
            process.close()
        made.redis.kill()
