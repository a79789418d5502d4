"""What the documentation tells people to type is run here as it stands there."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import daemon, dot, write_config

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(
    shutil.which("jq") is None,
    reason="THE RECIPES OF THE DOCUMENTATION ARE NOT TESTED: jq is not installed (apt install jq)",
)


def recipes() -> dict[str, str]:
    """The commands of docs/recipes.md, by the remark above each."""
    text = (ROOT / "docs/recipes.md").read_text("utf-8")
    block = text.split("```sh\n", 1)[1].split("```", 1)[0]
    pieces = re.split(r"^# (.*)\n", block, flags=re.MULTILINE)[1:]
    return dict(zip(pieces[::2], (piece.strip() for piece in pieces[1::2]), strict=True))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An inbox after a day: documents that are done, some that failed, and files of somebody else."""
    folder = tmp_path_factory.mktemp("home")
    write_config(folder, logging={"file": "logs/ocr_watcher.log"})
    inbox = folder / "inbox"
    dot(inbox / "a.png")
    dot(inbox / 'with "quotes", blanks.png')
    (inbox / "bad.png").write_text("no image")
    (inbox / "package.json").write_text('{"name": "somebody\'s", "text": "48x64"}')
    with daemon(folder) as running:
        running.wait_for("ocr.done", 2)
        running.wait_for("file.quarantined")
        running.wait_for("memory.stats")
        assert running.stop() == 0
    return folder


def run(command: str, home: Path) -> str:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, ""), command
    return done.stdout


def test_all_text(home: Path) -> None:
    commands = recipes()
    assert run(commands["all text"], home) == "48x64\n" * 2
    (home / "inbox" / "folder").mkdir(exist_ok=True)
    (home / "inbox" / "folder" / "b.png.json").write_bytes((home / "inbox" / "a.png.json").read_bytes())
    deep = "the same for folders within folders, and for more files than a command line takes"
    assert run(commands[deep], home) == "48x64\n" * 3


def test_search(home: Path) -> None:
    (remark,) = (remark for remark in recipes() if remark.startswith("which documents"))
    command = recipes()[remark]
    assert run(command, home) == ""
    assert run(command.replace("invoice", "48X64"), home) == (
        'inbox/a.png.json\ninbox/with "quotes", blanks.png.json\n'
    )


def test_lines_as_csv(home: Path) -> None:
    (remark,) = (remark for remark in recipes() if remark.startswith("every line as CSV"))
    rows = list(csv.reader(run(recipes()[remark], home).splitlines()))
    assert rows == [
        [name, "1", "48x64", "1", "0", "0", "64", "48"] for name in ("a.png", 'with "quotes", blanks.png')
    ]
    assert len(remark.split(":")[1].split(",")) == len(rows[0])


def test_what_failed(home: Path) -> None:
    assert run(recipes()["what failed, and why"], home) == (
        "bad.png\tunsupported_format\tthis is text, not an image\n"
    )


def test_the_log(home: Path) -> None:
    text = (ROOT / "docs/operations.md").read_text("utf-8").split("\n## The log\n", 1)[1]
    done, troubles, stats = text.split("```sh\n", 1)[1].split("```", 1)[0].strip().splitlines()
    assert "48x64" not in run(done, home)  # no text of a document
    assert len(run(done, home).splitlines()) == 2
    assert "file.quarantined" in run(troubles, home)
    assert "rss_limit_mb" in run(stats.replace("tail -f", "cat"), home)  # that does not end
    troubleshooting = (ROOT / "docs/troubleshooting.md").read_text("utf-8")
    (of_a_file,) = re.findall(r"nothing happens to a file\*\*: `(.*?)`", troubleshooting)
    assert "ocr.done" in run(of_a_file.replace("NAME", "a.png"), home)


def test_results_are_removed_and_nothing_else(home: Path, tmp_path: Path) -> None:
    """Of docs/operations.md."""
    shutil.copytree(home / "inbox", tmp_path / "inbox")
    (command,) = re.findall(r"^find .*$", (ROOT / "docs/operations.md").read_text("utf-8"), re.MULTILINE)
    run(command, tmp_path)
    left = sorted(path.name for path in (tmp_path / "inbox").rglob("*") if path.is_file())
    assert left == ["a.png", "bad.png", "package.json", 'with "quotes", blanks.png']


def test_searching_an_archive(home: Path, tmp_path: Path) -> None:
    """Of examples/README.md."""
    shutil.copytree(home / "inbox", tmp_path / "archive")
    (command,) = re.findall(r"^jq .*$", (ROOT / "examples/README.md").read_text("utf-8"), re.MULTILINE)
    assert run(command.replace("order 2041", "48x"), tmp_path).splitlines()[0] == "a.png"
