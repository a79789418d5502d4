"""The worker side of compare.py: one OCR program in a long-lived process of its own.

`contestants.py KIND OPTIONS`, OPTIONS a JSON object. The first line on standard output says that the program
is loaded, and its versions. Then one JSON request a line comes in, {"path": ...}, and one answer a line goes
out: lines of text, seconds, CPU seconds and memory; or {"error": ...}. Whatever the libraries print goes to
standard error. Run by whichever interpreter has the libraries, so the standard library is all that is
imported before a program is asked for. Linux only.
"""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Read = Callable[[str], list[str]]  # path of an image -> lines of text

_TEXTS = re.compile(r"'rec_texts': (\[.*?\]), 'rec_scores'", re.DOTALL)


class ReadError(Exception):
    """A program of its own failed on an image."""


def engine(config: str) -> Read:
    """This project without its daemon: engine, page preparation and result of a configuration file."""
    from ocr_watcher import memory
    from ocr_watcher.config import load
    from ocr_watcher.jobs.reader import Reader
    from ocr_watcher.service import assembly

    settings = load(Path(config))
    probe = memory.Memory()
    reader = Reader(assembly.make_engine(settings), min_score=0.0, give_back=probe.give_back)
    probe.settle()  # as the daemon does once everything is loaded
    limits = assembly.decode_limits(settings)

    def read(path: str) -> list[str]:
        with open(path, "rb") as file:
            return [line.text for page in reader.read(file, limits) for line in page.lines]

    return read


def paddleocr(**arguments: Any) -> Read:  # noqa: ANN401 - PaddleOCR's own
    """PaddleOCR as its README shows it."""
    from paddleocr import PaddleOCR

    ocr = PaddleOCR(**arguments)
    return lambda path: [str(text) for page in ocr.predict(path) for text in page["rec_texts"]]


def rapidocr() -> Read:
    """RapidOCR with its defaults; its models are in its wheel."""
    from rapidocr import RapidOCR

    ocr = RapidOCR(params={"Global.log_level": "warning"})
    return lambda path: [str(text) for text in ocr(path).txts or ()]


def faster_paddle(size: str) -> Read:
    """faster-paddle with its defaults; its models are in its wheel."""
    from faster_paddle import OcrEngine

    ocr = OcrEngine(model_size=size)

    def read(path: str) -> list[str]:
        return [str(line["text"]) for line in ocr.ocr(Path(path).read_bytes())["bounds"].values()]

    return read


def tesseract() -> Read:
    """`tesseract FILE stdout`, a process an image."""
    return lambda path: _output(["tesseract", path, "stdout"])[0].splitlines()


def paddleocr_cli(**arguments: Any) -> Read:  # noqa: ANN401 - PaddleOCR's own
    """`paddleocr ocr -i FILE ...`, a process an image. It prints its result, in colour, among its log."""
    options = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]

    def read(path: str) -> list[str]:
        printed = "".join(_output([sys.executable, "-m", "paddleocr", "ocr", "-i", path, *options]))
        pages = _TEXTS.findall(printed)
        if not pages:
            raise ReadError(f"no result in what it printed: {printed[-300:]}")
        return [str(text) for page in pages for text in ast.literal_eval(page)]

    return read


def _output(command: list[str]) -> tuple[str, str]:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [""]
        raise ReadError(f"left with {done.returncode}: {last[0]}")
    return done.stdout, done.stderr


# What can be asked for, and the packages whose versions say what it was.
KINDS: dict[str, tuple[Callable[..., Read], tuple[str, ...]]] = {
    "engine": (engine, ("ocr-watcher", "paddleocr", "onnxruntime")),
    "paddleocr": (paddleocr, ("paddleocr", "paddlepaddle", "onnxruntime")),
    "rapidocr": (rapidocr, ("rapidocr", "onnxruntime")),
    "faster_paddle": (faster_paddle, ("faster-paddle",)),
    "tesseract": (tesseract, ("tesseract",)),
    "paddleocr_cli": (paddleocr_cli, ("paddleocr", "paddlepaddle")),
}
# These compute in a new process for every image: theirs are the figures of the children, and between two
# images there is nothing.
A_PROCESS_AN_IMAGE = {"tesseract", "paddleocr_cli"}


def cpu_s() -> float:
    """CPU seconds of this process, all its threads, and of the children it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def memory_mb(kind: str) -> tuple[float, float]:
    """Resident memory in MiB, now and at its highest since the start."""
    if kind in A_PROCESS_AN_IMAGE:
        return 0.0, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    found = {}
    for row in Path("/proc/self/status").read_text("ascii").splitlines():
        key, _, value = row.partition(":")
        if key in ("VmRSS", "VmHWM"):
            found[key] = int(value.split()[0]) / 1024
    return found["VmRSS"], found["VmHWM"]


def said(error: BaseException) -> str:
    """An exception on one line, short enough for a table's footnote."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def answer(read: Read, path: str, kind: str) -> dict[str, Any]:
    """Read one image; what goes back."""
    started, cpu = time.perf_counter(), cpu_s()
    try:
        lines = read(path)
    except Exception as error:  # noqa: BLE001 - whatever a library raises is its result
        return {"error": said(error)}
    elapsed = time.perf_counter() - started
    rss_mb, peak_mb = memory_mb(kind)
    return {
        "lines": lines,
        "elapsed_s": elapsed,
        "cpu_s": cpu_s() - cpu,
        "rss_mb": rss_mb,
        "peak_mb": peak_mb,
    }


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Versions of the installed ones among these packages."""
    found = {}
    for package in packages:
        if package == "tesseract":  # no Python package; "tesseract 5.3.0" and what it is linked with
            found[package] = _output(["tesseract", "--version"])[0].split()[1]
            continue
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main() -> int:
    """Load one program, then answer until standard input ends."""
    kind, options = sys.argv[1], json.loads(sys.argv[2])
    # The answers keep the pipe for themselves: anything else that is printed goes to standard error.
    with os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1) as out:
        os.dup2(2, 1)
        make, packages = KINDS[kind]
        try:
            read = make(**options)
        except Exception as error:  # noqa: BLE001 - as in answer()
            print(json.dumps({"error": said(error)}), file=out)
            return 1
        print(json.dumps({"versions": versions(packages)}), file=out)
        for request in sys.stdin:
            print(json.dumps(answer(read, json.loads(request)["path"], kind)), file=out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
