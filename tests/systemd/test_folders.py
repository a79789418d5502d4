"""folders.sh, which lays out an instance's folders and migrates the older layout, without a systemd.

`nobody` plays the service's user here, a number without a name a member of its group.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import shutil
import sqlite3
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "systemd" / "folders.sh"
OLD = Path(__file__).parent / "old"
MEMBER = 12345
JOURNAL = ("journal.sqlite3", "journal.sqlite3-wal")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="NO TEST OF folders.sh ON THIS MACHINE: not root")


@dataclass(frozen=True)
class Place:
    """An instance's folder and configuration, below a folder that only root can write."""

    folder: Path
    config: Path

    @property
    def inbox(self) -> Path:
        return self.folder / "inbox"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def run(self) -> str:
        """Lay the folders out; returns what the script said."""
        result = subprocess.run(
            [SCRIPT, "nobody:nogroup", self.folder, self.config], capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
        return result.stdout

    def set_aside(self, name: str) -> Path:
        """Where the script put what had that name."""
        found = list(self.folder.glob(f"{name}.set-aside-*"))
        assert len(found) == 1
        return found[0]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Nothing there yet."""
    return Place(tmp_path / "ocr-watcher", tmp_path / "config.yaml")


@pytest.fixture
def old(place: Place) -> Place:
    """As the units of the older layout left it: one folder for all, which the group can write."""
    for folder in (place.folder, place.inbox):
        folder.mkdir()
        give(folder, 0o2770)
    keep(place.inbox / "a.png", "image", 0o660)
    keep(place.folder / "lock", "77\n")
    keep(place.folder / "status.json", "{}", 0o660)
    write_config(place, place.folder)
    return place


def user_id() -> int:
    return pwd.getpwnam("nobody").pw_uid


def give(path: Path, mode: int, owner: int | None = None) -> None:
    """Make it the service's, or another owner's, of its group."""
    os.chown(path, user_id() if owner is None else owner, pwd.getpwnam("nobody").pw_gid)
    path.chmod(mode)


def keep(path: Path, text: str, mode: int = 0o640, owner: int | None = None) -> Path:
    path.write_text(text)
    give(path, mode, owner)
    return path


def write_config(place: Place, state: Path) -> None:
    place.config.write_text(f"# my own\nwatch: {{settle_s: 3}}\nstate_dir: {state}  # here\nqueue: {{}}\n")


def shape(path: Path) -> tuple[str, str, str]:
    """Mode, owner and group."""
    found = path.stat(follow_symlinks=False)
    return stat.filemode(found.st_mode), path.owner(), path.group()


def leave_journal(folder: Path) -> None:
    """A journal of a killed process: its one entry is in the -wal file only."""
    script = (
        "import os, sqlite3\n"
        "db = sqlite3.connect('journal.sqlite3', isolation_level=None)\n"
        "db.execute('PRAGMA journal_mode = WAL')\n"
        "db.execute('CREATE TABLE attempts (path, count)')\n"
        "db.execute('PRAGMA wal_checkpoint(TRUNCATE)')\n"
        "db.execute('INSERT INTO attempts VALUES (1, 2)')\n"
        "os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=folder, check=True)
    for path in folder.glob("journal*"):
        give(path, 0o640)


def attempts(folder: Path) -> list[tuple[int, int]]:
    db = sqlite3.connect(folder / "journal.sqlite3")
    try:
        return db.execute("SELECT path, count FROM attempts").fetchall()
    finally:
        db.close()


def test_a_first_installation_gets_three_folders(place: Place) -> None:
    assert place.run() == ""
    assert shape(place.folder) == ("drwxr-x---", "root", "nogroup")
    assert shape(place.inbox) == ("drwxrws---", "nobody", "nogroup")
    assert shape(place.state) == ("drwx------", "nobody", "nogroup")


def test_a_second_run_leaves_everything_as_it_is(old: Place) -> None:
    old.run()
    leave_journal(old.state)
    keep(old.state / "lock", "78\n")
    give(old.inbox, 0o2775, MEMBER)  # the administrator's choice by now
    before = {path: (path.lstat().st_ino, path.lstat().st_mode) for path in old.folder.rglob("*")}
    assert old.run() == ""
    assert {path: (path.lstat().st_ino, path.lstat().st_mode) for path in old.folder.rglob("*")} == before


def test_the_older_layout_is_closed_to_the_group_but_for_the_inbox(old: Place) -> None:
    old.run()
    assert shape(old.folder) == ("drwxr-x---", "root", "nogroup")
    assert shape(old.inbox) == ("drwxrws---", "nobody", "nogroup")
    assert shape(old.state) == ("drwx------", "nobody", "nogroup")
    assert (old.inbox / "a.png").read_text() == "image"
    assert sorted(path.name for path in old.folder.iterdir()) == ["inbox", "state"]


def test_attempts_are_kept_also_those_in_the_wal_file_alone(old: Place) -> None:
    leave_journal(old.folder)
    assert (old.folder / "journal.sqlite3-wal").stat().st_size > 0
    old.run()
    assert not list(old.folder.glob("journal*"))
    for name in JOURNAL:
        assert shape(old.state / name) == ("-rw-------", "nobody", "nogroup")
    assert attempts(old.state) == [(1, 2)]


def test_a_migration_that_was_broken_off_is_finished(old: Place) -> None:
    leave_journal(old.folder)
    shutil.copytree(old.folder, old.state, ignore=lambda *_: ["inbox", "lock", "journal.sqlite3"])
    for path in (old.state, *old.state.iterdir()):
        give(path, 0o700 if path.is_dir() else 0o600)
    (old.folder / "journal.sqlite3-wal").unlink()
    os.chown(old.folder, 0, -1)
    old.run()
    assert attempts(old.state) == [(1, 2)]
    assert not list(old.folder.glob("journal*"))


def test_what_a_member_holds_open_holds_nothing_after_it(old: Place) -> None:
    leave_journal(old.folder)
    with (old.folder / "lock").open() as lock, (old.folder / "journal.sqlite3").open() as journal:
        fcntl.flock(lock, fcntl.LOCK_EX)
        old.run()
        assert not (old.folder / "lock").exists()
        assert not (old.state / "lock").exists()
        assert (old.state / "journal.sqlite3").stat().st_ino != os.fstat(journal.fileno()).st_ino


@pytest.mark.parametrize("name", JOURNAL)
@pytest.mark.parametrize("kind", ["link", "dangling", "hard link", "a member's", "group-writable", "folder"])
def test_a_journal_that_may_be_a_members_is_set_aside_and_not_followed(
    old: Place, tmp_path: Path, kind: str, name: str
) -> None:
    leave_journal(old.folder)
    planted = old.folder / name
    target = keep(tmp_path / "target", "not yours", 0o600, 0)
    planted.unlink()
    match kind:
        case "link":
            planted.symlink_to(target)
        case "dangling":
            planted.symlink_to(tmp_path / "nowhere")
        case "hard link":
            planted.hardlink_to(target)
        case "a member's":
            keep(planted, "mine", 0o640, MEMBER)
        case "group-writable":
            keep(planted, "mine", 0o660)
        case _:
            planted.mkdir()
    was = shape(target)
    assert "cannot be trusted" in old.run()
    assert shape(target) == was
    assert target.read_text() == "not yours"
    assert not (tmp_path / "nowhere").exists()
    assert list(old.state.iterdir()) == []
    # The other half of the journal with it.
    for half in JOURNAL:
        assert os.path.lexists(old.set_aside(half))


def test_a_link_in_the_inboxs_place_is_not_followed(old: Place, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o700)
    old.inbox.rename(old.folder / "mine")
    old.inbox.symlink_to(victim)
    os.lchown(old.inbox, MEMBER, -1)
    said = old.run()
    assert shape(victim) == ("drwx------", "root", "root")
    assert shape(old.inbox) == ("drwxrws---", "nobody", "nogroup")
    assert old.set_aside("inbox").is_symlink()
    assert f"{old.folder}: left as it is: mine\n" in said
    assert (old.folder / "mine/a.png").read_text() == "image"


def test_a_link_of_roots_in_the_inboxs_place_is_an_administrators(old: Place, tmp_path: Path) -> None:
    elsewhere = tmp_path / "scans"
    elsewhere.mkdir(mode=0o755)
    shutil.rmtree(old.inbox)
    old.inbox.symlink_to(elsewhere)
    assert f"{old.inbox} is a link of root's" in old.run()
    assert old.inbox.readlink() == elsewhere
    assert shape(elsewhere) == ("drwxr-xr-x", "root", "root")


def test_a_folder_or_file_of_a_members_in_the_inboxs_place(old: Place) -> None:
    give(old.inbox, 0o700, MEMBER)
    old.run()
    assert shape(old.inbox) == ("drwxrws---", "nobody", "nogroup")
    assert (old.inbox / "a.png").read_text() == "image"
    shutil.rmtree(old.inbox)
    keep(old.inbox, "a file")
    old.run()
    assert old.set_aside("inbox").read_text() == "a file"
    assert old.inbox.is_dir()


@pytest.mark.parametrize("kind", ["link", "a member's folder", "file"])
def test_what_a_member_put_in_the_states_place_is_set_aside(old: Place, tmp_path: Path, kind: str) -> None:
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o755)
    match kind:
        case "link":
            old.state.symlink_to(victim)
        case "file":
            keep(old.state, "mine")
        case _:
            old.state.mkdir()
            keep(old.state / "journal.sqlite3", "mine")
            give(old.state, 0o770, MEMBER)
    old.run()
    assert os.path.lexists(old.set_aside("state"))
    assert shape(victim) == ("drwxr-xr-x", "root", "root")
    assert shape(old.state) == ("drwx------", "nobody", "nogroup")
    assert list(old.state.iterdir()) == []


@pytest.mark.parametrize("name", ["state", "journal"])
def test_a_state_folder_below_that_the_group_could_write_is_closed(old: Place, name: str) -> None:
    """As the README had it for instances: state_dir somewhere below."""
    below = old.folder / name
    below.mkdir()
    leave_journal(below)
    lock = keep(below / "lock", "77\n")
    give(below, 0o770)
    write_config(old, below)
    text = old.config.read_text()
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert f"{below} is closed to the group" in old.run()
        assert not lock.exists()
    assert shape(below) == ("drwx------", "nobody", "nogroup")
    assert attempts(below) == [(1, 2)]
    assert old.config.read_text() == text


def test_a_state_folder_with_folders_in_it_is_only_told_of(old: Place) -> None:
    """It may hold the inbox, which the members must reach."""
    below = old.folder / "all"
    (below / "in").mkdir(parents=True)
    give(below, 0o2770)
    write_config(old, below)
    assert f"{old.config}: state_dir is {below}" in old.run()
    assert shape(below) == ("drwxrws---", "nobody", "nogroup")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("state_dir: {old}\n", "state_dir: {new}\n"),
        ("a: 1\r\nstate_dir: {old}/\r\nb: 2\r\n", "a: 1\r\nstate_dir: {new}\r\nb: 2\r\n"),
        ('# x\nstate_dir:   "{old}"   # mine\n\ny: {{}}', '# x\nstate_dir:   "{new}"   # mine\n\ny: {{}}'),
        ("state_dir: '{old}/.'\n", "state_dir: '{new}'\n"),
        ("x: {{state_dir: {old}}}\nstate_dir: {old}\n", "x: {{state_dir: {old}}}\nstate_dir: {new}\n"),
    ],
)
def test_of_the_administrators_configuration_one_line_is_changed(old: Place, before: str, after: str) -> None:
    names = {"old": old.folder, "new": old.state}
    old.config.write_bytes(before.format(**names).encode())
    give(old.config, 0o604)
    was = shape(old.config)
    said = old.run()
    assert f"{old.config}: changed one line, state_dir is {old.state}" in said
    assert old.config.read_bytes() == after.format(**names).encode()
    assert shape(old.config) == was
    backup = old.config.with_name("config.yaml.bak")
    assert str(backup) in said
    assert backup.read_bytes() == before.format(**names).encode()


def test_a_state_folder_elsewhere_is_nobody_elses_business(old: Place, tmp_path: Path) -> None:
    write_config(old, tmp_path / "elsewhere")
    text = old.config.read_text()
    old.run()
    assert old.config.read_text() == text
    assert not (tmp_path / "elsewhere").exists()


def test_a_configuration_that_does_not_say_it_on_a_line_is_told_of(old: Place) -> None:
    old.config.write_text(f"{{state_dir: {old.folder}}}\n")
    assert f"set it to {old.state}" in old.run()
    assert old.config.read_text() == f"{{state_dir: {old.folder}}}\n"


def test_a_configuration_as_it_was_shipped_is_replaced_and_kept(old: Place) -> None:
    shutil.copy(OLD / "config.yaml", old.config)
    old.config.with_name("config.yaml.bak").write_text("an older backup")
    old.run()
    assert old.config.read_bytes() == (SCRIPT.parent / "config.yaml").read_bytes()
    assert old.config.with_name("config.yaml.bak").read_text() == "an older backup"
    (backup,) = old.config.parent.glob("config.yaml.bak-*")
    assert backup.read_bytes() == (OLD / "config.yaml").read_bytes()


def test_the_shipped_configurations_of_older_versions_are_known() -> None:
    before_http = (SCRIPT.parent / "config.yaml").read_text().partition("# Documents by HTTP")[0]
    assert hashlib.sha256(before_http.encode()).hexdigest() in SCRIPT.read_text()
    digest = hashlib.sha256((OLD / "config.yaml").read_bytes()).hexdigest()
    assert digest in SCRIPT.read_text()


def test_caches_go_but_models_that_cannot_be_fetched_again_stay(old: Place, tmp_path: Path) -> None:
    victim = keep(tmp_path / "victim", "not yours", 0o600, 0)
    for folder in (".cache/matplotlib", ".paddlex/official_models/m"):
        (old.folder / folder).mkdir(parents=True)
    models = old.folder / ".paddlex/official_models/m"
    keep(models / "inference.yml", "model", 0o660, MEMBER)
    (models / "link").symlink_to(victim)
    (models / "hard").hardlink_to(victim)
    give(models, 0o777, MEMBER)
    assert "moved to" in old.run()
    assert sorted(path.name for path in old.folder.iterdir()) == ["inbox", "state"]
    moved = old.state / ".paddlex/official_models/m"
    assert shape(moved) == ("drwx------", "nobody", "nogroup")
    assert [path.name for path in moved.iterdir()] == ["inference.yml"]
    assert shape(moved / "inference.yml")[1] == "nobody"
    assert shape(victim) == ("-rw-------", "root", "nogroup")
    assert victim.read_text() == "not yours"


def test_caches_without_models_go(old: Place) -> None:
    (old.folder / ".paddlex/temp").mkdir(parents=True)
    old.run()
    assert sorted(path.name for path in old.folder.iterdir()) == ["inbox", "state"]
