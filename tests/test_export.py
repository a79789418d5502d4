"""`export`: further outputs of finished documents, in every place, without reading them again."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from ocr_watcher import cli, names
from ocr_watcher.outputs import sidecar
from ocr_watcher.outputs.formats import FORMATS
from ocr_watcher.service import assembly
from ocr_watcher.verbs import export, once
from tests.support import dot, record, settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ocr_watcher.config import Settings

ALL = tuple(FORMATS)


class Silent:
    def begin(self, path: str) -> None:
        pass

    def page(self, path: str, page: int, pages: int) -> None:
        pass

    def end(self, path: str, left: int) -> None:
        pass


def read_all(home: Path, **output: Any) -> Settings:
    """Drain an inbox of a picture, a document of several pages and one that fails."""
    for tree in ("text", "archive"):
        (home / tree).mkdir(exist_ok=True)
    made = settings(home, output=output)
    inbox = home / "inbox"
    (inbox / "sub").mkdir(exist_ok=True)
    dot(inbox / "a.png")
    first, *others = (Image.new("1", (n, 1), 1) for n in range(1, 4))
    first.save(inbox / "sub" / "b.tif", save_all=True, append_images=others)
    (inbox / "bad.png").write_text("no image")
    once.drain(made, lambda _: _engine(), Silent())
    return made


def _engine() -> Any:
    from ocr_watcher.ocr.engine import FakeEngine  # noqa: PLC0415 - one for each run

    return FakeEngine()


def exported(made: Settings, kinds: Sequence[str], *paths: Path) -> export.Exported:
    return export.export(made, assembly.decode_limits(made), kinds, paths)


def check(path: Path, *kinds: str) -> None:
    document = record(path)
    assert {output["format"] for output in document.get("outputs", [])} == set(kinds)
    for output in document["outputs"]:
        assert hashlib.sha256(path.with_name(output["name"]).read_bytes()).hexdigest() == output["sha256"]


def test_what_is_exported_is_what_would_have_been_written(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    read_all(tmp_path / "one", formats=" ".join(ALL))
    made = read_all(tmp_path / "other")
    inbox = tmp_path / "other" / "inbox"
    before = record(inbox / "a.png.json")
    assert exported(made, ALL, inbox) == export.Exported(done=2)
    for name in ("a.png", "sub/b.tif"):
        check(inbox / f"{name}.json", *ALL)
        for kind in ALL:
            output = names.output_of(name, kind)
            assert (inbox / output).read_bytes() == (tmp_path / "one" / "inbox" / output).read_bytes(), output
    after = record(inbox / "a.png.json")
    del after["outputs"]
    assert after == before
    assert not (inbox / "bad.png.txt").exists()


def test_formats_come_one_after_the_other(tmp_path: Path) -> None:
    made = read_all(tmp_path, formats="txt")
    path = tmp_path / "inbox" / "a.png"
    assert exported(made, ["hocr"], path).done == 1
    check(path.with_name("a.png.json"), "txt", "hocr")
    assert exported(made, ["hocr", "tsv"], path.with_name("a.png.json")).done == 1
    check(path.with_name("a.png.json"), "txt", "hocr", "tsv")


@pytest.mark.parametrize("archived", [True, False])
def test_in_a_tree_of_records(tmp_path: Path, *, archived: bool) -> None:
    to_archive = {"archive": "archive", "on_success": "archive"} if archived else {}
    made = read_all(tmp_path, folder="text", **to_archive)
    assert exported(made, ["txt", "pdf"], tmp_path / "text") == export.Exported(done=2)
    check(tmp_path / "text" / "a.png.json", "txt", "pdf")
    check(tmp_path / "text" / "sub" / "b.tif.json", "txt", "pdf")
    if not archived:
        assert exported(made, ["tsv"], tmp_path / "inbox" / "sub" / "b.tif").done == 1
        check(tmp_path / "text" / "sub" / "b.tif.json", "txt", "pdf", "tsv")


def test_in_an_archive(tmp_path: Path) -> None:
    made = read_all(tmp_path, archive="archive", on_success="archive")
    assert exported(made, ALL, tmp_path / "archive") == export.Exported(done=2)
    check(tmp_path / "archive" / "sub" / "b.tif.json", *ALL)


def test_what_cannot_be_exported_is_told(tmp_path: Path) -> None:
    made = read_all(tmp_path)
    inbox = tmp_path / "inbox"
    (inbox / "a.png.txt").write_text("mine")
    (inbox / "theirs.json").write_text('{"a": 1}')
    damaged = (inbox / "a.png.json").read_bytes()
    (inbox / "damaged.png.json").write_bytes(damaged[: len(damaged) // 2])
    os.utime(inbox / "sub" / "b.tif", ns=(1, 1))
    outcome = exported(made, ["txt", "pdf"], inbox, inbox / "bad.png", inbox / "none.png")
    why = {os.path.relpath(path, inbox): text for path, text in outcome.refused.items()}
    assert outcome.done == 0
    assert "a.png.txt exists and was not written by ocr-watcher" in why["a.png.json"]
    assert why["theirs.json"] == "it is not a sidecar of ocr-watcher, or a damaged one"
    outcome = exported(made, ["txt"], inbox / "damaged.png.json")
    assert list(outcome.refused.values()) == ["it is not a sidecar of ocr-watcher, or a damaged one"]
    assert "another version" in why["sub/b.tif.json"]
    assert "not read yet" in why["bad.png"]
    assert "not read yet" in why["none.png"]
    assert (inbox / "a.png.txt").read_text() == "mine"
    assert not [name for name in os.listdir(inbox) if name.endswith((".tmp", ".pdf"))]
    # The text needs no document.
    assert exported(made, ["txt"], inbox / "sub").done == 1


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read_all(tmp_path)
    capsys.readouterr()
    common = ["export", "-c", str(tmp_path / "config.yaml")]
    assert cli.main([*common, "--format", "txt, alto", str(tmp_path / "inbox")]) == 0
    assert capsys.readouterr().out == "2 done, 0 failed\n"
    assert (tmp_path / "inbox" / "a.png.alto.xml").exists()
    assert cli.main([*common, "--format", "txt", str(tmp_path / "inbox" / "bad.png")]) == 3
    captured = capsys.readouterr()
    assert captured.out == "0 done, 1 failed\n"
    assert "it has no sidecar" in captured.err
    assert cli.main([*common, "--format", "docx", str(tmp_path)]) == 64
    assert "there is no format docx" in capsys.readouterr().err


def test_pages_are_read_one_by_one_out_of_any_layout_of_the_json(tmp_path: Path) -> None:
    read_all(tmp_path, words=True)
    text = (tmp_path / "inbox" / "sub" / "b.tif.json").read_text()
    source, pages = sidecar.read(text)
    assert source.name == "b.tif"
    found = list(pages)
    assert [page.text for page in found] == ["1x1", "1x2", "1x3"]
    assert found[0].lines[0].words[0].text == "1x1"
    for bad in (
        "",
        "{}",
        '{"schema": "ocr-watcher/1"}',
        '{"schema": "ocr-watcher/1", "source": 5}',
        "\u2028",
    ):
        with pytest.raises((ValueError, KeyError, TypeError)):
            list(sidecar.read(bad)[1])
    assert json.loads(b"".join(sidecar.with_outputs(text, []))) == json.loads(text)
