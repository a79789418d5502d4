"""Every file of a folder through the real daemon in one run: `odd_pdfs.py FOLDER [--hostile] [--text ocr]`.

Meant for folders of broken, encrypted and strange PDFs, as the test suites of PDF programs have them. With
`--hostile` the PDFs of `tests/pdfs.py` come too that would take gigabytes or hours, a good one behind each.

All files are in the inbox when the daemon starts, so it always has one in hand. Its memory and that of its
helper processes is read every few milliseconds. Prints a Markdown table: how many files ended how, the peaks,
and the files that took longest. Exits with 1 where a file has not exactly one record. Linux only.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the tests' way to run a daemon is ours, and so are their PDFs

from tests import pdfs  # noqa: E402 - needs the line above
from tests.support import Process, daemon, until  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTILE = {
    "3 million operators": pdfs.many_operators,
    "nested forms": pdfs.nested_forms,
    "tiles of 0.01 pt": pdfs.tiling,
    "progressive JPEG of 400 megapixels": pdfs.progressive,
    "soft mask of 400 megapixels": pdfs.soft_mask,
    "page of 2^31 pt": lambda: pdfs.prose(size=(1 << 31, 1 << 31)),
}
LOOK_S = 0.004
SLOWEST = 5
ENDS = ("ocr.done", "ocr.failed", "file.paused")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hostile", action="store_true", help="and those that would take gigabytes or hours")
    parser.add_argument("--text", default="auto", choices=("auto", "layer", "ocr"), help="pdf.text")
    parser.add_argument("--seconds", type=float, default=3600, help="give up after so long")
    return parser.parse_args()


def fill(inbox: Path, folder: Path, *, hostile: bool) -> None:
    """Put everything into the inbox."""
    inbox.mkdir()
    for path in sorted(folder.iterdir()):
        if path.is_file():
            shutil.copy(path, inbox / path.name)
    if hostile:
        for number, (name, build) in enumerate(HOSTILE.items()):
            (inbox / f"~{number}a {name}.pdf").write_bytes(build())
            (inbox / f"~{number}b the next one.pdf").write_bytes(pdfs.prose())


@dataclass
class Peaks:
    """Peak resident memory (MiB) of the daemon, and of each helper by its process id."""

    daemon_mb: float = 0.0
    helpers_mb: dict[int, float] = field(default_factory=dict)


def peak_mb(pid: int) -> float:
    """VmHWM of a process; 0 where it has gone."""
    with suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/status").read_text("ascii").split("VmHWM:")[1].split()[0]) / 1024
    return 0.0


def children(pid: int) -> Iterator[int]:
    """Processes that a process's threads have started."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            yield from map(int, task.read_text("ascii").split())


def is_helper(pid: int) -> bool:
    """Whether a process runs its own program yet: until then it shares the daemon's memory."""
    with suppress(OSError):
        return b"helper.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def watch(pid: int, peaks: Peaks, over: threading.Event) -> None:
    """Look at the memory of a daemon and its helpers until it is over."""
    while not over.wait(LOOK_S):
        peaks.daemon_mb = max(peaks.daemon_mb, peak_mb(pid))
        for child in children(pid):
            if is_helper(child):
                peaks.helpers_mb[child] = max(peaks.helpers_mb.get(child, 0.0), peak_mb(child))


def seconds_in_hand(events: list[dict[str, Any]]) -> dict[str, float]:
    """How long each file was worked on: from the end of the one before, because none waits for another."""
    took_s: dict[str, float] = defaultdict(float)
    before = None
    for event in events:
        at = datetime.fromisoformat(event["timestamp"])
        if event["event"] in ENDS:
            if before is not None:
                took_s[Path(event["path"]).name] += (at - before).total_seconds()
            before = at
        elif event["event"] == "file.queued" and before is None:
            before = at
    return took_s


def outcome(path: Path) -> str:
    """How a file ended, by its records."""
    sidecar, error = (path.with_name(path.name + suffix) for suffix in (".json", ".error.json"))
    if sidecar.exists() == error.exists():
        return "NOT EXACTLY ONE RECORD"
    record = json.loads((sidecar if sidecar.exists() else error).read_bytes())
    if error.exists():
        return f"error record: `{record['error']['code']}`"
    read_from = sorted({page["read_from"] for page in record["pages"] if "error" not in page})
    failed = ", a page failed" if "page_failed" in record.get("warnings", ()) else ""
    return f"sidecar: {' and '.join(read_from).replace('_', ' ')}{failed}"


def all_have_records(files: list[Path]) -> bool:
    """Whether the daemon is done."""
    return all(
        path.with_name(path.name + ".json").exists() or path.with_name(path.name + ".error.json").exists()
        for path in files
    )


def run(home: Path, files: list[Path], seconds: float) -> tuple[Peaks, list[dict[str, Any]]]:
    """Run the daemon until every file has its record; gives the peaks, and what it logged."""
    peaks, over = Peaks(), threading.Event()

    def done(process: Process) -> bool:
        if process.ended:
            raise SystemExit(f"the daemon left:\n{process.text[-5000:]}")
        time.sleep(0.5)
        return all_have_records(files)

    with daemon(home, real=True) as process:
        watcher = threading.Thread(target=watch, args=(process.pid, peaks, over))
        watcher.start()
        try:
            until(lambda: done(process), seconds)
        finally:
            over.set()
            watcher.join()
        process.stop()
        return peaks, process.events()


def main() -> int:
    """Fill an inbox, read it, report."""
    asked = arguments()
    with tempfile.TemporaryDirectory(prefix="odd-pdfs-") as folder:
        home = Path(folder)
        fill(home / "inbox", asked.folder, hostile=asked.hostile)
        files = sorted((home / "inbox").iterdir())
        settings = {
            "watch": {"inbox": "inbox"},
            "queue": {"max_size": max(256, len(files))},
            "pdf": {"text": asked.text},
            "logging": {"file": "log"},
        }
        (home / "config.yaml").write_text(yaml.safe_dump(settings), "utf-8")
        peaks, events = run(home, files, asked.seconds)
        ends = Counter(map(outcome, files))
        took_s = seconds_in_hand(events)
        print("| how it ended | files |\n|---|---|")
        for name, count in sorted(ends.items(), key=lambda end: (not end[0].startswith("side"), -end[1])):
            print(f"| {name} | {count} |")
        helpers_mb = max(peaks.helpers_mb.values(), default=0)
        print(f"\npeak RSS: daemon {peaks.daemon_mb:.0f} MiB, helpers {helpers_mb:.0f} MiB")
        print(f"helpers seen: {len(peaks.helpers_mb)}\n\n| took longest | s | |\n|---|---|---|")
        slowest = sorted(took_s, key=took_s.__getitem__, reverse=True)
        shown = slowest[:SLOWEST] + sorted(name for name in slowest[SLOWEST:] if name.startswith("~"))
        for name in shown:
            print(f"| {name} | {took_s[name]:.1f} | {outcome(home / 'inbox' / name)} |")
    return 1 if ends["NOT EXACTLY ONE RECORD"] else 0


if __name__ == "__main__":
    sys.exit(main())
