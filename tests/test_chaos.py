"""Everything at once, at random, with the real daemon on a fake engine.

Signals, a wall clock that jumps, dates to 2500, folders that are deep, come by the thousand and are renamed,
files that are replaced or copied slowly, hostile images, foreign records, a disk that is full, an inbox that
is unmounted, one that hangs, a reader of standard error that stalls, a log that is moved away.

`CHAOS_S` is how long (s), `CHAOS_SEED` repeats a run as far as that goes; the seed is printed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
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
from ocr_watcher.inbox import records
from ocr_watcher.inbox.records import RecordState
from ocr_watcher.job import Stamp
from tests.fuse import mounted, why_not
from tests.support import Process, dot, record, until, write_config
from tests.test_image import png_header
from tests.test_inputs_hostile import REFUSED, TIFFS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RUN_S = float(os.environ.get("CHAOS_S", "600"))
SEED = int(os.environ.get("CHAOS_SEED", random.randrange(10**6)))  # noqa: S311 - no secret
HARMLESS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGHUP, signal.SIGIO)
_YEAR_S = 365 * 24 * 3600

# What ends with an error record. Those of 10 MB are not for the small disk.
SMALL = (b"", b"no image", png_header(60_000, 60_000))
# How a file may end: status and code, for a good one and for any other.
ENDS = {
    True: [("ok", "")],
    False: [
        ("failed", code) for code in ("unsupported_format", "unreadable", "truncated", "too_many_pixels")
    ],
}
FOREIGN = '{"title": "IMG"}'
LARGE = ("strips-in-bytes", "xmp", "gif-comments", "png-profiles")

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(RUN_S * 3 + 300),
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
    """The daemon, its three inboxes, and what was put into them.

    `disk` and `mount` are two of the inboxes; `small` and `source` are where their files really are.
    """

    home: Path
    server: subprocess.Popen[bytes]
    dice: random.Random
    files: dict[Path, bool] = field(default_factory=dict)  # whether it can be read
    foreign: set[Path] = field(default_factory=set)
    hung: bool = False
    unmounted: bool = False
    stopped: bool = False
    killed: bool = False
    did: Counter[str] = field(default_factory=Counter)
    ends: Counter[int] = field(default_factory=Counter)
    longest_stop_s: float = 0.0

    def __post_init__(self) -> None:
        self.inbox, self.disk, self.source = (self.home / name for name in ("inbox", "disk", "source"))
        self.small = self.home / "small" / "files"
        self.bad = [TIFFS[kind][0]() if kind in TIFFS else REFUSED[kind][0]() for kind in LARGE]
        self.good = dot(self.home / "good.png").read_bytes()
        os.mkfifo(self.home / "pipe")
        self.reader = Reader(self.home / "pipe")
        self.reader.start()
        self.start()

    # -- the daemon ----------------------------------------------------------------------------

    def start(self) -> None:
        self.stopped = self.killed = False
        self.since = time.time()
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
            expected = (
                0,
                75,
                -signal.SIGKILL,
                *(-one for one in HARMLESS if '"daemon.exiting"' in self.said()),
            )
            assert code in expected, (code, self.said()[-2000:])
            self.ends[code] += 1
            self.daemon.close()
            self.start()

    def stop(self) -> None:
        if self.stopped:
            self.go_on()
        began = time.monotonic()
        self.daemon.signal(signal.SIGTERM)
        with contextlib.suppress(AssertionError):
            until(self.has_left, 20)
        took_s = time.monotonic() - began
        assert self.has_left(), self.said()[-2000:]
        with contextlib.suppress(AssertionError):
            until(lambda: self.daemon.ended, 1)
        if not self.daemon.ended:
            self.hang()
        code = self.daemon.wait(20)
        # Before its handlers are there and when they are gone, the default of the signal ends it.
        default = not self.said() or '"daemon.exiting"' in self.said()
        expected = (
            0,
            75,
            *([-signal.SIGTERM] if default else []),
            *([-signal.SIGKILL] if self.killed else []),
        )
        assert code in expected, (code, self.said()[-2000:])
        assert took_s < 10, (took_s, self.said()[-2000:])
        self.longest_stop_s = max(self.longest_stop_s, took_s)
        self.ends[max(code, 0)] += 1
        self.daemon.close()
        self.start()

    def has_left(self) -> bool:
        """It has ended, or all that keeps it is the kernel, for as long as the mount does not answer."""
        kept = self.hung and (self.killed or '"daemon.exiting"' in self.said())
        return self.daemon.ended or kept

    def kill(self) -> None:
        self.daemon.signal(signal.SIGKILL)
        self.killed = True

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
        written = {path: path.stat().st_mtime for path in (self.home / "log").glob("*")}
        recent = sorted((path for path in written if written[path] > self.since - 1), key=written.__getitem__)
        log = "".join(path.read_text() for path in recent)
        _, _, said = log.rpartition('"daemon.starting"')
        return said if f'"pid": {self.daemon.pid},' in said.partition("\n")[0] else ""

    # -- what somebody else does -----------------------------------------------------------------

    @property
    def number(self) -> int:
        """Of this act."""
        return sum(self.did.values())

    def put(self) -> None:
        """A whole file with any date, in a folder of any depth."""
        root = self.dice.choice([self.inbox, self.inbox, self.small])
        folder = root.joinpath(*["d" * self.dice.randrange(1, 40)] * self.dice.choice([0, 0, 1, 3, 30]))
        self._put(folder / f"{self.number}.png", self._content(root))

    def replace(self) -> None:
        """Another content for a file that may be read, or have its record, or have failed."""
        if self.files:
            path = self.dice.choice(sorted(self.files))
            self._put(path, self._content(self.small if path.is_relative_to(self.small) else self.inbox))

    def _content(self, root: Path) -> bytes:
        if self.dice.random() < 0.8:
            return self.good
        large = root != self.small and self.dice.random() < 0.2
        return self.dice.choice(self.bad if large else SMALL)

    def _put(self, path: Path, content: bytes) -> None:
        part = path.with_suffix(".part")
        with contextlib.suppress(OSError):  # the full disk
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(content)
            date = self.dice.uniform(-5, 530) * _YEAR_S
            with contextlib.suppress(OSError):
                os.utime(part, (date, date))
            part.rename(path)
            self.files[path] = content == self.good
        part.unlink(missing_ok=True)

    def copy_slowly(self) -> None:
        """In its place, in pieces, with pauses in which it looks as if it were whole."""
        path = self.inbox / f"{self.number}.png"
        for at in range(0, len(self.good), 40):
            with path.open("ab") as copy:
                copy.write(self.good[at : at + 40])
            time.sleep(self.dice.choice([0, 0.05, 0.2]))
        self.files[path] = True

    def dig(self) -> None:
        """A thousand folders, in each other or side by side, one good file in the last."""
        top = self.inbox / f"dug{self.number}"
        deep = self.dice.random() < 0.5
        count = self.dice.choice([100, 1000])
        folder = top
        for number in range(count):
            folder = folder / "d" if deep else top / str(number)
            folder.mkdir(parents=True)
        self._put(folder / "deep.png", self.good)

    def rename_folder(self) -> None:
        folders = sorted(path for path in self.inbox.iterdir() if path.is_dir())
        if not folders:
            return
        old = self.dice.choice(folders)
        new = old.with_name(f"r{self.number}")
        old.rename(new)
        for path in [path for path in self.files if path.is_relative_to(old)]:
            self.files[new / path.relative_to(old)] = self.files.pop(path)

    def put_foreign(self) -> None:
        path = self.inbox / f"{self.number}.png"
        foreign = path.with_name(f"{path.name}.json")
        foreign.write_text(FOREIGN)
        self.foreign.add(foreign)
        self._put(path, self.good)

    def take_foreign(self) -> None:
        for path in list(self.foreign)[:1]:
            assert path.read_text() == FOREIGN
            path.unlink()
            self.foreign.discard(path)

    def hang(self) -> None:
        self.server.send_signal(signal.SIGCONT if self.hung else signal.SIGSTOP)
        self.hung = not self.hung

    def put_on_the_mount(self) -> None:
        (self.source / f"{self.dice.randrange(5)}.png").write_bytes(self.good)

    def fill(self) -> None:
        with contextlib.suppress(OSError), (self.small / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))

    def empty(self) -> None:
        (self.small / "filler").unlink(missing_ok=True)

    def unmount(self) -> None:
        """Or mount it again."""
        if self.unmounted:
            subprocess.run(["mount", "--bind", self.small, self.disk], check=True)
        else:
            subprocess.run(["umount", "--lazy", self.disk], check=True)
        self.unmounted = not self.unmounted

    def stall(self) -> None:
        if self.reader.reads.is_set():
            self.reader.reads.clear()
        else:
            self.reader.reads.set()

    def take_log(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self.home / "log" / "log").rename(self.home / "log" / f"taken-{self.number}")

    # -- all of it -------------------------------------------------------------------------------

    def run(self) -> None:
        acts: dict[Callable[[], None], int] = {
            self.put: 250,
            self.replace: 60,
            self.copy_slowly: 6,
            self.dig: 3,
            self.rename_folder: 20,
            self.put_foreign: 20,
            self.take_foreign: 15,
            self.hang: 6,
            self.put_on_the_mount: 6,
            self.fill: 6,
            self.empty: 12,
            self.unmount: 6,
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
        if self.unmounted:
            self.unmount()
        self.go_on()
        self.empty()
        # It may be full of documents by now.
        subprocess.run(["mount", "-o", "remount,size=64m", self.home / "small"], check=True)
        while self.foreign:
            self.take_foreign()

    def unfinished(self) -> list[Path]:
        """Files without exactly one record, of what they are now."""
        self.keep_alive()
        return [path for path in self.files if not self.is_finished(path)]

    def is_finished(self, path: Path) -> bool:
        state = records.lookup(str(path), Stamp.of(path.stat()))
        return state in (RecordState.DONE, RecordState.FAILED) and len(self.records_of(path)) == 1

    @staticmethod
    def records_of(path: Path) -> list[Path]:
        return [one for name in names.records_of(path.name) if (one := path.with_name(name)).exists()]


@contextlib.contextmanager
def chaos(home: Path) -> Iterator[Chaos]:
    """Three inboxes: on this disk, on a small one, and on a mount that can hang.

    The state folder is on the small one too.
    """
    for name in ("inbox", "disk", "small", "mount", "source"):
        (home / name).mkdir()
    write_config(
        home,
        watch={"inbox": ["inbox", "disk", "mount"], "rescan_interval_s": 5, "poll_interval_s": 1},
        queue={"max_size": 16},
        ocr={"job_timeout_s": 20},
        # A kill cannot be told from a crash that the file has caused; so often none is hit.
        retry={"max_attempts": 6},
        output={"formats": ["json", "txt"]},
        state_dir="small/state",
    )
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", home / "small"], check=True)
    (home / "small" / "files").mkdir()
    subprocess.run(["mount", "--bind", home / "small" / "files", home / "disk"], check=True)
    try:
        with mounted(home / "source", home / "mount") as server:
            made = Chaos(home, server, random.Random(SEED))  # noqa: S311 - repeatable
            try:
                yield made
            finally:
                server.send_signal(signal.SIGCONT)  # the kernel may keep the daemon otherwise
                made.go_on()
                made.daemon.close()
    finally:
        for mount in ("disk", "small"):
            subprocess.run(["umount", "--lazy", home / mount], check=False)  # it may be unmounted
        subprocess.run(["rm", "-rf", home / "inbox"], check=True)  # deeper than pytest can remove


def test_every_file_ends_with_one_record_and_every_stop_comes_soon(tmp_path: Path) -> None:
    print(f"CHAOS_SEED={SEED}")
    with chaos(tmp_path) as story:
        story.run()
        story.calm_down()
        while left := story.unfinished():  # for as long as fewer are left all the time
            with contextlib.suppress(AssertionError):
                until(lambda: len(story.unfinished()) < len(left), 60)
            assert len(story.unfinished()) < len(left), left
        for path, readable in story.files.items():
            (found,) = story.records_of(path)
            document = record(found)
            told = (document["status"], document.get("error", {"code": ""})["code"])
            assert told in ENDS[readable], (path, document)
            for output in document.get("outputs", []):
                written = path.with_name(output["name"]).read_bytes()
                assert hashlib.sha256(written).hexdigest() == output["sha256"]
        story.stop()
        print(
            f"{RUN_S:g} s: {dict(story.did)}; {len(story.files)} files, each with its record; ends "
            f"{dict(story.ends)}, the longest stop {story.longest_stop_s:.1f} s"
        )
