"""Run the real daemon over many images and watch its memory: `soak.py --images 1000 [--receipts FOLDER]`.

Images are rendered pages and receipts of 200 to 4,000 px, in one seeded order, mixed with the scans of
`--receipts` where given. The daemon is restarted whenever it leaves with 75, as systemd does. Resident
memory is read from /proc after every job. Writes a JSON file of samples, prints a table, and draws
resident memory over images with the limit and the recycles. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from PIL import Image, ImageDraw, ImageFont

WORDS = ["invoice", "total", "amount", "date", "cash", "change", "receipt", "number", "tax", "item", "price"]
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument(
        "--receipts", type=Path, help="folder of real scans: every fifth image is one of them"
    )
    parser.add_argument("--engine", default="onnxruntime", choices=("onnxruntime", "paddle"))
    parser.add_argument("--provider", default="auto", choices=("auto", "onnxruntime", "openvino"))
    parser.add_argument("--model", default="PP-OCRv6_small")
    parser.add_argument("--params", type=yaml.safe_load, default={}, help="ocr.params, as {name: value, ...}")
    parser.add_argument("--rss-limit-mb", type=int, default=1536)
    parser.add_argument("--out", type=Path, default=Path("soak"), help="stem of the .json and .png written")
    return parser.parse_args()


def render(path: Path, number: random.Random) -> None:
    """A page (A4 shape) or a receipt (narrow) with lines of words, in one of the formats."""
    long_px = int(200 * 20 ** number.random())  # 200 to 4,000, evenly on a logarithmic scale
    aspect = number.choice((0.35, 0.5, 0.707, 1.0, 1.41))
    size = (max(60, int(long_px * min(1, aspect))), max(60, int(long_px / max(1, aspect))))
    image = Image.new(number.choice(("RGB", "L")), size, 255)
    draw = ImageDraw.Draw(image)
    text_px = max(10, min(size) // number.choice((14, 22, 34)))
    font = ImageFont.load_default(size=text_px)
    y = text_px
    while y + text_px < size[1]:
        line = f"{' '.join(number.choices(WORDS, k=6))} {number.randint(0, 99999)}"
        draw.text((text_px, y), line, 0, font)
        y += int(text_px * number.choice((1.3, 1.5, 2.5)))
    kind = number.choice(FORMATS)
    # Uncompressed TIFFs would be over image.max_file_mb.
    options = {"compression": "tiff_deflate"} if kind == "TIFF" else {}
    image.save(path.with_suffix(f".{kind.lower()}"), kind, **options)


def fill(inbox: Path, count: int, receipts: Path | None) -> None:
    """Put `count` images into the inbox."""
    number = random.Random(20)  # noqa: S311 - the same images every time
    scans = sorted(receipts.glob("*.jpg")) if receipts else []
    for index in range(count):
        if scans and index % 5 == 0:
            shutil.copy(scans[index // 5 % len(scans)], inbox / f"{index:05}.jpg")
        else:
            render(inbox / f"{index:05}", number)


def status(pid: int) -> tuple[float, float]:
    """VmRSS and VmHWM of a process in MiB; zeros where it has gone."""
    found = {"VmRSS": 0.0, "VmHWM": 0.0}
    try:
        for row in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
            key, _, value = row.partition(":")
            if key in found:
                found[key] = int(value.split()[0]) / 1024
    except OSError:
        pass
    return found["VmRSS"], found["VmHWM"]


def sample(pid: int, event: dict[str, Any]) -> dict[str, Any]:
    """Memory after a job, which gives it back after its log line."""
    time.sleep(0.03)
    rss_mb, peak_mb = status(pid)
    # what the job itself saw, where the process has gone meanwhile
    rss_mb = rss_mb or event.get("rss_mb", 0.0)
    return {"event": event["event"], "rss_mb": round(rss_mb, 1), "peak_mb": round(peak_mb, 1)}


def soak(home: Path, total: int) -> dict[str, Any]:
    """Run the daemon, again and again where it recycles, until every image has its record."""
    samples: list[dict[str, Any]] = []
    recycles: list[int] = []
    started = time.monotonic()

    def all_done() -> bool:
        return sum(1 for _ in (home / "inbox").glob("*.json")) >= total

    while not all_done():
        process = subprocess.Popen(
            [sys.executable, "-m", "ocr_watcher", "run", "-c", "config.yaml"],
            cwd=home,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None  # noqa: S101 - asked for above
        for row in process.stderr:
            try:
                event = json.loads(row)
            except ValueError:
                print(row, end="", file=sys.stderr)
                continue
            if event["level"] != "info" or event["event"] == "daemon.exiting":
                print(row, end="", file=sys.stderr)
            if event["event"] in ("ocr.done", "file.quarantined"):
                samples.append(sample(process.pid, event))
            # A job that was given up for its time may have written its record all the same.
            if event["event"] in ("ocr.done", "file.quarantined", "memory.stats") and all_done():
                process.terminate()
        code = process.wait()
        if code == 75:
            recycles.append(len(samples))
        elif code:
            raise SystemExit(f"the daemon left with {code}")
    return {"samples": samples, "recycles": recycles, "elapsed_s": round(time.monotonic() - started, 1)}


def table(result: dict[str, Any], limit_mb: int) -> str:
    """The figures that matter, as a Markdown row."""
    rss = [sample["rss_mb"] for sample in result["samples"]]
    peak = max(sample["peak_mb"] for sample in result["samples"])
    early, late = statistics.median(rss[90:110] or rss), statistics.median(rss[-20:])
    failed = sum(sample["event"] != "ocr.done" for sample in result["samples"])
    return (
        "| engine | images | failed | RSS at 100 | RSS at the end | drift | highest RSS between jobs "
        "| peak | limit | recycles | images/s |\n|---|---|---|---|---|---|---|---|---|---|---|\n"
        f"| {result['engine']} | {len(rss)} | {failed} | {early:.0f} | {late:.0f} | {late - early:+.0f} | "
        f"{max(rss):.0f} | {peak:.0f} | {limit_mb} | {len(result['recycles'])} | "
        f"{len(rss) / result['elapsed_s']:.2f} |"
    )


def plot(result: dict[str, Any], limit_mb: int, path: Path) -> None:
    """Resident memory over images, with the limit and the recycles."""
    import matplotlib as mpl  # noqa: PLC0415 - only wanted here

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - as above, and only after use()

    figure, axes = plt.subplots(figsize=(9, 4))
    count = range(1, len(result["samples"]) + 1)
    axes.plot(count, [s["rss_mb"] for s in result["samples"]], linewidth=0.8, label="RSS after each image")
    axes.plot(count, [s["peak_mb"] or None for s in result["samples"]], linewidth=0.8, label="peak so far")
    axes.axhline(limit_mb, color="red", linestyle="--", linewidth=1, label="memory.rss_limit_mb")
    for position in result["recycles"]:
        axes.axvline(position, color="grey", linewidth=0.6)
    axes.set(xlabel="images", ylabel="MiB", ylim=(0, limit_mb * 1.08), title=result["engine"])
    axes.legend(loc="upper right")
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main() -> None:
    """Fill an inbox, soak, report."""
    asked = arguments()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        home = Path(folder)
        (home / "inbox").mkdir()
        fill(home / "inbox", asked.images, asked.receipts)
        settings = {
            "ocr": {
                "engine": asked.engine,
                "provider": asked.provider,
                "model": asked.model,
                "params": asked.params,
            },
            "memory": {
                "rss_limit_mb": asked.rss_limit_mb,
                "soft_limit_mb": min(1024, asked.rss_limit_mb),
            },
        }
        (home / "config.yaml").write_text(yaml.safe_dump(settings))
        own = str(Path(__file__).resolve().parents[1])
        os.environ["PYTHONPATH"] = os.pathsep.join([own, *filter(None, [os.environ.get("PYTHONPATH")])])
        result = soak(home, asked.images)
        records = list((home / "inbox").glob("*.json"))
        result["engine"] = f"{json.loads(records[0].read_bytes())['engine']['provider']}, {asked.model}"
        print(f"{len(records)} records for {asked.images} images")
    asked.out.with_suffix(".json").write_text(json.dumps(result))
    print(table(result, asked.rss_limit_mb))
    plot(result, asked.rss_limit_mb, asked.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
