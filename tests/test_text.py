"""`text` in real processes: what is printed where, and that nothing is written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from PIL import Image

from ocr_watcher.outputs import sidecar
from tests import pdfs
from tests.support import dot, draw

ROOT = Path(__file__).parents[1]


def run(
    folder: Path, *arguments: str, module: str = "tests.fake_daemon", stdin: bytes = b"", **script: str
) -> subprocess.CompletedProcess[bytes]:
    """`ocr-watcher text` in a folder without a configuration, with an empty home."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(folder.parent / "home"), **script}
    return subprocess.run(
        [sys.executable, "-m", module, "text", *arguments],
        cwd=folder,
        env=environment,
        input=stdin,
        capture_output=True,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    made = tmp_path / "scans"
    made.mkdir()
    return made


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder.parent)) for path in folder.parent.rglob("*"))


def test_pages_and_files_are_apart_by_form_feeds_and_nothing_is_written(folder: Path) -> None:
    dot(folder / "a.png")
    first, second = Image.new("L", (60, 40), 255), Image.new("L", (30, 20), 255)
    first.save(folder / "b.tif", save_all=True, append_images=[second])
    before = everything(folder)
    folder.chmod(0o555)
    result = run(folder, "a.png", "b.tif")
    folder.chmod(0o755)
    (folder / "reading").unlink()  # the fake engine's own mark
    assert (result.returncode, result.stdout) == (0, b"48x64\n\f40x60\n\f20x30\n")
    assert everything(folder) == before


def test_standard_input_and_json(folder: Path) -> None:
    data = dot(folder / "a.png").read_bytes()
    assert run(folder, "-", stdin=data).stdout == b"48x64\n"
    result = run(folder, "--format", "json", "a.png", "-", stdin=data)
    one, other = (json.loads(row) for row in result.stdout.splitlines())
    for record in (one, other):
        jsonschema.validate(record, sidecar.schema())
    assert (one["source"]["name"], other["source"]["name"]) == ("a.png", "-")
    assert one["source"]["sha256"] == other["source"]["sha256"]
    assert one["text"] == "48x64"


@pytest.mark.parametrize(
    ("kind", "begins", "has"),
    [
        ("tsv", b"level\tpage_num\t", b"\t48x64\n"),
        ("hocr", b"<?xml ", b">48x64</span>"),
        ("alto", b"<?xml ", b'CONTENT="48x64"'),
    ],
)
def test_further_formats_of_one_file(folder: Path, kind: str, begins: bytes, has: bytes) -> None:
    dot(folder / "a.png")
    result = run(folder, "--format", kind, "a.png")
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.startswith(begins)
    assert has in result.stdout
    result = run(folder, "--format", kind, "a.png", "a.png")
    assert (result.returncode, result.stdout) == (64, b"")
    assert f"--format {kind} is of one file, and here are 2".encode() in result.stderr


def test_what_cannot_be_read_is_told_on_standard_error_and_the_others_are_read(folder: Path) -> None:
    (folder / "bad.png").write_text("no image")
    dot(folder / "good.png")
    result = run(folder, "bad.png", "none.png", ".", "good.png")
    assert (result.returncode, result.stdout) == (3, b"48x64\n")
    said = result.stderr.decode()
    assert "bad.png: this is text, not an image" in said
    assert "none.png: none.png: No such file" in said
    assert "Is a directory" in said


def test_too_much_on_standard_input_is_refused(folder: Path) -> None:
    (folder / "config.yaml").write_text("image: {max_file_mb: 1}")
    result = run(folder, "-", stdin=b"x" * (2 << 20))
    assert (result.returncode, result.stdout) == (3, b"")
    assert b"image.max_file_mb" in result.stderr


def test_a_pdf_on_standard_input_may_be_as_large_as_a_pdf(folder: Path) -> None:
    (folder / "config.yaml").write_text("{image: {max_file_mb: 1}, pdf: {max_file_mb: 3}}")
    padding = b"%" + b"x" * (2 << 20) + b"\n"
    result = run(folder, "-", stdin=pdfs.prose().replace(b"\n1 0 obj", b"\n" + padding + b"1 0 obj", 1))
    assert (result.returncode, result.stdout.decode()) == (0, "\n".join(pdfs.PROSE) + "\n")
    result = run(folder, "-", stdin=b"%PDF-" + b"x" * (4 << 20))
    assert (result.returncode, result.stdout) == (3, b"")
    assert b"pdf.max_file_mb" in result.stderr


def test_a_bad_page_of_a_pdf_is_told_and_the_others_are_read(folder: Path) -> None:
    made = pdfs.Pdf()
    for _ in range(3):
        made.page(pdfs.text(*pdfs.PROSE))
    made.objects[made.pages[1]] = b"[ /no /page ]"
    (folder / "a.pdf").write_bytes(made.bytes())
    prose = "\n".join(pdfs.PROSE)
    result = run(folder, "a.pdf")
    assert (result.returncode, result.stdout.decode()) == (3, f"{prose}\n\f\f{prose}\n")
    assert b"a.pdf: page 2 of the file is damaged" in result.stderr
    result = run(folder, "--format", "json", "a.pdf")
    record = json.loads(result.stdout)
    jsonschema.validate(record, sidecar.schema())
    assert (result.returncode, record["warnings"]) == (3, ["page_failed"])
    assert [page.get("error", {}).get("code") for page in record["pages"]] == [None, "unreadable", None]


def test_a_script_that_the_model_does_not_know_is_told(folder: Path, model_store: Path) -> None:
    """The text of it comes out empty; that alone would look as if there were none."""
    shutil.copy(ROOT / "tests/korean.png", folder)
    store = str(model_store)
    result = run(
        folder, "--format", "json", "korean.png", module="ocr_watcher", OCR_WATCHER_MODEL_STORE=store
    )
    record = json.loads(result.stdout)
    jsonschema.validate(record, sidecar.schema())
    assert (result.returncode, record["warnings"]) == (0, ["unreadable_text"])
    assert b"korean.png: most of its text was seen but could not be read" in result.stderr


def test_no_engine_prints_past_the_text(folder: Path, model_store: Path) -> None:
    draw(folder / "a.png", "INVOICE 12345")
    result = run(folder, "a.png", module="ocr_watcher", OCR_WATCHER_MODEL_STORE=str(model_store))
    assert (result.returncode, result.stdout) == (0, b"INVOICE 12345\n")
    assert os.listdir(folder) == ["a.png"]


def test_whoever_reads_the_output_may_stop_early(folder: Path) -> None:
    for number in range(5):
        dot(folder / f"{number}.png")
    command = f"{sys.executable} -m tests.fake_daemon text *.png | head -c 3"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        ["sh", "-c", command], cwd=folder, env=environment, capture_output=True, check=False
    )
    assert (result.stdout, result.stderr) == (b"48x", b"")
