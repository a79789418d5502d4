"""What the daemon itself costs, on a fake engine: `inbox.py [--files 100000] [--folder DIR] [--only a,b]`.

- `scan`: with so many finished files in one folder and in ten: the scan at the start, resident memory
  over that of an empty inbox, a new file from the end of its writing to its sidecar, CPU time of one rescan.
- `idle`: CPU time over 60 s with 1,000 finished files.
- `trees`: 8,000 nested folders, 100,000 folders side by side: the longest turn of the main loop and of the
  inbox's own loop, the scan at the start, and the time to a stop in the middle of it.
- `waiting`: so many good files beside 10,000 that wait for a lasting cause, over the time without them.
- `overhead`: 300 files one after the other beside 1,000 finished ones, from the end of writing to the
  sidecar, without what the engine took.

The real `ocr-watcher run` with the engine of `tests/fake_daemon.py`. Figures hold for a quiet machine:
the load before and after is printed. Prints a Markdown table. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the tests' way to run a daemon is ours

from tests.support import Process, daemon, until  # noqa: E402 - needs the line above

if TYPE_CHECKING:
    from collections.abc import Iterable

MEASURES = ("scan", "trees", "waiting", "idle", "overhead")
FOLDERS = 10
NEW_FILES = 10
RESCANS = 5
FINISHED = 1000
IDLE_S = 60
DROPS = 300
LEVELS = 8000
WIDE = 100_000
BLOCKED = 10_000
GOOD = 50
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured; default: the system's")
    parser.add_argument("--only", default=",".join(MEASURES), help=f"of {', '.join(MEASURES)}")
    return parser.parse_args()


def configure(home: Path, **watch: float) -> None:
    """Write a configuration; what is not named has its default."""
    (home / "inbox").mkdir(exist_ok=True)
    document = {"watch": {"inbox": "inbox", **watch}, "logging": {"file": "log", "level": "debug"}}
    (home / "config.yaml").write_text(yaml.safe_dump(document), "utf-8")


def drop(path: Path) -> float:
    """Write a small image; returns the monotonic time at which it was complete."""
    with path.open("wb") as file:
        Image.new("L", (64, 48), 255).save(file, "PNG")
    return time.monotonic()


def sidecar_ms(path: Path) -> tuple[float, float]:
    """Drop a file, wait for its sidecar: ms that took, and ms of these in the engine."""
    dropped = drop(path)
    sidecar = path.with_name(path.name + ".json")
    while not sidecar.exists():
        time.sleep(0.0005)
    took_ms = (time.monotonic() - dropped) * 1000
    return took_ms, json.loads(sidecar.read_bytes())["timing_ms"]["ocr"]


def finish(home: Path, count: int) -> None:
    """Fill the inbox with `count` finished files: each a file of its own, and so is its record."""
    configure(home)
    one = home / "inbox" / "one.png"
    with daemon(home) as running:
        running.wait_for("daemon.ready")
        sidecar_ms(one)
        running.stop()
    image, record = one.read_bytes(), one.with_name("one.png.json").read_bytes()
    mtime_ns = one.stat().st_mtime_ns
    for number in range(count - 1):
        path = home / "inbox" / f"{number}.png"
        path.write_bytes(image)
        os.utime(path, ns=(mtime_ns, mtime_ns))
        path.with_name(path.name + ".json").write_bytes(record)


def spread(inbox: Path) -> None:
    """Move what is in one folder into several."""
    for folder in range(FOLDERS):
        (inbox / f"folder{folder}").mkdir()
    for name in os.listdir(inbox):
        stem = name.partition(".")[0]
        if stem.isdigit():
            os.rename(inbox / name, inbox / f"folder{int(stem) % FOLDERS}" / name)


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(row.split()[1]) / 1024 for row in rows if row.startswith("VmRSS"))


def cpu_s(pid: int) -> float:
    """CPU time of a process so far, in user mode and in the kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def after_scan(running: Process) -> float:
    """Wait for the first scan and for what follows it; returns resident memory then."""
    running.wait_for("scan.done", seconds=300)
    time.sleep(2)
    return rss_mib(running.pid)


def scan(home: Path, files: int) -> Iterable[tuple[str, str]]:
    """See the module."""
    configure(home)
    with daemon(home) as running:
        empty_mib = after_scan(running)
        running.stop()
    finish(home, files)
    for where in ("one folder", f"{FOLDERS} folders"):
        inbox = home / "inbox"
        if where != "one folder":
            spread(inbox)
        title = f"{files:,} finished files in {where}"
        configure(home)
        with daemon(home) as running:
            grown_mib = after_scan(running) - empty_mib
            (done,) = running.events("scan.done")
            if not done["current"] == done["found"] >= files:
                raise SystemExit(f"not all of them are finished: {done}")
            yield f"{title}: scan at the start", f"{done['duration_ms'] / 1000:.2f} s"
            yield f"{title}: RSS over that of an empty inbox", f"{grown_mib:+.1f} MiB"
            stem = where.replace(" ", "-")
            took = [sidecar_ms(inbox / f"{stem}-{number}.png")[0] for number in range(NEW_FILES)]
            yield (
                f"{title}: new file to sidecar, median and maximum of {NEW_FILES}",
                f"{statistics.median(took):.0f} / {max(took):.0f} ms",
            )
            running.stop()
        configure(home, rescan_interval_s=1)
        with daemon(home) as running:
            running.wait_for("scan.done", 2, seconds=300)  # the second knows what the first has read
            before = cpu_s(running.pid)
            running.wait_for("scan.done", 2 + RESCANS, seconds=300)
            one_s = (cpu_s(running.pid) - before) / RESCANS
            running.stop()
        yield f"{title}: CPU time of one rescan, mean of {RESCANS}", f"{one_s:.2f} s"


def nest(inbox: Path, levels: int) -> None:
    """Make folders in each other, a file in each; by paths that would come to an end soon."""
    here = os.open(inbox, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
        os.close(os.open("empty.txt", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


def trees(home: Path) -> Iterable[tuple[str, str]]:
    """See the module."""
    inbox = home / "inbox"
    for title in (f"{LEVELS:,} folders in each other", f"{WIDE:,} folders side by side"):
        configure(home, rescan_interval_s=2)
        if title.startswith(f"{WIDE:,}"):
            for number in range(WIDE):
                (inbox / f"{number}").mkdir()
        else:
            nest(inbox, LEVELS)
        with daemon(home, {"FAKE_TICKS": "1"}) as running:
            (first, *_) = running.wait_for("scan.done", 3, seconds=300)
            running.stop()
        turns = [float((home / f"ticks-{name}").read_text()) for name in ("Daemon", "Keeper")]
        yield (
            f"{title}: longest turn of the main loop / of the inbox's own loop",
            f"{turns[0] * 1000:.1f} / {turns[1] * 1000:.0f} ms",
        )
        yield f"{title}: scan at the start", f"{first['duration_ms'] / 1000:.2f} s"
        with daemon(home) as running:
            running.wait_for("daemon.ready")
            began = time.monotonic()
            running.stop()
            yield f"{title}: stop in the middle of it", f"{time.monotonic() - began:.2f} s"
        subprocess.run(["find", str(inbox), "-mindepth", "1", "-delete"], check=True)


def waiting(home: Path) -> Iterable[tuple[str, str]]:
    """See the module."""
    took_s = []
    configure(home)
    inbox = home / "inbox"
    image = home / "image.png"
    drop(image)
    for blocked in (0, BLOCKED):
        for number in range(blocked):
            os.link(image, inbox / f"IMG{number}.png")
            (inbox / f"IMG{number}.png.json").write_text("{}")
        with daemon(home) as running:
            if blocked:
                running.wait_for("ocr.failed", blocked, seconds=600)
            else:
                running.wait_for("scan.done")
            time.sleep(5)
            began = time.monotonic()
            good = [inbox / f"good-{blocked}-{number}.png" for number in range(GOOD)]
            for path in good:
                drop(path)
            until(lambda: all(path.with_name(f"{path.name}.json").exists() for path in good))  # noqa: B023
            took_s.append(time.monotonic() - began)
            said = len(running.events())
            time.sleep(IDLE_S)
            said = len(running.events()) - said
            running.stop()
    yield (
        f"{GOOD} good files beside none / beside {BLOCKED:,} that wait",
        f"{took_s[0]:.2f} / {took_s[1]:.2f} s",
    )
    yield f"{BLOCKED:,} files that wait: lines in the log over {IDLE_S} s", f"{said}"


def idle(home: Path) -> Iterable[tuple[str, str]]:
    """See the module."""
    finish(home, FINISHED)
    with daemon(home) as running:
        after_scan(running)
        before, began = cpu_s(running.pid), time.monotonic()
        time.sleep(IDLE_S)
        share = (cpu_s(running.pid) - before) / (time.monotonic() - began)
        running.stop()
    yield f"idle, {FINISHED:,} finished files: CPU over {IDLE_S} s", f"{share:.2%} of a core"


def overhead(home: Path) -> Iterable[tuple[str, str]]:
    """See the module."""
    finish(home, FINISHED)
    with daemon(home) as running:
        after_scan(running)
        took = []
        for number in range(DROPS):
            whole_ms, engine_ms = sidecar_ms(home / "inbox" / f"new-{number}.png")
            took.append(whole_ms - engine_ms)
        until(lambda: len(running.events("ocr.done")) == DROPS)
        running.stop()
    yield (
        f"written to sidecar without the engine, {DROPS} files: median and 99th percentile",
        f"{statistics.median(took):.1f} / {statistics.quantiles(took, n=100)[98]:.1f} ms",
    )


def main() -> None:
    """Measure and print."""
    asked = arguments()
    rows: list[tuple[str, str]] = []
    load = [os.getloadavg()[0]]
    for name in asked.only.split(","):
        home = Path(tempfile.mkdtemp(prefix="inbox-", dir=asked.folder))
        try:
            found = {
                "scan": lambda h: scan(h, asked.files),
                "trees": trees,
                "waiting": waiting,
                "idle": idle,
                "overhead": overhead,
            }[name](home)
            for row in found:
                print(*row, sep=": ", file=sys.stderr, flush=True)
                rows.append(row)
        finally:
            shutil.rmtree(home)
    load.append(os.getloadavg()[0])
    print(f"\nLoad of the machine before and after: {load[0]:.1f}, {load[1]:.1f}\n")
    print("| what | figure |\n|---|---|")
    for what, figure in rows:
        print(f"| {what} | {figure} |")


if __name__ == "__main__":
    main()
