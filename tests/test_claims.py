"""No two instances on one inbox, nor on one in the other's; and nobody else keeps one from starting."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ocr_watcher.errors import UnavailableError
from ocr_watcher.service import claims
from ocr_watcher.service.claims import Claims
from tests.support import daemon, dot, write_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Callable[[], Claims]]:
    """Makes instances of one user; each stands for a process."""
    made: list[Claims] = []

    def make() -> Claims:
        made.append(Claims(tmp_path / "shared"))
        return made[-1]

    yield make
    for one in made:
        one.release()


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    path = tmp_path / "a" / "b" / "c"
    path.mkdir(parents=True)
    return path


def test_one_inbox_one_instance_whatever_path_leads_there(
    tmp_path: Path, inbox: Path, instance: Callable[[], Claims]
) -> None:
    (tmp_path / "link").symlink_to(inbox)
    first, second = instance(), instance()
    first.add(inbox, recursive=True)
    for path in (inbox, tmp_path / "link"):
        with pytest.raises(UnavailableError, match=f"process {os.getpid()} works on it"):
            second.add(path, recursive=True)
    first.release()
    second.add(inbox, recursive=True)


@pytest.mark.parametrize("inner_first", [False, True])
def test_nested_inboxes_are_noticed_where_the_outer_one_reaches_in(
    inbox: Path, instance: Callable[[], Claims], inner_first: bool
) -> None:
    outer = inbox.parents[1]
    order = [inbox, outer] if inner_first else [outer, inbox]
    first, second = instance(), instance()
    first.add(order[0], recursive=True)
    with pytest.raises(
        UnavailableError, match="which is in it" if inner_first else "which it is in"
    ) as caught:
        second.add(order[1], recursive=True)
    assert str(order[0]) in str(caught.value)
    first.release()
    # Without folders below it, the outer one has nothing to do with the inner one.
    first.add(order[0], recursive=order[0] is inbox)
    second.add(order[1], recursive=order[1] is inbox)


def test_neighbours_do_not_exclude_each_other(inbox: Path, instance: Callable[[], Claims]) -> None:
    (inbox.parent / "d").mkdir()
    instance().add(inbox, recursive=True)
    instance().add(inbox.parent / "d", recursive=True)


def test_a_claim_can_be_made_again_also_where_its_file_or_the_inbox_is_another(
    tmp_path: Path, inbox: Path, instance: Callable[[], Claims]
) -> None:
    first, second = instance(), instance()
    first.add(inbox, recursive=True)
    first.add(inbox, recursive=True)
    (file,) = (tmp_path / "shared").glob("*.claim")
    file.unlink()  # as those do that clear temporary folders
    first.add(inbox, recursive=True)
    with pytest.raises(UnavailableError):
        second.add(inbox, recursive=True)
    inbox.rename(inbox.with_name("old"))
    inbox.mkdir()
    first.add(inbox, recursive=True)
    second.add(inbox.with_name("old"), recursive=True)
    with pytest.raises(UnavailableError):
        second.add(inbox, recursive=True)


def test_what_a_killed_process_left_is_no_claim(
    tmp_path: Path, inbox: Path, instance: Callable[[], Claims]
) -> None:
    (tmp_path / "shared").mkdir(mode=0o700)
    for number, text in enumerate(("", "{", "[]", '{"pid": 1}')):
        (tmp_path / "shared" / f"{number}.claim").write_text(text)
    instance().add(inbox, recursive=True)
    assert len(list((tmp_path / "shared").glob("*.claim"))) == 1


@pytest.mark.parametrize("how", ["open to others", "a link", "a file"])
def test_a_shared_folder_that_others_could_use_is_not_used_and_stops_nothing(
    tmp_path: Path, inbox: Path, instance: Callable[[], Claims], how: str
) -> None:
    shared = tmp_path / "shared"
    if how == "open to others":
        shared.mkdir()
        shared.chmod(0o777)
    elif how == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        shared.symlink_to(tmp_path / "elsewhere")
    else:
        shared.touch()
    instance().add(inbox, recursive=True)
    assert list(tmp_path.rglob("*.claim")) == []


def test_the_folder_of_the_service_is_where_all_of_its_user_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "_SERVICE_FOLDER", tmp_path)
    assert claims.shared_folder() == tmp_path
    os.chown(tmp_path, 12345, -1)
    assert claims.shared_folder() == Path(f"/tmp/ocr-watcher-{os.geteuid()}")  # noqa: S108 - only named


# -- in the daemon -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [fcntl.LOCK_SH, fcntl.LOCK_EX])
def test_whoever_locks_the_inbox_does_not_keep_the_service_from_starting(tmp_path: Path, kind: int) -> None:
    write_config(tmp_path)
    dot(tmp_path / "inbox" / "a.png")
    fd = os.open(tmp_path / "inbox", os.O_RDONLY)
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
        with daemon(tmp_path) as running:
            running.wait_for("ocr.done")
            assert running.stop() == 0
    finally:
        os.close(fd)


def test_the_service_is_not_in_the_way_of_whoever_locks_the_inbox(tmp_path: Path) -> None:
    write_config(tmp_path)
    with daemon(tmp_path) as running:
        running.wait_for("daemon.ready")
        subprocess.run(["flock", "--nonblock", tmp_path / "inbox", "true"], check=True)
        assert running.stop() == 0


def test_a_second_daemon_on_a_folder_in_the_inbox_is_69(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    write_config(tmp_path)
    (tmp_path / "inbox" / "sub").mkdir()
    write_config(other, watch={"inbox": str(tmp_path / "inbox" / "sub")})
    with daemon(tmp_path) as running:
        running.wait_for("daemon.ready")
        with daemon(other) as second:
            assert second.wait() == 69
            message = second.events("daemon.failed")[0]["message"]
            assert f"process {running.pid} works on {tmp_path / 'inbox'}" in message
        running.signal(signal.SIGKILL)
        running.wait()
    with daemon(other) as second:  # a claim dies with its process
        second.wait_for("daemon.ready")
        assert second.stop() == 0


def test_the_lock_on_the_state_folder_is_closed_to_others(tmp_path: Path) -> None:
    write_config(tmp_path)
    (tmp_path / ".ocr-watcher").mkdir()
    (tmp_path / ".ocr-watcher" / "lock").touch(0o666)
    with daemon(tmp_path) as running:
        running.wait_for("daemon.ready")
        assert (tmp_path / ".ocr-watcher" / "lock").stat().st_mode & 0o777 == 0o600
        assert running.stop() == 0
