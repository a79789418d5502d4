"""Measure what one memory setting does to one OCR engine: resident memory at start, later, at its peak.

One configuration per process, one JSON line on standard output. Environment variables are set by the
caller (`env NAME=VALUE python benchmarks/memory_settings.py ...`): the C library reads its own when a
process starts. Imports nothing of ocr_watcher: it measures the libraries below; docs/memory.md holds the
tables. Linux with glibc only.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
MIB = 2**20
# The parameter numbers of glibc's mallopt(), from <malloc.h>.
MALLOPT = {"trim_threshold": -1, "mmap_threshold": -3, "arena_max": -8}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path, help="folder of images")
    parser.add_argument("models", type=Path, help="folder that holds NAME_det and NAME_rec")
    parser.add_argument("--engine", choices=("onnxruntime", "paddle"), default="onnxruntime")
    parser.add_argument("--model", default="PP-OCRv6_small", metavar="NAME")
    parser.add_argument("--max-side", type=int, default=1024, metavar="PX")
    parser.add_argument("--rounds", type=int, default=1, help="times the whole folder is read")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, metavar="N", help="text_recognition_batch_size (PaddleOCR: 6)")
    parser.add_argument("--cache", type=int, metavar="N", help="mkldnn_cache_capacity (PaddleOCR: 10)")
    parser.add_argument("--no-onednn", action="store_true", help="engine paddle without oneDNN")
    parser.add_argument(
        "--arena", action="store_true", help="leave ONNX Runtime's arena and memory pattern on"
    )
    parser.add_argument("--gc", action="store_true", help="gc.collect() after every image")
    parser.add_argument("--trim", action="store_true", help="malloc_trim(0) after every image")
    parser.add_argument(
        "--mallopt",
        action="append",
        default=[],
        metavar="NAME=N",
        help=f"call mallopt() before the libraries are imported; NAME is one of {', '.join(MALLOPT)}",
    )
    parser.add_argument("--label", default="", help="copied into the output")
    return parser.parse_args()


def rss_mb() -> float:
    """Resident memory of this process in MiB."""
    return float(psutil.Process().memory_info().rss) / MIB


def peak_mb() -> float:
    """Largest resident memory this process ever had in MiB (VmHWM)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) / 1024


def load(path: Path, max_side_px: int) -> np.ndarray[Any, Any]:
    """Decode at reduced scale where the format allows it: (height, width, 3) uint8, blue first."""
    with Image.open(path) as image:
        image.draft("RGB", (max_side_px, max_side_px))
        small = image.convert("RGB")
    small.thumbnail((max_side_px, max_side_px))
    return np.ascontiguousarray(np.asarray(small)[:, :, ::-1])


def engine_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Arguments of PaddleOCR for this configuration."""
    result: dict[str, Any] = {
        "device": "cpu",
        "use_doc_orientation_classify": False,
        "use_doc_unwarping": False,
        "use_textline_orientation": False,
    }
    for part, name in (("text_detection", "det"), ("text_recognition", "rec")):
        result[f"{part}_model_name"] = f"{options.model}_{name}"
        result[f"{part}_model_dir"] = str(options.models / f"{options.model}_{name}")
    if options.batch is not None:
        result["text_recognition_batch_size"] = options.batch
    if options.engine == "onnxruntime":
        config: dict[str, Any] = {"intra_op_num_threads": options.threads}
        if not options.arena:
            config |= {"enable_cpu_mem_arena": False, "enable_mem_pattern": False}
        return result | {"engine": "onnxruntime", "engine_config": config}
    result |= {
        "engine": "paddle_static",
        "cpu_threads": options.threads,
        "enable_mkldnn": not options.no_onednn,
    }
    if options.cache is not None:
        result["mkldnn_cache_capacity"] = options.cache
    return result


def main() -> int:
    """Run one configuration and print one JSON line."""
    options = arguments()
    os.environ["PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK"] = "True"
    libc = ctypes.CDLL(None)
    for setting in options.mallopt:
        name, _, value = setting.partition("=")
        if libc.mallopt(MALLOPT[name], int(value)) != 1:
            print(f"mallopt refused {setting}", file=sys.stderr)
            return 1
    files = sorted(p for p in options.images.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        print(f"no images in {options.images}", file=sys.stderr)
        return 1

    began = time.perf_counter()
    from paddleocr import PaddleOCR  # noqa: PLC0415 - after mallopt, and its cost is part of the figure

    logging.getLogger("ppocr").setLevel(logging.ERROR)
    ocr = PaddleOCR(**engine_arguments(options))
    gc.collect()
    start_s, start_mb = time.perf_counter() - began, rss_mb()

    after_mb: list[float] = []
    wall_s = cpu_s = gc_s = trim_s = 0.0
    lines = 0
    for path in files * options.rounds:
        array = load(path, options.max_side)
        wall, cpu = time.perf_counter(), time.process_time()
        (result,) = ocr.predict(array)
        wall_s += time.perf_counter() - wall
        cpu_s += time.process_time() - cpu
        lines += len(result["rec_texts"])
        del array, result
        if options.gc:
            cpu = time.process_time()
            gc.collect()
            gc_s += time.process_time() - cpu
        if options.trim:
            cpu = time.process_time()
            libc.malloc_trim(0)
            trim_s += time.process_time() - cpu
        after_mb.append(rss_mb())

    count = len(after_mb)
    report = {
        "label": options.label,
        "engine": options.engine,
        "model": options.model,
        "images": count,
        "lines": lines,
        "start_s": round(start_s, 1),
        "start_mb": round(start_mb),
        "first_mb": round(after_mb[0]),
        "half_mb": round(after_mb[count // 2]),
        "after_mb": round(after_mb[-1]),
        "max_after_mb": round(max(after_mb)),
        "peak_mb": round(peak_mb()),
        "s_per_image": round(wall_s / count, 3),
        "cpu_s_per_image": round(cpu_s / count, 3),
        "gc_cpu_ms_per_image": round(gc_s / count * 1000, 1),
        "trim_cpu_ms_per_image": round(trim_s / count * 1000, 1),
        "paddle_imported": "paddle" in sys.modules,
    }
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
