"""Records on real folders: names, the atomic write, whether an image is done."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocr_watcher.document import Line, Source
from ocr_watcher.errors import AccessError, OutputError, OutputExistsError, TruncatedError
from ocr_watcher.inbox.files import open_folder
from ocr_watcher.inbox.records import RecordState, lookup
from ocr_watcher.inputs.image import Page
from ocr_watcher.job import Stamp
from ocr_watcher.outputs import commit, sidecar
from ocr_watcher.outputs.sidecar import names
from tests.support import error_of, sidecar_of

if TYPE_CHECKING:
    from collections.abc import Iterator

STAMP = Stamp(5, 1_763_850_000_000_000_000)
FACTS: dict[str, Any] = {
    "engine": {"name": "fake", "model": "fake", "paddleocr": "0", "ocr_watcher": "0"},
    "timing_ms": {"queued": 0, "load": 0, "ocr": 0, "total": 0},
    "memory_mb": {"rss_before": 1.0, "rss_after": 1.0, "rss_peak": 1.0},
}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    with open_folder(tmp_path, ()) as opened:
        yield opened


def image(folder: Path, name: str = "scan.png") -> Path:
    path = folder / name
    path.write_bytes(b"image")
    os.utime(path, ns=(STAMP.mtime_ns, STAMP.mtime_ns))
    return path


def a_page() -> dict[str, Any]:
    page = Page(index=0, bgr=np.zeros((50, 100, 3), np.uint8), width_px=200, height_px=100)
    return sidecar.page_json(page, [Line("tëxt", 0.98765, ((1, 2), (10, 2), (10, 8), (1, 8)))])


def write_ok(folder: int, path: Path) -> None:
    source = Source(path.name, STAMP, "0" * 64)
    sidecar.write_ok(folder, source, path.stat(), [a_page()], FACTS)


def write_error(folder: int, path: Path, *, will_retry: bool = False) -> None:
    error = AccessError("no") if will_retry else TruncatedError("short")
    source = Source(path.name, STAMP, None)
    sidecar.write_error(folder, source, path.stat(), error, attempts=1, will_retry=will_retry)


def test_a_sidecar_holds_what_was_read_in_source_pixels(tmp_path: Path, folder: int) -> None:
    path = image(tmp_path)
    write_ok(folder, path)
    document = sidecar_of(path)
    assert document["source"] == {
        "name": "scan.png",
        "size_bytes": 5,
        "mtime_ns": STAMP.mtime_ns,
        "sha256": "0" * 64,
    }
    assert document["text"] == "tëxt"
    (page,) = document["pages"]
    assert (page["width_px"], page["height_px"], page["scale"]) == (200, 100, 0.5)
    assert page["lines"] == [
        {
            "text": "tëxt",
            "score": 0.9877,
            "polygon": [[2.0, 4.0], [20.0, 4.0], [20.0, 16.0], [2.0, 16.0]],
            "box": [2.0, 4.0, 20.0, 16.0],
        }
    ]


def test_an_image_without_text_has_a_sidecar_without_lines(tmp_path: Path, folder: int) -> None:
    path = image(tmp_path)
    empty = sidecar.page_json(Page(0, np.zeros((5, 5, 3), np.uint8), 5, 5), [])
    sidecar.write_ok(folder, Source(path.name, STAMP, "0" * 64), path.stat(), [empty], FACTS)
    assert sidecar_of(path)["text"] == ""


def test_done_means_the_same_version(tmp_path: Path, folder: int) -> None:
    path = image(tmp_path)
    assert lookup(str(path), STAMP) is RecordState.OPEN
    write_ok(folder, path)
    assert lookup(str(path), STAMP) is RecordState.DONE
    assert lookup(path.name, STAMP, folder=folder) is RecordState.DONE
    assert lookup(str(path), STAMP._replace(size_bytes=6)) is RecordState.OPEN
    assert lookup(str(path), STAMP._replace(mtime_ns=6)) is RecordState.OPEN


def test_failed_and_failed_for_now(tmp_path: Path, folder: int) -> None:
    path = image(tmp_path)
    write_error(folder, path)
    assert lookup(str(path), STAMP) is RecordState.FAILED
    assert error_of(path)["error"] == {
        "code": "truncated",
        "message": "short",
        "hint": TruncatedError.hint,
        "attempts": 1,
    }
    write_error(folder, path, will_retry=True)
    assert lookup(str(path), STAMP) is RecordState.RETRY
    assert error_of(path)["error"]["will_retry"] is True


def test_never_a_sidecar_and_an_error_record(tmp_path: Path, folder: int) -> None:
    path = image(tmp_path)
    write_error(folder, path)
    write_ok(folder, path)
    assert sorted(os.listdir(tmp_path)) == ["scan.png", "scan.png.json"]
    write_error(folder, path)
    assert sorted(os.listdir(tmp_path)) == ["scan.png", "scan.png.error.json"]


@pytest.mark.parametrize("content", [b"", b"\0" * 512, b'{"schema": "ocr-watcher/1", "status"'])
def test_a_damaged_sidecar_is_none_and_is_replaced(tmp_path: Path, folder: int, content: bytes) -> None:
    path = image(tmp_path)
    (tmp_path / "scan.png.json").write_bytes(content)
    assert lookup(str(path), STAMP) is RecordState.OPEN
    write_ok(folder, path)
    assert sidecar_of(path)["status"] == "ok"


@pytest.mark.parametrize("content", [b'{"title": "IMG.jpg"}', b"not JSON", b'{"schema": "other/1"}'])
def test_a_file_of_somebody_else_is_never_replaced(tmp_path: Path, folder: int, content: bytes) -> None:
    path = image(tmp_path)
    for name in ("scan.png.json", "scan.png.error.json"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(OutputExistsError, match=r"scan\.png\.json"):
        write_ok(folder, path)
    with pytest.raises(OutputError, match=r"scan\.png\.error\.json"):
        write_error(folder, path)
    commit.forget_failure(folder, path.name)
    assert (tmp_path / "scan.png.json").read_bytes() == content
    assert (tmp_path / "scan.png.error.json").read_bytes() == content


def test_a_link_in_the_sidecars_place_is_not_written_through(tmp_path: Path, folder: int) -> None:
    path = image(tmp_path)
    outside = tmp_path / "outside"
    outside.write_bytes(b"")
    (tmp_path / "scan.png.json").symlink_to(outside)
    with pytest.raises(OutputExistsError):
        write_ok(folder, path)
    assert outside.read_bytes() == b""


@pytest.mark.parametrize(
    ("mode", "expected"), [(0o644, 0o644), (0o600, 0o600), (0o440, 0o640), (0o777, 0o666)]
)
def test_the_text_is_as_private_as_its_picture(tmp_path: Path, folder: int, mode: int, expected: int) -> None:
    path = image(tmp_path)
    path.chmod(mode)
    write_ok(folder, path)
    assert stat.S_IMODE((tmp_path / "scan.png.json").stat().st_mode) == expected


def test_a_folder_that_cannot_be_written_is_an_output_error_and_leaves_nothing(
    tmp_path: Path, folder: int
) -> None:
    path = image(tmp_path)
    (tmp_path / "scan.png.json").mkdir()
    with pytest.raises((OutputError, OutputExistsError)):
        write_ok(folder, path)
    assert sorted(os.listdir(tmp_path)) == ["scan.png", "scan.png.json"]


def test_leftovers_are_known_and_own_files_are_not(tmp_path: Path, folder: int) -> None:
    assert names.is_leftover(".ocr-watcher-00000000-00000000.tmp")
    assert not names.is_leftover(f".ocr-watcher-{names._TOKEN}-00000000.tmp")
    assert not names.is_leftover(".ocr-watcher-notes.tmp")
    left = tmp_path / ".ocr-watcher-00000000-00000000.tmp"
    left.touch()
    assert commit.remove_leftover(folder, left.name)
    assert not left.exists()
    assert commit.remove_leftover(folder, left.name)


def test_names_stand_beside_each_other() -> None:
    assert names("scan.png") == ("scan.png.json", "scan.png.error.json")
    assert names("scan.jpg") != names("scan.png")
    assert names.document_of("scan.png.json") == "scan.png"
    assert names.document_of("scan.png.error.json") == "scan.png"
    assert names.document_of("scan.png") is None


@given(st.binary(min_size=1, max_size=255).filter(lambda b: b"\0" not in b and b"/" not in b))
def test_every_name_that_a_file_can_have_has_records(raw: bytes) -> None:
    name = os.fsdecode(raw)
    own = names(name)
    assert len({name, *own}) == 3
    for record in own:
        assert len(os.fsencode(record)) <= 255
    json.dumps(names.printable(name), ensure_ascii=False).encode("utf-8")


@pytest.mark.parametrize(
    "name",
    [
        "line\nbreak.png",
        "日本語.png",
        'quote".png',
        "\udcff\udcfe.png",
        "e" * 251 + ".png",
        "ü" * 125 + ".png",
        "a\\.png",
    ],
)
def test_odd_names_round_trip(tmp_path: Path, folder: int, name: str) -> None:
    path = image(tmp_path, name)
    write_ok(folder, path)
    assert lookup(str(path), STAMP) is RecordState.DONE
    assert sidecar_of(path)["source"]["name"] == names.printable(name)
    write_error(folder, path)
    assert lookup(str(path), STAMP) is RecordState.FAILED


def test_a_name_cannot_pass_for_a_stamp(tmp_path: Path, folder: int) -> None:
    """The head of a sidecar is read by pattern: a name that imitates it must not be believed."""
    name = '", "size_bytes": 1, "mtime_ns": 1.png'
    path = image(tmp_path, name)
    write_ok(folder, path)
    assert lookup(str(path), Stamp(1, 1)) is RecordState.OPEN
    assert lookup(str(path), STAMP) is RecordState.DONE
