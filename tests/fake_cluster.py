"""The real `dispatch` and `bridge` with other constants: `python -m tests.fake_cluster bridge …`.

`FAKE_HEARTBEAT_S`, `FAKE_AWAY_S`, `FAKE_LOST_S`, `FAKE_LISTEN_S`, `FAKE_DAEMON_AWAY_S`, `FAKE_SHARE_HUNG_S`
and `FAKE_PATIENCE_S` take the place of the constants of that name. `FAKE_CLOCK_S` is by how much the wall
clock of this process is wrong.
"""

from __future__ import annotations

import importlib
import os
import sys
import time

# Where each is used first: the other modules take it over when they are imported.
_CONSTANTS = {
    "FAKE_HEARTBEAT_S": ("hosts", "HEARTBEAT_S"),
    "FAKE_AWAY_S": ("hosts", "AWAY_S"),
    "FAKE_LOST_S": ("window", "LOST_S"),
    "FAKE_LISTEN_S": ("dispatch", "_LISTEN_S"),
    "FAKE_DAEMON_AWAY_S": ("bridge", "_DAEMON_AWAY_S"),
    "FAKE_SHARE_HUNG_S": ("bridge", "_SHARE_HUNG_S"),
    "FAKE_PATIENCE_S": ("bridge", "_PATIENCE_S"),
}


def _set_clock(wrong_by_s: float) -> None:
    right = time.time
    time.time = lambda: right() + wrong_by_s


def main() -> int:
    """Set everything, then be the program."""
    if "FAKE_CLOCK_S" in os.environ:
        _set_clock(float(os.environ["FAKE_CLOCK_S"]))
    for variable, (module, constant) in _CONSTANTS.items():
        if variable in os.environ:
            owner = importlib.import_module(f"ocr_watcher.cluster.{module}")
            setattr(owner, constant, float(os.environ[variable]))
    cli = importlib.import_module("ocr_watcher.cli")
    return int(cli.main())


if __name__ == "__main__":
    sys.exit(main())
