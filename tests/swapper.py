"""Swaps two names of a folder without a pause: `python -m tests.swapper FOLDER ONE OTHER [SECONDS]`.

Both names exist at every moment (renameat2 with RENAME_EXCHANGE), and what they mean changes. Says
`going` once it does, waits SECONDS between two swaps, and ends when its standard input is closed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def exchange(one: str, other: str) -> None:
    """Swap two names atomically. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextlib.contextmanager
def swapping(folder: Path, one: str, other: str, pause_s: float) -> Iterator[None]:
    """While inside, another process swaps the two."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.swapper", str(folder), one, other, str(pause_s)],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"going\n"
        yield
        assert process.poll() is None
        process.communicate()


def main() -> None:
    """Swap until the other end has had enough."""
    folder, one, other, pause_s = sys.argv[1:]
    os.chdir(folder)
    exchange(one, other)
    print("going", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        exchange(one, other)
        time.sleep(float(pause_s))


if __name__ == "__main__":
    main()
