"""Small files that would take gigabytes or hours, built here, and what reading them adds to a process."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from ocr_watcher.errors import (
    FileError,
    MemoryBudgetError,
    ShortOfMemoryError,
    TruncatedError,
    UnreadableError,
    UnsupportedFormatError,
)
from ocr_watcher.inputs import gif, jpeg, png, tiff
from ocr_watcher.inputs.directories import MAX_FRACTIONS, MAX_NUMBERS
from ocr_watcher.inputs.table import FAMILIES, HEAD_BYTES, open_document
from tests.support import daemon, draw, until, write_config
from tests.test_image import COLOURED, LIMITS, encode, opened, picture, png_header, read

if TYPE_CHECKING:
    from collections.abc import Callable

# What reading any of these files may add to a process. The largest that is let through takes 100 MiB.
MAX_GROWTH_MB = 150

# Ten million values, which is as much as the usual limit on a file's size lets through.
MANY = 9_900_000

# Reads a file from standard input; prints what that added at the most (MiB) and how it ended.
CHILD = """
import io, json, sys
import cv2
from PIL import Image
from ocr_watcher.errors import FileError
from ocr_watcher.inputs.table import open_document
from ocr_watcher.inputs.base import DecodeLimits

def memory_kb(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field))

Image.init()
data = sys.stdin.buffer.read()
limits = DecodeLimits(10 << 20, 100_000_000, 1024)
before_kb = memory_kb("VmRSS")
try:
    document = open_document(io.BytesIO(data), limits)
    document.picture(0, limits)
    end = "read"
except FileError as error:
    end = f"{type(error).__name__}: {error}"
print(json.dumps([(memory_kb("VmHWM") - before_kb) / 1024, end]))
"""


def read_in_a_child(data: bytes) -> tuple[float, str]:
    """How much memory it took at the most (MiB), and how it ended."""
    assert len(data) <= LIMITS.max_file_bytes
    ran = subprocess.run(
        [sys.executable, "-c", CHILD], input=data, capture_output=True, check=True, timeout=30
    )
    growth_mb, end = json.loads(ran.stdout)
    return growth_mb, end


# -- TIFF ----------------------------------------------------------------------------------------


def long(value: int) -> bytes:
    return struct.pack("<I", value)


def one_page(tags: dict[int, tuple[int, int, bytes]], body: bytes) -> bytes:
    """A TIFF of one page, of 10 x 10 grey pixels unless `tags` says otherwise.

    `tags` are (type, count, value or offset as four bytes) by number; `body` begins at offset 8.
    """
    usual = {256: 10, 257: 10, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 10, 279: 100}
    every = {number: (4, 1, long(value)) for number, value in usual.items()} | tags
    entries = b"".join(struct.pack("<HHI4s", number, *every[number]) for number in sorted(every))
    body += bytes(len(body) % 2)
    return b"II*\0" + long(8 + len(body)) + body + struct.pack("<H", len(every)) + entries + bytes(4)


def grey_page(width: int, height: int, rows: int, **more: tuple[int, int, bytes]) -> dict[int, Any]:
    numbers = {"strips": 273, "compression": 259, "sizes": 279}
    page = {256: (4, 1, long(width)), 257: (4, 1, long(height)), 278: (4, 1, long(rows))}
    return page | {numbers[name]: value for name, value in more.items()}


def strip_a_row(width: int, height: int) -> bytes:
    """A page whose every row is a strip of its own; black above, white below."""
    pixels = np.zeros((height, width), np.uint8)
    pixels[height // 2 :] = 255
    at = 8 + 8 * height
    starts = np.arange(at, at + width * height, width, dtype="<u4").tobytes()
    sizes = np.full(height, width, "<u4").tobytes()
    tags = grey_page(width, height, 1, strips=(4, height, long(8)), sizes=(4, height, long(8 + 4 * height)))
    return one_page(tags, starts + sizes + pixels.tobytes())


def exif_directory(tag: int, kind: int, count: int) -> bytes:
    """EXIF of one tag whose values are all that follows."""
    values = b"\1" * (count * {3: 2, 5: 8}[kind])
    entry = struct.pack("<HHI4s", tag, kind, count, long(26))
    return b"II*\0" + long(8) + struct.pack("<H", 1) + entry + bytes(4) + values


def test_strip_for_each_of_65_000_rows_is_read() -> None:
    (page,) = read(strip_a_row(20, 65_000), replace(LIMITS, max_side_px=100))
    assert page.bgr[:49].max() == 0
    assert page.bgr[51:].min() == 255


def test_as_many_strips_as_are_allowed_are_read_in_little_memory() -> None:
    growth_mb, end = read_in_a_child(strip_a_row(20, tiff.MAX_STRIPS))
    assert end == "read"
    assert growth_mb < MAX_GROWTH_MB


TIFFS: dict[str, tuple[Callable[[], bytes], str]] = {
    "strips-in-bytes": (
        lambda: one_page(grey_page(1000, 1000, 1, strips=(1, MANY, long(8))), bytes(MANY)),
        "9900000 strips or tiles; the limit is 262144",
    ),
    "strips-for-libtiff": (
        lambda: one_page(
            grey_page(1000, 1000, 1, strips=(3, MANY // 2, long(8)), compression=(3, 1, long(5))), bytes(MANY)
        ),
        "4950000 strips or tiles; the limit is 262144",
    ),
    "tiles": (
        lambda: one_page(
            {322: (4, 1, long(16)), 323: (4, 1, long(16)), 324: (4, MANY // 4, long(8))}, bytes(MANY)
        ),
        "2475000 strips or tiles",
    ),
    "strips-over-each-other": (
        lambda: one_page(
            grey_page(800, 100_000, 99_999, strips=(4, 200_000, long(8))),
            long(8) * 2_400_000,
        ),
        "200000 strips or tiles where 2 cover it; the limit is 12",
    ),
    "resolution": (
        lambda: one_page({282: (5, MANY // 8, long(8))}, b"\1" * MANY),
        "1237500 fractions in its tags; the limit is 65536",
    ),
    "signed-bytes": (lambda: one_page({258: (6, MANY, long(8))}, b"\1" * MANY), "numbers in its tags"),
    "xmp": (lambda: one_page({700: (4, MANY // 4, long(8))}, b"\1" * MANY), "2475009 numbers in its tags"),
    "exif": (
        lambda: one_page(
            {34665: (4, 1, long(8 + MANY))},
            b"\1" * MANY + struct.pack("<HHHI4s", 1, 33434, 5, MANY // 8, long(8)) + bytes(4),
        ),
        "1237500 fractions in its tags",
    ),
}


@pytest.mark.parametrize("kind", TIFFS)
def test_tiff_whose_tags_would_become_gigabytes_is_refused_before_they_are_read(kind: str) -> None:
    make, words = TIFFS[kind]
    growth_mb, end = read_in_a_child(make())
    assert end.startswith("UnreadableError: ")
    assert words in end
    assert growth_mb < MAX_GROWTH_MB


def test_refused_tiff_says_what_helps() -> None:
    with pytest.raises(UnreadableError) as caught:
        opened(TIFFS["strips-in-bytes"][0]())
    assert "larger strips" in caught.value.hint


def test_numbers_and_fractions_up_to_the_limit_are_read() -> None:
    colours, resolution = MAX_NUMBERS - 100, MAX_FRACTIONS - 1
    data = one_page(
        {320: (3, colours, long(8)), 282: (5, resolution, long(8))}, b"\1" * max(2 * colours, 8 * resolution)
    )
    growth_mb, end = read_in_a_child(data)
    assert end == "read"
    assert growth_mb < MAX_GROWTH_MB


def test_values_that_are_not_in_the_file_do_not_count() -> None:
    # Pillow leaves them out, so that a file with such a tag is read.
    data = one_page({282: (5, 1 << 28, long(8)), 700: (4, 1 << 30, long(8))}, bytes(100))
    assert len(read(data)) == 1


def test_directories_that_overlap_are_refused() -> None:
    body = bytearray(b"II*\0" + long(8)) + bytes(2_000_000)
    at = 8
    for _ in range(100):
        struct.pack_into("<H", body, at, 60_000)
        struct.pack_into("<I", body, at + 2 + 60_000 * 12, at + 400)
        at += 400
    with pytest.raises(UnreadableError, match=r"page 18 of the file and those before it have 1080000 tags"):
        opened(bytes(body))


def test_pillow_reads_no_page_before_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sheets = [Image.new("L", (2, 2), value) for value in (0, 90, 180)]
    data = encode(sheets[0], "TIFF", save_all=True, append_images=sheets[1:])

    def sought(_self: object, frame: int) -> None:
        raise AssertionError(frame)

    with monkeypatch.context() as patched:
        patched.setattr("PIL.TiffImagePlugin.TiffImageFile.seek", sought)
        document = opened(data)
    assert document.pages == 3
    assert [int(document.picture(index, LIMITS).bgr[0, 0, 0]) for index in range(3)] == [0, 90, 180]


# -- the others ----------------------------------------------------------------------------------


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_with(chunks: bytes) -> bytes:
    data = encode(picture(), "PNG")
    return data[:33] + chunks + data[33:]


def segment(marker: int, body: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def jpeg_with(segments: bytes) -> bytes:
    """A JPEG without JFIF's resolution, so that Pillow looks for it in EXIF."""
    data = encode(picture(), "JPEG")
    return data[:2] + segments + data[20:]


def gif_with(blocks: bytes) -> bytes:
    data = encode(picture("P"), "GIF")
    at = 13 + (3 << (data[10] & 7) + 1)
    return data[:at] + blocks + data[at:]


def in_segments(exif: bytes) -> bytes:
    parts = [exif[at : at + 65_000] for at in range(0, len(exif), 65_000)]
    return b"".join(segment(0xE1, b"Exif\0\0" + part) for part in parts)


MEGABYTE = zlib.compress(bytes((1 << 20) - 9), 9)

REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "png-texts": (lambda: png_with(b"".join(chunk(b"tEXt", b"%x\0" % n) for n in range(500_000))), "chunks"),
    "png-private-chunks": (lambda: png_with(chunk(b"teSt", b"") * 800_000), "more than 100000 chunks"),
    "png-profiles": (lambda: png_with(chunk(b"iCCP", b"a\0\0" + MEGABYTE) * 9000), "128 of compressed text"),
    "png-nameless-texts": (lambda: png_with(chunk(b"zTXt", b"\0\0" + MEGABYTE) * 9000), "compressed text"),
    "jpeg-exif": (
        lambda: jpeg_with(in_segments(exif_directory(0x011A, 5, 1_200_000))),
        "65536 fractions",
    ),
    "jpeg-fill": (lambda: jpeg_with(b"\xff" * 9_000_000), "more than 1048576 bytes between its segments"),
    "gif-comment": (lambda: gif_with(b"!\xfe" + b"\2xx" * 3_300_000 + b"\0"), "more than 1000000 blocks"),
    "gif-comments": (lambda: gif_with(b"!\xfe\2xx\0" * 1_700_000), "more than 1000000 blocks"),
    "gif-stray-bytes": (lambda: gif_with(bytes(9_000_000)), "more than 1000000 blocks"),
    "gif-applications": (lambda: gif_with(b"!\xff\1x\0" * 1_900_000), "more than 1000000 blocks"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_structure_that_would_take_much_memory_or_long_is_refused(kind: str) -> None:
    make, words = REFUSED[kind]
    growth_mb, end = read_in_a_child(make())
    assert end.startswith("UnreadableError: ")
    assert words in end
    assert growth_mb < MAX_GROWTH_MB


READ: dict[str, Callable[[], bytes]] = {
    "png-exif": lambda: png_with(chunk(b"eXIf", exif_directory(0x0112, 5, MANY // 8))),
    "png-chunks": lambda: png_with(chunk(b"teSt", b"") * (png.MAX_CHUNKS - 10)),
    "png-texts": lambda: png_with(chunk(b"zTXt", b"\0\0" + MEGABYTE) * png.MAX_PACKED_CHUNKS),
    "jpeg-exif": lambda: jpeg_with(in_segments(exif_directory(0x011A, 5, MAX_FRACTIONS))),
    "jpeg-fill": lambda: jpeg_with(b"\xff" * jpeg.MAX_FILL_BYTES),
    "gif-comment": lambda: gif_with(b"!\xfe" + b"\2xx" * (gif.MAX_BLOCKS - 9) + b"\0"),
    "gif-comments": lambda: gif_with(b"!\xfe\1x\0" * 600_000),
    "gif-odd-blocks": lambda: gif_with(b"!\xff\0\1x\0" + b"!\xff\x0bNETSCAPE2.0\0\0" + b"!\xfe\0"),
}


@pytest.mark.parametrize("kind", READ)
def test_metadata_up_to_the_limits_is_no_obstacle(kind: str) -> None:
    growth_mb, end = read_in_a_child(READ[kind]())
    assert end == "read"
    assert growth_mb < MAX_GROWTH_MB


# -- what decoding takes -------------------------------------------------------------------------


@pytest.mark.long
def test_the_service_reads_or_refuses_all_of_them_in_less_than_800_mib(
    tmp_path: Path, model_store: Path
) -> None:
    hostile = {f"{kind}.tif": make() for kind, (make, _) in TIFFS.items()}
    hostile["as-many-strips-as-are-allowed.tif"] = strip_a_row(20, tiff.MAX_STRIPS)
    hostile |= {f"{kind}.{kind.split('-')[0]}": make() for kind, (make, _) in REFUSED.items()}
    hostile |= {f"read-{kind}.{kind.split('-')[0]}": make() for kind, make in READ.items()}
    write_config(tmp_path)
    inbox = tmp_path / "inbox"
    with daemon(tmp_path, {"OCR_WATCHER_MODEL_STORE": str(model_store)}, real=True) as running:
        running.wait_for("daemon.ready")
        draw(tmp_path / "usual.png", size=(2480, 3508)).rename(inbox / "usual.png")
        running.wait_for("ocr.done")
        usual_mb = peak_mb(running.pid)
        for name, data in hostile.items():
            (inbox / f"{name}.part").write_bytes(data)
            (inbox / f"{name}.part").rename(inbox / name)
        until(lambda: len(list(inbox.glob("*.json"))) == len(hostile) + 1, 120)
        hostile_mb = peak_mb(running.pid)
        assert running.stop() == 0
    refused = len(list(inbox.glob("*.error.json")))
    assert refused == len(TIFFS) + len(REFUSED)
    assert hostile_mb < 800
    print(
        f"peak RSS {usual_mb:.0f} MiB after a page of A4, {hostile_mb:.0f} after {len(hostile)} hostile "
        f"files: {refused} refused, {len(hostile) - refused} read"
    )


def peak_mb(pid: int) -> float:
    """The most resident memory that a process has had (MiB)."""
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(row.split()[1]) / 1024 for row in rows if row.startswith("VmHWM"))


def flat_jpeg(width: int, height: int, *, scans: int) -> bytes:
    """A grey JPEG of three components without subsampling: two bits a block. In one scan, or in three."""
    data = b"\xff\xd8" + segment(0xDB, b"\0" + b"\1" * 64)
    data += segment(0xC0, struct.pack(">BHHB", 8, height, width, 3) + b"\1\x11\0\2\x11\0\3\x11\0")
    for table in (b"\0", b"\x10"):
        data += segment(0xC4, table + b"\1" + bytes(16))
    blocks = -(-width // 8) * -(-height // 8)
    if scans == 1:
        return data + segment(0xDA, b"\3\1\0\2\0\3\0\0\x3f\0") + bytes(-(-blocks * 6 // 8)) + b"\xff\xd9"
    for component in (1, 2, 3):
        data += segment(0xDA, bytes([1, component, 0, 0, 63, 0])) + bytes(-(-blocks * 2 // 8))
    return data + b"\xff\xd9"


def needed_mb(data: bytes, **limits: Any) -> float:
    """What decoding is expected to take, from the message that refuses it."""
    with pytest.raises(MemoryBudgetError) as caught:
        read(data, replace(LIMITS, max_decode_mb_ever=0, **limits))
    return float(str(caught.value).split(" MiB")[0].rsplit(" ", 1)[1])


def test_baseline_jpeg_in_several_scans_takes_what_it_takes() -> None:
    # libjpeg keeps the coefficients of the whole picture: 6 bytes a pixel.
    in_one, in_three = (flat_jpeg(5000, 5000, scans=scans) for scans in (1, 3))
    assert needed_mb(in_one) < 40
    growth_mb, end = read_in_a_child(in_one)
    assert end == "read"
    assert growth_mb < 40
    growth_mb, end = read_in_a_child(in_three)
    assert end == "read"
    assert 130 < growth_mb < needed_mb(in_three) < 200


def test_jpeg_that_is_not_reduced_takes_all_its_pixels() -> None:
    data = flat_jpeg(3000, 3000, scans=1)
    assert needed_mb(data, max_side_px=1600) == pytest.approx(40, abs=2)  # as large as it is: 4.6 bytes
    assert needed_mb(data, max_side_px=1500) == pytest.approx(13, abs=2)
    assert needed_mb(data, max_side_px=300) == pytest.approx(4, abs=1)


def test_gif_that_keeps_its_background_takes_twice_the_memory() -> None:
    data = encode(Image.new("P", (3000, 3000)), "GIF")
    at = data.index(b",")
    disposing = data[:at] + b"!\xf9\x04\x08\0\0\0\0" + data[at:]
    assert needed_mb(disposing) == pytest.approx(needed_mb(data) + 9e6 / 2**20, abs=1)


def test_want_of_memory_that_will_pass_is_told_from_one_that_will_not() -> None:
    data = png_header(4000, 2500, bits=16)  # 22 MiB
    with pytest.raises(MemoryBudgetError, match=r"about 22 MiB .*; 20 MiB are left of the memory limits$"):
        read(data, replace(LIMITS, max_decode_mb=10, max_decode_mb_ever=20))
    with pytest.raises(
        ShortOfMemoryError,
        match=r"^decoding the file takes about 22 MiB \(10\.0 megapixels of 2\.3 bytes\); "
        r"10 MiB are left of the memory limits at the moment$",
    ) as caught:
        read(data, replace(LIMITS, max_decode_mb=10, max_decode_mb_ever=30))
    assert caught.value.transient
    assert caught.value.code == "out_of_memory"
    with pytest.raises(TruncatedError):
        read(data, replace(LIMITS, max_decode_mb=30, max_decode_mb_ever=30))


# -- the way in ----------------------------------------------------------------------------------


class Watched(io.BytesIO):
    """Notes how much of it was read."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.reads: list[int] = []

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.reads.append(len(data))
        return data


def test_file_of_no_family_is_not_read_beyond_its_head() -> None:
    file = Watched(b"\x01\x02\x03" + bytes(5 << 20))
    with pytest.raises(UnsupportedFormatError):
        open_document(file, LIMITS)
    assert file.reads == [HEAD_BYTES]


def test_image_is_read_once_and_whole() -> None:
    data = encode(Image.effect_noise((64, 48), 90), "PNG")
    file = Watched(data)
    document = open_document(file, LIMITS)
    document.picture(0, LIMITS)
    assert file.reads == [HEAD_BYTES, len(data)]
    document.picture(0, LIMITS)
    assert file.reads == [HEAD_BYTES, len(data), len(data)]


@pytest.mark.parametrize("kind", ["png-rgb", "jpeg", "gif", "webp", "tiff-rgb", "tiff-big", "bmp-rgb"])
def test_file_that_ends_within_its_mark_is_known_and_cut_off(kind: str) -> None:
    data = COLOURED[kind]()
    (whole,) = (family for family in FAMILIES if family.sniff(data[:HEAD_BYTES]))
    for length in range(1, 12):
        assert whole.sniff(data[:length])
        with pytest.raises(TruncatedError):
            opened(data[:length])


def test_file_that_changes_its_kind_before_it_is_read_again_is_an_error_of_the_file() -> None:
    file = io.BytesIO(COLOURED["png-rgb"]())
    document = open_document(file, LIMITS)
    document.picture(0, LIMITS)
    for other in (COLOURED["jpeg"](), COLOURED["tiff-rgb"](), b"text", b"\0" * 99):
        file.seek(0)
        file.truncate()
        file.write(other)
        with pytest.raises(FileError):
            document.picture(0, LIMITS)
