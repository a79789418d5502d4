"""The contestants of compare.py as running processes: a worker that answers, or a daemon with an inbox."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

PAUSE_S = 0.1  # after each image: what is done behind a result counts as its CPU time, and disturbs nobody
_POLL_S = 0.002
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class FailedError(Exception):
    """A contestant could not read an image; it can be given another."""


class GoneError(Exception):
    """A contestant cannot go on."""


@dataclass(frozen=True)
class Reading:
    """One image read: text, seconds, CPU seconds, and MiB of memory after it and at the highest so far."""

    text: str
    elapsed_s: float
    cpu_s: float
    rss_mb: float
    peak_mb: float


class Runner(Protocol):
    """A contestant that runs."""

    versions: dict[str, str]

    def read(self, path: Path, limit_s: float) -> Reading:
        """Read an image. Raises `FailedError` or `GoneError`."""

    def stop(self) -> None:
        """End it."""


class Worker:
    """A contestant in contestants.py: a question a line, an answer a line."""

    def __init__(
        self, python: Path, kind: str, options: dict[str, Any], home: Path, variables: dict[str, str]
    ) -> None:
        self._log = home / "stderr.txt"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [python, Path(__file__).with_name("contestants.py"), kind, json.dumps(options)],
                cwd=home,
                env=variables,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        try:
            self.versions: dict[str, str] = self._answer(limit_s=120)["versions"]
        except FailedError as error:  # it says so itself, and leaves
            self.stop()
            raise GoneError(str(error)) from None
        except BaseException:
            self.stop()
            raise

    def read(self, path: Path, limit_s: float) -> Reading:
        """See `Runner.read`."""
        with suppress(BrokenPipeError):
            stdin = _pipe(self._process.stdin)
            stdin.write(json.dumps({"path": str(path)}).encode() + b"\n")
            stdin.flush()
        answer = self._answer(limit_s)
        return Reading("\n".join(answer.pop("lines")), **answer)

    def stop(self) -> None:
        """See `Runner.stop`."""
        with suppress(BrokenPipeError):
            _pipe(self._process.stdin).close()
        _end(self._process, patience_s=2)
        _pipe(self._process.stdout).close()

    def _answer(self, limit_s: float) -> dict[str, Any]:
        stdout = _pipe(self._process.stdout)
        if not select.select([stdout], [], [], limit_s)[0]:
            raise GoneError(f"no answer within {limit_s:.0f} s")
        row = stdout.readline()
        if not row:
            last = self._log.read_text("utf-8", "replace").strip().splitlines()[-1:] or [""]
            raise GoneError(f"the process left with {self._process.wait()}: {last[0]}")
        answer: dict[str, Any] = json.loads(row)
        if "error" in answer:
            raise FailedError(answer["error"])
        return answer


class Daemon:
    """A real daemon on an inbox of its own; started again when it leaves with 75, as systemd does."""

    def __init__(self, python: Path, home: Path, variables: dict[str, str]) -> None:
        self._command = [str(python), "-m", "ocr_watcher", "run", "-c", "config.yaml"]
        self._home = home
        self._variables = variables
        self._log = home / "stderr.txt"
        self._count = 0
        self._peak_mb = 0.0
        self.versions: dict[str, str] = {}
        self._start()
        try:
            self._wait_until_ready(time.monotonic() + 120)
        except BaseException:
            self.stop()
            raise

    def read(self, path: Path, limit_s: float) -> Reading:
        """See `Runner.read`. Nothing of it stays in the inbox."""
        self._count += 1
        image = self._home / "inbox" / f"{self._count:06}{path.suffix}"
        sidecar, failure = image.with_name(f"{image.name}.json"), image.with_name(f"{image.name}.error.json")
        pid, cpu = self._process.pid, self._cpu_s()
        started = time.perf_counter()
        shutil.copyfile(path, image)
        while not (sidecar.exists() or failure.exists()):
            if time.perf_counter() - started > limit_s:
                raise GoneError(f"no sidecar within {limit_s:.0f} s")
            if self._process.poll() is not None:
                self._again()
            time.sleep(_POLL_S)
        elapsed = time.perf_counter() - started
        time.sleep(PAUSE_S)
        rss_mb, peak_mb = self._memory_mb()
        # A daemon that was started again meanwhile has all its CPU time behind this image.
        used = self._cpu_s() - (cpu if pid == self._process.pid else 0.0)
        record = json.loads((sidecar if sidecar.exists() else failure).read_text(encoding="utf-8"))
        for done in (image, sidecar, failure):
            done.unlink(missing_ok=True)
        if record["status"] != "ok":
            raise FailedError(f"{record['error']['code']}: {record['error']['message']}")
        said = record["memory_mb"]  # where it has left with 75 in the meantime
        self._peak_mb = max(self._peak_mb, peak_mb, said["rss_peak"])
        return Reading(record["text"], elapsed, used, rss_mb or said["rss_after"], self._peak_mb)

    def stop(self) -> None:
        """See `Runner.stop`."""
        if self._process.poll() is None:
            self._process.terminate()
        _end(self._process, patience_s=12)

    def _start(self) -> None:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._home,
                env=self._variables,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _again(self) -> None:
        if self._process.returncode != 75:
            raise GoneError(f"the daemon left with {self._process.returncode}: {self._last_words()}")
        self._start()

    def _wait_until_ready(self, until: float) -> None:
        while True:
            events = self._events()
            if any(event.get("event") == "daemon.ready" for event in events):
                self.versions = {"ocr-watcher": str(events[0].get("version"))}
                return
            if self._process.poll() is not None:
                raise GoneError(f"the daemon left with {self._process.returncode}: {self._last_words()}")
            if time.monotonic() > until:
                raise GoneError("the daemon does not get ready")
            time.sleep(0.02)

    def _events(self) -> list[dict[str, Any]]:
        events = []
        for row in self._log.read_text("utf-8", "replace").splitlines():
            with suppress(ValueError):
                events.append(json.loads(row))
        return [event for event in events if isinstance(event, dict)]

    def _last_words(self) -> str:
        return (self._log.read_text("utf-8", "replace").strip().splitlines() or [""])[-1][:300]

    def _cpu_s(self) -> float:
        """User and system time of all its threads, to a hundredth of a second."""
        with suppress(OSError):
            fields = Path(f"/proc/{self._process.pid}/stat").read_text("ascii").rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
        return 0.0

    def _memory_mb(self) -> tuple[float, float]:
        found = {"VmRSS": 0.0, "VmHWM": 0.0}
        with suppress(OSError):
            for row in Path(f"/proc/{self._process.pid}/status").read_text("ascii").splitlines():
                key, _, value = row.partition(":")
                if key in found:
                    found[key] = int(value.split()[0]) / 1024
        return found["VmRSS"], found["VmHWM"]


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise TypeError("the process was started without pipes")
    return stream


def _end(process: subprocess.Popen[bytes], patience_s: float) -> None:
    """Wait for it, then kill it with whatever it has started: each leads a session of its own."""
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
