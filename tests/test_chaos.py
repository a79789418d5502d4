"""Everything at once, at random: signals, dates, folders, foreign files, full disks, a mount that hangs.

`CHAOS_S` is how long (s), `CHAOS_SEED` repeats a run as far as that goes; the seed is printed.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ocr_watcher import names
from tests.fuse import mounted, why_not
from tests.support import Process, dot, record, until, write_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RUN_S = float(os.environ.get("CHAOS_S", "600"))
SEED = int(os.environ.get("CHAOS_SEED", random.randrange(10**6)))  # noqa: S311 - no secret
HARMLESS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGHUP, signal.SIGIO)
_YEAR_S = 365 * 24 * 3600

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(RUN_S * 2 + 300),
    pytest.mark.skipif(bool(why_not()), reason=f"NO CHAOS ON THIS MACHINE: {why_not()}"),
]


class Reader(threading.Thread):
    """Reads standard error of the daemon, a pipe, or does not for a while."""

    def __init__(self, pipe: Path) -> None:
        super().__init__(daemon=True)
        self._fd = os.open(pipe, os.O_RDWR)
        self.reads = threading.Event()
        self.reads.set()

    def run(self) -> None:
        while True:
            self.reads.wait()
            os.read(self._fd, 1 << 16)


@dataclass
class Chaos:
    """The daemon, its three inboxes, and what was put into them."""

    home: Path
    server: subprocess.Popen[bytes]
    dice: random.Random
    files: set[Path] = field(default_factory=set)
    foreign: set[Path] = field(default_factory=set)
    hung: bool = False
    stopped: bool = False
    did: Counter[str] = field(default_factory=Counter)
    ends: Counter[int] = field(default_factory=Counter)
    longest_stop_s: float = 0.0

    def __post_init__(self) -> None:
        self.inbox, self.disk, self.source = (self.home / name for name in ("inbox", "disk", "source"))
        self.good = dot(self.home / "good.png").read_bytes()
        os.mkfifo(self.home / "pipe")
        self.reader = Reader(self.home / "pipe")
        self.reader.start()
        self.start()

    # -- the daemon ----------------------------------------------------------------------------

    def start(self) -> None:
        self.stopped = False
        self.daemon = Process(
            ["-m", "tests.fake_daemon", "run", "-c", "config.yaml"],
            self.home,
            {"FAKE_CLOCK": "1", "FAKE_READ_S": "0.01", "FAKE_HUNG_S": "3", "FAKE_PAUSE_S": "0.5"},
            ["sh", "-c", 'exec "$@" 2>pipe', "sh"],
        )

    def keep_alive(self) -> None:
        """What a service manager does."""
        if self.daemon.ended:
            code = self.daemon.wait()
            # Once it has said that it exits nothing is in hand, and signals have their defaults again.
            expected = (0, 75, -signal.SIGKILL, *(-one for one in HARMLESS if '"daemon.exiting"' in self.said()))
            assert code in expected, (code, self.said()[-2000:])
            self.ends[code] += 1
            self.daemon.close()
            self.start()

    def stop(self) -> None:
        if self.stopped:
            self.go_on()
        began = time.monotonic()
        self.daemon.signal(signal.SIGTERM)
        code = self.daemon.wait(20)
        took_s = time.monotonic() - began
        # Before its handlers are there and when they are gone, the default of the signal ends it.
        default = not self.said() or '"daemon.exiting"' in self.said()
        assert code in (0, 75, *([-signal.SIGTERM] if default else [])), (code, self.said()[-2000:])
        assert took_s < 10, took_s
        self.longest_stop_s = max(self.longest_stop_s, took_s)
        self.ends[max(code, 0)] += 1
        self.daemon.close()
        self.start()

    def kill(self) -> None:
        self.daemon.signal(signal.SIGKILL)

    def signal(self) -> None:
        if self.said():  # else its handlers are not there yet, and nothing is in hand
            self.daemon.signal(self.dice.choice(HARMLESS))

    def suspend(self) -> None:
        self.daemon.signal(signal.SIGSTOP)
        self.stopped = True

    def go_on(self) -> None:
        self.daemon.signal(signal.SIGCONT)
        self.stopped = False

    def said(self) -> str:
        """The log of this process since its signal handlers are there."""
        files = sorted((self.home / "log").glob("*"), key=lambda path: path.stat().st_mtime_ns)
        log = "".join(path.read_text() for path in files)
        _, _, said = log.rpartition('"daemon.starting"')
        return said if f'"pid": {self.daemon.pid},' in said.partition("\n")[0] else ""

    # -- what somebody else does -----------------------------------------------------------------

    def put(self) -> None:
        """A whole file, or what is none, with any date, by one of two ways, in a folder of any depth."""
        root = self.dice.choice([self.inbox, self.inbox, self.disk])
        folder = root.joinpath(*["d" * self.dice.randrange(1, 40)] * self.dice.choice([0, 0, 1, 3, 30]))
        number = sum(self.did.values())
        content = self.good if self.dice.random() < 0.8 else b"no image"
        path = folder / f"{number}.png"
        with contextlib.suppress(OSError):  # the full disk
            folder.mkdir(parents=True, exist_ok=True)
            part = folder / f"{number}.part"
            part.write_bytes(content)
            date = self.dice.uniform(-5, 530) * _YEAR_S
            with contextlib.suppress(OSError):
                os.utime(part, (date, date))
            part.rename(path)
            self.files.add(path)
        path.with_suffix(".part").unlink(missing_ok=True)

    def rename_folder(self) -> None:
        for old in self.dice.sample(sorted(self.inbox.iterdir()), k=1) if any(self.inbox.iterdir()) else []:
            if not old.is_dir():
                continue
            new = old.with_name(f"r{sum(self.did.values())}")
            old.rename(new)
            moved = {path: new / path.relative_to(old) for path in self.files if path.is_relative_to(old)}
            self.files = {moved.get(path, path) for path in self.files}
            self.foreign = {new / f.relative_to(old) if f.is_relative_to(old) else f for f in self.foreign}

    def put_foreign(self) -> None:
        number = sum(self.did.values())
        record = self.inbox / f"{number}.png.json"
        record.write_text('{"title": "IMG"}')
        self.foreign.add(record)
        (self.inbox / f"{number}.png").write_bytes(self.good)
        self.files.add(self.inbox / f"{number}.png")

    def take_foreign(self) -> None:
        for path in list(self.foreign)[:1]:
            assert path.read_text() == '{"title": "IMG"}'
            path.unlink()
            self.foreign.discard(path)

    def hang(self) -> None:
        self.server.send_signal(signal.SIGCONT if self.hung else signal.SIGSTOP)
        self.hung = not self.hung

    def put_on_the_mount(self) -> None:
        (self.source / f"{self.dice.randrange(5)}.png").write_bytes(self.good)

    def fill(self) -> None:
        with contextlib.suppress(OSError), (self.disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))

    def empty(self) -> None:
        (self.disk / "filler").unlink(missing_ok=True)

    def stall(self) -> None:
        if self.reader.reads.is_set():
            self.reader.reads.clear()
        else:
            self.reader.reads.set()

    def take_log(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self.home / "log" / "log").rename(self.home / "log" / f"taken-{sum(self.did.values()):06}")

    # -- all of it -------------------------------------------------------------------------------

    def run(self) -> None:
        acts: dict[Callable[[], None], int] = {
            self.put: 300,
            self.rename_folder: 20,
            self.put_foreign: 20,
            self.take_foreign: 15,
            self.hang: 6,
            self.put_on_the_mount: 6,
            self.fill: 6,
            self.empty: 12,
            self.stall: 6,
            self.take_log: 3,
            self.signal: 12,
            self.suspend: 2,
            self.go_on: 12,
            self.stop: 4,
            self.kill: 4,
        }
        until_s = time.monotonic() + RUN_S
        while time.monotonic() < until_s:
            (act,) = self.dice.choices(list(acts), list(acts.values()))
            self.did[act.__name__] += 1
            self.keep_alive()
            act()
            time.sleep(self.dice.choice([0, 0, 0.01, 0.1, 0.3]))  # the subject is time across processes

    def calm_down(self) -> None:
        """Whatever was in the way is gone."""
        self.reader.reads.set()
        if self.hung:
            self.hang()
        self.go_on()
        self.empty()
        while self.foreign:
            self.take_foreign()

    def unfinished(self) -> list[Path]:
        """Files without exactly one record."""
        self.keep_alive()
        return [path for path in self.files if len(self.records_of(path)) != 1]

    @staticmethod
    def records_of(path: Path) -> list[Path]:
        return [one for name in names.records_of(path.name) if (one := path.with_name(name)).exists()]


@contextlib.contextmanager
def chaos(home: Path) -> Iterator[Chaos]:
    """Three inboxes: on this disk, on a small one, and on a mount that can hang."""
    for name in ("inbox", "disk", "mount", "source"):
        (home / name).mkdir()
    write_config(
        home,
        watch={"inbox": ["inbox", "disk", "mount"], "rescan_interval_s": 5, "poll_interval_s": 1},
        queue={"max_size": 16},
        ocr={"job_timeout_s": 20},
        # A kill cannot be told from a crash that the file has caused.
        retry={"max_attempts": 1000},
    )
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", home / "disk"], check=True)
    try:
        with mounted(home / "source", home / "mount") as server:
            made = Chaos(home, server, random.Random(SEED))  # noqa: S311 - repeatable
            try:
                yield made
            finally:
                made.go_on()
                made.daemon.close()
    finally:
        until(lambda: not subprocess.run(["umount", home / "disk"], check=False).returncode)
        shutil.rmtree(home / "inbox", ignore_errors=True)


def test_every_file_ends_with_one_record_and_every_stop_comes_soon(tmp_path: Path) -> None:
    print(f"CHAOS_SEED={SEED}")
    with chaos(tmp_path) as story:
        story.run()
        story.calm_down()
        until(lambda: not story.unfinished(), 180)
        for path in story.files:
            (found,) = story.records_of(path)
            document = record(found)
            good = path.read_bytes() == story.good
            assert document["status"] == ("ok" if good else "failed"), path
            assert good or document["error"]["code"] == "unsupported_format", path
        story.stop()
        print(
            f"{RUN_S:g} s: {dict(story.did)}; {len(story.files)} files, each with its record; ends "
            f"{dict(story.ends)}, the longest stop {story.longest_stop_s:.1f} s"
        )
