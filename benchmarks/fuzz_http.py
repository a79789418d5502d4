"""Lets Schemathesis loose on the server by its own description: `fuzz_http.py SCHEMATHESIS [--seed N]`.

The daemon reads on the fake engine, so most of the time goes into requests. Fails where an answer is a 500 of
any kind, or not what the description says. `make fuzz-http` runs it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from serving import Pair

# That valid data is accepted: no schema can say what a picture is.
_NOT_CHECKED = "positive_data_acceptance"


def main() -> int:
    """Run it; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("schemathesis", type=Path)
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--seed", type=int, help="the same requests again; others each time without it")
    asked = parser.parse_args()
    limits = {"wait_s": 1, "max_body_mb": 1, "max_waiting": 100_000}
    with Pair({"model": "PP-OCRv6_small"}, fake=True, http=limits) as pair:
        command = [
            *(str(asked.schemathesis), "run", f"{pair.address}/openapi.json", "--url", pair.address),
            *("--exclude-checks", _NOT_CHECKED, "--continue-on-failure", "--max-time", str(asked.seconds)),
            # Never ends.
            *("--exclude-path", "/v1/events"),
        ]
        if asked.seed is not None:
            command += ["--seed", str(asked.seed)]
        hooks = {"SCHEMATHESIS_HOOKS": "fuzz_http_hooks", "PYTHONPATH": str(Path(__file__).parent)}
        code = subprocess.run(command, check=False, env=os.environ | hooks).returncode
        bugs = [row for row in pair.log_of("serve").splitlines() if '"http.bug"' in row]
        print(f"{len(bugs)} unexpected errors in the server's log, {pair.rss_mb():.0f} MiB resident")
    return code or len(bugs)


if __name__ == "__main__":
    sys.exit(main())
