"""A booted systemd without a host for it: an overlay of this machine's own file system in systemd-nspawn.

Works as root without systemd as process 1 and with cgroup v1. Nothing of the machine itself is
written: everything lands in the overlay's upper folder, which goes with the test. Killed tests leave
that folder behind, but no mount and no process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support import until

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).parents[2]
_CLONE_NEWNS = 0x00020000
# A container outlives an nspawn that is killed, not one that is told to end: which it is when the tests die.
_NSPAWN = [
    *("setpriv", "--pdeathsig", "TERM", "systemd-nspawn", "--kill-signal=SIGKILL"),
    *("--quiet", "--register=no", "--keep-unit", "--resolv-conf=off", "--setenv=SYSTEMD_COLORS=0"),
    f"--bind-ro={SOURCE}:/src",
]


def why_not() -> str:
    """Why this machine cannot run such a container; empty where it can."""
    if os.geteuid() != 0:
        return "not root"
    tools = ("systemd-nspawn", "systemctl", "nsenter", "setpriv", "mount")
    missing = [tool for tool in tools if not shutil.which(tool)]
    return f"{', '.join(missing)} not installed (Debian: systemd-container)" if missing else ""


class Container:
    """The machine inside; paths are as it sees them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def run_unbooted(self, *command: str) -> None:
        """Run a command in the file system, before systemd does; the project is at /src."""
        self._process = subprocess.Popen([*_NSPAWN, "--directory", str(self.root), "--pipe", *command])
        assert self._process.wait() == 0, command

    def boot(self, *units: str) -> None:
        """Start systemd with the basic system and `units`, and wait until it is up.

        Not with what else is enabled on this machine: its database has no business here.
        """
        target = self.root / "etc/systemd/system/test.target"
        wants = " ".join(units)
        target.write_text(f"[Unit]\nRequires=basic.target\nAfter=basic.target {wants}\nWants={wants}\n")
        command = [*_NSPAWN, "--directory", str(self.root), "--boot", "systemd.unit=test.target"]
        with (self.root / "boot.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            until(self._up, 60)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            raise AssertionError(f"not up: {error}\n{self._state()}") from None

    def _up(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "systemd-nspawn has ended"
        self._leader = self._leader or self._first_process(self._process.pid)
        if not self._leader:
            return False
        return self.call("systemctl", "is-system-running").stdout.strip() in ("running", "degraded")

    @staticmethod
    def _first_process(nspawn: int) -> int:
        """The container's process 1 as this machine counts; 0 while there is none.

        For some milliseconds nspawn's child is a helper instead, which lays out the file system, in this
        machine's PID namespace.
        """
        for child in Path(f"/proc/{nspawn}/task/{nspawn}/children").read_text().split():
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{child}/ns/pid") != os.readlink("/proc/self/ns/pid"):
                    return int(child)
        return 0

    def _state(self) -> str:
        """What it is about, for whoever must find out why it is not up."""
        told = []
        for command in ("is-system-running", "list-jobs", "list-units --failed") if self._leader else ():
            result = self.call("timeout", "9", "systemctl", "--no-pager", *command.split())
            told.append(f"{command}:\n{result.stdout}{result.stderr}")
        log = (self.root / "boot.log").read_text(errors="replace").splitlines()
        return "\n".join([*told, "boot.log:", *[row for row in log if row][-40:]])

    def call(self, *command: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
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
        return subprocess.run(
            [*enter, *command], capture_output=True, text=True, check=False, timeout=timeout_s
        )

    def call_as(self, user: str, *command: str) -> subprocess.CompletedProcess[str]:
        """The same as a user with all their groups, as after a login."""
        return self.call("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--", *command)

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
            self._process.terminate()
            self._process.wait(30)


def _keep_mounts_to_oneself() -> None:
    """Give this process its own mounts: they go with it, however it ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:  # os.unshare is of Python 3.12
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


@contextlib.contextmanager
def container(folder: Path) -> Iterator[Container]:
    """An unbooted container whose changes live in `folder`."""
    for name in ("upper", "work", "root"):
        (folder / name).mkdir()
    root = folder / "root"
    layers = f"lowerdir=/,upperdir={folder / 'upper'},workdir={folder / 'work'}"
    _keep_mounts_to_oneself()
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
