"""Opening beneath an inbox: real folders, links and pipes in a temporary folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ocr_watcher.errors import AccessError, VanishedError
from ocr_watcher.inbox.files import open_file, open_folder, stat_file
from tests.support import unprivileged


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    made = tmp_path / "inbox"
    (made / "a" / "b").mkdir(parents=True)
    (made / "a" / "b" / "x.png").write_bytes(b"inside")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x.png").write_bytes(b"outside")
    return made


def test_reads_what_is_beneath(inbox: Path) -> None:
    with open_folder(inbox, ("a", "b")) as folder, open_file(folder, "x.png") as file:
        assert file.read() == b"inside"


def test_the_inbox_itself_may_be_a_link(inbox: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(inbox)
    with open_folder(tmp_path / "link", ("a", "b")) as folder:
        assert stat_file(folder, "x.png") is not None


def test_a_linked_folder_is_refused_at_every_depth(inbox: Path, tmp_path: Path) -> None:
    (inbox / "a" / "b" / "x.png").unlink()
    (inbox / "a" / "b").rmdir()
    (inbox / "a" / "b").symlink_to(tmp_path / "outside")
    with pytest.raises(VanishedError), open_folder(inbox, ("a", "b")):
        pass
    (inbox / "c").symlink_to(tmp_path)
    with pytest.raises(VanishedError), open_folder(inbox, ("c", "outside")):
        pass


def test_a_linked_file_is_refused(inbox: Path, tmp_path: Path) -> None:
    (inbox / "l.png").symlink_to(tmp_path / "outside" / "x.png")
    with open_folder(inbox, ()) as folder, pytest.raises(VanishedError):
        open_file(folder, "l.png")


def test_pipes_and_folders_are_refused_at_once(inbox: Path) -> None:
    os.mkfifo(inbox / "p.png")
    (inbox / "d.png").mkdir()
    with open_folder(inbox, ()) as folder:
        for name in ("p.png", "d.png"):
            with pytest.raises(VanishedError):
                open_file(folder, name)


def test_what_is_gone_has_vanished(inbox: Path) -> None:
    with open_folder(inbox, ()) as folder:
        with pytest.raises(VanishedError):
            open_file(folder, "none.png")
        assert stat_file(folder, "none.png") is None
    with pytest.raises(VanishedError), open_folder(inbox, ("none",)):
        pass


def test_an_unreadable_file_is_an_access_error(inbox: Path) -> None:
    (inbox / "s.png").write_bytes(b"x")
    (inbox / "s.png").chmod(0)
    with (
        open_folder(inbox, ()) as folder,
        unprivileged(),
        pytest.raises(AccessError, match="Permission denied"),
    ):
        open_file(folder, "s.png")


def test_a_name_that_the_system_refuses_is_an_access_error(inbox: Path) -> None:
    with open_folder(inbox, ()) as folder, pytest.raises(AccessError, match="File name too long"):
        open_file(folder, "x" * 300)


def test_no_descriptor_leaks(inbox: Path) -> None:
    before = os.listdir("/proc/self/fd")
    for parts in (("a", "b"), ("none",), ("a", "none")):
        try:
            with open_folder(inbox, parts) as folder:
                open_file(folder, "none.png")
        except VanishedError:
            pass
    assert os.listdir("/proc/self/fd") == before
