#!/usr/bin/env python3
"""Health check of the container image: every process of ours that runs in it must say that it works.

The daemon by its status file, which it writes every `memory.stats_interval_s`; the server by /livez; the
dispatcher and the bridge by their figures, where `--metrics` serves them. Standard library only.
"""

from __future__ import annotations

import glob
import os
import sys
import time
import urllib.request

# Three times the default of memory.stats_interval_s.
STALE_S = 90
VERBS = ("run", "serve", "dispatch", "bridge")


def processes() -> list[list[str]]:
    """The arguments of every process of ours, from the verb on."""
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as file:
                words = file.read().decode("utf-8", "replace").split("\0")
        except OSError:  # it ended just now
            continue
        if any(word.endswith(("/ocr-watcher", "ocr_watcher")) for word in words[:3]):
            found += [words[words.index(verb) :] for verb in VERBS if verb in words]
    return found


def trouble(words: list[str]) -> str:
    """What is wrong with a process; empty where nothing is."""
    if words[0] == "run":
        told = os.path.join(os.environ.get("HEALTH_STATE", "/state/daemon"), "status.json")
        try:
            age_s = time.time() - os.stat(told).st_mtime
        except OSError as error:
            return f"{told}: {error.strerror}"
        return f"the daemon has said nothing for {age_s:.0f} s" if age_s > STALE_S else ""
    if words[0] == "serve":
        port = words[words.index("--port") + 1] if "--port" in words else "8080"
        return answers(f"http://127.0.0.1:{port}/livez")
    if "--metrics" in words:
        port = words[words.index("--metrics") + 1].rpartition(":")[2]
        return answers(f"http://127.0.0.1:{port}/metrics")
    return ""


def answers(address: str) -> str:
    """Whether something answers there."""
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:  # noqa: S310 - on this machine
            return "" if answer.status == 200 else f"{address}: {answer.status}"
    except OSError as error:
        return f"{address}: {error}"


def main() -> int:
    """0 where all is well."""
    found = processes()
    troubles = [what for words in found if (what := trouble(words))] if found else ["no process of ours"]
    print("; ".join(troubles) or "well")
    return bool(troubles)


if __name__ == "__main__":
    sys.exit(main())
