"""Outputs, their folder and the archive: made with the JSON or not at all, nobody else's file touched."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from ocr_watcher import names
from ocr_watcher.errors import OutputNotPossibleError
from ocr_watcher.inbox.intake import Intake
from ocr_watcher.inbox.places import Places
from ocr_watcher.inbox.records import RecordState, manifest
from ocr_watcher.inbox.scan import Scan
from ocr_watcher.inputs.raster import RasterDocument
from ocr_watcher.job import Job, Outcome, Stamp
from ocr_watcher.jobs.attempt import Attempt
from ocr_watcher.jobs.journal import Journal
from ocr_watcher.ocr.engine import FakeEngine
from ocr_watcher.outputs import commit
from ocr_watcher.outputs.formats import FORMATS
from tests.support import RULES, Clock, Log, dot, error_of, record, sidecar_of, tools

if TYPE_CHECKING:
    from collections.abc import Iterator

ALL = tuple(FORMATS)


class World:
    """An inbox whose documents get every output; trees beside it where a test wants them."""

    def __init__(self, folder: Path) -> None:
        self.home = folder
        self.inbox = folder / "inbox"
        self.inbox.mkdir()
        self.log, self.clock, self.engine = Log(), Clock(), FakeEngine()
        self.journal = Journal(folder / "journal.sqlite3", self.log)  # type: ignore[arg-type] # collects
        self.tools = tools(self.engine, self.journal, self.log, self.clock, formats=ALL)
        self.places()

    def places(self, *, folder: bool = False, archive: Path | None = None) -> None:
        text = self.home / "text" if folder else None
        for tree in (text, archive):
            if tree is not None:
                tree.mkdir(exist_ok=True)
        self.tools = replace(self.tools, places=Places((self.inbox,), text, archive))

    def attempt(self, path: Path) -> Outcome:
        parts = path.relative_to(self.inbox).parts
        job = Job(self.inbox, parts[:-1], parts[-1], Stamp.of(path.lstat()), settled=True, queued_at=0.0)
        return Attempt(job, self.tools).run()

    def formats(self, *kinds: str) -> None:
        self.tools = replace(self.tools, formats=kinds)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.journal.close()


@pytest.fixture(params=["marks", "claims"])
def marking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With extended attributes, and on a file system that has none."""
    if request.param == "claims":

        def refuse(*_: Any, **__: Any) -> Any:
            raise OSError(errno.ENOTSUP, "Operation not supported")

        monkeypatch.setattr(os, "setxattr", refuse)
        monkeypatch.setattr(os, "getxattr", refuse)
    return str(request.param)


def all_of(name: str) -> list[str]:
    return sorted([name, f"{name}.json", *(names.output_of(name, kind) for kind in ALL)])


def check(path: Path, records: Path | None = None, kinds: tuple[str, ...] = ALL) -> dict[str, Any]:
    """A sidecar names and hashes every output; gives the sidecar."""
    document = record((records or path.parent) / f"{path.name}.json")
    outputs = {output["format"]: output for output in document.get("outputs", [])}
    assert tuple(outputs) == kinds
    for kind, output in outputs.items():
        data = ((records or path.parent) / output["name"]).read_bytes()
        assert output["name"] == names.output_of(path.name, kind)
        assert (output["size_bytes"], output["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    return document


# -- beside the document ---------------------------------------------------------------------------


def test_every_output_is_written_and_named(world: World, marking: str) -> None:
    path = dot(world.inbox / "a.png")
    path.chmod(0o640)
    assert world.attempt(path) is Outcome.DONE
    assert sorted(os.listdir(world.inbox)) == all_of("a.png"), marking
    document = check(path)
    assert (world.inbox / "a.png.txt").read_text() == document["text"] + "\n" == "48x64\n"
    assert {(world.inbox / name).stat().st_mode & 0o777 for name in all_of("a.png")} == {0o640}


def test_words_are_in_the_sidecar_where_they_are_asked_for(world: World) -> None:
    world.tools.reader._words = True
    path = dot(world.inbox / "a.png")
    world.attempt(path)
    assert "words" not in check(path)["pages"][0]["lines"][0]
    assert b">48x64</span>" in (world.inbox / "a.png.hocr").read_bytes()
    world.tools = replace(world.tools, words=True)
    world.attempt(path)
    (word,) = check(path)["pages"][0]["lines"][0]["words"]
    assert word == {"text": "48x64", "score": 1.0, "box": [0.0, 0.0, 64.0, 48.0]}


def test_a_replaced_document_has_all_of_them_made_anew(world: World, marking: str) -> None:
    path = dot(world.inbox / "a.png")
    world.attempt(path)
    dot(path, (30, 20))
    world.formats("txt", "pdf")
    assert world.attempt(path) is Outcome.DONE, marking
    assert check(path, kinds=("txt", "pdf"))["text"] == "20x30"
    # Those that are not wanted any more would be about another version.
    assert sorted(os.listdir(world.inbox)) == ["a.png", "a.png.json", "a.png.ocr.pdf", "a.png.txt"]


def test_a_document_that_fails_now_loses_the_outputs_of_its_earlier_version(
    world: World, marking: str
) -> None:
    path = dot(world.inbox / "a.png")
    world.attempt(path)
    path.write_text("no image")
    assert world.attempt(path) is Outcome.FAILED, marking
    assert sorted(os.listdir(world.inbox)) == ["a.png", "a.png.error.json"]


def test_a_removed_sidecar_has_all_of_them_made_anew(world: World) -> None:
    """The marks say that they are ours; without marks they would have to be removed too."""
    path = dot(world.inbox / "a.png")
    world.attempt(path)
    (world.inbox / "a.png.json").unlink()
    (world.inbox / "a.png.txt.kept").write_text("mine")
    world.engine.on_read = lambda _: None
    assert world.attempt(path) is Outcome.DONE
    assert check(path)["text"] == ""
    assert (world.inbox / "a.png.txt").read_bytes() == b""


@pytest.mark.parametrize("kind", ALL)
def test_a_file_of_somebody_else_is_never_replaced(world: World, marking: str, kind: str) -> None:
    path = dot(world.inbox / "a.png")
    theirs = world.inbox / names.output_of("a.png", kind)
    theirs.write_text("mine")
    assert world.attempt(path) is Outcome.RETRY
    error = error_of(path)["error"]
    assert (error["code"], error["will_retry"]) == ("output_exists", True)
    assert theirs.name in error["message"], marking
    assert theirs.read_text() == "mine"
    assert world.engine.shapes == []
    theirs.unlink()
    assert world.attempt(path) is Outcome.DONE
    # Ours, but changed by somebody: theirs from now on.
    theirs.write_bytes(theirs.read_bytes() + b" and a note of mine")
    dot(path, (30, 20))
    assert world.attempt(path) is Outcome.RETRY
    assert theirs.read_bytes().endswith(b" and a note of mine")


def test_a_link_in_an_outputs_place_is_not_written_through(world: World) -> None:
    outside = world.home / "outside"
    outside.write_text("")
    path = dot(world.inbox / "a.png")
    (world.inbox / "a.png.txt").symlink_to(outside)
    assert world.attempt(path) is Outcome.RETRY
    assert outside.read_text() == ""


def test_a_stop_while_outputs_are_written_leaves_nothing_and_reads_nothing_again(world: World) -> None:
    path = world.inbox / "a.tif"
    first, *others = (Image.new("1", (n, 1), 1) for n in range(1, 6))
    first.save(path, save_all=True, append_images=others)

    class Stops(type(world.engine)):  # type: ignore[misc] # a class is a class
        def read(self, bgr: Any) -> object:
            if bgr.shape[1] == 5:
                world.tools.supervision.request_stop()
            return super().read(bgr)

    world.tools.reader._engine = Stops(shapes=world.engine.shapes)
    assert world.attempt(path) is Outcome.BROKEN_OFF
    assert os.listdir(world.inbox) == ["a.tif"]
    world.tools = replace(world.tools, supervision=tools(world.engine, world.journal, world.log).supervision)
    assert world.attempt(path) is Outcome.DONE
    assert len(world.engine.shapes) == 5
    assert check(path)["text"] == "1x1\n1x2\n1x3\n1x4\n1x5"
    assert (world.inbox / "a.tif.txt").read_text() == "1x1\n\f1x2\n\f1x3\n\f1x4\n\f1x5\n"


def test_a_format_that_cannot_hold_a_document_is_left_out_and_said(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise OutputNotPossibleError("it is not made of pictures")

    path = dot(world.inbox / "a.png")
    monkeypatch.setattr(RasterDocument, "encoded", refuse)
    assert world.attempt(path) is Outcome.DONE
    document = check(path, kinds=tuple(kind for kind in ALL if kind != "pdf"))
    assert document["warnings"] == ["output_skipped"]
    (said,) = world.log.named("output.skipped")
    assert (said["format"], said["message"]) == ("pdf", "it is not made of pictures")
    assert "a.png.ocr.pdf" not in os.listdir(world.inbox)


def test_names_of_outputs() -> None:
    assert [names.output_of("scan.png", kind) for kind in ALL] == [
        "scan.png.txt",
        "scan.png.hocr",
        "scan.png.alto.xml",
        "scan.png.tsv",
        "scan.png.ocr.pdf",
        "scan.png.overlay.jpg",
    ]
    for kind in ALL:
        for name in ("x" * 255, "ü" * 125 + ".png", "\udcff" * 200):
            output = names.output_of(name, kind)
            assert len(os.fsencode(output)) <= 255
            assert names.is_output(output)
        assert not names.is_output("scan.png")
    assert names.is_output("SCAN.OCR.PDF")
    assert not names.is_output("scan.pdf")


def test_outputs_are_never_work() -> None:
    wanted = replace(RULES, extensions=RULES.extensions | {".pdf", ".jpg", ".txt"})
    assert wanted.wants("scan.pdf")
    assert wanted.wants("scan.jpg")
    for kind in ALL:
        assert not wanted.wants(names.output_of("scan.png", kind))


def test_a_manifest_is_read_from_the_beginning_of_a_sidecar(world: World) -> None:
    path = dot(world.inbox / ('"' * 200 + ".png"))
    world.attempt(path)
    fd = os.open(world.inbox, os.O_RDONLY)
    try:
        assert [output.format for output in manifest(fd, path.name + ".json")] == list(ALL)
        for content in (b"", b"{", b'{"schema": "ocr-watcher/1", "outputs": 5}', b'{"a": 1}'):
            (world.inbox / "b.json").write_bytes(content)
            assert manifest(fd, "b.json") == ()
    finally:
        os.close(fd)


# -- in a tree of their own ------------------------------------------------------------------------


def test_records_and_outputs_go_into_a_tree_that_mirrors_the_inbox(world: World) -> None:
    world.places(folder=True)
    (world.inbox / "2026" / "may").mkdir(parents=True)
    good, bad = dot(world.inbox / "2026" / "may" / "a.png"), world.inbox / "bad.png"
    bad.write_text("no image")
    assert world.attempt(good) is Outcome.DONE
    assert world.attempt(bad) is Outcome.FAILED
    text = world.home / "text"
    check(good, text / "2026" / "may")
    assert sorted(os.listdir(text / "2026" / "may")) == all_of("a.png")[1:]
    assert record(text / "bad.png.error.json")["error"]["code"] == "unsupported_format"
    assert os.listdir(good.parent) == ["a.png"]
    places = world.tools.places
    assert places.lookup(str(good), Stamp.of(good.stat())) is RecordState.DONE
    assert places.lookup(str(bad), Stamp.of(bad.stat())) is RecordState.FAILED
    assert places.has_record is not None
    assert places.has_record(str(good))
    assert not places.has_record(str(good) + "x")


def test_several_inboxes_have_a_folder_each() -> None:
    places = Places((Path("/a/scans"), Path("/b/faxes")), Path("/text"))
    assert places.with_records("/a/scans/x/1.png") == "/text/scans/x/1.png"
    assert places.with_records("/b/faxes/1.png") == "/text/faxes/1.png"
    assert places.with_records("/c/1.png") == "/c/1.png"
    assert Places((Path("/a/scans"),), Path("/text")).with_records("/a/scans/x/1.png") == "/text/x/1.png"
    assert Places((Path("/a/scans"),)).with_records("/a/scans/x/1.png") == "/a/scans/x/1.png"


def test_a_tree_that_is_away_is_waited_for(world: World) -> None:
    world.places(folder=True)
    path = dot(world.inbox / "a.png")
    (world.home / "text").rmdir()
    assert world.attempt(path) is Outcome.RETRY
    assert os.listdir(world.inbox) == ["a.png"]
    assert world.log.named("ocr.failed")[-1]["code"] == "output_error"
    (world.home / "text").mkdir()
    assert world.attempt(path) is Outcome.DONE


def test_what_a_killed_process_left_in_the_trees_is_removed_by_a_scan(world: World) -> None:
    world.places(folder=True, archive=world.home / "archive")
    left = [
        world.home / tree / ".ocr-watcher-00000000-00000000.tmp"
        for tree in ("text", "archive", "archive/sub")
    ]
    (world.home / "archive" / "sub").mkdir()
    for path in left:
        path.touch()
    theirs = dot(world.home / "text" / "theirs.png")
    intake = Intake(
        (world.inbox,),
        RULES,
        queue_size=1,
        offer=lambda _: True,
        clock=world.clock,
        log=world.log,  # type: ignore[arg-type] # collects
    )
    scan = Scan(
        (world.inbox,),
        RULES,
        intake,
        recursive=True,
        log=world.log,  # type: ignore[arg-type]
        trees=world.tools.places.trees,
    )
    assert scan.advance(float("inf"))
    assert not any(path.exists() for path in left)
    assert intake.waiting == 0
    assert theirs.exists()


def test_a_link_in_the_tree_is_not_followed(world: World) -> None:
    world.places(folder=True)
    outside = world.home / "outside"
    outside.mkdir()
    (world.home / "text" / "sub").symlink_to(outside)
    (world.inbox / "sub").mkdir()
    assert world.attempt(dot(world.inbox / "sub" / "a.png")) is Outcome.RETRY
    assert os.listdir(outside) == []


# -- the archive -----------------------------------------------------------------------------------


@pytest.fixture(params=["rename", "copy"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """On the file system of the inbox, and on another."""
    if request.param == "rename":
        yield tmp_path / "archive"
        return
    shared_memory = Path("/dev/shm")  # noqa: S108 - the one other file system that is there
    if not os.access(shared_memory, os.W_OK) or shared_memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system here")
    made = shared_memory / f"ocr-watcher-test-{os.getpid()}"
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_a_finished_document_moves_with_all_it_has(world: World, archive: Path) -> None:
    world.places(archive=archive)
    (world.inbox / "sub").mkdir()
    path = dot(world.inbox / "sub" / "a.png")
    os.utime(path, ns=(1, 1_763_850_000_123_456_789))
    before, data = path.stat(), path.read_bytes()
    assert world.attempt(path) is Outcome.DONE
    assert os.listdir(world.inbox / "sub") == []
    there = archive / "sub" / "a.png"
    assert sorted(os.listdir(there.parent)) == all_of("a.png")
    assert there.read_bytes() == data
    assert there.stat().st_mtime_ns == before.st_mtime_ns == check(there)["source"]["mtime_ns"]
    assert len(world.log.named("ocr.done")) == len(world.log.named("file.archived")) == 1


def test_what_failed_stays(world: World, archive: Path) -> None:
    world.places(archive=archive)
    path = world.inbox / "a.png"
    path.write_text("no image")
    assert world.attempt(path) is Outcome.FAILED
    assert sorted(os.listdir(world.inbox)) == ["a.png", "a.png.error.json"]


def test_with_a_tree_of_records_the_document_alone_moves(world: World, archive: Path) -> None:
    world.places(folder=True, archive=archive)
    path = dot(world.inbox / "a.png")
    assert world.attempt(path) is Outcome.DONE
    assert os.listdir(world.inbox) == []
    assert os.listdir(archive) == ["a.png"]
    assert sorted(os.listdir(world.home / "text")) == all_of("a.png")[1:]


def test_documents_of_one_name_do_not_replace_each_other(world: World, archive: Path) -> None:
    world.places(archive=archive)
    contents = []
    for width in (10, 20, 30, 20):
        path = dot(world.inbox / "scan.png", (width, 10))
        contents.append(path.read_bytes())
        assert world.attempt(path) is Outcome.DONE
        assert os.listdir(world.inbox) == []
    found = sorted(archive.rglob("scan.png"))
    assert sorted(path.read_bytes() for path in found) == sorted(set(contents))
    for path in found:
        assert check(path)["source"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_nothing_of_somebody_else_in_the_archive_is_replaced(world: World, archive: Path) -> None:
    world.places(archive=archive)
    (archive / "a.png.txt").write_text("mine")
    path = dot(world.inbox / "a.png")
    assert world.attempt(path) is Outcome.DONE
    assert (archive / "a.png.txt").read_text() == "mine"
    (moved,) = archive.rglob("a.png")
    check(moved)


@pytest.mark.parametrize("fails_at", range(1, 12))
def test_a_move_that_ends_anywhere_is_gone_on_with(
    world: World, archive: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    world.places(archive=archive)
    path = dot(world.inbox / "a.png")
    data = path.read_bytes()
    world.formats("txt", "pdf")
    calls = 0

    def failing(real: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == fails_at:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **options)

        return call

    world.places()
    assert world.attempt(path) is Outcome.DONE
    world.places(archive=archive)
    with monkeypatch.context() as patch:
        for name in ("rename", "write", "fsync", "unlink", "mkdir"):
            patch.setattr(os, name, failing(getattr(os, name)))
        world.attempt(path)
    kept = [found.read_bytes() for root in (world.inbox, archive) for found in root.rglob("a.png")]
    assert data in kept
    if path.exists():
        assert world.attempt(path) is Outcome.DONE
    assert len(world.engine.shapes) == 1
    assert os.listdir(world.inbox) == []
    check(archive / "a.png", kinds=("txt", "pdf"))
    assert sorted(os.listdir(archive)) == ["a.png", "a.png.json", "a.png.ocr.pdf", "a.png.txt"]


def test_a_document_that_changes_before_it_moves_is_read_again(
    world: World, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.places(archive=archive)
    path = dot(world.inbox / "a.png")
    real = commit.commit

    def changing(*args: Any, **options: Any) -> None:
        real(*args, **options)
        dot(path, (9, 9))

    with monkeypatch.context() as patch:
        patch.setattr(commit, "commit", changing)
        assert world.attempt(path) is Outcome.RESETTLE
    assert sidecar_of(path)["text"] == "48x64"
    assert os.listdir(archive) == []
    assert world.attempt(path) is Outcome.DONE
    assert check(archive / "a.png")["text"] == "9x9"


def test_an_archive_that_is_away_is_waited_for_with_the_text_at_hand(world: World, archive: Path) -> None:
    world.places(archive=archive)
    archive.rmdir()
    path = dot(world.inbox / "a.png")
    assert world.attempt(path) is Outcome.RETRY
    check(path)
    assert len(world.log.named("ocr.done")) == 1
    assert world.log.named("ocr.failed")[-1]["code"] == "output_error"
    archive.mkdir()
    assert world.attempt(path) is Outcome.DONE
    assert len(world.engine.shapes) == 1
    check(archive / "a.png")


def test_documents_that_were_done_before_are_archived_once_it_is_switched_on(
    world: World, archive: Path
) -> None:
    path = dot(world.inbox / "a.png")
    world.attempt(path)
    assert world.tools.places.lookup(str(path), Stamp.of(path.stat())) is RecordState.DONE
    world.places(archive=archive)
    assert world.tools.places.lookup(str(path), Stamp.of(path.stat())) is RecordState.OPEN
    assert world.attempt(path) is Outcome.DONE
    assert json.loads((archive / "a.png.json").read_bytes())["text"] == "48x64"
