"""An inbox full of odd animals: the real daemon with the real engine gets every kind of file at once.

Everything is generated from fixed seeds: all that Pillow can write, whole, cut off, with flipped bits and
under wrong names; headers that lie, bombs, loops, and files that are no image. Whatever it is, it ends in
one record, and the process neither grows beyond its limit nor restarts nor prints past its log.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import re
import struct
import time
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from ocr_watcher import names
from ocr_watcher.config import DEFAULT_EXTENSIONS
from ocr_watcher.inputs.table import FAMILIES
from tests import pdfs
from tests.support import daemon, error_of, sidecar_of, until, write_config
from tests.test_image import encode, one_frame_webp, png_header, run_length_bmp, tiff, tiff_page, tiled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WORD = "INVOICE"
SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif"}
MODES = [
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBX",
    "RGBa",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I;16",
    "I;16B",
    "I",
    "F",
]

# What may become of a file whose fate depends on where it was hit.
DAMAGED = frozenset({"ok", "truncated", "unreadable", "unsupported_format", "too_many_pixels"})
OK = frozenset({"ok"})
UNSUPPORTED = frozenset({"unsupported_format"})
TRUNCATED = frozenset({"truncated"})
TOO_MANY = frozenset({"too_many_pixels"})
BAD = DAMAGED - OK


@dataclass(frozen=True)
class Animal:
    """A file, and how it may end: "ok" or an error's code."""

    name: str
    data: bytes
    ends: frozenset[str]
    text: bool = False  # whether its word must be found


def drawn(mode: str = "RGB", size: tuple[int, int] = (160, 48)) -> Image.Image:
    """Black on white in any mode, also those that nothing converts to."""
    page = Image.new("L", size, 255)
    ImageDraw.Draw(page).text((8, 4), WORD, 0, ImageFont.load_default(size=30))
    grey = np.asarray(page)
    if mode == "I;16":
        return Image.fromarray(grey.astype(np.uint16) * 257)
    if mode == "I;16B":
        return Image.frombytes("I;16B", size, (grey.astype(">u2") * 257).tobytes())
    if mode in {"PA", "La"}:
        return page.convert("LA").convert(mode)
    if mode == "RGBa":
        return page.convert("RGBA").convert("RGBa")
    if mode in {"LAB", "HSV"}:
        return Image.merge(
            mode, (page, Image.new("L", size, 0), page if mode == "HSV" else page.point([0] * 256))
        )
    return page.convert("RGB").convert(mode)


def try_encode(image: Image.Image, file_format: str, **options: Any) -> bytes | None:
    """The file, or None where the format does not hold this kind of image."""
    try:
        return encode(image, file_format, **options)
    except (OSError, ValueError, KeyError):
        return None


def everything_pillow_writes() -> Iterator[Animal]:
    """Every mode in every format: ours are read; the others are refused, whatever they are called."""
    Image.init()
    own = {file_format: extension for extension, file_format in sorted(Image.EXTENSION.items(), reverse=True)}
    for file_format in sorted(Image.SAVE):
        allowed = file_format in {*(family.name for family in FAMILIES), "MPO"}
        written = 0
        for mode in MODES:
            data = try_encode(drawn(mode), file_format)
            if data is None:
                continue
            written += 1
            stem = f"all-{file_format.lower()}-{mode.replace(';', '')}"
            if allowed:
                suffix = SUFFIXES.get(file_format, f".{file_format.lower()}")
                yield Animal(stem + suffix, data, OK, text=mode in {"1", "L", "P", "RGB", "RGBA", "I;16"})
                continue
            yield Animal(stem + DEFAULT_EXTENSIONS[written % len(DEFAULT_EXTENSIONS)], data, UNSUPPORTED)
            if written == 1:
                yield Animal(stem + own.get(file_format, ".spi"), data, UNSUPPORTED)


def other_ways_to_write() -> Iterator[Animal]:
    """The same picture by every option that changes how it is decoded."""
    for name in ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "jpeg", "zstd", "lzma"):
        data = try_encode(drawn(), "TIFF", compression=name)
        if data is not None:
            yield Animal(f"way-{name}.tiff", data, OK, text=True)
    for name in ("group3", "group4", "tiff_ccitt"):
        yield Animal(f"way-{name}.tif", encode(drawn("1"), "TIFF", compression=name), OK, text=True)
    yield Animal("way-bigtiff.tif", encode(drawn(), "TIFF", big_tiff=True), OK, text=True)
    yield Animal("way-progressive.jpe", encode(drawn(), "JPEG", progressive=True), OK, text=True)
    yield Animal("way-444.jpeg", encode(drawn(), "JPEG", quality=100, subsampling=0), OK, text=True)
    yield Animal("way-restart.jpg", encode(drawn(), "JPEG", restart_marker_blocks=1), OK, text=True)
    yield Animal("way-quality-1.jpg", encode(drawn(), "JPEG", quality=1), OK)
    yield Animal("way-lossless.webp", encode(drawn(), "WEBP", lossless=True), OK, text=True)
    yield Animal("way-alpha.webp", encode(drawn("RGBA"), "WEBP", quality=90), OK, text=True)
    yield Animal("way-2-bits.png", encode(drawn("P"), "PNG", bits=2), OK)
    yield Animal("way-palette-transparent.png", encode(drawn("P"), "PNG", transparency=0), OK)
    yield Animal("way-palette-alphas.png", encode(drawn("P"), "PNG", transparency=bytes(range(256))), OK)
    yield Animal("way-palette-transparent.gif", encode(drawn("P"), "GIF", transparency=0), OK)
    yield Animal("way-key.png", encode(drawn(), "PNG", transparency=(255, 255, 255)), OK, text=True)
    yield Animal("way-flat.gif", encode(drawn("P"), "GIF", interlace=False), OK, text=True)
    deep = np.asarray(drawn("L"))
    rgb16 = (np.asarray(drawn()).astype("<u2") * 257).tobytes()
    yield Animal("way-rgb16.tif", tiff(tiff_page((160, 48), [16] * 3, 2, rgb16)), OK, text=True)
    yield Animal("way-runs.bmp", run_length_bmp(160, 48), OK)
    yield Animal("way-tile.tif", tiled((16, 12), (64, 64), zlib.compress(bytes(64 * 64))), OK)
    twelve = Image.fromarray(deep.astype(np.uint16) * 16)
    yield Animal("way-12-of-16-bits.png", encode(twelve, "PNG"), OK, text=True)
    broken = (deep / 255).astype(np.float32)
    broken[::7, ::5], broken[::11, ::3] = np.nan, np.inf
    yield Animal("way-nan.tif", encode(Image.fromarray(broken), "TIFF"), OK)
    yield Animal(
        "way-negative.tif", encode(Image.fromarray(deep.astype(np.int32) - 70_000), "TIFF"), OK, text=True
    )


def sizes() -> Iterator[Animal]:
    """From one pixel to very long and thin."""
    for width, height in (
        (1, 1),
        (1, 2),
        (2, 1),
        (3, 3),
        (1, 700),
        (700, 1),
        (2, 9000),
        (9000, 2),
        (31, 33),
        (16_000, 1),
    ):
        for file_format in ("PNG", "JPEG", "GIF", "WEBP"):
            data = encode(Image.new("L", (width, height), 255), file_format)
            yield Animal(
                f"size-{width}x{height}{SUFFIXES.get(file_format, '.' + file_format.lower())}", data, OK
            )
    for width, height in ((1, 60_000), (60_000, 1), (200_000, 3)):
        yield Animal(f"size-{width}x{height}.tif", encode(Image.new("1", (width, height), 1), "TIFF"), OK)
        yield Animal(f"size-{width}x{height}.bmp", encode(Image.new("L", (width, height), 0), "BMP"), OK)
    yield Animal("size-stripes.png", encode(Image.effect_noise((5000, 12), 90), "PNG"), OK)
    yield Animal("size-36-megapixels.png", encode(Image.new("1", (6000, 6000), 1), "PNG"), OK)


def several_pictures() -> Iterator[Animal]:
    """Animations, and TIFFs of many pages and of a structure that no writer intends."""
    frames = [Image.new("L", (24, 16), value) for value in range(0, 250, 5)]
    many: dict[str, Any] = {"save_all": True, "append_images": frames[1:]}
    yield Animal("several.gif", encode(frames[0], "GIF", **many), OK)
    yield Animal("several.png", encode(frames[0], "PNG", **many), OK)
    yield Animal("several.webp", encode(frames[0], "WEBP", **many), OK)
    yield Animal("several-one-frame.webp", one_frame_webp(), OK)
    yield Animal("several-mpo.jpg", encode(frames[0], "MPO", **many), OK)
    few = {"save_all": True, "append_images": [drawn(mode, (80, 30)) for mode in ("1", "CMYK", "P", "RGBA")]}
    yield Animal("several.tif", encode(drawn(), "TIFF", **few), OK, text=True)
    sheet = tiff_page((8, 8), 8, 1, bytes(64))
    yield Animal("several-20-pages.tif", tiff(*[sheet] * 20), OK)
    yield Animal(
        "several-too-many-pages.tif",
        tiff(*[tiff_page((1, 1), 8, 1, b"\0")] * 10_001),
        frozenset({"unreadable"}),
    )
    yield Animal("loop.tif", tiff(sheet, sheet, sheet, loop=True), OK)
    yield Animal("loop-to-itself.tif", tiff(sheet, loop=True), OK)
    yield Animal("loop-big-endian.tif", tiff(sheet, sheet, order=">", loop=True), OK)
    yield Animal("loop-in-the-header.tif", b"II*\0\x04\0\0\0" + bytes(60), BAD)
    yield Animal("loop-behind-the-end.tif", b"II*\0\xff\xff\xff\x7f" + bytes(60), TRUNCATED)
    yield Animal("loop-without-a-page.tif", b"II*\0\0\0\0\0", BAD)
    yield Animal("thumbnail-only.tif", tiff(tiff_page((8, 8), 8, 1, bytes(64), subfile=1)), OK)
    yield Animal("bad-second-page.tif", tiff(sheet, tiff_page((80, 80), 8, 1, b"short")), TRUNCATED)
    yield Animal(
        "empty-second-page.tif", tiff(sheet, tiff_page((8, 0), 8, 1, b"")), frozenset({"unreadable"})
    )
    yield Animal("huge-second-page.tif", tiff(sheet, tiff_page((60_000, 60_000), 8, 1, b"x")), TOO_MANY)


def greedy_directory(tags: int, size: int) -> bytes:
    """Many tags that all claim the same megabytes of the file."""
    entries = b"".join(struct.pack("<HHII", 40_000 + tag, 7, size, 8) for tag in range(tags))
    return struct.pack("<H", tags) + entries + bytes(4)


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_with(*chunks: tuple[bytes, bytes]) -> bytes:
    """A good PNG with chunks of one's own behind its header."""
    data = encode(drawn(), "PNG")
    extra = b"".join(png_chunk(*chunk) for chunk in chunks)
    return data[:33] + extra + data[33:]


def bmp_of(width: int, height: int, **changes: int) -> bytes:
    data = bytearray(encode(drawn(), "BMP"))
    struct.pack_into("<ii", data, 18, width, height)
    for at, value in changes.items():
        struct.pack_into("<I", data, int(at[1:]), value)
    return bytes(data)


def bombs_and_lies() -> Iterator[Animal]:
    """Headers that ask for more than there is or may be; small files that would take long or much memory."""
    for width, height, ends in (
        (30_000, 30_000, TOO_MANY),
        (2**31 - 1, 2**31 - 1, BAD),
        (2**32 - 1, 2**32 - 1, BAD),
        (2**31 - 1, 1, BAD),
        (0, 0, BAD),
        (0, 10, BAD),
        (10, 0, BAD),
    ):
        yield Animal(f"lie-{width}x{height}.png", png_header(width, height), ends)
    for width, height, ends in (
        (2**31 - 1, 1, BAD),
        (40_000, 40_000, TOO_MANY),
        (0, 0, BAD),
        (0, 48, BAD),
        (160, 0, BAD),
        (160, -48, OK),  # top-down: rare, but sound
        (-160, 48, BAD),
        (160, -(2**31), BAD),
        (-(2**31), -(2**31), BAD),
    ):
        yield Animal(f"lie-{width}x{height}.bmp", bmp_of(width, height), ends)
    yield Animal("lie-offset.bmp", bmp_of(160, 48, _10=2**31), BAD)
    yield Animal("lie-compression.bmp", bmp_of(160, 48, _30=99), UNSUPPORTED)
    yield Animal("lie-colours.bmp", bmp_of(160, 48, _46=2**32 - 1), DAMAGED)
    for width, height, ends in ((65_535, 65_535, TOO_MANY), (0, 0, BAD), (0, 9, BAD), (65_535, 1, BAD)):
        gif = bytearray(encode(drawn("P"), "GIF"))
        struct.pack_into("<HH", gif, 6, width, height)
        yield Animal(
            f"lie-{width}x{height}.gif",
            bytes(gif),
            ends | (OK if (width, height) != (65_535, 65_535) else set()),
        )
    frame = bytearray(encode(drawn("P"), "GIF"))
    struct.pack_into("<HH", frame, frame.index(b",") + 5, 65_535, 65_535)
    yield Animal("lie-frame.gif", bytes(frame), BAD)
    for width, height, ends in (
        (65_500, 65_500, TOO_MANY),
        (0, 0, BAD),
        (160, 0, BAD),
        (0, 48, BAD),
        (65_500, 48, DAMAGED),
    ):
        jpeg = bytearray(encode(drawn(), "JPEG"))
        struct.pack_into(">HH", jpeg, jpeg.index(b"\xff\xc0") + 5, height, width)
        yield Animal(f"lie-{width}x{height}.jpg", bytes(jpeg), ends)
    for width, height, ends in (
        (60_000, 60_000, TOO_MANY),
        (2**31 - 1, 2**31 - 1, TOO_MANY),
        (2**32 - 1, 1, BAD),
        (0, 0, BAD),
        (0, 8, BAD),
        (8, 0, BAD),
        (9000, 9000, BAD),  # within the limits, with a strip of 64 bytes
    ):
        yield Animal(f"lie-{width}x{height}.tif", tiff(tiff_page((width, height), 8, 1, bytes(64))), ends)
    for bits, samples in (
        ([8] * 4000, "many"),
        (64, "64"),
        ([1] * 3, "1-bit-colour"),
        (0, "0"),
        (65_535, "65535"),
    ):
        yield Animal(f"lie-{samples}-bits.tif", tiff(tiff_page((8, 8), bits, 1, bytes(64))), DAMAGED)
    webp = bytearray(encode(drawn("RGBA"), "WEBP", lossless=True, exif=b"Exif\0\0II*\0"))
    at = webp.index(b"VP8X") + 12
    for canvas in (0, 0xFFFFFF, 9999):
        webp[at : at + 6] = canvas.to_bytes(3, "little") * 2
        yield Animal(f"lie-canvas-{canvas}.webp", bytes(webp), BAD)
    bare = bytearray(encode(drawn(), "WEBP", lossless=True))
    struct.pack_into("<I", bare, bare.index(b"VP8L") + 9, 0x0FFFFFFF)  # twice 14 bits
    yield Animal("lie-16384x16384.webp", bytes(bare), TOO_MANY)
    yield Animal("bomb.tif", encode(Image.new("1", (20_000, 20_000)), "TIFF", compression="group4"), TOO_MANY)
    yield Animal("lie-tile.tif", tiled((16, 16), (40_000, 40_000), zlib.compress(bytes(9999))), TOO_MANY)
    # Within the limit of pixels, and 88 MiB once it is decoded: for a page of 16 x 16.
    yield Animal("bomb-tile.tif", tiled((16, 16), (9600, 9600), zlib.compress(bytes(9600 * 9600))), OK)
    tags = b"II*\0\x08\0\0\0" + greedy_directory(200, 3 << 20) + bytes(3 << 20)
    yield Animal("bomb-tags.tif", tags, BAD)
    yield Animal("bomb-tags.png", png_with((b"eXIf", tags)), OK, text=True)
    progressive = encode(drawn(), "JPEG", progressive=True)
    scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    unreadable = frozenset({"unreadable"})
    yield Animal("bomb-scans.jpg", progressive[:-2] + scan * 3000 + progressive[-2:], unreadable)
    base = encode(drawn(), "JPEG")
    exif = b"\xff\xe1\0\x0dExif\0\0xxxxx"
    yield Animal("bomb-exif.jpg", base[:2] + exif * 600_000 + base[2:], unreadable)
    comments = encode(drawn("P"), "GIF", comment=b"x")
    at = comments.index(b"!\xfe")
    yield Animal(
        "bomb-comments.gif", comments[:at] + b"!\xfe\x01x\0" * 500_000 + comments[at:], OK, text=True
    )
    row = png_chunk(b"IDAT", zlib.compress(bytes(1 + 2 * 20_000_000)))
    yield Animal("bomb-row.png", png_header(20_000_000, 1, bits=16)[:33] + row + png_chunk(b"IEND", b""), OK)
    zeros = zlib.compress(bytes(64 << 20), 9)
    yield Animal("bomb-text.png", png_with((b"zTXt", b"Comment\0\0" + zeros)), DAMAGED)
    yield Animal("bomb-profile.png", png_with((b"iCCP", b"icc\0\0" + zeros)), DAMAGED)
    yield Animal("bomb-texts.png", png_with(*[(b"tEXt", b"Comment\0" + b"x" * 9000)] * 100), DAMAGED)
    pixels = png_header(160, 48, bits=8)
    at = pixels.index(b"IDAT")
    (length,) = struct.unpack_from(">I", pixels, at - 4)
    more = png_chunk(b"IDAT", zeros)
    yield Animal(
        "bomb-more-pixels-than-said.png", pixels[: at - 4] + more + pixels[at + 8 + length :], DAMAGED
    )
    yield Animal("many-chunks.png", png_with(*[(b"teSt", b"")] * 20_000), OK, text=True)
    yield Animal("unknown-critical-chunk.png", png_with((b"TEST", b"x")), DAMAGED)
    yield Animal("large.png", encode(drawn(), "PNG") + bytes(10 << 20), frozenset({"file_too_large"}))


def metadata() -> Iterator[Animal]:
    """EXIF, profiles and comments: huge, broken, contradictory. None of it keeps us from the pixels."""
    huge = Image.Exif()
    huge[0x010E] = "x" * 60_000
    huge[0x0112] = 1
    blobs = {
        "huge": huge.tobytes(),
        "empty": b"Exif\0\0",
        "no-directory": b"Exif\0\0II*\0\xff\xff\xff\xff",
        "garbage": b"Exif\0\0" + b"garbage" * 300,
        "ones": b"\xff" * 400,
        "loop": b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 0x8769, 4, 1, 8, 8),
        "count": b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 0x0112, 3, 2**32 - 1, 8, 0),
        "text": b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHI4sI", 1, 0x0112, 2, 4, b"six\0", 0),
        "rational": b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHIIIII", 1, 0x0112, 5, 1, 26, 0, 6, 0),
    }
    for name, blob in blobs.items():
        for file_format in ("JPEG", "PNG", "WEBP"):
            suffix = SUFFIXES.get(file_format, f".{file_format.lower()}")
            yield Animal(
                f"exif-{name}{suffix}", encode(drawn(), file_format, exif=blob), OK, text=name == "huge"
            )
    for orientation in (0, 2, 3, 4, 5, 6, 7, 8, 9, 65_535):
        turned = Image.Exif()
        turned[0x0112] = orientation
        yield Animal(f"exif-{orientation}.jpg", encode(drawn(), "JPEG", exif=turned), OK)
    for name, profile in (("profile", b"no profile" * 100), ("profile-huge", bytes(300_000))):
        for file_format in ("JPEG", "PNG", "WEBP", "TIFF"):
            suffix = SUFFIXES.get(file_format, f".{file_format.lower()}")
            yield Animal(name + suffix, encode(drawn(), file_format, icc_profile=profile), OK, text=True)
    comment = PngImagePlugin.PngInfo()
    comment.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta " * 500, zip=True)
    yield Animal("xmp-broken.png", encode(drawn(), "PNG", pnginfo=comment), OK, text=True)
    yield Animal("comment.jpg", encode(drawn(), "JPEG", comment=b"\xff\xd9\xff\xd8" * 9000), OK, text=True)
    yield Animal("comment.gif", encode(drawn("P"), "GIF", comment=b"; ," * 3000), OK, text=True)
    yield Animal("tail.jpg", encode(drawn(), "JPEG") + bytes(5000), OK, text=True)
    yield Animal("tail.png", encode(drawn(), "PNG") + b"trailer" * 900, OK, text=True)
    dotted = encode(drawn(), "BMP")
    yield Animal("tail.bmp", dotted + dotted, OK, text=True)


def wholes() -> dict[str, bytes]:
    """What is cut and hit: one of each way to be decoded."""
    pages: dict[str, Any] = {"save_all": True, "append_images": [drawn("L"), drawn("CMYK")]}
    return {
        "rgb.png": encode(drawn(), "PNG"),
        "palette.png": encode(drawn("P"), "PNG", transparency=3),
        "base.jpg": encode(drawn(), "JPEG"),
        "progressive.jpg": encode(drawn(), "JPEG", progressive=True),
        "cmyk.jpg": encode(drawn("CMYK"), "JPEG"),
        "rgb.bmp": encode(drawn(), "BMP"),
        "pages.tif": encode(drawn(), "TIFF", compression="tiff_lzw", **pages),
        "group4.tif": encode(drawn("1"), "TIFF", compression="group4"),
        "jpeg.tif": encode(drawn(), "TIFF", compression="jpeg"),
        "lossy.webp": encode(drawn(), "WEBP"),
        "lossless.webp": encode(drawn("RGBA"), "WEBP", lossless=True),
        "animated.webp": encode(drawn(), "WEBP", save_all=True, append_images=[drawn("L")]),
        "frames.gif": encode(drawn("P"), "GIF", save_all=True, append_images=[drawn("L")]),
        "scan.pdf": encode(drawn(), "PDF"),
    }


def wholes_of_boxes() -> dict[str, bytes]:
    """The same, of formats whose first twelve bytes do not tell what they are."""
    return {
        "picture.avif": encode(drawn(), "AVIF"),
        "picture.jp2": encode(drawn(), "JPEG2000"),
    }


def cut_and_hit() -> Iterator[Animal]:
    chance = random.Random(20)  # noqa: S311 - repeatable, not secret
    for name, data in (wholes() | wholes_of_boxes()).items():
        for number in range(3):
            length = chance.randrange(1, len(data))
            yield Animal(f"cut-{number}-{name}", data[:length], DAMAGED)
        if name in wholes():
            yield Animal(f"cut-header-{name}", data[: chance.randrange(1, 12)], TRUNCATED)
        for number in range(4):
            broken = bytearray(data)
            reach = len(data) if number % 2 else 120
            for _ in range(chance.choice((1, 2, 8))):
                broken[chance.randrange(min(reach, len(data)))] ^= 1 << chance.randrange(8)
            yield Animal(f"hit-{number}-{name}", bytes(broken), DAMAGED)
        yield Animal(
            f"hit-middle-zero-{name}", data[: len(data) // 2] + bytes(len(data) - len(data) // 2), DAMAGED
        )


def misnamed() -> Iterator[Animal]:
    """The content decides; and the name may be anything that a file system takes."""
    data = encode(drawn(), "PNG")
    jpeg = encode(drawn(), "JPEG")
    for suffix in DEFAULT_EXTENSIONS:
        yield Animal(f"misnamed{suffix}", data if suffix.startswith((".j", ".t")) else jpeg, OK, text=True)
    for name in (
        "UPPER.PNG",
        "with space and 'quotes\".png",
        "-rf.png",
        "new\nline.png",
        "\x1b[31mred.png",
        "Übergröße-日本語-\U0001f4c4.png",
        os.fsdecode(b"latin-\xfc\xff.png"),
        "a.json.png",
        "a.error.json.png",
        "x" * 251 + ".png",
        "ä" * 125 + ".png",
        "%s%n{0}$(id).png",
    ):
        yield Animal(name, data, OK, text=True)


def documents() -> Iterator[Animal]:
    """PDFs: with a text layer, locked, of odd sizes, with a bad page, and what would take gigabytes."""
    yield Animal("pdf-text.pdf", pdfs.prose(), OK)
    yield Animal("pdf-locked.pdf", pdfs.locked("1234"), frozenset({"encrypted"}))
    yield Animal("pdf-without-pages.pdf", pdfs.Pdf().bytes(), frozenset({"unreadable"}))
    for number, size in enumerate(((1 << 31, 1 << 31), (14_400, 1), (0, 0), (-5, 100))):
        yield Animal(f"pdf-size-{number}.pdf", pdfs.prose(size=size), OK)
    made = pdfs.Pdf()
    for _ in range(3):
        made.page(pdfs.text(*pdfs.PROSE))
    made.objects[made.pages[1]] = b"null"
    yield Animal("pdf-bad-page.pdf", made.bytes(), OK)
    for build in (pdfs.many_operators, pdfs.nested_forms, pdfs.progressive, pdfs.soft_mask):
        yield Animal(f"pdf-{build.__name__}.pdf", build(), frozenset({"out_of_memory"}))
    lying = bytearray(encode(Image.new("RGB", (6000, 6000), "white"), "AVIF"))
    at = lying.index(b"ispe") + 8
    lying[at : at + 8] = struct.pack(">II", 60, 40)
    yield Animal("lying.avif", bytes(lying), frozenset({"out_of_memory", "unreadable"}))
    bomb = encode(Image.new("RGB", (9500, 9500), "white"), "JPEG2000", quality_layers=[100])
    yield Animal("bomb.jp2", bomb, OK)


def strangers() -> Iterator[Animal]:
    chance = random.Random(30)  # noqa: S311 - repeatable, not secret
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("page.png", encode(drawn(), "PNG"))
    pdf = encode(drawn(), "PDF")
    for name, data, ends in (
        ("empty.png", b"", TRUNCATED),
        ("one-byte.jpg", b"\xff", TRUNCATED),
        ("zero.gif", b"\0", TRUNCATED),
        ("zeros.tif", bytes(5000), TRUNCATED),
        ("text.png", b"Invoice 17\ndue on Friday\n", UNSUPPORTED),
        ("utf-16.png", "Rechnung".encode("utf-16"), UNSUPPORTED),
        ("html.jpg", b"<!DOCTYPE html><html><body>404</body></html>", UNSUPPORTED),
        ("drawing.webp", b"<svg xmlns='http://www.w3.org/2000/svg'/>", UNSUPPORTED),
        ("json.bmp", json.dumps({"schema": "ocr-watcher/1"}).encode(), UNSUPPORTED),
        ("archive.png", archive.getvalue(), UNSUPPORTED),
        ("packed.gif", gzip.compress(encode(drawn(), "GIF")), UNSUPPORTED),
        ("document.tif", pdf, OK),
        ("document-cut.tiff", pdf[: len(pdf) // 2], TRUNCATED),
        ("photo.jpe", b"\0\0\0\x18ftypheic" + bytes(400), UNSUPPORTED),
        ("program.png", b"\x7fELF\x02\x01\x01" + bytes(900), UNSUPPORTED),
        ("sound.webp", b"RIFF\x24\0\0\0WAVEfmt " + bytes(40), UNSUPPORTED),
    ):
        yield Animal(f"stranger-{name}", data, ends)
    for number, length in enumerate((2, 7, 100, 5000, 200_000, 1_000_000)):
        yield Animal(f"stranger-random-{number}.png", b"\xaa" + chance.randbytes(length), UNSUPPORTED)
    for magic, kind in (
        (b"\x89PNG\r\n\x1a\n", "png"),
        (b"\xff\xd8\xff\xe0", "jpg"),
        (b"GIF89a", "gif"),
        (b"BM", "bmp"),
        (b"II*\0", "tif"),
        (b"MM\0*", "tiff"),
        (b"II+\0\x08\0\0\0", "tif"),
        (b"RIFF\xff\0\0\0WEBPVP8 ", "webp"),
        (b"RIFF\xff\0\0\0WEBPVP8L", "webp"),
        (b"RIFF\xff\0\0\0WEBPVP8X", "webp"),
    ):
        for number in range(2):
            yield Animal(f"magic-{magic.hex()}-{number}.{kind}", magic + chance.randbytes(900 * number), BAD)


HOUSES: tuple[Callable[[], Iterator[Animal]], ...] = (
    everything_pillow_writes,
    other_ways_to_write,
    sizes,
    several_pictures,
    bombs_and_lies,
    metadata,
    cut_and_hit,
    misnamed,
    documents,
    strangers,
)


def ending_of(path: Path) -> str:
    """`ok` or the code of the error, from the one record that there is."""
    own = names.records_of(path.name)
    records = [name for name in own if path.with_name(name).exists()]
    assert len(records) == 1, (path.name, records)
    if records[0] == own.sidecar:
        assert sidecar_of(path)["status"] == "ok"
        return "ok"
    document = error_of(path)
    assert not document.get("will_retry"), document
    assert document["error"]["attempts"] == 1, document
    return str(document["error"]["code"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # formats that Pillow will not write for ever
@pytest.mark.timeout(900)  # a minute where the machine has nothing else to do
def test_every_animal_of_the_zoo_ends_in_one_record_and_harms_nobody(
    tmp_path: Path, model_store: Path
) -> None:
    zoo = [animal for house in HOUSES for animal in house()]
    assert len({animal.name for animal in zoo}) == len(zoo) >= 150
    write_config(
        tmp_path,
        watch={"extensions": sorted({Path(animal.name).suffix for animal in zoo})},
        ocr={"model_store": str(model_store)},
    )
    inbox = tmp_path / "inbox"
    early, late = zoo[::2], zoo[1::2]
    for animal in early:
        (inbox / animal.name).write_bytes(animal.data)
    began = time.monotonic()
    with daemon(tmp_path, real=True) as running:
        running.wait_for("daemon.ready", seconds=120)
        for animal in late:
            (inbox / animal.name).write_bytes(animal.data)
        waiting = {inbox / animal.name for animal in zoo}

        def all_done() -> bool:
            assert not running.ended, running.text
            waiting.difference_update(
                [
                    path
                    for path in waiting
                    if any(path.with_name(n).exists() for n in names.records_of(path.name))
                ]
            )
            return not waiting

        until(all_done, 800)
        status = Path(f"/proc/{running.pid}/status").read_text()
        assert running.stop() == 0
        took_s = time.monotonic() - began
        events = running.events()
        printed = running.text.splitlines()

    endings = {animal.name: ending_of(inbox / animal.name) for animal in zoo}
    wrong = {animal.name: endings[animal.name] for animal in zoo if endings[animal.name] not in animal.ends}
    assert not wrong
    assert not {"engine_error", "engine_crashed", "timeout"} & set(endings.values())
    unread = [
        animal.name for animal in zoo if animal.text and WORD not in sidecar_of(inbox / animal.name)["text"]
    ]
    assert not unread
    records = {name for animal in zoo for name in names.records_of(animal.name)}
    assert set(os.listdir(inbox)) <= records | {animal.name for animal in zoo}
    assert all((inbox / animal.name).read_bytes() == animal.data for animal in zoo)

    logged = Counter(event["event"] for event in events)
    past_the_log = [line for line in printed if not line.startswith('{"timestamp": ')]
    assert not past_the_log
    assert len(printed) == len(events)
    assert {event["pid"] for event in events if event["event"] == "daemon.starting"} == {running.pid}
    assert logged["daemon.starting"] == logged["daemon.ready"] == logged["daemon.exiting"] == 1
    assert not {"worker.unexpected", "ocr.out_of_memory", "memory.limit_reached", "sidecar.failed"} & set(
        logged
    )
    assert logged["ocr.done"] + logged["file.quarantined"] == len(zoo)
    match = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert match is not None
    peak_mb = int(match[1]) / 1024
    (stats, *_) = running.events("memory.stats")
    assert peak_mb < stats["rss_limit_mb"]
    print(
        f"{len(zoo)} files in {took_s:.0f} s, peak RSS {peak_mb:.0f} MiB of {stats['rss_limit_mb']}: "
        f"{dict(Counter(endings.values()).most_common())}"
    )
