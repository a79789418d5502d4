"""Compare this program with others on the same images: `make bench`, `make bench CORPUS=folder`.

Every contestant is a process that stays, or starts a process for each image where that is its nature. They
take turns image by image, in rotated order, one computing at a time, so that a machine that gets slower gets
slower for all. Each reads one page of its own before the first round. None is told how many threads to use:
each may have all the cores and takes what it does by default; variables such as OMP_NUM_THREADS are removed.

The daemons are real ones, timed from the beginning of the copy into the inbox to the appearance of the
sidecar. The others are timed from the path of a file to its lines of text. What cannot run here is left out
with the reason, what fails on its first page is reported with what it said. Writes STEM.json with every
single measurement, STEM.md, STEM-speed.png and STEM-memory.png. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import compare_corpus as corpus
import compare_report as report
import yaml
from compare_runners import PAUSE_S, Daemon, FailedError, GoneError, Runner, Worker

ROOT = Path(__file__).resolve().parents[1]
HERE = Path(sys.executable)
PEERS = ROOT / ".bench" / "peers" / "bin" / "python"
OTHER_PADDLE = ROOT / ".bench" / "paddle-3.3.1"
OPENVINO = ROOT / ".bench" / "openvino"


# This program, in the configurations to compare: label, model, the configuration.
VARIANTS: list[tuple[str, str, dict[str, Any]]] = [
    ("balanced", "PP-OCRv6_small", {"ocr": {"provider": "onnxruntime"}}),
    ("balanced-openvino", "PP-OCRv6_small", {"ocr": {"provider": "openvino"}}),
    ("fast", "PP-OCRv6_tiny", {"ocr": {"profile": "fast", "provider": "onnxruntime"}}),
    ("small-memory", "PP-OCRv6_tiny", {"ocr": {"profile": "small-memory", "provider": "onnxruntime"}}),
    ("accurate", "PP-OCRv6_small", {"ocr": {"profile": "accurate", "provider": "onnxruntime"}}),
]
_SWITCHES = ("use_doc_orientation_classify", "use_doc_unwarping", "use_textline_orientation")
# Its models are given as folders; without this it looks for its hubs all the same.
_NO_HUB = {"PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK": "True"}
# Each library's own default is what is compared.
_THREAD_VARIABLES = (
    "MKL_NUM_THREADS",
    "OCR_DET_THREADS",
    "OCR_THREADS",
    "OMP_NUM_THREADS",
    "OMP_THREAD_LIMIT",
    "OPENBLAS_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "REC_POOL",
)


@dataclass(frozen=True)
class Contestant:
    """Somebody to compare with; `kind` is one of contestants.KINDS, or "daemon" with config overrides."""

    name: str
    what: str
    model: str
    kind: str
    options: dict[str, Any] = field(default_factory=dict)
    python: Path = HERE
    path: tuple[Path, ...] = ()  # in front of PYTHONPATH
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def ours(self) -> bool:
        """Whether it is this program."""
        return self.kind in ("daemon", "engine")

    def missing(self) -> str:
        """Why it cannot run here; empty where it can."""
        if not self.python.exists() or any(not path.is_dir() for path in self.path):
            return "not installed; `make bench` does it"
        if self.kind == "tesseract" and not shutil.which("tesseract"):
            return "not installed; on Debian: apt install tesseract-ocr"
        return ""

    def start(self, home: Path) -> Runner:
        """Start it, with files of its own in the empty folder `home`. Raises `GoneError`."""
        variables = {key: value for key, value in os.environ.items() if key not in _THREAD_VARIABLES}
        variables |= self.environment
        variables["PYTHONPATH"] = os.pathsep.join(str(path) for path in (*self.path, ROOT))
        if not self.ours:
            return Worker(self.python, self.kind, self.options, home, variables)
        (home / "inbox").mkdir()
        (home / "config.yaml").write_text(yaml.safe_dump(self.options))
        if self.kind == "daemon":
            return Daemon(self.python, home, variables)
        return Worker(self.python, "engine", {"config": str(home / "config.yaml")}, home, variables)


def contestants() -> list[Contestant]:
    """Everybody, in the order of the table."""
    off = dict.fromkeys(_SWITCHES, False)
    mobile, small = off | model_arguments("PP-OCRv5_mobile"), off | model_arguments("PP-OCRv6_small")
    plain = "PaddleOCR().predict"
    return [
        *(
            Contestant(f"{kind}-{n}", what, model, kind, o, path=(OPENVINO,) if "openvino" in n else ())
            for kind, what in (("daemon", "drop to sidecar"), ("engine", "without the daemon"))
            for n, model, o in VARIANTS
        ),
        Contestant("paddleocr", plain, "PP-OCRv5_mobile", "paddleocr", mobile, environment=_NO_HUB),
        Contestant(
            "paddleocr-paddle-3.3.1",
            plain,
            "PP-OCRv5_mobile",
            "paddleocr",
            mobile,
            path=(OTHER_PADDLE,),
            environment=_NO_HUB,
        ),
        Contestant(
            "paddleocr-onnx",
            f"{plain}, engine onnxruntime",
            "PP-OCRv6_small",
            "paddleocr",
            small | {"engine": "onnxruntime"},
            environment=_NO_HUB,
        ),
        Contestant("rapidocr", "RapidOCR()", "PP-OCRv6_small", "rapidocr", python=PEERS),
        Contestant(
            "faster-paddle-small", "OcrEngine", "PP-OCRv6_small", "faster_paddle", {"size": "small"}, PEERS
        ),
        Contestant(
            "faster-paddle-tiny", "OcrEngine", "PP-OCRv6_tiny", "faster_paddle", {"size": "tiny"}, PEERS
        ),
        Contestant("tesseract", "a process an image", "eng", "tesseract"),
        Contestant(
            "paddleocr-cli",
            "a process an image, as in `inotifywait | paddleocr`",
            "PP-OCRv5_mobile",
            "paddleocr_cli",
            mobile,
            environment=_NO_HUB,
        ),
    ]


def model_arguments(name: str) -> dict[str, str]:
    """A model of this program's store as arguments of PaddleOCR."""
    from ocr_watcher.config import OcrSettings  # noqa: PLC0415 - found only after main() set the path

    folder = OcrSettings().model_store / name
    return {
        f"text_{role}_model_{key}": value
        for role, part in (("detection", "det"), ("recognition", "rec"))
        for key, value in (("name", f"{name}_{part}"), ("dir", str(folder / part)))
    }


# -- the run -----------------------------------------------------------------------------------


@dataclass
class Entry:
    """A contestant in this run."""

    who: Contestant
    runner: Runner
    facts: dict[str, Any]


def enter(who: Contestant, picture: corpus.Picture, starts: int, limit_s: float, homes: Path) -> Entry:
    """Start a contestant as often as asked, the last time to stay. Raises `FailedError`, `GoneError`."""
    took: list[float] = []
    while True:
        home = Path(tempfile.mkdtemp(dir=homes))
        began = time.perf_counter()
        runner = who.start(home)
        try:
            runner.read(picture.path, limit_s)
            took.append(time.perf_counter() - began)
            if len(took) >= starts:
                facts = {"starts_s": took, "versions": runner.versions}
                return Entry(who, runner, facts)
        except BaseException:
            runner.stop()
            raise
        runner.stop()


def measure(entry: Entry, picture: corpus.Picture, limit_s: float) -> dict[str, Any]:
    """Let one contestant read one image; the sample, or the error. Raises `GoneError`."""
    sample: dict[str, Any] = {"contestant": entry.who.name, "image": picture.path.name}
    text = ""
    try:
        reading = entry.runner.read(picture.path, limit_s)
    except FailedError as error:
        sample["error"] = str(error)
    else:
        text = reading.text
        sample |= {
            "elapsed_s": round(reading.elapsed_s, 4),
            "cpu_s": round(reading.cpu_s, 4),
            "rss_mb": round(reading.rss_mb, 1),
            "peak_mb": round(reading.peak_mb, 1),
        }
    if picture.truth is not None:  # what could not be read counts as read without a word
        score = corpus.score(text, picture.truth)
        sample |= {"hit": score.hit, "got": score.got, "there": score.there}
    return sample


def compare(
    entries: list[Entry],
    pictures: list[corpus.Picture],
    rounds: int,
    limit_s: float,
    samples: list[dict[str, Any]],
) -> None:
    """Everybody reads everything, in turn. One that cannot go on is left out from there."""
    turns = [(number, picture) for number in range(rounds) for picture in pictures]
    for turn, (number, picture) in enumerate(turns):
        shift = turn % len(entries)
        shown = []
        for entry in entries[shift:] + entries[:shift]:
            if "gone" in entry.facts:
                continue
            try:
                sample = measure(entry, picture, limit_s)
            except GoneError as error:
                entry.runner.stop()
                entry.facts["gone"] = f"at {picture.path.name}: {error}"
                sample = {"contestant": entry.who.name, "image": picture.path.name, "error": str(error)}
            samples.append(sample | {"round": number})
            shown.append(f"{entry.who.name} {sample.get('elapsed_s', 'failed')}")
            time.sleep(PAUSE_S)
        print(f"{turn + 1}/{len(turns)} {picture.path.name}: {', '.join(shown)}", flush=True)


def machine() -> dict[str, Any]:
    """What it ran on."""
    rows = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    names = [row.partition(":")[2].strip() for row in rows if row.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (1 << 20),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def run(asked: argparse.Namespace, field_of: list[Contestant]) -> dict[str, Any]:
    """The whole comparison."""
    result: dict[str, Any] = {
        "schema": "ocr-watcher-compare/1",
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "load_before": os.getloadavg()[0],
        "contestants": [],
        "samples": [],
    }
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="compare-")))
        if asked.corpus:
            pictures = corpus.find(asked.corpus.resolve(), asked.images)  # they have folders of their own
            result["corpus"] = {"name": asked.corpus.resolve().name}
        else:
            (home / "pages").mkdir()
            pictures = corpus.draw(home / "pages", asked.images or 12)
            result["corpus"] = {"name": f"drawn, seed {corpus.SEED}"}
        if not pictures:
            raise SystemExit(f"no images in {asked.corpus}")
        result["corpus"] |= {
            "images": len(pictures),
            "with_truth": sum(p.truth is not None for p in pictures),
        }
        result["rounds"] = asked.rounds
        first = corpus.warm_up(home)
        entries = []
        for who in field_of:
            facts: dict[str, Any] = {"name": who.name, "what": who.what, "model": who.model, "ours": who.ours}
            result["contestants"].append(facts)
            if reason := who.missing():
                facts["skipped"] = reason
                print(f"{who.name}: left out: {reason}")
                continue
            try:
                entry = enter(who, first, asked.starts, asked.timeout, home)
            except (FailedError, GoneError) as error:
                facts["failed"] = str(error)
                print(f"{who.name}: failed on the first page: {error}")
                continue
            stack.callback(entry.runner.stop)
            facts |= entry.facts
            entry.facts = facts
            entries.append(entry)
            print(f"{who.name}: first result after {min(facts['starts_s']):.1f} s", flush=True)
        if entries:
            try:
                compare(entries, pictures, asked.rounds, asked.timeout, result["samples"])
            except KeyboardInterrupt:
                result["stopped"] = "before the end"
                print("stopped: this is the report of what was measured")
    result["load_after"] = os.getloadavg()[0]
    return result


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, help="folder of images; truth in NAME.txt, where there is any")
    parser.add_argument("--images", type=int, metavar="N", help="so many of them, or pages drawn (12)")
    parser.add_argument("--rounds", type=int, default=2, metavar="R", help="times each image is read (2)")
    parser.add_argument("--only", default="", metavar="A,B", help="these only; a wrong name lists all")
    parser.add_argument("--starts", type=int, default=2, metavar="N", help="starts; the fastest counts (2)")
    parser.add_argument("--timeout", type=float, default=300, metavar="S", help="for one image (300)")
    parser.add_argument("--out", type=Path, help="stem of the files written (.bench/compare)")
    parser.add_argument("--report", type=Path, metavar="FILE.json", help="only draw table and plots again")
    return parser.parse_args()


def chosen(names: str) -> list[Contestant]:
    """The contestants asked for, in the table's order."""
    everybody = contestants()
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if unknown := set(wanted) - {who.name for who in everybody}:
        raise SystemExit(
            f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(w.name for w in everybody)}"
        )
    return [who for who in everybody if not wanted or who.name in wanted]


def main() -> None:
    """Measure, or read what was measured, and report."""
    asked = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # nothing that was started is left behind
    sys.path.insert(0, str(ROOT))
    if asked.report:
        result = json.loads(asked.report.read_text(encoding="utf-8"))
        stem = asked.out or asked.report.with_suffix("")
    else:
        stem = asked.out or ROOT / ".bench" / "compare"
        result = run(asked, chosen(asked.only))
        stem.parent.mkdir(parents=True, exist_ok=True)
        Path(f"{stem}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {stem}.json")
    text = report.markdown(result)
    Path(f"{stem}.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\nwrote {stem}.md")
    for name in report.plots(result, stem):
        print(f"wrote {name}")


if __name__ == "__main__":
    main()
