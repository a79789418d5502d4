"""Records on real folders: names, the atomic write, whether an image is done."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocr_watcher import names
from ocr_watcher.document import Document, EngineFacts, Line, MemoryUse, Page, Source, Timing, Word
from ocr_watcher.errors import AccessError, OutputError, OutputExistsError, TruncatedError
from ocr_watcher.inbox.files import open_folder, remove_leftover
from ocr_watcher.inbox.records import RecordState, lookup
from ocr_watcher.job import Stamp
from ocr_watcher.outputs import commit, sidecar
from tests.support import error_of, sidecar_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

STAMP = Stamp(5, 1_763_850_000_000_000_000)
LINE = Line("tëxt", 0.98765, ((2, 4), (20, 4), (20, 16), (2, 16)))
PAGE = Page(0, 200, 100, 0.5, (LINE,), "tëxt")


def document(source: Source, pages: Sequence[Page] = (PAGE,), **fields: Any) -> Document:
    facts = EngineFacts("fake", "fake", "fake", "0", "0")
    return Document(source, pages, facts, Timing(0, 0, 0, 0), MemoryUse(1.0, 1.0, 1.0), **fields)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    with open_folder(tmp_path, ()) as opened:
        yield opened


def image(folder: Path, name: str = "scan.png") -> Path:
    path = folder / name
    path.write_bytes(b"image")
    os.utime(path, ns=(STAMP.mtime_ns, STAMP.mtime_ns))
    return path


def write_ok(folder: int, path: Path, pages: Sequence[Page] = (PAGE,)) -> None:
    pieces = sidecar.document_json(document(Source(path.name, STAMP, "0" * 64), pages))
    commit.commit(folder, path.name, path.stat(), pieces)


def write_error(folder: int, path: Path, *, will_retry: bool = False) -> None:
    error = AccessError("no") if will_retry else TruncatedError("short")
    record = sidecar.error_json(Source(path.name, STAMP, None), error, attempts=1, will_retry=will_retry)
    commit.commit_error(folder, path.name, path.stat(), record)


def test_a_sidecar_holds_what_was_read_in_source_pixels(tmp_path: Path, folder: int) -> None:
    path = image(tmp_path)
    write_ok(folder, path)
    written = sidecar_of(path)
    assert written["source"] == {
        "name": "scan.png",
        "size_bytes": 5,
        "mtime_ns": STAMP.mtime_ns,
        "sha256": "0" * 64,
    }
    assert written["text"] == "tëxt"
    (page,) = written["pages"]
    assert (page["width_px"], page["height_px"], page["scale"]) == (200, 100, 0.5)
    assert page["lines"] == [
        {
            "text": "tëxt",
            "score": 0.9877,
            "polygon": [[2.0, 4.0], [20.0, 4.0], [20.0, 16.0], [2.0, 16.0]],
            "box": [2.0, 4.0, 20.0, 16.0],
        }
    ]


def test_what_is_written_in_pieces_is_what_json_would_write(tmp_path: Path, folder: int) -> None:
    """One that reads the whole file must not see that it was written page by page."""
    words = (Word("tëxt", 0.5, ((2, 4), (20, 4), (20, 16), (2, 16))),)
    odd = replace(LINE, text='quote " back \\ tab\t\u2028 emoji \U0001f600', words=words)
    pages = [PAGE, Page(1, 10, 10, 1.0, (), ""), Page(2, 10, 10, 1.0, (odd, LINE), "odd\ttëxt")]
    source = Source("scan.png", STAMP, "0" * 64)
    written = b"".join(sidecar.document_json(document(source, pages, warnings=("page_limited",))))
    read = json.loads(written)
    assert json.dumps(read, ensure_ascii=False).encode() + b"\n" == written
    assert read["text"] == "\n".join(page["text"] for page in read["pages"])
    assert read["warnings"] == ["page_limited"]
    assert [sidecar.page_of(page) for page in read["pages"]][:2] == [
        replace(PAGE, lines=(replace(LINE, score=0.9877),)),
        pages[1],
    ]
    path = image(tmp_path)
    write_ok(folder, path, [PAGE] * 2000)  # larger than a block
    assert len(sidecar_of(path)["pages"]) == 2000


def test_an_image_without_text_has_a_sidecar_without_lines(tmp_path: Path, folder: int) -> None:
    path = image(tmp_path)
    write_ok(folder, path, [Page(0, 5, 5, 1.0, (), "")])
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
    assert remove_leftover(folder, left.name)
    assert not left.exists()
    assert remove_leftover(folder, left.name)


def test_what_another_process_is_writing_is_not_taken_for_a_leftover(tmp_path: Path, folder: int) -> None:
    """As `once` does beside a daemon."""
    left = tmp_path / ".ocr-watcher-00000000-00000000.tmp"
    with left.open("wb") as writing:
        fcntl.flock(writing, fcntl.LOCK_EX)
        assert remove_leftover(folder, left.name) is None
        assert left.exists()
    assert remove_leftover(folder, left.name)
    locked = []
    path = image(tmp_path)

    def pieces() -> Iterator[bytes]:
        (name,) = [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]
        locked.append(remove_leftover(folder, name))
        yield from sidecar.document_json(document(Source(path.name, STAMP, None)))

    commit.commit(folder, path.name, path.stat(), pieces())
    assert locked == [None]
    assert sidecar_of(path)["status"] == "ok"


def test_a_record_of_another_long_name_is_not_taken_for_ones_own(tmp_path: Path, folder: int) -> None:
    """Where two names are shortened to the same record, as can be arranged."""
    one, other = (image(tmp_path, "x" * 240 + end + ".png") for end in ("aaaaaaa", "bbbbbbb"))
    write_ok(folder, one)
    assert lookup(str(one), STAMP) is RecordState.DONE
    (tmp_path / names.records_of(one.name).sidecar).rename(tmp_path / names.records_of(other.name).sidecar)
    assert lookup(str(other), STAMP) is RecordState.OPEN
    short, renamed = image(tmp_path, "a.png"), image(tmp_path, "b.png")
    write_ok(folder, short)
    (tmp_path / "a.png.json").rename(tmp_path / "b.png.json")
    assert lookup(str(renamed), STAMP) is RecordState.DONE


def test_names_stand_beside_each_other() -> None:
    assert names.records_of("scan.png") == ("scan.png.json", "scan.png.error.json")
    assert names.records_of("scan.jpg") != names.records_of("scan.png")
    assert names.document_of("scan.png.json") == "scan.png"
    assert names.document_of("scan.png.error.json") == "scan.png"
    assert names.document_of("scan.png") is None


@given(st.binary(min_size=1, max_size=255).filter(lambda b: b"\0" not in b and b"/" not in b))
def test_every_name_that_a_file_can_have_has_records(raw: bytes) -> None:
    name = os.fsdecode(raw)
    own = names.records_of(name)
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
