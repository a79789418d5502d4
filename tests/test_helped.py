"""AVIF, JPEG 2000 and HEIC through the way in: upright and in place, bombs, what is cut off or lies."""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ocr_watcher.errors import (
    FileError,
    HeavyPageError,
    MemoryBudgetError,
    ShortOfMemoryError,
    SlowPageError,
    TooManyPixelsError,
    TruncatedError,
    UnreadableError,
    UnsupportedFormatError,
)
from ocr_watcher.inputs import heif
from ocr_watcher.inputs.avif import AVIF
from ocr_watcher.inputs.base import DecodeLimits, Picture
from ocr_watcher.inputs.heif import HEIF
from ocr_watcher.inputs.helped import HelpedFamily
from ocr_watcher.inputs.jpeg2000 import JPEG2000
from ocr_watcher.inputs.table import open_document

LIMITS = DecodeLimits(max_file_bytes=10 << 20, max_pixels=100_000_000, max_side_px=1024)

needs_heif = pytest.mark.skipif(not heif.is_installed(), reason="pillow-heif is not installed: make heic")
FORMATS = [
    pytest.param(AVIF, id="avif"),
    pytest.param(JPEG2000, id="jpeg2000"),
    pytest.param(HEIF, id="heic", marks=needs_heif),
]


# How an encoder compresses is of no matter here, and takes up to half a minute.
_FASTEST: dict[str, dict[str, Any]] = {"AVIF": {"speed": 10}, "HEIF": {"enc_params": {"preset": "ultrafast"}}}


def encode(image: Image.Image, family: HelpedFamily, **options: Any) -> bytes:
    if family is HEIF:
        import pillow_heif  # noqa: PLC0415 - an extra

        pillow_heif.register_heif_opener()
    out = io.BytesIO()
    image.save(out, family.name, **_FASTEST.get(family.name, {}), **options)
    return out.getvalue()


def picture_of(data: bytes, limits: DecodeLimits = LIMITS) -> Picture:
    document = open_document(io.BytesIO(data), limits)
    try:
        assert document.pages == 1
        assert document.page_text(0, limits) is None
        first = document.picture(0, limits)
        again = document.picture(0, limits)
        assert np.array_equal(first.bgr, again.bgr)
        return first
    finally:
        document.close()


def page(size: tuple[int, int] = (600, 400)) -> Image.Image:
    """White, with a red corner at the top left, a green one at the top right, and a blue one below."""
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    width, height = size
    draw.rectangle((0, 0, width // 3, height // 3), "red")
    draw.rectangle((width - width // 3, 0, width, height // 3), "lime")
    draw.rectangle((0, height - height // 3, width // 3, height), "blue")
    return image


def assert_upright(bgr: np.ndarray[Any, Any]) -> None:
    height, width = bgr.shape[:2]
    corners = {
        "red": bgr[height // 8, width // 8],
        "lime": bgr[height // 8, -width // 8],
        "blue": bgr[-height // 8, width // 8],
        "white": bgr[-height // 8, -width // 8],
    }
    wanted = {"red": (0, 0, 255), "lime": (0, 255, 0), "blue": (255, 0, 0), "white": (255, 255, 255)}
    for name, pixel in corners.items():
        assert np.abs(pixel.astype(int) - wanted[name]).max() < 40, (name, pixel)


@pytest.mark.parametrize("family", FORMATS)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P"])
def test_every_mode_is_read(family: HelpedFamily, mode: str) -> None:
    try:
        data = encode(page().convert(mode), family)
    except (OSError, ValueError, KeyError):
        pytest.skip(f"{family.name} holds no {mode}")
    picture = picture_of(data)
    assert picture.bgr.shape == (400, 600, 3)
    assert (picture.width_px, picture.height_px) == (600, 400)
    if mode in ("RGB", "RGBA", "P"):
        assert_upright(picture.bgr)


def test_sixteen_bits_are_brought_to_eight() -> None:
    grey = (np.linspace(0, 4095, 300).astype(np.uint16)[None, :]).repeat(
        200, axis=0
    )  # 12 bits, as scanners do
    picture = picture_of(encode(Image.fromarray(grey), JPEG2000))
    assert picture.bgr[:, :3].max() < 6
    assert picture.bgr[:, -3:].min() > 249


@pytest.mark.parametrize("family", FORMATS)
def test_a_large_picture_comes_at_the_size_wanted(family: HelpedFamily) -> None:
    picture = picture_of(encode(page((3000, 2000)), family))
    assert picture.bgr.shape == (683, 1024, 3)
    assert (picture.width_px, picture.height_px, picture.scale) == (3000, 2000, 0.3413)
    assert picture.bgr.flags.c_contiguous
    assert_upright(picture.bgr)


@pytest.mark.parametrize("family", [param for param in FORMATS if param.id != "jpeg2000"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(family: HelpedFamily, orientation: int) -> None:
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x112] = orientation
    stored = page().transpose(back[orientation]) if orientation > 1 else page()
    picture = picture_of(encode(stored, family, exif=exif.tobytes()))
    assert (picture.width_px, picture.height_px) == (600, 400)
    assert_upright(picture.bgr)


@pytest.mark.parametrize("family", FORMATS)
def test_limits_hold_before_anything_is_decoded(family: HelpedFamily) -> None:
    bomb = encode(Image.new("L" if family is JPEG2000 else "RGB", (5000, 4000), 255), family)
    assert len(bomb) < 20_000
    assert picture_of(bomb).bgr.shape == (819, 1024, 3)
    with pytest.raises(TooManyPixelsError, match=r"5000 x 4000 pixels, 20\.0 megapixels"):
        picture_of(bomb, replace(LIMITS, max_pixels=19_999_999))
    needed = 20e6 * (0.5 + 11.5 / 16 if family is JPEG2000 else 8) / (1 << 20)
    with pytest.raises(MemoryBudgetError):
        picture_of(bomb, replace(LIMITS, max_decode_mb=needed / 2, max_decode_mb_ever=needed / 2))
    with pytest.raises(ShortOfMemoryError):
        picture_of(bomb, replace(LIMITS, max_decode_mb=needed / 2))


def test_a_jpeg_2000_without_levels_costs_what_it_is() -> None:
    data = encode(page((2000, 1500)), JPEG2000, num_resolutions=1)
    assert picture_of(data).bgr.shape == (768, 1024, 3)
    with pytest.raises(MemoryBudgetError):
        picture_of(data, replace(LIMITS, max_decode_mb_ever=50))
    halved = encode(page((2100, 1500)), JPEG2000)
    assert_upright(picture_of(halved, replace(LIMITS, max_decode_mb_ever=20)).bgr)


def with_size(data: bytes, size: tuple[int, int]) -> bytes:
    """An AVIF or HEIC that says another size than its picture has."""
    at = data.index(b"ispe") + 8
    return data[:at] + struct.pack(">II", *size) + data[at + 8 :]


@pytest.mark.parametrize("family", [AVIF, pytest.param(HEIF, marks=needs_heif)])
def test_a_header_that_lies_does_not_get_more_than_it_asked_for(family: HelpedFamily) -> None:
    liar = with_size(encode(Image.new("RGB", (6000, 6000), "white"), family), (600, 400))
    with pytest.raises((HeavyPageError, UnreadableError)):
        picture_of(liar)


@pytest.mark.parametrize("family", FORMATS)
def test_cut_off_files_are_told(family: HelpedFamily) -> None:
    data = encode(page(), family)
    for length in range(40, len(data), max(1, len(data) // 12)):
        with pytest.raises(TruncatedError):
            picture_of(data[:length])


@pytest.mark.parametrize("family", FORMATS)
def test_damage_ends_in_a_picture_or_an_error(family: HelpedFamily) -> None:
    data, chance = encode(page(), family), np.random.default_rng(7)
    ends = set()
    for _ in range(12):
        bad = bytearray(data)
        for at in chance.integers(12, len(data), 8):
            bad[at] = chance.integers(256)
        try:
            picture_of(bytes(bad))
            ends.add("read")
        except FileError as error:
            ends.add(error.code)
    print(ends)
    assert ends <= {"read", "unreadable", "truncated", "out_of_memory", "too_many_pixels"}


def test_a_helper_that_takes_too_long_is_stopped() -> None:
    with pytest.raises(SlowPageError):
        picture_of(encode(page((4000, 3000)), JPEG2000), replace(LIMITS, decode_timeout_s=0.01))


@pytest.fixture
def no_heif(monkeypatch: pytest.MonkeyPatch) -> None:
    real = heif.importlib.util.find_spec  # type: ignore[attr-defined]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if "heif" in name else real(name))


@pytest.mark.usefixtures("no_heif")
@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1", b"msf1", b"hevc"])
def test_without_the_extra_a_heic_says_what_reads_it(brand: bytes) -> None:
    with pytest.raises(UnsupportedFormatError, match="HEIC photo") as caught:
        picture_of(b"\0\0\0\x18ftyp" + brand + bytes(400))
    assert 'pip install "ocr-watcher[heic]"' in caught.value.hint
    assert "make heic" in caught.value.hint
    assert "GPLv2" in caught.value.hint
