"""Do searchable PDFs give back what was read, and what do the outputs cost?

`outputs.py FOLDER...`: folders with finished documents, their sidecars and `.ocr.pdf` beside them. Counts the
words of the JSON that `pdftotext -raw` and PDFium find in the PDF. Then makes each output of the first
document anew, and gives processor time (helper processes included) and memory beyond what was there before.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import resource
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pypdfium2

from ocr_watcher import memory
from ocr_watcher.inputs.base import DecodeLimits
from ocr_watcher.inputs.table import open_document
from ocr_watcher.jobs.attempt import _Pictures
from ocr_watcher.outputs import sidecar
from ocr_watcher.outputs.base import About
from ocr_watcher.outputs.formats import FORMATS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_LIMITS = DecodeLimits(max_file_bytes=1 << 30, max_pixels=1_000_000_000, max_side_px=1024)
_TIMES = 10
# Marks of direction; and what PDFium makes of a hyphen at the end of a line.
_MARKS = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
_LINE_END_HYPHEN = "\ufffe"


def main() -> None:
    """Print a line for every folder and reader, and one for every output."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+")
    asked = parser.parse_args()
    memory.use_one_heap()
    for folder in asked.folders:
        records = [path for path in sorted(folder.glob("*.json")) if not path.name.endswith(".error.json")]
        for name, read in (("pdftotext -raw", by_poppler), ("PDFium", by_pdfium)):
            print(f"{folder.name}: {name}: {read_back(records, read)}")
    for kind in FORMATS:
        print(f"{kind}: {cost(records[0], kind)}")


def read_back(records: Iterable[Path], read: Callable[[Path], str]) -> str:
    """How many words of the JSON are in the PDFs."""
    wanted = found = documents = 0
    for record in records:
        document = record.with_suffix("")
        said = json.loads(record.read_text("utf-8"))
        words = counted(" ".join(line["text"] for page in said["pages"] for line in page["lines"]))
        there = counted(read(document.with_name(document.name + ".ocr.pdf")))
        wanted += words.total()
        found += (words & there).total()
        documents += 1
    return f"{documents} documents, {found} of {wanted} words, {found / max(wanted, 1):.2%}"


def counted(text: str) -> Counter[str]:
    """Words between blanks, without marks."""
    return Counter(_MARKS.sub("", text.replace(_LINE_END_HYPHEN, "- ")).split())


def by_poppler(path: Path) -> str:
    """The text of a PDF in the order of its content."""
    command = ["pdftotext", "-raw", str(path), "-"]
    return subprocess.run(command, check=True, capture_output=True).stdout.decode()


def by_pdfium(path: Path) -> str:
    """The text of a PDF as Chromium has it."""
    document = pypdfium2.PdfDocument(path)
    try:
        return "\n".join(page.get_textpage().get_text_range() for page in document)
    finally:
        document.close()


def cost(record: Path, kind: str) -> str:
    """What an output takes beyond the reading."""
    source, pages = sidecar.read(record.read_text("utf-8"))
    read = list(pages)
    with record.with_suffix("").open("rb") as file:
        opened = open_document(file, _LIMITS)
        try:
            Path("/proc/self/clear_refs").write_text("5", "ascii")  # the peak from here on
            before_mb = memory.Memory().figures().rss_mb
            times = []
            for _ in range(_TIMES):
                began_s = processor_s()
                writer = FORMATS[kind].writer(
                    About(source, "ocr-watcher", len(read)), _Pictures(opened, lambda: _LIMITS)
                )
                parts = itertools.chain([writer.begin()], map(writer.page, read), [writer.end()])
                size_bytes = sum(len(piece) for part in parts for piece in part)
                times.append(processor_s() - began_s)
            peak_mb = memory.Memory().figures().peak_rss_mb - before_mb
        finally:
            opened.close()
    return f"{1000 * min(times):.0f} to {1000 * max(times):.0f} ms, {peak_mb:.1f} MiB, {size_bytes} bytes"


def processor_s() -> float:
    """Processor time of this process and of those that it waited for (s)."""
    helpers = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + helpers.ru_utime + helpers.ru_stime


if __name__ == "__main__":
    main()
