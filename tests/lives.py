"""Many short lives of the program: each is a fork of one process that has everything loaded.

`python -m tests.lives KIND HOME …` prints what happened as JSON. A fresh interpreter a life would
take a second each; here it is milliseconds, and the code that runs is the same. The fake engine
writes down each image that it begins, as `LIFE WIDTH` in the file `reads`: each has its own width.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ocr_watcher import config, log, names
from ocr_watcher.inbox import intake
from ocr_watcher.ocr.engine import FakeEngine
from ocr_watcher.service import daemon
from ocr_watcher.verbs import once
from tests.faults import Faults

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from ocr_watcher.config import Settings


def fork(act: Callable[[], int]) -> int:
    """Run `act` in a child; returns its process id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        code = act()
    finally:
        os._exit(code)


def die(pid: int, number: int = signal.SIGKILL) -> int:
    """Send a signal and wait for the end; returns the exit code, or minus the signal that ended it."""
    os.kill(pid, number)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Life:
    """One configuration, lived again and again."""

    def __init__(self, home: Path, read_s: float) -> None:
        self.home = home
        self.inbox = home / "inbox"
        self.read_s = read_s
        self.number = 0
        intake._FIRST_PAUSE_S = 0.05  # retries are not the subject

    def _prepare(self) -> Settings:
        os.chdir(self.home)
        # Every life its own token, as every process has.
        names._TOKEN = f"{random.SystemRandom().getrandbits(32):08x}"
        settings = config.load(self.home / "config.yaml")
        stderr = os.open("stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(stderr, 2)
        log.set_up("info", None, 1, 1)
        return settings

    def _engine(self, _settings: Settings) -> FakeEngine:
        reads = os.open("reads", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        engine = FakeEngine()

        def read(bgr: NDArray[np.uint8]) -> object:
            # pwrite, because write may be made to fail; it appends here
            os.pwrite(reads, f"{self.number} {bgr.shape[1]}\n".encode(), 0)
            time.sleep(self.read_s)
            engine.on_read = None
            try:
                return engine.read(bgr)
            finally:
                engine.on_read = read

        engine.on_read = read
        return engine

    def run(self, *, wait: bool = False) -> int:
        """Start the daemon; returns its process id, with `wait` once it answers to signals."""
        self.number += 1
        before = self.begun()
        pid = fork(lambda: int(daemon.Daemon(self._prepare(), self._engine).run()))
        while wait and self.begun() == before:
            time.sleep(0.001)
        return pid

    def drain(self, faults: Faults | None = None) -> int:
        """`once`, to its end or to its death; returns the exit code."""
        self.number += 1

        def act() -> int:
            settings = self._prepare()
            # Some of the work before the faults: opening the log is not the line's.
            if faults is None:
                return len(once.drain(settings, self._engine, _Silent()).failed)
            with faults.active():
                return len(once.drain(settings, self._engine, _Silent()).failed)

        pid = fork(act)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def reads(self) -> list[tuple[int, int]]:
        """(life, width) of every image begun."""
        try:
            rows = (self.home / "reads").read_text().split("\n")[:-1]
        except FileNotFoundError:
            return []
        return [(int(row.split()[0]), int(row.split()[1])) for row in rows]

    def typical_s(self) -> float:
        """How long a life takes to its first record, on this machine as busy as it is."""
        began = time.monotonic()
        for turn in range(3):
            path = self.inbox / f"warm{turn}.png"
            image(path, 1000 + turn)
            pid = self.run()
            while path.name + ".json" not in self.records():
                time.sleep(0.001)
            die(pid)
            for its in self.inbox.glob(f"{path.name}*"):
                its.unlink()
        return (time.monotonic() - began) / 3

    def begun(self) -> int:
        """How many lives came as far as the first line of the log."""
        try:
            return (self.home / "stderr").read_text().count('"daemon.starting"')
        except FileNotFoundError:
            return 0

    def files(self) -> list[str]:
        """Every file of the inbox and of the trees beside it."""
        trees = (self.home / tree for tree in ("inbox", "text", "archive"))
        found = (path for tree in trees for path in tree.rglob("*") if path.is_file())
        return sorted(str(path.relative_to(self.home)) for path in found)

    def records(self) -> set[str]:
        """Names of all records."""
        return {name for name in os.listdir(self.inbox) if name.endswith(".json")}


class _Silent:
    def begin(self, path: str) -> None:
        pass

    def page(self, path: str, page: int, pages: int) -> None:
        pass

    def end(self, path: str, left: int) -> None:
        pass


def image(path: Path, width: int) -> None:
    """A one-row image of this width, put there by rename as a careful writer would."""
    from PIL import Image  # noqa: PLC0415 - loaded already by what is imported above

    part = path.with_name(path.name + ".part")
    Image.new("L", (width, 1), 255).save(part, "PNG")
    part.rename(path)


def kills(home: Path, count: int, files: int, seed: int) -> dict[str, object]:
    """SIGKILL at `count` random moments while `files` images come in, then one life to the end."""
    life = Life(home, 0.01)
    number = random.Random(seed)  # noqa: S311 - repeatable
    wrong: list[str] = []
    made = interrupted = 0
    typical_s = life.typical_s()
    life.read_s = typical_s / 4  # so that a kill after the start mostly meets a file in hand
    for kill in range(count):
        before = life.records()
        while made < files and made - len(before) < 5:
            made += 1
            image(life.inbox / f"{made}.png", made)
        pid = life.run()
        time.sleep(number.uniform(0, 2 * typical_s))
        die(pid)
        mine = [width for n, width in life.reads() if n == life.number]
        if len(mine) != len(set(mine)):
            wrong.append(f"life {kill} read a file twice")
        wrong += [f"life {kill} read {w}, which was done" for w in mine if f"{w}.png.json" in before]
        unfinished = [w for w in mine if f"{w}.png.json" not in life.records()]
        if len(unfinished) > 1:
            wrong.append(f"life {kill} left {unfinished} unfinished")
        interrupted += len(unfinished)
    while made < files:  # where the disk is busy, fewer are done in so many lives
        made += 1
        image(life.inbox / f"{made}.png", made)
    pid = life.run(wait=True)
    deadline = time.monotonic() + 300
    while len(life.records()) < files and time.monotonic() < deadline:
        time.sleep(0.01)
    code = die(pid, signal.SIGTERM)
    return {
        "kills": count,
        "interrupted": interrupted,
        "reads": sum(width <= files for _, width in life.reads()),
        "wrong": wrong,
        "last_exit": code,
    }


def steps(home: Path) -> dict[str, object]:
    """The process dies at every call of the line in turn; each time a second one finishes the work."""
    deaths: list[str] = []
    undisturbed = _new_life(home, 0)
    undisturbed.drain()
    expected = undisturbed.files()
    nth = 0
    while True:
        nth += 1
        life = _new_life(home, nth)
        if life.drain(Faults(nth, "death")) != -signal.SIGKILL:
            return {"deaths": nth - 1, "files": expected, "wrong": deaths}
        life.drain()
        there = life.files()
        if there != expected:
            deaths.append(f"death {nth}: {there}")
        if len(life.reads()) > 2:
            deaths.append(f"death {nth}: read {len(life.reads())} times")


def _new_life(home: Path, number: int) -> Life:
    """The same configuration and documents in a folder of their own."""
    folder = home / str(number)
    for tree in ("inbox", "text", "archive"):
        (folder / tree).mkdir(parents=True)
    (folder / "config.yaml").write_text((home / "config.yaml").read_text())
    life = Life(folder, 0.0)
    image(life.inbox / "good.png", 7)
    (life.inbox / "bad.png").write_text("no image")
    return life


def stops(home: Path, count: int, seed: int) -> dict[str, object]:
    """SIGTERM at `count` random moments."""
    life = Life(home, 0.1)
    number = random.Random(seed)  # noqa: S311 - repeatable
    wrong: list[str] = []
    longest = 0.0
    typical_s = life.typical_s()
    for stop in range(count):
        for index in range(3):
            image(life.inbox / f"{stop}-{index}.png", stop * 3 + index + 1)
        before = len(life.reads())
        pid = life.run(wait=True)
        time.sleep(number.uniform(0, 2 * typical_s))
        began = time.monotonic()
        code = die(pid, signal.SIGTERM)
        longest = max(longest, time.monotonic() - began)
        if code:
            wrong.append(f"stop {stop} ended with {code}")
        mine = [width for n, width in life.reads()[before:] if n == life.number]
        unfinished = [w for w in mine if not _has_record(life, w)]
        if unfinished:
            wrong.append(f"stop {stop} left {unfinished} unfinished")
    return {"stops": count, "wrong": wrong, "longest_s": longest, "records": len(life.records())}


def _has_record(life: Life, width: int) -> bool:
    stop, index = divmod(width - 1, 3)
    return f"{stop}-{index}.png.json" in life.records()


def main() -> NoReturn:
    """Do what the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("kills", "steps", "stops"))
    parser.add_argument("home", type=Path)
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--files", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    gc.collect()
    gc.freeze()  # children need not look at what is shared
    match asked.kind:
        case "kills":
            result = kills(asked.home, asked.count, asked.files, asked.seed)
        case "steps":
            result = steps(asked.home)
        case _:
            result = stops(asked.home, asked.count, asked.seed)
    print(json.dumps(result))
    sys.exit(0)


if __name__ == "__main__":
    main()
