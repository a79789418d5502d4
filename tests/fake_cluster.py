"""The real `dispatch` and `bridge` with other constants: `python -m tests.fake_cluster bridge …`.

`FAKE_AWAY_S`, `FAKE_LOST_S`, `FAKE_LISTEN_S`, `FAKE_DAEMON_AWAY_S` and `FAKE_SHARE_HUNG_S` take the place of
the constants of that name; a test sets what it is about.
"""

from __future__ import annotations

import os
import sys

from ocr_watcher import cli
from ocr_watcher.cluster import bridge, dispatch, hosts, window

_CONSTANTS = {
    "FAKE_AWAY_S": (hosts, "AWAY_S"),
    "FAKE_LOST_S": (window, "LOST_S"),
    "FAKE_LISTEN_S": (dispatch, "_LISTEN_S"),
    "FAKE_DAEMON_AWAY_S": (bridge, "_DAEMON_AWAY_S"),
    "FAKE_SHARE_HUNG_S": (bridge, "_SHARE_HUNG_S"),
    "FAKE_PATIENCE_S": (bridge, "_PATIENCE_S"),
}

if __name__ == "__main__":
    for variable, (module, constant) in _CONSTANTS.items():
        if variable in os.environ:
            setattr(module, constant, float(os.environ[variable]))
    sys.exit(cli.main())
