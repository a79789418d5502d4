"""The container image, built by buildah and run as `podman run` would, in namespaces of its own.

No registry and no container runtime is needed: the base comes from Debian's archive (mmdebstrap), and a
container is a mount and a process namespace around the image's files, its root read-only, its user as the
image says, its memory in a cgroup.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support import until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT = Path(__file__).parents[1]
TAG = "localhost/ocr-watcher"
_CGROUP = Path("/sys/fs/cgroup/memory")
_MIB = 1 << 20
# A company's certificates, where pip is told of them; they must not get into the image.
_CERTIFICATES = Path(os.environ.get("PIP_CERT", "/etc/ssl/certs/ca-certificates.crt"))


def why_not() -> str:
    """Why no image can be built or run here; empty where it can."""
    if os.geteuid():
        return "not root"
    missing = [tool for tool in ("buildah", "mmdebstrap", "unshare") if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} missing: apt install buildah mmdebstrap"
    if not os.access(_CGROUP / "cgroup.procs", os.W_OK):
        return "no memory cgroup (version 1) that can be written"
    return ""


class Store:
    """buildah's storage, in a folder of the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._driver = "overlay"
        if not self._works():
            self._driver = "vfs"

    def buildah(self, *arguments: str) -> str:
        done = subprocess.run(
            ["buildah", "--root", str(self.folder), "--storage-driver", self._driver, *arguments],
            env={**os.environ, "BUILDAH_ISOLATION": "chroot"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.strip()

    def _works(self) -> bool:
        try:
            container = self.buildah("from", "scratch")
            self.buildah("mount", container)
            self.buildah("rm", container)
        except AssertionError:
            return False
        return True

    def base(self, name: str) -> None:
        """Make Debian's base image of this name, which a registry would have."""
        archive = self.folder.with_name("base.tar")
        subprocess.run(
            ["mmdebstrap", "--variant=minbase", "bookworm", str(archive)], check=True, capture_output=True
        )
        container = self.buildah("from", "scratch")
        self.buildah("add", "--quiet", container, str(archive), "/")
        self.buildah("commit", "--quiet", container, name)
        self.buildah("rm", container)
        archive.unlink()

    def build(self) -> Image:
        """Build the image of the Containerfile."""
        certificates = [
            *("--volume", f"{_CERTIFICATES}:/run/certificates.crt:ro"),
            *("--build-arg", "PIP_CERT=/run/certificates.crt"),
        ]
        self.buildah("build", "--format", "docker", "--pull-never", *certificates, "--tag", TAG, ".")
        return self.image()

    def image(self) -> Image:
        """The image, mounted."""
        container = self.buildah("from", "--pull-never", TAG)
        config = json.loads(self.buildah("inspect", container))["Docker"]["config"]
        (told,) = json.loads(self.buildah("images", "--json", TAG))
        return Image(Path(self.buildah("mount", container)), config, told["size"])


@dataclass(frozen=True)
class Image:
    """Its files, its configuration as the image format has it, and its size in words."""

    files: Path
    config: dict[str, Any]
    size: str

    @property
    def environment(self) -> dict[str, str]:
        return dict(row.split("=", 1) for row in self.config["Env"])

    @property
    def user(self) -> tuple[int, int]:
        """Number of its user and group."""
        rows = (row.split(":") for row in (self.files / "etc/passwd").read_text("ascii").splitlines())
        return next((int(row[2]), int(row[3])) for row in rows if row[0] == self.config["User"])


@dataclass
class Container:
    """One container. `mounts` are host folders and files by place; what ends in `:ro` is read-only."""

    image: Image
    folder: Path
    mounts: Mapping[str, Path]
    command: Sequence[str] | None = None
    entrypoint: Sequence[str] | None = None
    memory_mb: int | None = None
    network: int | None = None  # a process whose network it shares
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        """Start it; its output is in the file `log`."""
        self.folder.mkdir(exist_ok=True)
        inside = [
            *(self.image.config["Entrypoint"] if self.entrypoint is None else self.entrypoint),
            *(self.image.config["Cmd"] if self.command is None else self.command),
        ]
        prefix = ["nsenter", "--net", "--target", str(self.network)] if self.network else []
        script = self.folder / "start"
        script.write_text(self._script(inside))
        with (self.folder / "log").open("ab") as log:
            apart = ("--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child")
            self.process = subprocess.Popen(
                [*prefix, "unshare", *apart, "sh", str(script)],
                stdout=log,
                stderr=log,
            )  # fmt: skip

    def _script(self, inside: Sequence[str]) -> str:
        root, (uid, gid) = self.folder / "root", self.image.user
        (self.folder / "state").mkdir(exist_ok=True)
        os.chown(self.folder / "state", uid, gid)
        (root).mkdir(exist_ok=True)
        rows = ["set -e", "mount --make-rprivate /", f"mount --bind {self.image.files} {root}"]
        rows += [f"mount -t proc proc {root}/proc", f"mount --rbind /sys {root}/sys"]
        rows += [f"mount -t tmpfs tmpfs {root}/dev", f"mkdir {root}/dev/shm"]  # noqa: S108 - the container's
        rows += [
            f"touch {root}/dev/{name} && mount --bind /dev/{name} {root}/dev/{name}"
            for name in ("null", "zero", "full", "random", "urandom")
        ]
        rows += [f"mount -t tmpfs -o size=256m tmpfs {root}/tmp"]  # noqa: S108 - the container's
        for place, source in {"/state": self.folder / "state", **self.mounts}.items():
            where = f"{root}{place.removesuffix(':ro')}"
            rows += [f"mount --bind {source} {where}"]
            rows += [f"mount -o remount,ro,bind {where}"] if place.endswith(":ro") else []
        rows += [f"mount -o remount,ro,bind {root}"]
        if self.memory_mb is not None:
            rows += [f"echo $$ > {self.cgroup}/cgroup.procs"]
            self.cgroup.mkdir(exist_ok=True)
            (self.cgroup / "memory.limit_in_bytes").write_text(str(self.memory_mb * _MIB))
        words = " ".join(f"'{word}'" for word in inside)
        told = " ".join(f"'{name}={value}'" for name, value in self.image.environment.items())
        drop = (
            f"/usr/bin/setpriv --reuid {uid} --regid {gid} --clear-groups --no-new-privs --bounding-set=-all"
        )
        there = f'cd {self.image.config["WorkingDir"]} && exec "$@"'
        rows += [f"hostname {self.folder.name}"]
        rows += [f"exec env -i {told} {shutil.which('chroot')} {root} {drop} sh -c '{there}' sh {words}"]
        return "\n".join(rows) + "\n"

    def wait_for(self, event: str, seconds: float = 180) -> None:
        """Until its log has this event."""

        def there() -> bool:
            assert self.process is not None
            if self.process.poll() is not None and not self.events(event):
                raise AssertionError(f"ended with {self.process.returncode}:\n{self.log}")
            return bool(self.events(event))

        until(there, seconds)

    @property
    def cgroup(self) -> Path:
        return _CGROUP / f"ocr-watcher-{os.getpid()}-{self.folder.name}"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text("utf-8", "replace")

    def events(self, name: str) -> list[dict[str, Any]]:
        found = []
        for row in self.log.splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(row))
        return [event for event in found if event["event"] == name]

    def run_inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Another process in the container, as its user, as a health check is."""
        uid, gid = self.image.user
        return subprocess.run(
            ["nsenter", "--target", str(self._first()), "--mount", "--pid", "--net", "--root", "--wd",
             "/usr/bin/setpriv", "--reuid", str(uid), "--regid", str(gid), "--clear-groups", *command],
            env=self.image.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def _first(self) -> int:
        """Its process 1, by the number that it has here."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        until(lambda: children.read_text("ascii").split())
        return int(children.read_text("ascii").split()[0])

    def peak_mb(self) -> float:
        """The most that its cgroup ever held, caches included (MiB)."""
        return int((self.cgroup / "memory.max_usage_in_bytes").read_text()) / _MIB

    def out_of_memory(self) -> int:
        """How often the kernel killed something in it."""
        rows = (self.cgroup / "memory.oom_control").read_text().splitlines()
        return next(int(row.split()[1]) for row in rows if row.startswith("oom_kill "))

    def stop(self) -> int:
        """As `podman stop`: SIGTERM to its first process; returns the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            os.kill(self._first(), signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.returncode

    def kill(self) -> None:
        """End it, whatever it does."""
        if self.process is not None and self.process.poll() is None:
            # Its process 1 has another user by now, and does not die with its parent.
            with contextlib.suppress(AssertionError, ProcessLookupError):
                os.kill(self._first(), signal.SIGKILL)
            self.process.kill()
            self.process.wait()
        if self.memory_mb is not None and self.cgroup.exists():
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                with contextlib.suppress(OSError):
                    self.cgroup.rmdir()
                    return
                time.sleep(0.1)
            raise AssertionError(f"something is left in {self.cgroup}")


@contextlib.contextmanager
def running(container: Container) -> Iterator[Container]:
    """Started, and ended with the block."""
    container.start()
    try:
        yield container
    finally:
        container.kill()


@contextlib.contextmanager
def network() -> Iterator[int]:
    """A network of its own with nothing but itself in it; yields a process that is in it."""
    holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "ip link set lo up && exec sleep infinity"])
    try:
        yield holder.pid
    finally:
        holder.kill()
        holder.wait()
