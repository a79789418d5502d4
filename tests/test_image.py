"""Images are drawn here, in every kind that arrives in an inbox, whole and broken, and read back."""

from __future__ import annotations

import errno
import io
import random
import struct
import warnings
import zlib
from dataclasses import FrozenInstanceError, replace
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageDraw, ImageFont

from ocr_watcher.errors import (
    AccessError,
    FileError,
    FileTooLargeError,
    MemoryBudgetError,
    OutOfMemoryError,
    TooManyPixelsError,
    TruncatedError,
    UnreadableError,
    UnsupportedFormatError,
)
from ocr_watcher.inputs import raster, shrink
from ocr_watcher.inputs import tiff as tiff_family
from ocr_watcher.inputs.base import DecodeLimits, Picture
from ocr_watcher.inputs.table import open_document

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ocr_watcher.inputs.base import OpenDocument

LIMITS = DecodeLimits(max_file_bytes=10 << 20, max_pixels=100_000_000, max_side_px=1024)

WHITE, BLACK, RED, BLUE = (255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 0, 255)  # RGB


def opened(data: bytes, limits: DecodeLimits = LIMITS) -> OpenDocument:
    return open_document(io.BytesIO(data), limits)


def pages(file: BinaryIO, limits: DecodeLimits) -> Iterator[Picture]:
    document = open_document(file, limits)
    for index in range(document.pages):
        yield document.picture(index, limits)
    document.close()


def read(data: bytes, limits: DecodeLimits = LIMITS) -> list[Picture]:
    return list(pages(io.BytesIO(data), limits))


def rgb_at(page: Picture, x: int, y: int) -> tuple[int, int, int]:
    blue, green, red = (int(value) for value in page.bgr[y, x])
    return red, green, blue


def near(seen: Sequence[int], wanted: Sequence[int], tolerance: int) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(seen, wanted, strict=True))


def picture(mode: str = "RGB", size: tuple[int, int] = (64, 48)) -> Image.Image:
    """White paper; black, red and blue blocks of 16 px along the top."""
    drawn = Image.new("RGB", size, WHITE)
    for left, colour in ((0, BLACK), (16, RED), (32, BLUE)):
        drawn.paste(colour, (left, 0, left + 16, 16))
    return drawn.convert(mode)


def encode(drawn: Image.Image, file_format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    drawn.save(out, file_format, **options)
    return out.getvalue()


def tiff(*directories: dict[int, Any], order: str = "<", loop: bool = False) -> bytes:
    """Write a TIFF by hand: one dict of tags per page, tag 0 being the bytes of its only strip."""
    out = bytearray(b"II*\0" if order == "<" else b"MM\0*")
    link = len(out)
    out += b"\0\0\0\0"
    first = 0
    for tags in directories:
        strip = tags[0]
        at = len(out)
        out += strip + b"\0" * (len(strip) % 2)
        entries = {**tags, 273: at, 279: len(strip)}
        fields = bytearray()
        for tag, value in sorted(entries.items()):
            if tag == 0:
                continue
            values = value if isinstance(value, list) else [value]
            if isinstance(value, int) and (tag in (254, 273, 279) or value > 0xFFFF):
                fields += struct.pack(order + "HHII", tag, 4, 1, value)
            elif len(values) <= 2:
                padded = [*values, 0][:2]
                fields += struct.pack(order + "HHIHH", tag, 3, len(values), *padded)
            else:
                fields += struct.pack(order + "HHII", tag, 3, len(values), len(out))
                out += struct.pack(f"{order}{len(values)}H", *values)
        struct.pack_into(order + "I", out, link, len(out))
        first = first or len(out)
        out += struct.pack(order + "H", len(fields) // 12) + fields
        link = len(out)
        out += struct.pack(order + "I", 0)
    if loop:
        struct.pack_into(order + "I", out, link, first)
    return bytes(out)


def tiff_page(
    size: tuple[int, int], bits: int | list[int], photometric: int, strip: bytes, **more: int
) -> dict[int, Any]:
    samples = len(bits) if isinstance(bits, list) else 1
    tags = {
        256: size[0],
        257: size[1],
        258: bits,
        259: 1,
        262: photometric,
        277: samples,
        278: size[1],
        0: strip,
    }
    names = {"subfile": 254, "extra": 338, "orientation": 274, "sample_format": 339}
    return tags | {names[name]: value for name, value in more.items()}


# -- what the pixels become ---------------------------------------------------------------------


def test_page_is_bgr_contiguous_and_frozen() -> None:
    (page,) = read(encode(picture(), "PNG"))
    assert page.bgr.dtype == np.uint8
    assert page.bgr.shape == (48, 64, 3)
    assert page.bgr.flags.c_contiguous
    assert page.bgr[8, 24].tolist() == [0, 0, 255]  # the red block, blue first
    assert page.bgr[8, 40].tolist() == [255, 0, 0]
    assert (page.width_px, page.height_px, page.scale) == (64, 48, 1.0)
    with pytest.raises(FrozenInstanceError):
        page.width_px = 1  # type: ignore[misc]


def lab_picture() -> Image.Image:
    transform = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    converted = ImageCms.applyTransform(picture(), transform)
    assert converted is not None
    return converted


COLOURED = {
    "png-rgb": lambda: encode(picture(), "PNG"),
    "png-palette": lambda: encode(picture("P"), "PNG"),
    "png-rgba": lambda: encode(picture("RGBA"), "PNG"),
    "bmp-rgb": lambda: encode(picture(), "BMP"),
    "bmp-rgba": lambda: encode(picture("RGBA"), "BMP"),
    "bmp-palette": lambda: encode(picture("P"), "BMP"),
    "gif": lambda: encode(picture("P"), "GIF"),
    "webp-lossless": lambda: encode(picture(), "WEBP", lossless=True),
    "webp-lossless-rgba": lambda: encode(picture("RGBA"), "WEBP", lossless=True),
    "webp": lambda: encode(picture(), "WEBP", quality=95),
    "jpeg": lambda: encode(picture(), "JPEG", quality=95, subsampling=0),
    "jpeg-progressive": lambda: encode(picture(), "JPEG", quality=95, subsampling=0, progressive=True),
    "jpeg-cmyk": lambda: encode(picture("CMYK"), "JPEG", quality=95),  # Adobe's inverted kind
    "tiff-rgb": lambda: encode(picture(), "TIFF"),
    "tiff-lzw": lambda: encode(picture(), "TIFF", compression="tiff_lzw"),
    "tiff-deflate": lambda: encode(picture(), "TIFF", compression="tiff_adobe_deflate"),
    "tiff-packbits": lambda: encode(picture(), "TIFF", compression="packbits"),
    "tiff-palette": lambda: encode(picture("P"), "TIFF"),
    "tiff-rgba": lambda: encode(picture("RGBA"), "TIFF"),
    "tiff-cmyk": lambda: encode(picture("CMYK"), "TIFF"),
    "tiff-ycbcr": lambda: encode(picture("YCbCr"), "TIFF"),
    "tiff-lab": lambda: encode(lab_picture(), "TIFF"),
    "tiff-jpeg": lambda: encode(picture(), "TIFF", compression="jpeg", quality=95),
    "tiff-big": lambda: encode(picture(), "TIFF", big_tiff=True),
    "tiff-rgb16": lambda: tiff(
        tiff_page((64, 48), [16] * 3, 2, (np.asarray(picture()).astype("<u2") * 257).tobytes())
    ),
}


@pytest.mark.parametrize("kind", COLOURED)
def test_colours_survive(kind: str) -> None:
    (page,) = read(COLOURED[kind]())
    lossy = {"jpeg", "jpeg-progressive", "jpeg-cmyk", "webp", "tiff-jpeg", "tiff-ycbcr", "tiff-lab"}
    tolerance = 24 if kind in lossy else 0
    for x, colour in ((8, BLACK), (24, RED), (40, BLUE), (56, WHITE)):
        assert near(rgb_at(page, x, 8), colour, tolerance), (x, rgb_at(page, x, 8))
    assert near(rgb_at(page, 8, 40), WHITE, tolerance)


GREY = {
    "png-1": lambda: encode(picture("1"), "PNG"),
    "png-l": lambda: encode(picture("L"), "PNG"),
    "png-la": lambda: encode(picture("LA"), "PNG"),
    "gif-l": lambda: encode(picture("L"), "GIF"),
    "bmp-1": lambda: encode(picture("1"), "BMP"),
    "jpeg-l": lambda: encode(picture("L"), "JPEG", quality=95),
    "tiff-1": lambda: encode(picture("1"), "TIFF"),
    "tiff-g4": lambda: encode(picture("1"), "TIFF", compression="group4"),
    "tiff-l": lambda: encode(picture("L"), "TIFF"),
    "tiff-1-black-is-zero": lambda: tiff(tiff_page((64, 48), 1, 1, picture("1").tobytes())),
    "tiff-1-white-is-zero": lambda: tiff(
        tiff_page((64, 48), 1, 0, bytes(255 - byte for byte in picture("1").tobytes()))
    ),
    "tiff-8-white-is-zero": lambda: tiff(
        tiff_page((64, 48), 8, 0, bytes(255 - byte for byte in picture("L").tobytes()))
    ),
    "tiff-16": lambda: tiff(tiff_page((64, 48), 16, 1, sixteen(257, "<u2"))),
    "tiff-16-big-endian": lambda: tiff(tiff_page((64, 48), 16, 1, sixteen(257, ">u2")), order=">"),
    "tiff-16-white-is-zero": lambda: tiff(
        tiff_page((64, 48), 16, 0, (65535 - np.frombuffer(sixteen(257, "<u2"), "<u2")).tobytes())
    ),
    "tiff-16-signed": lambda: tiff(
        tiff_page(
            (64, 48), 16, 1, (np.asarray(picture("L")).astype("<i2") * 200 - 20000).tobytes(), sample_format=2
        )
    ),
    "tiff-32": lambda: encode(Image.fromarray(np.asarray(picture("L")).astype(np.int32) * 1000), "TIFF"),
    "tiff-float": lambda: encode(Image.fromarray(np.asarray(picture("L")) / np.float32(255)), "TIFF"),
    "tiff-float-deflate": lambda: encode(
        Image.fromarray(np.asarray(picture("L")) / np.float32(255)), "TIFF", compression="tiff_adobe_deflate"
    ),
    "png-16": lambda: encode(
        Image.fromarray(np.frombuffer(sixteen(257, "<u2"), np.uint16).reshape(48, 64)), "PNG"
    ),
}


def sixteen(factor: int, dtype: str) -> bytes:
    """The grey picture with values 0..255 * factor, as 16-bit samples."""
    return (np.asarray(picture("L")).astype(np.uint32) * factor).astype(dtype).tobytes()


@pytest.mark.parametrize("kind", GREY)
def test_black_stays_black_on_white_paper(kind: str) -> None:
    (page,) = read(GREY[kind]())
    tolerance = 6 if kind.startswith("jpeg") else 0
    assert near(rgb_at(page, 8, 8), BLACK, tolerance)
    assert near(rgb_at(page, 56, 8), WHITE, tolerance)
    assert near(rgb_at(page, 8, 40), WHITE, tolerance)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_sixteen_bit_scans_of_fewer_bits_are_not_black(bits: int) -> None:
    top = (1 << bits) - 1
    grey = np.full((4, 4), top, "<u2")
    grey[0, 0], grey[0, 1] = 0, top // 2
    (page,) = read(tiff(tiff_page((4, 4), 16, 1, grey.tobytes())))
    assert [int(page.bgr[0, x, 0]) for x in range(3)] == pytest.approx([0, 127, 255], abs=1)


def test_grain_of_an_empty_sixteen_bit_page_is_not_stretched() -> None:
    grain = np.random.default_rng(1).integers(64_000, 65_536, (32, 32)).astype("<u2")
    (page,) = read(tiff(tiff_page((32, 32), 16, 1, grain.tobytes())))
    assert page.bgr.min() >= 248


@pytest.mark.parametrize("value", [0, 1000])
def test_constant_deep_page_is_blank(value: int) -> None:
    (page,) = read(encode(Image.new("I", (8, 8), value), "TIFF"))
    assert page.bgr.min() == page.bgr.max() == 255


def test_nan_and_infinity_do_no_harm() -> None:
    values = np.tile(np.array([0, 1, np.nan, np.inf, -np.inf], np.float32), (4, 1))
    (page,) = read(encode(Image.fromarray(values), "TIFF"))
    assert page.bgr[0, :, 0].tolist() == [0, 255, 0, 255, 0]
    (page,) = read(encode(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"))
    assert page.bgr.shape == (4, 4, 3)


def transparent(mode: str) -> Image.Image:
    """Black under full transparency, but for a red block that is opaque and one that is half so."""
    drawn = Image.new("RGBA", (48, 16), (0, 0, 0, 0))
    drawn.paste((255, 0, 0, 255), (0, 0, 16, 16))
    drawn.paste((255, 0, 0, 128), (16, 0, 32, 16))
    return drawn.convert(mode)


def palette_picture() -> Image.Image:
    drawn = Image.new("P", (48, 16), 2)
    drawn.putpalette([255, 0, 0, 255, 0, 0, 0, 0, 0])
    drawn.paste(0, (0, 0, 16, 16))
    drawn.paste(1, (16, 0, 32, 16))
    return drawn


def premultiplied() -> bytes:
    strip = bytes([255, 0, 0, 255] * 16 + [128, 0, 0, 128] * 16 + [0, 0, 0, 0] * 16) * 16
    return tiff(tiff_page((48, 16), [8] * 4, 2, strip, extra=1))


@pytest.mark.parametrize(
    "data",
    [
        encode(transparent("RGBA"), "PNG"),
        encode(transparent("RGBA"), "WEBP", lossless=True),
        encode(transparent("RGBA"), "TIFF"),
        encode(palette_picture(), "PNG", transparency=b"\xff\x80\x00"),
        premultiplied(),
    ],
    ids=["png", "webp", "tiff", "png-palette", "tiff-premultiplied"],
)
def test_transparency_lies_on_white_paper(data: bytes) -> None:
    (page,) = read(data)
    assert rgb_at(page, 8, 8) == RED
    assert near(rgb_at(page, 24, 8), (255, 127, 127), 1)
    assert rgb_at(page, 40, 8) == WHITE


def test_one_transparent_colour_becomes_white() -> None:
    grey = Image.new("L", (32, 16), 90)
    grey.paste(0, (0, 0, 16, 16))
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    colour = Image.merge("RGB", (grey, grey, grey))
    bilevel = Image.new("1", (32, 16), 1)
    bilevel.paste(0, (16, 0, 32, 16))
    for drawn, key in (
        (grey, 90),
        (deep, 90 * 257),
        (colour, (90, 90, 90)),
    ):
        (page,) = read(encode(drawn, "PNG", transparency=key))
        assert rgb_at(page, 8, 8) == BLACK, drawn.mode
        assert rgb_at(page, 24, 8) == WHITE, drawn.mode
    (page,) = read(encode(bilevel, "PNG", transparency=0))
    assert rgb_at(page, 24, 8) == WHITE
    (page,) = read(encode(palette_picture(), "PNG", transparency=2))
    assert (rgb_at(page, 8, 8), rgb_at(page, 40, 8)) == (RED, WHITE)
    (page,) = read(encode(palette_picture(), "GIF", transparency=2))
    assert (rgb_at(page, 8, 8), rgb_at(page, 40, 8)) == (RED, WHITE)


def test_grey_with_alpha_lies_on_white_paper() -> None:
    drawn = Image.new("LA", (32, 16), (0, 0))
    drawn.paste((0, 255), (0, 0, 16, 16))
    for data in (encode(drawn, "PNG"), encode(drawn, "TIFF")):
        (page,) = read(data)
        assert (rgb_at(page, 8, 8), rgb_at(page, 24, 8)) == (BLACK, WHITE)
    premultiplied_grey = tiff(tiff_page((2, 1), [8, 8], 1, bytes([0, 255, 0, 0]), extra=1))
    (page,) = read(premultiplied_grey)
    assert (rgb_at(page, 0, 0), rgb_at(page, 1, 0)) == (BLACK, WHITE)


# -- size and orientation ------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("side", [64, 32])  # as it is, and scaled down
def test_orientation_is_undone(orientation: int, file_format: str, side: int) -> None:
    upright = Image.new("RGB", (64, 40), WHITE)
    upright.paste(RED, (0, 0, 16, 16))
    # What a camera stores: the transposition that its orientation value tells the viewer to undo.
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = (
        {"quality": 95} if file_format == "JPEG" else {"lossless": True} if file_format == "WEBP" else {}
    )
    (page,) = read(encode(stored, file_format, exif=exif, **options), DecodeLimits(1 << 20, 10**6, side))
    assert (page.width_px, page.height_px) == (64, 40)
    assert page.bgr.shape == (side * 40 // 64, side, 3)
    at = side // 8
    assert near(rgb_at(page, at, at), RED, 12)
    for x, y in ((side - 2, at), (at, side * 40 // 64 - 2), (side - 2, side * 40 // 64 - 2)):
        assert near(rgb_at(page, x, y), WHITE, 12)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0garbage" * 9, b"\xff" * 40]
)
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_broken_exif_means_upright(exif: bytes, file_format: str) -> None:
    (page,) = read(encode(picture(), file_format, exif=exif))
    assert (page.width_px, page.height_px) == (64, 48)


def test_orientation_out_of_range_means_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 99
    (page,) = read(encode(picture(), "PNG", exif=exif))
    assert (page.width_px, page.height_px) == (64, 48)


@pytest.mark.parametrize(
    ("size", "side", "wanted"),
    [
        ((64, 48), 1024, (64, 48)),  # never larger
        ((64, 48), 64, (64, 48)),
        ((2481, 3508), 1024, (724, 1024)),
        ((4000, 10), 100, (100, 1)),  # each side keeps a pixel
        ((1, 3000), 1000, (1, 1000)),
        ((1001, 777), 500, (500, 388)),
    ],
)
@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
def test_size_and_mapping(
    size: tuple[int, int], side: int, wanted: tuple[int, int], file_format: str
) -> None:
    (page,) = read(encode(Image.new("L", size, 255), file_format), DecodeLimits(10 << 20, 10**8, side))
    height, width = page.bgr.shape[:2]
    assert (width, height) == wanted
    assert (page.width_px, page.height_px) == size
    assert page.scale == pytest.approx(max(wanted) / max(size), rel=1e-3)
    corners = ((0.0, 0.0), (width, 0.0), (width, height), (0.0, height))
    assert page.to_source(corners) == ((0, 0), (size[0], 0), (size[0], size[1]), (0, size[1]))
    assert page.to_source(((-5, -5), (1e9, 1e9))) == ((0, 0), tuple(map(float, size)))
    assert page.bgr.min() == 255  # no dark seam between bands or at the edges


@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
@pytest.mark.parametrize("size", [(2481, 3508), (1777, 2999), (8191, 1023)])
def test_mapping_leads_back_to_the_mark(size: tuple[int, int], file_format: str) -> None:
    drawn = Image.new("L", size, 255)
    left, top = size[0] * 5 // 7, size[1] * 4 // 7
    mark = 400
    drawn.paste(0, (left, top, left + mark, top + mark))
    (page,) = read(encode(drawn, file_format, **({"quality": 95} if file_format == "JPEG" else {})))
    # The mark's centre of gravity is known to a fraction of a pixel, whatever the edges became.
    dark = 255.0 - page.bgr[:, :, 0]
    y = (dark.sum(axis=1) * (np.arange(dark.shape[0]) + 0.5)).sum() / dark.sum()
    x = (dark.sum(axis=0) * (np.arange(dark.shape[1]) + 0.5)).sum() / dark.sum()
    (centre,) = page.to_source(((x, y),))
    assert centre == pytest.approx([left + mark / 2, min(top + mark / 2, (top + size[1]) / 2)], abs=1.0)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_mode_is_averaged_when_it_shrinks(mode: str) -> None:
    """Black and white rows of one pixel become grey; picking single pixels would leave black or white."""
    stripes = np.zeros((400, 400), np.uint8)
    stripes[::2] = 255
    drawn = Image.fromarray(stripes)
    if mode == "I;16":
        drawn = Image.fromarray(stripes.astype(np.uint16) * 257)
    elif mode != "L":
        drawn = drawn.convert(mode)
    (page,) = read(encode(drawn, "TIFF"), DecodeLimits(1 << 22, 10**6, 100))
    assert page.bgr.shape == (100, 100, 3)
    middle = page.bgr[10:-10, 10:-10]
    assert middle.min() >= 120
    assert middle.max() <= 135


def test_bands_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    gradient = np.linspace(0, 255, 1000).astype(np.uint8)
    data = encode(Image.fromarray(np.tile(gradient[:, None], (1, 500))).convert("RGB"), "PNG")
    limits = DecodeLimits(10 << 20, 10**6, 300)
    (whole,) = read(data, limits)
    monkeypatch.setattr(shrink, "_BAND_PIXELS", 1)
    (banded,) = read(data, limits)
    assert np.array_equal(whole.bgr, banded.bgr)


def test_bands_are_small_however_long_a_row_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shrink, "_BAND_PIXELS", 1000)
    drawn = Image.new("L", (7001, 9))
    for across, down in ((1, 1), (50, 1), (30, 9), (7, 4)):
        seen = np.zeros((9, 7001), int)
        for left, top, band in shrink._bands(drawn, across, down):
            assert band.width * band.height <= 1000
            assert (left % across, top % down) == (0, 0)
            seen[top : top + band.height, left : left + band.width] += 1
        assert seen.min() == seen.max() == 1


# -- several pictures in one file ----------------------------------------------------------------


def test_multi_page_tiff_of_different_sizes_and_modes() -> None:
    sheets = [picture("RGB"), picture("1", (200, 100)), picture("L", (50, 3000)), picture("CMYK", (80, 80))]
    data = encode(sheets[0], "TIFF", save_all=True, append_images=sheets[1:], compression="tiff_lzw")
    found = read(data)
    assert [(page.width_px, page.height_px) for page in found] == [sheet.size for sheet in sheets]
    assert found[2].bgr.shape == (1024, 17, 3)
    assert all(near(rgb_at(page, 2, 2), BLACK, 60) for page in found)


def test_pages_of_the_same_size_do_not_mix() -> None:
    sheets = [Image.new("RGB", (1, 1), colour) for colour in (RED, BLUE, WHITE)]
    found = read(encode(sheets[0], "TIFF", save_all=True, append_images=sheets[1:]))
    assert [rgb_at(page, 0, 0) for page in found] == [RED, BLUE, WHITE]


def test_every_tiff_page_is_turned_by_its_own_orientation() -> None:
    strip = bytes([0, 255, 255, 255, 255, 255])
    data = tiff(*(tiff_page((3, 2), 8, 1, strip, orientation=value) for value in (1, 3, 6)))
    found = read(data)
    assert [(page.width_px, page.height_px) for page in found] == [(3, 2), (3, 2), (2, 3)]
    assert [tuple(np.argwhere(page.bgr[:, :, 0] == 0)[0]) for page in found] == [(0, 0), (1, 2), (0, 1)]


@pytest.mark.parametrize("size", [(0, 4), (4, 0), (0, 0)])
def test_later_page_without_pixels_is_damage(size: tuple[int, int]) -> None:
    good = tiff_page((4, 4), 8, 1, bytes(16))
    with pytest.raises(UnreadableError, match=f"page 2 of the file is damaged: .* {size[0]} x {size[1]} pix"):
        read(tiff(good, tiff_page(size, 8, 1, bytes(16))))


def test_thumbnail_after_a_full_page_is_skipped() -> None:
    full, small = bytes(16), b"\xff" * 4
    data = tiff(
        tiff_page((4, 4), 8, 1, full, subfile=0),
        tiff_page((2, 2), 8, 1, small, subfile=1),
        tiff_page((4, 4), 8, 1, full, subfile=2),
        tiff_page((2, 2), 8, 1, small, subfile=3),
    )
    found = read(data)
    assert [page.width_px for page in found] == [4, 4]


def test_reduced_image_that_is_all_there_is_is_read() -> None:
    (page,) = read(tiff(tiff_page((2, 2), 8, 1, b"\xff" * 4, subfile=1)))
    assert page.width_px == 2


def test_loop_of_directories_ends() -> None:
    sheet = tiff_page((4, 4), 8, 1, bytes(16))
    assert len(read(tiff(sheet, sheet, sheet, loop=True))) == 3


def test_too_many_pages_are_refused_before_the_first() -> None:
    sheet = tiff_page((1, 1), 8, 1, b"\0")
    with pytest.raises(UnreadableError, match=r"more than 10000 pages") as caught:
        opened(tiff(*[sheet] * (tiff_family.MAX_PAGES + 1)))
    assert "Split" in caught.value.hint


def test_broken_later_page_fails_the_file() -> None:
    good = tiff_page((4, 4), 8, 1, bytes(16))
    reader = pages(io.BytesIO(tiff(good, tiff_page((40, 40), 8, 1, b"short"))), LIMITS)
    assert next(reader).width_px == 4
    with pytest.raises(TruncatedError, match="page 2 of the file"):
        next(reader)


def test_every_page_is_held_against_the_limit_before_it_is_decoded() -> None:
    good = tiff_page((4, 4), 8, 1, bytes(16))
    reader = pages(io.BytesIO(tiff(good, tiff_page((60_000, 60_000), 8, 1, b"x"))), LIMITS)
    next(reader)
    with pytest.raises(TooManyPixelsError, match=r"page 2 of the file is 60000 x 60000 pixels, 3600\.0 mega"):
        next(reader)


def test_mpo_is_its_first_picture() -> None:
    data = encode(
        picture(), "MPO", save_all=True, append_images=[Image.new("RGB", (10, 10), RED)], quality=95
    )
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.format == "MPO"
    (page,) = read(data)
    assert (page.width_px, page.height_px) == (64, 48)
    (page,) = read(data, DecodeLimits(1 << 20, 10**6, 16))  # through draft()
    assert page.bgr.shape == (12, 16, 3)


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP"])
def test_animation_is_its_first_picture(file_format: str) -> None:
    other = Image.new("RGB", (64, 48), BLUE)
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encode(
        picture(), file_format, save_all=True, append_images=[other, other.rotate(90)], duration=50, **options
    )
    with Image.open(io.BytesIO(data)) as opened:
        assert getattr(opened, "n_frames", 1) > 1
    (page,) = read(data)
    assert (rgb_at(page, 8, 8), rgb_at(page, 24, 8), rgb_at(page, 56, 40)) == (BLACK, RED, WHITE)


def one_frame_webp() -> bytes:
    """An animation of one frame: Pillow's own writer makes a still picture of such."""
    other = Image.new("RGB", (64, 48), BLUE)
    data = encode(picture(), "WEBP", save_all=True, append_images=[other], lossless=True)
    at, kept, frames = 12, b"WEBP", 0
    while at < len(data):
        end = at + 8 + -(-int.from_bytes(data[at + 4 : at + 8], "little") // 2) * 2
        frames += data[at : at + 4] == b"ANMF"
        if frames < 2:
            kept += data[at:end]
        at = end
    return b"RIFF" + struct.pack("<I", len(kept)) + kept


def test_animation_of_one_frame_is_read_and_takes_what_an_animation_takes(
    capfd: pytest.CaptureFixture[str],
) -> None:
    data = one_frame_webp()
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.format == "WEBP"
        assert not getattr(opened, "is_animated", False)
    (page,) = read(data)
    assert rgb_at(page, 24, 8) == RED
    assert capfd.readouterr() == ("", "")
    with pytest.raises(MemoryBudgetError, match=r"18\.5 bytes"):
        read(data, DecodeLimits(1 << 20, 10**6, 64, max_decode_mb_ever=0.05))


def test_no_full_size_pixels_are_kept_while_the_caller_holds_a_picture() -> None:
    sheets = [Image.new("RGB", (300, 200), WHITE) for _ in range(2)]
    document = opened(encode(sheets[0], "TIFF", save_all=True, append_images=sheets[1:]))
    assert isinstance(document, raster.RasterDocument)
    for index in range(2):
        document.picture(index, LIMITS)
        assert document._image is not None
        assert document._image._im is None
    with pytest.raises(MemoryBudgetError):
        document.picture(0, replace(LIMITS, max_decode_mb_ever=0.001))
    assert document._image is None
    document.close()
    assert not document._data


def test_nothing_of_a_file_of_one_page_is_kept_and_it_is_read_again() -> None:
    file = io.BytesIO(encode(picture(), "PNG"))
    document = open_document(file, LIMITS)
    assert isinstance(document, raster.RasterDocument)
    first = document.picture(0, LIMITS)
    assert (document._image, document._data) == (None, b"")
    second = document.picture(0, LIMITS)
    assert np.array_equal(first.bgr, second.bgr)
    file.seek(0)
    file.truncate(60)
    with pytest.raises(TruncatedError):
        document.picture(0, LIMITS)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_pages_are_given_in_any_order_and_again(compression: str) -> None:
    colours = [RED, BLUE, WHITE]
    sheets = [Image.new("RGB", (30, 20), colour) for colour in colours]
    data = encode(sheets[0], "TIFF", save_all=True, append_images=sheets[1:], compression=compression)
    document = opened(data)
    for index, side in ((2, 30), (2, 15), (0, 30), (0, 15), (1, 30), (0, 30), (0, 30)):
        page = document.picture(index, replace(LIMITS, max_side_px=side))
        assert rgb_at(page, 1, 1) == colours[index]
        assert (page.width_px, page.height_px) == (30, 20)
        assert page.bgr.shape[1] == side


def test_page_behind_a_broken_one_is_given() -> None:
    good = tiff_page((4, 4), 8, 1, bytes(16))
    document = opened(tiff(good, tiff_page((40, 40), 8, 1, b"short"), good))
    for _ in range(2):
        with pytest.raises(TruncatedError, match="page 2 of the file"):
            document.picture(1, LIMITS)
        assert document.picture(2, LIMITS).width_px == 4
        assert document.picture(0, LIMITS).width_px == 4


# -- errors --------------------------------------------------------------------------------------


def png_header(width: int, height: int, *, bits: int = 1, colour: int = 0) -> bytes:
    """A small PNG that claims to be large; its pixels are all there, compressed away."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def test_bomb_is_refused_by_its_header() -> None:
    with pytest.raises(TooManyPixelsError) as caught:
        read(png_header(30_000, 30_000))
    assert str(caught.value) == (
        "the file is 30000 x 30000 pixels, 900.0 megapixels; the limit is 100.0 megapixels"
    )


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF"])
def test_pixel_limit_holds_for_every_format(file_format: str) -> None:
    data = encode(Image.new("L", (100, 100), 255), file_format)
    assert len(read(data, DecodeLimits(1 << 20, 10_000, 64))) == 1
    with pytest.raises(TooManyPixelsError, match=r"100 x 100 pixels, 0\.0 megapixels"):
        read(data, DecodeLimits(1 << 20, 9_999, 64))


def test_our_limit_counts_and_not_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow would refuse more than twice that
    for kind in ("png-rgb", "jpeg", "gif", "webp", "tiff-lzw", "bmp-rgb"):
        data = COLOURED[kind]()
        with pytest.raises(Image.DecompressionBombError):
            Image.open(io.BytesIO(data))
        assert len(read(data)) == 1
        with pytest.raises(FileError):
            read(data[: len(data) // 8])
        assert Image.MAX_IMAGE_PIXELS == 1000


def test_gif_frame_larger_than_its_screen_allocates_nothing() -> None:
    data = bytearray(encode(Image.new("P", (8, 8)), "GIF"))
    at = data.index(b",")
    struct.pack_into("<HH", data, at + 5, 65_535, 65_535)
    data[at:at] = b"!\xf9\x04\x08\0\0\0\0"  # dispose to background: what makes Pillow allocate early
    with pytest.raises(TooManyPixelsError, match="larger than its header says"):
        read(bytes(data))


def tiled(size: tuple[int, int], tile: tuple[int, int], body: bytes, compression: int = 8) -> bytes:
    """A grey TIFF of one tile, which no writer at hand makes."""
    tags = {256: size[0], 257: size[1], 258: 8, 259: compression, 262: 1, 277: 1, 322: tile[0], 323: tile[1]}
    tags |= {324: 8, 325: len(body)}
    padded = body + bytes(len(body) % 2)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return (
        b"II*\0"
        + struct.pack("<I", 8 + len(padded))
        + padded
        + struct.pack("<H", len(tags))
        + entries
        + bytes(4)
    )


def test_tile_that_is_larger_than_its_page_counts() -> None:
    (page,) = read(tiled((16, 12), (64, 64), zlib.compress(bytes(64 * 64))))
    assert (page.width_px, page.height_px) == (16, 12)
    bomb = tiled((16, 16), (40_000, 40_000), zlib.compress(bytes(1000)))
    with pytest.raises(TooManyPixelsError, match=r"a tile of the file is 40000 x 40000 pixels"):
        read(bomb)
    bomb = tiled((16, 16), (8000, 8000), zlib.compress(bytes(1000)))
    with pytest.raises(MemoryBudgetError, match="a strip or tile of 61 MiB"):
        read(bomb, DecodeLimits(1 << 20, 10**8, 64, max_decode_mb_ever=60))


def test_strip_that_is_decoded_in_one_piece_counts() -> None:
    deep = tiff_page((3000, 3000), [16] * 3, 2, zlib.compress(bytes(3000 * 3000 * 6)))
    data = tiff(deep | {259: 8})  # 39 MiB of pixels, 51 MiB of strip
    assert len(read(data, DecodeLimits(1 << 20, 10**7, 64, max_decode_mb_ever=100))) == 1
    with pytest.raises(MemoryBudgetError):
        read(data, DecodeLimits(1 << 20, 10**7, 64, max_decode_mb_ever=80))


def test_rows_of_millions_of_pixels_count() -> None:
    limits = DecodeLimits(1 << 20, 10**8, 64, max_decode_mb_ever=40)
    with pytest.raises(MemoryBudgetError, match=r"10\.0 megapixels"):
        read(png_header(10_000_000, 1, bits=16), limits)
    with pytest.raises(TruncatedError):  # as many in many rows are within it
        read(png_header(4000, 2500, bits=16), limits)


def run_length_bmp(width: int, height: int) -> bytes:
    body = bytes([width, 1, 0, 0]) * (height - 1) + bytes([width, 0, 0, 1])
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(body), 0, 0, 2, 0)
    palette = bytes([0, 0, 0, 0, 255, 255, 255, 0])
    at = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", at + len(body), 0, 0, at) + header + palette + body


def test_run_length_bmp_is_read_and_takes_what_it_takes() -> None:
    (page,) = read(run_length_bmp(20, 10))
    assert page.bgr.shape == (10, 20, 3)
    assert (rgb_at(page, 3, 9), rgb_at(page, 3, 0)) == (WHITE, BLACK)  # the last row comes first on screen
    with pytest.raises(MemoryBudgetError):
        read(run_length_bmp(200, 10_000), DecodeLimits(1 << 20, 10**7, 64, max_decode_mb_ever=6))


def test_file_size_limit() -> None:
    data = encode(picture(), "BMP")
    assert read(data, DecodeLimits(len(data), 10**6, 64))
    with pytest.raises(FileTooLargeError, match=r"the file has 0\.01 MiB; the limit is 0\.01 MiB"):
        read(data, DecodeLimits(len(data) - 1, 10**6, 64))
    with pytest.raises(FileTooLargeError, match=r"the file has 10\.01 MiB; the limit is 10\.00 MiB"):
        read(bytes((10 << 20) + 1))


def test_empty_file() -> None:
    with pytest.raises(TruncatedError, match=r"^the file is empty$"):
        read(b"")


def test_preallocated_file_counts_as_interrupted_copy() -> None:
    with pytest.raises(TruncatedError, match="zero bytes only"):
        read(bytes(5000))


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"\n <html lang='de'>", "HTML"),
        (b"<?xml version='1.0'?>\n<svg xmlns='x'>", "SVG"),
        (b"<svg>", "SVG"),
        (b"<?xml version='1.0'?><note/>", "XML"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x1cftypisom\0\0\0\0", "video"),
        (b"PK\x03\x04\x14\0", "ZIP"),
        (b"8BPS\0\x01", "Photoshop"),
        (b"\0\0\x01\0\x01\0", "icon"),
        (b"Invoice 17\ndue on Friday\n", "text"),
        ("Grüße\n".encode() * 1000, "text"),
        (b"\x01\x02\x03\x04" * 20, "no image of a known format"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "no image of a known format"),
    ],
)
def test_strangers_are_named(start: bytes, words: str) -> None:
    with pytest.raises(UnsupportedFormatError, match=words):
        read(start)


def test_formats_pillow_knows_but_we_do_not_allow() -> None:
    for file_format in ("PPM", "TGA", "PCX", "ICO", "EPS"):
        with pytest.raises(UnsupportedFormatError):
            read(encode(picture(), file_format))


def test_allowed_format_of_a_kind_that_is_not_decoded() -> None:
    with pytest.raises(UnsupportedFormatError, match="cannot be decoded"):
        read(tiff(tiff_page((4, 4), [24], 1, bytes(48))))
    with pytest.raises(UnsupportedFormatError, match="34712"):  # JPEG 2000 within TIFF
        read(tiff(tiff_page((4, 4), 8, 1, bytes(16)) | {259: 34712}))
    bmp = bytearray(encode(picture(), "BMP"))
    struct.pack_into("<I", bmp, 30, 77)  # the compression
    with pytest.raises(UnsupportedFormatError, match="compression"):
        read(bytes(bmp))


def test_damage_is_told_from_truncation() -> None:
    png = bytearray(encode(picture(), "PNG"))
    at = png.index(b"IDAT")
    png[at + 4 : at + 20] = bytes(16)
    with pytest.raises(UnreadableError, match="the file is damaged"):
        read(bytes(png))


def test_jpeg_of_endless_scans_is_refused() -> None:
    data = encode(picture(), "JPEG", progressive=True)
    at = data.rindex(b"\xff\xda")
    scan = data[at:-2]
    assert len(read(data[:at] + scan * 50 + data[-2:])) == 1
    with pytest.raises(UnreadableError, match="more than 100 scans") as caught:
        read(data[:at] + scan * 200 + data[-2:])
    assert "baseline" in caught.value.hint


def test_jpeg_of_endless_segments_is_refused() -> None:
    data = encode(picture(), "JPEG")
    for segment in (b"\xff\xe1\0\x09Exif\0\0x", b"\xff\xfe\0\2", b"\xff" * 9 + b"\xfe\0\2"):
        assert len(read(data[:2] + segment * 500 + data[2:])) == 1
        with pytest.raises(UnreadableError, match="1000 segments"):
            read(data[:2] + segment * 1001 + data[2:])


def test_what_only_looks_like_jpeg_segments_does_not_count() -> None:
    marks = b"\xff\xda\0\2" * 5000
    data = encode(picture(), "JPEG", restart_marker_blocks=1, quality=100, comment=marks)
    assert len(read(data + marks)) == 1  # a phone's video behind the photo


def test_libtiff_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(encode(picture("1"), "TIFF", compression="group4"))
    for start in (8, 12, 16):
        data[start : start + 2] = b"\xff\xff"
        page_or_file_error(bytes(data))
    lzw = bytearray(encode(picture(), "TIFF", compression="tiff_lzw"))
    lzw[20:60] = bytes(40)
    page_or_file_error(bytes(lzw))
    assert capfd.readouterr() == ("", "")


class Sick(io.BytesIO):
    """A file on a share that went away."""

    def __init__(self, data: bytes, error: BaseException) -> None:
        super().__init__(data)
        self.error = error

    def read(self, _size: int | None = -1, /) -> bytes:
        """Fail."""
        raise self.error


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_refusal_by_the_operating_system_is_worth_another_try(code: int) -> None:
    with pytest.raises(AccessError) as caught:
        list(pages(Sick(encode(picture(), "PNG"), OSError(code, "gone fishing")), LIMITS))
    assert str(caught.value) == "the file cannot be read: gone fishing"


def test_no_memory_for_the_file() -> None:
    with pytest.raises(OutOfMemoryError):
        list(pages(Sick(b"x", MemoryError()), LIMITS))


@pytest.mark.parametrize("call", ["open", "new", "_getdecoder"])
def test_no_memory_for_the_pixels(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    data = encode(picture().convert("RGBA"), "PNG")
    monkeypatch.setattr(Image, call, fail)
    with pytest.raises(OutOfMemoryError, match="not enough memory to decode the file"):
        read(data)


def test_caller_keeps_the_file_and_its_start_does_not_matter() -> None:
    file = io.BytesIO(encode(picture(), "PNG"))
    file.seek(40)
    assert len(list(pages(file, LIMITS))) == 1
    assert not file.closed


def test_programming_error_stays_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO(b"x")
    file.close()
    with pytest.raises(ValueError, match="closed file"):
        list(pages(file, LIMITS))

    def mistake(*_: object, **__: object) -> None:
        raise AttributeError

    monkeypatch.setattr(raster, "shrink", mistake)
    with pytest.raises(AttributeError):
        read(COLOURED["png-rgb"]())


# -- hostile bytes -------------------------------------------------------------------------------


def text_picture(mode: str = "RGB") -> Image.Image:
    drawn = Image.new("RGB", (180, 60), WHITE)
    ImageDraw.Draw(drawn).text((5, 5), "Total 12.50", fill=BLACK, font=ImageFont.load_default(size=24))
    return drawn.convert(mode)


def exif() -> Image.Exif:
    made = Image.Exif()
    made[0x0112] = 6
    made[0x010F] = "camera"
    return made


SEEDS: dict[str, Callable[[], bytes]] = {
    "png": lambda: encode(text_picture(), "PNG", exif=exif()),
    "png-palette": lambda: encode(text_picture("P"), "PNG", transparency=3),
    "png-16": lambda: encode(Image.fromarray(np.asarray(text_picture("L")).astype(np.uint16) * 257), "PNG"),
    "apng": lambda: encode(text_picture(), "PNG", save_all=True, append_images=[picture("RGB", (180, 60))]),
    "jpeg": lambda: encode(text_picture(), "JPEG", exif=exif()),
    "jpeg-progressive": lambda: encode(text_picture(), "JPEG", progressive=True),
    "jpeg-cmyk": lambda: encode(text_picture("CMYK"), "JPEG"),
    "mpo": lambda: encode(text_picture(), "MPO", save_all=True, append_images=[picture()]),
    "bmp": lambda: encode(text_picture(), "BMP"),
    "bmp-palette": lambda: encode(text_picture("P"), "BMP"),
    "gif": lambda: encode(text_picture("P"), "GIF", transparency=3),
    "gif-animated": lambda: encode(
        text_picture("P"), "GIF", save_all=True, append_images=[picture("P", (180, 60))]
    ),
    "webp": lambda: encode(text_picture(), "WEBP", exif=exif()),
    "webp-lossless": lambda: encode(text_picture("RGBA"), "WEBP", lossless=True),
    "tiff": lambda: encode(text_picture(), "TIFF", exif=exif()),
    "tiff-lzw": lambda: encode(text_picture(), "TIFF", compression="tiff_lzw"),
    "tiff-jpeg": lambda: encode(text_picture(), "TIFF", compression="jpeg"),
    "tiff-g4": lambda: encode(text_picture("1"), "TIFF", compression="group4"),
    "tiff-float": lambda: encode(text_picture("F"), "TIFF"),
    "tiff-pages": lambda: encode(
        text_picture("P"),
        "TIFF",
        save_all=True,
        append_images=[picture("L"), picture("CMYK")],
        compression="tiff_lzw",
    ),
}
SMALL = DecodeLimits(max_file_bytes=1 << 20, max_pixels=4_000_000, max_side_px=128)


def page_or_file_error(data: bytes) -> FileError | None:
    """Read it; anything but pages or a FileError fails the test that calls this."""
    try:
        for page in pages(io.BytesIO(data), SMALL):
            assert page.bgr.shape[2] == 3
            assert 1 <= max(page.bgr.shape[:2]) <= 128
    except FileError as error:
        return error
    return None


@pytest.mark.parametrize("kind", SEEDS)
def test_truncation_anywhere_ends_well(kind: str) -> None:
    data = SEEDS[kind]()
    assert page_or_file_error(data) is None
    chance = random.Random(17)  # noqa: S311 - repeatable, not secret
    for length in {
        1,
        2,
        4,
        8,
        12,
        16,
        30,
        len(data) // 2,
        *(chance.randrange(1, len(data)) for _ in range(60)),
    }:
        page_or_file_error(data[:length])
    # A file cut in the middle is told as cut off, in the words the user can act on.
    error = page_or_file_error(data[: len(data) // 2])
    assert error is None or isinstance(error, TruncatedError), error


@pytest.mark.parametrize("kind", SEEDS)
def test_flipped_bits_end_well(kind: str) -> None:
    data = SEEDS[kind]()
    chance = random.Random(4711)  # noqa: S311 - repeatable, not secret
    for round_number in range(60):
        broken = bytearray(data)
        reach = 200 if round_number % 2 else len(data)  # half of them in the headers
        for _ in range(chance.choice((1, 1, 2, 8))):
            broken[chance.randrange(min(reach, len(data)))] ^= 1 << chance.randrange(8)
        page_or_file_error(bytes(broken))


MAGIC = [
    *(b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM"),
    *(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"RIFF\x40\0\0\0WEBPVP8 ", b"RIFF\x40\0\0\0WEBPVP8X", b""),
]


@given(magic=st.sampled_from(MAGIC), rest=st.binary(max_size=600))
@example(magic=b"", rest=b"B")
@example(magic=b"II+\0", rest=b"\x08\0\0\0" + b"\xff" * 8)
def test_arbitrary_bytes_raise_nothing_but_file_errors(magic: bytes, rest: bytes) -> None:
    page_or_file_error(magic + rest)


def test_no_warning_comes_out_and_the_filters_are_left_alone() -> None:
    before = list(warnings.filters)
    data = encode(text_picture(), "TIFF")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        inside = list(warnings.filters)
        for length in range(1, len(data), 500):
            page_or_file_error(data[:length])
        assert warnings.filters == inside
    assert not seen
    assert warnings.filters == before
