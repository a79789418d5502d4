"""The real program on the fake engine: `python -m tests.fake_daemon run -c config.yaml`.

What the engine does comes from the environment: `FAKE_READ_S` is how long it takes over an image;
with `FAKE_READS` each is noted as `PID WIDTH` in the file `reads`;
a width in `FAKE_HANG`, `FAKE_SEGFAULT`, `FAKE_EXIT`, `FAKE_RAISE` or `FAKE_SYSTEM_EXIT` makes it
misbehave over images of that width (px); over images of the width `FAKE_UNREAD` it sees text that it cannot
read; `FAKE_LEAK_MB` is lost at every image. A file `reading` in
the working folder says that an image is in hand.

Around the engine: `FAKE_HANDLER_RAISES` is part of the names whose events the handler fails over;
`FAKE_DIES` is the thread (`dispatcher`, `reader`, `emitter`, `consumer`) that ends at the next event or job
once there is a file `die` in the working folder; with `FAKE_CLOCK` the wall clock jumps about
at every look, with `FAKE_CLOCK_S` it is wrong by so much;
`FAKE_PAUSE_S` is the first pause before a file is tried again, `FAKE_TURN_S`
how long a document may keep others waiting, `FAKE_CONFIG_S` how often the configuration file is looked at,
`FAKE_HUNG_S` how long an inbox may be silent
(a quarter of it at the start, to say where its path leads); with `FAKE_TICKS`
the longest turn of the main loop and of the keepers' loops so far (s) is in files `ticks-…`; the process
`FAKE_STOP` is stopped when an open file is about to be read, once for each file `hang` in the working folder.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watchdog.observers.api import BaseObserver
from watchdog.observers.inotify import InotifyEmitter
from watchdog.observers.inotify_c import InotifyFD

from ocr_watcher import cli
from ocr_watcher.config import real_path
from ocr_watcher.inbox import intake, keeper, watch
from ocr_watcher.jobs import attempt
from ocr_watcher.jobs.worker import Worker
from ocr_watcher.ocr.engine import FakeEngine
from ocr_watcher.service import assembly, daemon

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray
    from watchdog.events import FileSystemEvent

    from ocr_watcher.config import Settings


_lost: list[bytearray] = []
# What the threads do for every event, and for every job.
_STEPS = {
    "dispatcher": (BaseObserver, "dispatch_events"),
    "reader": (InotifyFD, "handle_event"),
    "emitter": (InotifyEmitter, "queue_events"),
    "consumer": (Worker, "step"),
}


class _Scripted(FakeEngine):
    def read(self, bgr: NDArray[np.uint8]) -> object:
        width = str(bgr.shape[1])
        Path("reading").touch()
        if "FAKE_READS" in os.environ:
            with open("reads", "a", encoding="ascii") as reads:
                reads.write(f"{os.getpid()} {width}\n")
        time.sleep(float(os.environ.get("FAKE_READ_S", "0")))
        if leak := int(os.environ.get("FAKE_LEAK_MB", "0")):
            _lost.append(bytearray(os.urandom(1)) * (leak << 20))
        if width == os.environ.get("FAKE_HANG"):
            time.sleep(3600)
        if width == os.environ.get("FAKE_SEGFAULT"):
            ctypes.string_at(0)
        if width == os.environ.get("FAKE_EXIT"):
            os._exit(3)
        if width == os.environ.get("FAKE_RAISE"):
            raise RuntimeError("scripted")
        if width == os.environ.get("FAKE_SYSTEM_EXIT"):
            raise SystemExit("scripted")
        if width == os.environ.get("FAKE_UNREAD"):
            return [[[0, 0, 1, 1], ("", 0.0)]]
        return super().read(bgr)


def _make(settings: Settings) -> FakeEngine:  # noqa: ARG001 - the signature of what it replaces
    return _Scripted()


def _before(owner: type, name: str, act: Callable[..., None]) -> None:
    """Have `act` called before the method, with its arguments."""
    real = getattr(owner, name)

    def both(*args: Any, **options: Any) -> Any:
        act(*args)
        return real(*args, **options)

    setattr(owner, name, both)


def _raise_over(_handler: object, event: FileSystemEvent) -> None:
    if os.environ["FAKE_HANDLER_RAISES"] in os.fsdecode(event.src_path) + os.fsdecode(event.dest_path):
        raise RuntimeError("scripted")


def _die(*_: object) -> None:
    if Path("die").exists():
        raise SystemExit  # ends a thread without a word


def _stop(pid: int) -> None:
    if Path("hang").exists():
        Path("hang").unlink()
        os.kill(pid, signal.SIGSTOP)


def _time_turns(owner: type, name: str) -> None:
    """Note the longest turn of a loop, in a file `ticks-CLASS`."""
    real = getattr(owner, name)
    longest_s = 0.0

    def timed(*args: Any) -> Any:
        nonlocal longest_s
        began = time.monotonic()
        result = real(*args)
        if time.monotonic() - began > longest_s:
            longest_s = time.monotonic() - began
            Path(f"ticks-{owner.__name__}").write_text(f"{longest_s}\n", "ascii")
        return result

    setattr(owner, name, timed)


def _set_up() -> None:
    assembly.make_engine = _make
    if "FAKE_HANDLER_RAISES" in os.environ:
        _before(watch._Handler, "_translate", _raise_over)
    if dies := os.environ.get("FAKE_DIES"):
        _before(*_STEPS[dies], _die)
    if "FAKE_CLOCK" in os.environ:
        time.time = lambda: random.uniform(0, 4e9)  # noqa: S311 - any moment until 2096
    if wrong_by := os.environ.get("FAKE_CLOCK_S"):
        right = time.time
        time.time = lambda: right() + float(wrong_by)
    if "FAKE_TICKS" in os.environ:
        _time_turns(daemon.Daemon, "_tick")
        _time_turns(keeper.Keeper, "_tick")
    if pid := os.environ.get("FAKE_STOP"):
        _before(attempt.Attempt, "_open", lambda *_: _stop(int(pid)))
    _set_times()


def _set_times() -> None:
    if pause := os.environ.get("FAKE_PAUSE_S"):
        intake._FIRST_PAUSE_S = float(pause)
    if hung := os.environ.get("FAKE_HUNG_S"):
        daemon._HUNG_S = float(hung)
        real_path._PATIENCE_S = float(hung) / 4
    if config_s := os.environ.get("FAKE_CONFIG_S"):
        daemon._CONFIG_S = float(config_s)
    if turn := os.environ.get("FAKE_TURN_S"):
        attempt._TURN_S = float(turn)


if __name__ == "__main__":
    _set_up()
    sys.exit(cli.main())
