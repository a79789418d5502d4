"""The daemon and one process beside it under one roof, where there is no service manager.

`make serve` runs the server with it, a container the bridge. Two processes, as ever. Either is started again
when it asks for that (75); any other end of one, or one Ctrl-C, is the end of both.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from ocr_watcher.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import FrameType

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_STOP_S: Final = 15.0


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Together:
    """The two processes. `run` is called once, in the main thread."""

    def __init__(self, program: Sequence[str], config: str, verb: str) -> None:
        """`program` is how `ocr-watcher` is called, `verb` what it does beside `run`."""
        self._program = tuple(program)
        self._config = config
        self._verbs = (verb, "run")
        self._asked_to_stop = False

    def run(self) -> int:
        """Keep both running; returns the exit code of the one that ended first, 0 where asked to stop."""
        # A session of their own: Ctrl-C comes to this process, which passes it on once.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._stop)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        running = {verb: self._start(verb) for verb in self._verbs}
        while not self._asked_to_stop:
            ended = {
                verb: process.returncode for verb, process in running.items() if process.poll() is not None
            }
            for verb, code in ended.items():
                if code != ExitCode.RECYCLE:
                    _end(running.values())
                    return code
                running[verb] = self._start(verb)
            signal.sigtimedwait({signal.SIGCHLD}, 1.0)
        _end(running.values())
        return 0

    def _start(self, verb: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 - this program
            [*self._program, verb, "-c", self._config],
            start_new_session=True,
            preexec_fn=_end_with_parent,  # noqa: PLW1509 - there is one thread
        )

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._asked_to_stop = True


def _end(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main(arguments: Sequence[str]) -> int:
    """`python -m ocr_watcher.service.together VERB CONFIG`."""
    verb, config = arguments
    return Together([sys.executable, "-m", "ocr_watcher"], config, verb).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
