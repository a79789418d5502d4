"""Fuzz the image loader, guided by coverage: `fuzz_images.py CORPUS [-max_total_time=600 ...]`.

Needs Atheris, which is no dependency of this project: `pip install atheris` (wheels for Linux x86_64).
Whatever the bytes, `ocr_watcher.inputs.table.open_document` must give pictures within their limits or raise
a `FileError`, within seconds and bounded memory. Branches of `ocr_watcher.inputs` and of Pillow's Python code
count as coverage; decoders in C run uninstrumented. CORPUS is a folder; small images of every format are put
into it first. PDF, AVIF and JPEG 2000 are decoded in a process of their own, where coverage does not reach; a
new process for each makes these slow (`tests/test_pdf.py` and `test_helped.py` hit them at random as well).
Options with a single dash are libFuzzer's; a finding ends the run and is written beside
CORPUS, and `fuzz_images.py CORPUS FINDING` runs that file alone.
"""

# ruff: noqa: S101 - assertions are what a fuzz target is made of

from __future__ import annotations

import contextlib
import io
import itertools
import resource
import struct
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import atheris
import cv2  # noqa: F401 - the loader imports it at the first WebP; its memory is not the file's
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

with atheris.instrument_imports(include=["PIL", "ocr_watcher.inputs"]):
    from PIL import (
        AvifImagePlugin,
        BmpImagePlugin,
        GifImagePlugin,
        Image,
        Jpeg2KImagePlugin,
        JpegImagePlugin,
        MpoImagePlugin,
        PdfImagePlugin,
        PngImagePlugin,
        TiffImagePlugin,
        WebPImagePlugin,
    )

    from ocr_watcher.inputs.base import DecodeLimits, PdfLimits
    from ocr_watcher.inputs.table import open_document

from ocr_watcher.errors import FileError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocr_watcher.inputs.base import OpenDocument

PLUGINS = (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PdfImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

LIMITS = DecodeLimits(
    max_file_bytes=1 << 20,
    max_pixels=4_000_000,
    max_side_px=128,
    decode_timeout_s=3,
    pdf=PdfLimits(page_timeout_s=2),
)
# An animated WebP takes 18.5 bytes a pixel, and Pillow's copies of its mode and bands a little more.
MAX_GROWTH_MB = 160
# A TIFF of a few kilobytes may hold thousands of pages that share one picture: slow, but no hang.
MAX_PAGES = 4

# The defaults of libFuzzer's options; the command line's come behind them and win.
OPTIONS = ("-max_len=16384", "-timeout=10", "-rss_limit_mb=1024", "-report_slow_units=5", "-seed=1")

_PNG = b"\x89PNG\r\n\x1a\n"
_PAGE_BYTES = resource.getpagesize()


def seeds() -> Iterator[tuple[str, bytes]]:
    """Small files: every mode that each format can hold, and what changes the way it is decoded."""
    grey = Image.linear_gradient("L").resize((32, 24))
    drawn = Image.merge("RGB", (grey, grey.rotate(180), Image.new("L", grey.size, 90)))
    other = drawn.rotate(180)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "camera"
    several = {"save_all": True, "append_images": [other, other.resize((20, 30))]}
    animated = {"save_all": True, "append_images": [other, drawn]}
    options: dict[str, list[dict[str, Any]]] = {
        "PNG": [{}, {"exif": exif}, {"transparency": 0}, animated],
        "JPEG": [{}, {"exif": exif}, {"progressive": True}, {"quality": 95, "subsampling": 0}],
        "MPO": [several],
        "BMP": [{}],
        "GIF": [{}, {"transparency": 0}, {"interlace": False}, animated],
        "WEBP": [{}, {"lossless": True, "exif": exif}, animated],
        "AVIF": [{}, {"subsampling": "4:4:4"}],
        "JPEG2000": [{}, {"num_resolutions": 1}, {"tile_size": (16, 16)}],
        "PDF": [{}, several],
        "TIFF": [
            *({"compression": name} for name in ("raw", "tiff_lzw", "packbits", "tiff_adobe_deflate")),
            *({"compression": name} for name in ("jpeg", "group3", "group4", "zstd", "lzma", "webp")),
            {"exif": exif},
            {"big_tiff": True},
            several,
        ],
    }
    for mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"):
        try:
            image = (
                drawn.convert(mode) if mode != "I;16" else Image.fromarray(np.asarray(grey) * np.uint16(257))
            )
        except ValueError:  # no such conversion
            image = Image.new(mode, grey.size)
        for file_format, kinds in options.items():
            for number, kind in enumerate(kinds):
                out = io.BytesIO()
                try:
                    image.save(out, file_format, **kind)
                except Exception:  # noqa: BLE001, S112 - this format does not hold this mode
                    continue
                yield f"{file_format}-{mode}-{number}".lower().replace(";", ""), out.getvalue()


def by_hand() -> Iterator[tuple[str, bytes]]:
    """What Pillow reads but does not write: run-length BMP, tiled TIFF."""
    runs = bytes([16, 7, 0, 0] * 13 + [0, 3, 1, 2, 3, 0, 13, 9, 0, 0, 0, 2, 4, 1, 12, 5, 0, 1])
    header = struct.pack("<IiiHHIIiiII", 40, 16, 16, 1, 8, 1, len(runs), 0, 0, 256, 0)
    palette = bytes(range(256)) * 4
    yield "bmp-runs", b"BM" + struct.pack("<IHHI", 1078 + len(runs), 0, 0, 1078) + header + palette + runs
    for compression, body in ((1, bytes(range(256))), (8, zlib.compress(bytes(range(256))))):
        tags = {256: 16, 257: 16, 258: 8, 259: compression, 262: 1, 277: 1, 322: 16, 323: 16, 324: 8}
        tags[325] = len(body)
        padded = body + bytes(len(body) % 2)
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
        link = struct.pack("<I", 8 + len(padded))
        yield (
            f"tiff-tile-{compression}",
            b"II*\0" + link + padded + struct.pack("<H", len(tags)) + entries + bytes(4),
        )


def with_checksums(data: bytes) -> bytes:
    """Put the checksums of a PNG right: with wrong ones no mutation would come any further."""
    out = bytearray(data)
    at = len(_PNG)
    while at + 12 <= len(out):
        length = struct.unpack_from(">I", out, at)[0]
        end = at + 8 + length
        if end + 4 > len(out):
            break
        struct.pack_into(">I", out, end, zlib.crc32(out[at + 4 : end]))
        at = end + 4
    return bytes(out)


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Let libFuzzer mutate; every other PNG gets its checksums put right."""
    changed: bytes = atheris.Mutate(data, max_size)
    return with_checksums(changed) if changed.startswith(_PNG) and seed % 2 else changed


def rss_mb() -> float:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * _PAGE_BYTES / 2**20


def peak_mb() -> float:
    """The most it ever was."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def look_at(document: OpenDocument, index: int) -> None:
    """Take a page as text where it is, and as a picture."""
    text = document.page_text(index, LIMITS)
    assert text is None or all(line.text for line in text.lines)
    page = document.picture(index, LIMITS)
    bgr = page.bgr
    assert bgr.dtype == np.uint8
    assert bgr.ndim == 3
    assert bgr.shape[2] == 3
    assert min(bgr.shape[:2]) >= 1
    assert max(bgr.shape[:2]) <= LIMITS.max_side_px
    assert bgr.flags.c_contiguous
    # The pixels of a PDF are those that its page would have at 300 dpi.
    assert document.has_separate_pages or page.width_px * page.height_px <= LIMITS.max_pixels
    assert 0 < page.scale <= 1


def load(data: bytes) -> None:
    """Hold the loader to its promise; anything but a `FileError` is a finding."""
    before, peak_before = rss_mb(), peak_mb()
    try:
        with contextlib.closing(open_document(io.BytesIO(data), LIMITS)) as document:
            assert document.pages >= 1
            for index in range(min(document.pages, MAX_PAGES)):
                look_at(document, index)
    except FileError as error:
        assert str(error)  # noqa: PT017 - a record must say something
        assert "\n" not in str(error)  # noqa: PT017
    peak = peak_mb()
    # Only a new peak says how far this very file went.
    assert peak <= peak_before or peak - before <= MAX_GROWTH_MB, f"{peak - before:.0f} MiB for one file"


def main() -> None:
    """Fill the corpus with seeds and fuzz; libFuzzer ends the process."""
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    corpus = Path(sys.argv[1])
    corpus.mkdir(parents=True, exist_ok=True)
    for name, data in itertools.chain(seeds(), by_hand()):
        (corpus / name).write_bytes(data)
    rest = sys.argv[2:]
    alone = any(not argument.startswith("-") for argument in rest)
    arguments = [sys.argv[0], *OPTIONS, f"-artifact_prefix={corpus.parent}/finding-"]
    atheris.Setup(
        [*arguments, *rest] if alone else [*arguments, *rest, str(corpus)], load, custom_mutator=mutate
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
