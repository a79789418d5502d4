"""Links that take the place of an image or of a folder at every moment: nothing outside is read or written.

Another process swaps them without a pause, while the scan and the worker are called by hand. What
the link leads to has the image's name, size and modification time, so that nothing but the way it is
opened tells the two apart.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from ocr_watcher import memory
from ocr_watcher.inbox.files import remove_leftover
from ocr_watcher.inbox.scan import Leftover, walk
from ocr_watcher.job import Job, Outcome, Stamp
from ocr_watcher.jobs.journal import Journal
from ocr_watcher.jobs.worker import Worker
from ocr_watcher.ocr.engine import FakeEngine
from tests.support import RULES, Log, sidecar_of, tools
from tests.swapper import swapping

INSIDE, SECRET = (16, 12), (12, 16)
LEFTOVER = ".ocr-watcher-00000000-00000000.tmp"
TIMES = 1000


def picture(path: Path, size: tuple[int, int]) -> Path:
    """A BMP: both sizes take the same number of bytes. Both have the same time."""
    Image.new("L", size, 255).save(path)
    os.utime(path, ns=(1, 1))
    return path


def look(folder: Path) -> dict[str, tuple[int, int, int]]:
    """All that changes when something is written there."""
    return {
        str(path): (path.lstat().st_mtime_ns, path.lstat().st_size, path.lstat().st_ino)
        for path in (folder, *folder.rglob("*"))
    }


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    made = tmp_path / "outside"
    (made / "deeper").mkdir(parents=True)
    for folder in (made, made / "deeper"):
        picture(folder / "a.bmp", SECRET)
        picture(folder / "secret.bmp", SECRET)
        (folder / LEFTOVER).touch()  # of a service that has the folder for its inbox
    return made


# A pause of nothing swaps at the most moments; with a millisecond whole passes fall between two swaps.
@pytest.mark.parametrize("pause_s", [0.0, 0.001])
@pytest.mark.parametrize("kind", ["image", "folder"])
def test_a_link_is_swapped_in_at_1000_moments(
    tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch, kind: str, pause_s: float
) -> None:
    inbox = tmp_path / "inbox"
    (inbox / "sub").mkdir(parents=True)
    path = picture(inbox / "sub" / "a.bmp", INSIDE)
    if kind == "image":
        swapped = (inbox / "sub", "a.bmp", "link")
        (inbox / "sub" / "link").symlink_to(outside / "a.bmp")
    else:
        swapped = (inbox, "sub", ".link")
        (inbox / ".link").symlink_to(outside)
    stamp = Stamp.of(path.lstat())
    assert stamp == Stamp.of((outside / "a.bmp").lstat())
    before = look(outside)

    # Neither flushing nor collecting garbage is the subject, and they take most of the time.
    monkeypatch.setattr(os, "fsync", lambda _: None)
    probe = memory.Memory()
    monkeypatch.setattr(probe, "give_back", lambda: None)
    log, engine = Log(), FakeEngine()
    journal = Journal(tmp_path / "journal", log)  # type: ignore[arg-type] # a log that collects
    worker = Worker(tools(engine, journal, log, memory=probe))
    outcomes: Counter[Outcome] = Counter()
    met: Counter[str] = Counter()
    with swapping(*swapped, pause_s):
        for _ in range(TIMES):
            for item in walk(
                str(inbox),
                RULES,
                recursive=True,
                trouble=lambda _where, error: met.update([type(error).__name__]),
            ):
                if isinstance(item, Leftover):
                    remove_leftover(item.folder, os.path.basename(item.path))
                    met["leftover"] += 1
                elif item is not None:
                    met[os.path.relpath(item.path, inbox)] += 1
            job = Job(inbox, ("sub",), "a.bmp", stamp, settled=True, queued_at=0.0)
            outcomes[worker.step(job)] += 1
    journal.close()
    assert look(outside) == before
    assert set(engine.shapes) == {(*reversed(INSIDE), 3)}
    assert "sub/secret.bmp" not in met
    assert "leftover" not in met
    assert set(outcomes) <= {Outcome.DONE, Outcome.GONE, Outcome.RESETTLE}
    assert outcomes[Outcome.DONE] > 0
    assert outcomes[Outcome.GONE] > 0
    folder = inbox / "sub" if not (inbox / "sub").is_symlink() else inbox / ".link"
    assert sidecar_of(folder / "a.bmp")["text"] == "12x16"
    assert {p.name for p in folder.iterdir()} <= {"a.bmp", "a.bmp.json", "link"}
    said = ", ".join(f"{count} {outcome.value}" for outcome, count in sorted(outcomes.items(), key=str))
    print(f"{kind}, {pause_s:g} s: {TIMES} scans and jobs: {said}; the scans met {dict(met)}")
