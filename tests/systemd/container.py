"""A booted systemd without a host for it: an overlay of this machine's own file system in systemd-nspawn.

Works as root without systemd as process 1 and with cgroup v1. Nothing of the machine itself is
written: everything lands in the overlay's upper folder, which goes with the test.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support import until

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).parents[2]
_NSPAWN = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--resolv-conf=off"]


def why_not() -> str:
    """Why this machine cannot run such a container; empty where it can."""
    if os.geteuid() != 0:
        return "not root"
    missing = [tool for tool in ("systemd-nspawn", "systemctl", "nsenter", "mount") if not shutil.which(tool)]
    return f"{', '.join(missing)} not installed (Debian: systemd-container)" if missing else ""


class Container:
    """The machine inside; paths are as it sees them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def run_unbooted(self, *command: str) -> None:
        """Run a command in the file system, before systemd does; the project is at /src."""
        bind = f"--bind-ro={SOURCE}:/src"
        subprocess.run([*_NSPAWN, "--directory", str(self.root), bind, "--pipe", *command], check=True)

    def boot(self, *units: str) -> None:
        """Start systemd with the basic system and `units`, and wait until it is up.

        Not with what else is enabled on this machine: its database has no business here.
        """
        target = self.root / "etc/systemd/system/test.target"
        wants = " ".join(units)
        target.write_text(f"[Unit]\nRequires=basic.target\nAfter=basic.target {wants}\nWants={wants}\n")
        command = [*_NSPAWN, "--directory", str(self.root), f"--bind-ro={SOURCE}:/src", "--boot"]
        with (self.root / "boot.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "systemd.unit=test.target"], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        until(lambda: children.read_text().split(), 30)
        self._leader = int(children.read_text().split()[0])
        until(
            lambda: self.call("systemctl", "is-system-running").stdout.strip() in ("running", "degraded"), 180
        )

    def call(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command beside the services; its failure is the caller's to judge."""
        enter = [
            "nsenter",
            "--target",
            str(self._leader),
            "--mount",
            "--uts",
            "--ipc",
            "--net",
            "--pid",
            "--",
        ]
        return subprocess.run([*enter, *command], capture_output=True, text=True, check=False, timeout=60)

    def show(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.call("systemctl", "show", unit, "--property", name, "--value").stdout.strip()

    def host_pid(self, unit: str) -> int:
        """The main process of a unit as this machine counts."""
        inner = self.show(unit, "MainPID")
        own = os.readlink(f"/proc/{self._leader}/ns/pid")
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                rows = (process / "status").read_text().splitlines()
                numbers = next(row.split() for row in rows if row.startswith("NSpid:"))
                if numbers[-1] == inner and os.readlink(process / "ns/pid") == own:
                    return int(process.name)
        raise AssertionError(f"{unit} has no process {inner}")

    def path(self, inside: str) -> Path:
        """A path inside, as this machine reaches it."""
        return self.root / inside.lstrip("/")

    def shut_down(self) -> None:
        """End it without ceremony."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._leader, signal.SIGKILL)
            self._process.kill()
            self._process.wait(30)


@contextlib.contextmanager
def container(folder: Path) -> Iterator[Container]:
    """An unbooted container whose changes live in `folder`."""
    for name in ("upper", "work", "root"):
        (folder / name).mkdir()
    root = folder / "root"
    layers = f"lowerdir=/,upperdir={folder / 'upper'},workdir={folder / 'work'}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, str(root)], check=True)
    made = Container(root)
    try:
        (root / "etc/machine-id").unlink(missing_ok=True)
        (root / "etc/machine-id").write_text(uuid.uuid4().hex + "\n")
        yield made
    finally:
        made.shut_down()
        subprocess.run(["umount", "--lazy", str(root)], check=True)
        shutil.rmtree(folder, ignore_errors=True)
