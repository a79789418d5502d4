"""The scan and the observer on real folders; the choice of mode on made-up mount tables."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from watchdog.events import FileCreatedEvent
from watchdog.observers.api import EventEmitter
from watchdog.observers.inotify_c import InotifyFD

from ocr_watcher import names
from ocr_watcher.inbox import watch
from ocr_watcher.inbox.scan import Found, Leftover, OutOfReach, walk
from ocr_watcher.inbox.watch import Event, Events, Watcher, _Handler
from tests.support import RULES, Log, unprivileged, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from watchdog.observers.api import BaseObserver


def mounts(tmp_path: Path, *rows: str) -> Path:
    table = tmp_path / "mountinfo"
    table.write_text("".join(f"{row}\n" for row in rows))
    return table


def test_the_file_system_is_that_of_the_device_or_the_longest_mount_point(tmp_path: Path) -> None:
    device = tmp_path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    root = "22 1 0:1 / / rw - ext4 /dev/a rw"
    assert (
        watch.file_system_of(tmp_path, mounts(tmp_path, root, f"30 22 {number} / /x rw - nfs4 h:/ rw"))
        == "nfs4"
    )
    longer = f"31 22 0:99 / {tmp_path} rw shared:1 - fuse.sshfs h:/ rw"
    assert watch.file_system_of(tmp_path, mounts(tmp_path, root, longer)) == "fuse.sshfs"
    assert watch.file_system_of(tmp_path / "none", mounts(tmp_path, root)) == ""
    assert watch.file_system_of(tmp_path, tmp_path / "none") == ""
    assert watch.file_system_of(tmp_path, mounts(tmp_path, "", "nonsense", root)) == "ext4"


def test_the_mount_table_of_this_machine_is_understood(tmp_path: Path) -> None:
    assert watch.file_system_of(tmp_path) != ""


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("nfs4", True), ("fuse.sshfs", True), ("cifs", True), ("ext4", False), ("", False), ("overlay", False)],
)
def test_network_file_systems_are_polled(kind: str, expected: bool) -> None:
    assert watch.is_network(kind) is expected


def test_the_configured_mode_rules(tmp_path: Path) -> None:
    assert watch.choose_mode("polling", tmp_path)[0] == "polling"
    assert watch.choose_mode("native", tmp_path)[0] == "native"
    assert watch.choose_mode("auto", tmp_path)[0] == "native"


# -- the scan ----------------------------------------------------------------------------------


def scan(
    folder: Path,
    *,
    recursive: bool = True,
    is_current: Callable[[str, os.stat_result], bool] = lambda _path, _status: False,
) -> tuple[dict[str, bool], list[str], list[str]]:
    found: dict[str, bool] = {}
    leftovers, troubles = [], []
    for item in walk(
        str(folder),
        RULES,
        recursive=recursive,
        trouble=lambda where, _error: troubles.append(os.path.relpath(where, folder)),
        is_current=is_current,
    ):
        if isinstance(item, Found):
            found[os.path.relpath(item.path, folder)] = item.records
        elif isinstance(item, Leftover):
            leftovers.append(os.path.relpath(item.path, folder))
    return found, leftovers, troubles


def test_the_scan_finds_images_records_and_leftovers(tmp_path: Path) -> None:
    for name in (
        "a.png",
        "a.png.json",
        "b.JPG",
        "b.JPG.error.json",
        "c.tif",
        "note.txt",
        ".x.png",
        "d.png.tmp",
    ):
        (tmp_path / name).touch()
    (tmp_path / ".ocr-watcher-00000000-00000000.tmp").touch()
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    (tmp_path / "sub" / "deep" / "e.webp").touch()
    (tmp_path / "@eaDir").mkdir()
    (tmp_path / "@eaDir" / "thumb.png").touch()
    found, leftovers, troubles = scan(tmp_path)
    assert found == {"a.png": True, "b.JPG": True, "c.tif": False, "sub/deep/e.webp": False}
    assert leftovers == [".ocr-watcher-00000000-00000000.tmp"]
    assert troubles == []
    assert set(scan(tmp_path, recursive=False)[0]) == {"a.png", "b.JPG", "c.tif"}


def test_the_scan_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x.png").touch()
    (tmp_path / "inbox" / "loop").symlink_to(tmp_path / "inbox")
    (tmp_path / "inbox" / "out").symlink_to(tmp_path / "outside")
    assert scan(tmp_path / "inbox")[0] == {}


def test_a_folder_that_cannot_be_listed_is_told(tmp_path: Path) -> None:
    assert scan(tmp_path / "none") == ({}, [], ["."])


@dataclass
class Ticking:
    """A clock that goes on by a millisecond at each look."""

    now: float = 0.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


@pytest.mark.parametrize("kind", ["records", "images", "folders", "closed folders"])
def test_the_scan_pauses_by_time_whatever_there_is_much_of(tmp_path: Path, kind: str) -> None:
    for number in range(200):
        if "folders" in kind:
            (tmp_path / f"{number}").mkdir(mode=0o755 if kind == "folders" else 0)
        else:
            (tmp_path / (f"{number}.json" if kind == "records" else f"{number}.png")).touch()
    tmp_path.chmod(0o755)
    with contextlib.chdir(tmp_path), unprivileged():
        steps = walk(
            ".",
            RULES,
            recursive=True,
            trouble=lambda _where, _error: None,
            clock=Ticking(),
        )
        pauses = sum(step is None for step in steps)
    # Every five looks at the clock, and there is one at each entry and each folder, up and down.
    assert pauses >= 200 // 5 - 1


def test_a_tree_of_any_depth_needs_few_descriptors_and_is_walked_once(tmp_path: Path) -> None:
    """Two folders at each level, so that there is something left to do on the whole way back up."""
    here, made = os.open(tmp_path, os.O_RDONLY), 0
    while made < 400:
        for name in ("a", "b"):
            os.mkdir(name, dir_fd=here)
        os.close(os.open("x.png", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        below = os.open("a" if made % 2 else "b", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here, made = below, made + 1
    os.close(here)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(os.listdir("/proc/self/fd"))
    with mock.patch.object(os, "open", wraps=os.open) as opened:
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 24, limit[1]))
        try:
            found, _, troubles = scan(tmp_path)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert troubles == []
    assert len(found) == 400
    assert opened.call_count <= 2 * 800 + 1  # each folder on the way down, and the one above it on the way up
    assert len(os.listdir("/proc/self/fd")) == open_now


@pytest.mark.parametrize("also_above", [False, True])
def test_folders_moved_while_they_are_walked_lead_nowhere_else(tmp_path: Path, also_above: bool) -> None:
    """The way back up leads through "..", which is another folder by then."""
    inbox, outside = tmp_path / "inbox", tmp_path / "outside"
    deep = inbox.joinpath(*"abcdefghijklmnopqrstuvwxyz")
    deep.mkdir(parents=True)
    for folder in deep.parents:
        if folder.is_relative_to(inbox):
            (folder / "side").mkdir()
            (folder / "side" / "x.png").touch()
    (deep / "here.png").touch()
    outside.mkdir()
    (outside / "secret.png").touch()
    met, troubles = [], []
    for item in walk(
        str(inbox), RULES, recursive=True, trouble=lambda where, _error: troubles.append(Path(where).name)
    ):
        if isinstance(item, Found):
            met.append(os.path.relpath(item.path, inbox))
            if item.path.endswith("here.png"):
                (inbox / "a" / "b" / "c").rename(outside / "c")
                if also_above:
                    (inbox / "a" / "b").rename(outside / "b")
                    (inbox / "a" / "b").symlink_to(outside)
    assert "secret.png" not in {Path(path).name for path in met}
    expected = {"side/x.png", "a/side/x.png", "a/b/side/x.png"}
    assert expected - set(met) <= ({"a/b/side/x.png"} if also_above else set())
    assert set(troubles) <= ({"b"} if also_above else set())


def test_paths_too_long_to_be_read_are_told(tmp_path: Path) -> None:
    """The scan could go there, whoever else speaks of a path could not."""
    name, here, path = "d" * 100, os.open(tmp_path, os.O_RDONLY), tmp_path
    while len(os.fsencode(path)) + len(name) + 1 < 4095 - len("/x.png.error.json"):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here, path = below, path / name
    long = "y" * (names.MAX_PATH_BYTES - len(os.fsencode(path)) - 1 - 4)
    for file in ("x.png", f"{long}.png", f"{long}z.png"):
        os.close(os.open(file, os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.mkdir("e" * 255, dir_fd=here)
    os.close(here)
    items = list(walk(str(tmp_path), RULES, recursive=True, trouble=lambda _where, _error: None))
    assert {Path(item.path).name for item in items if isinstance(item, Found)} == {"x.png", f"{long}.png"}
    told = {Path(item.path).name for item in items if isinstance(item, OutOfReach)}
    assert told == {f"{long}z.png", "e" * 255}


def test_what_is_done_is_left_out_while_it_has_a_record(tmp_path: Path) -> None:
    for name in ("done.png", "done.png.json", "changed.png", "changed.png.json", "new.png"):
        (tmp_path / name).touch()
    asked = []

    def is_current(path: str, _status: os.stat_result) -> bool:
        asked.append(os.path.basename(path))
        return path.endswith("done.png")

    assert scan(tmp_path, is_current=is_current)[0] == {"changed.png": True, "new.png": False}
    assert sorted(asked) == ["changed.png", "done.png"]


# -- events ------------------------------------------------------------------------------------


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    made = tmp_path / "inbox"
    made.mkdir()
    return made


@pytest.fixture
def events() -> Events:
    return Events(wake=lambda: None)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def watcher(inbox: Path, events: Events, log: Log) -> Iterator[Watcher]:
    made = Watcher((inbox,), "native", recursive=True, events=events, log=log)  # type: ignore[arg-type]
    made.start()
    yield made
    made.stop()


def wait_for(events: Events, wanted: Event) -> None:
    seen: list[Event] = []

    def there() -> bool:
        seen.extend(events.drain())
        return wanted in seen

    until(there, 10)


def test_a_copy_is_noticed_when_it_is_closed(inbox: Path, events: Events, watcher: Watcher, log: Log) -> None:
    assert watcher.is_alive()
    assert [(e["mode"], e["inbox"]) for e in log.named("watch.started")] == [("native", str(inbox))]
    (inbox / "a.png").write_bytes(b"x")
    wait_for(events, Event("file", str(inbox / "a.png"), closed=True))


@pytest.mark.usefixtures("watcher")
def test_a_rename_publishes_a_finished_file(inbox: Path, events: Events) -> None:
    (inbox / "a.part").write_bytes(b"x")
    (inbox / "a.part").rename(inbox / "a.png")
    wait_for(events, Event("file", str(inbox / "a.png"), closed=True))


@pytest.mark.usefixtures("watcher")
def test_moves_from_outside_links_folders_and_removals_are_noticed(
    tmp_path: Path, inbox: Path, events: Events
) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "a.png").rename(inbox / "a.png")
    wait_for(events, Event("file", str(inbox / "a.png")))
    os.link(inbox / "a.png", inbox / "b.png")
    wait_for(events, Event("file", str(inbox / "b.png")))
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole").rename(inbox / "whole")
    wait_for(events, Event("folder", str(inbox / "whole")))
    (inbox / "a.png").unlink()
    wait_for(events, Event("deleted", str(inbox / "a.png")))


def test_a_replaced_inbox_is_watched_again(
    tmp_path: Path, inbox: Path, events: Events, watcher: Watcher, log: Log
) -> None:
    assert not watcher.ensure()
    inbox.rename(tmp_path / "old")
    assert not watcher.ensure()
    assert not watcher.ensure()
    assert len(log.named("watch.inbox_missing")) == 1
    inbox.mkdir()
    assert watcher.ensure()
    assert not watcher.ensure()
    (inbox / "a.png").write_bytes(b"x")
    wait_for(events, Event("file", str(inbox / "a.png"), closed=True))


def test_an_inbox_made_anew_is_watched_again_whatever_its_number(
    inbox: Path, events: Events, watcher: Watcher
) -> None:
    inbox.rmdir()
    emitters = [thread for thread in threading.enumerate() if isinstance(thread, EventEmitter)]
    until(lambda: not any(thread.is_alive() for thread in emitters), 10)
    inbox.mkdir()  # many file systems give it the number of the old one
    assert watcher.ensure()
    assert watcher.is_alive()
    (inbox / "a.png").write_bytes(b"x")
    wait_for(events, Event("file", str(inbox / "a.png"), closed=True))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # it is the subject
def test_a_dead_reader_of_inotify_is_noticed(
    inbox: Path, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise SystemExit  # ends a thread without a word

    monkeypatch.setattr(InotifyFD, "handle_event", fail)
    assert watcher.is_alive()
    (inbox / "a.png").touch()
    until(lambda: not watcher.is_alive(), 10)


def test_no_watches_left_means_polling(inbox: Path, events: Events, log: Log) -> None:
    class Exhausted:
        def start(self) -> None: ...
        def stop(self) -> None: ...
        def join(self, _timeout: float) -> None: ...
        def is_alive(self) -> bool:
            return True

        def schedule(self, *_args: object, **_options: object) -> None:
            raise OSError(28, "No space left on device")

    def make(_unwatched: object) -> BaseObserver:
        return Exhausted()  # type: ignore[return-value] # the operating system's part

    watcher = Watcher((inbox,), "native", recursive=True, events=events, log=log, make_observer=make)  # type: ignore[arg-type]
    watcher.start()
    assert watcher.polls
    (said,) = log.named("watch.started")
    assert said["mode"] == "polling"
    assert "max_user_watches" in said["reason"]


@pytest.fixture
def a_thousand_levels(inbox: Path) -> Iterator[Path]:
    """Their path; removed afterwards, which pytest's own clearing up cannot: it is recursive."""
    yield inbox.joinpath(*["d"] * 1000)
    subprocess.run(["rm", "-rf", inbox / "d"], check=True)


def test_a_thousand_levels_are_watched_from_the_start_and_while_running(
    inbox: Path, events: Events, watcher: Watcher, log: Log, a_thousand_levels: Path
) -> None:
    """More than Python's recursion limit, by which `os.walk` and with it the observer's thread would end."""
    for folder in reversed([a_thousand_levels, *a_thousand_levels.parents]):
        folder.mkdir(exist_ok=True)
    wait_for(events, Event("folder", str(inbox / "d")))
    deep = a_thousand_levels / "deep.png"
    until(lambda: _told_of_a_write(deep, events), 30)
    watcher.stop()
    again = Watcher((inbox,), "native", recursive=True, events=events, log=log)  # type: ignore[arg-type]
    again.start()
    try:
        assert not again.polls
        assert again.is_alive()
        list(events.drain())  # what the first watcher told
        deep.write_bytes(b"xx")
        wait_for(events, Event("file", str(deep), closed=True))
    finally:
        again.stop()


def _told_of_a_write(path: Path, events: Events) -> bool:
    path.write_bytes(b"x")  # again and again, since the first may come before the watch
    return any(event.path == str(path) for event in events.drain())


def test_what_ends_in_another_watcher_is_no_matter(
    tmp_path: Path, events: Events, watcher: Watcher, log: Log
) -> None:
    """Each inbox has its own, and they come and go."""
    (tmp_path / "another").mkdir()
    other = Watcher((tmp_path / "another",), "native", recursive=True, events=events, log=log)  # type: ignore[arg-type]
    other.start()
    assert other.is_alive()
    watcher.stop()
    assert other.is_alive()
    other.stop()


def test_a_folder_is_moved_away_another_takes_its_name_and_both_are_removed(
    tmp_path: Path, inbox: Path, events: Events, watcher: Watcher
) -> None:
    """The watch of the first stays under its old path, and its end would be the end of watchdog's thread."""
    folder, away = inbox / "d", tmp_path / "away"
    folder.mkdir()
    until(lambda: _told_of_a_write(folder / "a.png", events))
    folder.rename(away)
    folder.mkdir()
    until(lambda: _told_of_a_write(folder / "b.png", events))
    shutil.rmtree(folder)
    shutil.rmtree(away)
    (inbox / "last.png").write_bytes(b"x")
    wait_for(events, Event("file", str(inbox / "last.png"), closed=True))
    assert watcher.is_alive()


def test_a_bug_over_an_event_is_told_and_the_inbox_polled(
    inbox: Path, events: Events, watcher: Watcher, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_self: object, _event: object) -> None:
        raise KeyError(b"scripted")

    monkeypatch.setattr("watchdog.observers.inotify.InotifyWatchGroup._build_event_source_path", fail)
    (inbox / "a.png").write_bytes(b"x")
    until(watcher.ensure)
    assert watcher.is_alive()
    assert watcher.polls
    assert log.named("watch.started")[-1]["reason"] == "inotify: KeyError"
    assert len(log.named("watch.trouble")) == 1
    monkeypatch.undo()
    (inbox / "b.png").write_bytes(b"x")  # events still come
    wait_for(events, Event("file", str(inbox / "b.png"), closed=True))


def test_folders_without_a_watch_are_said_and_polled(inbox: Path, events: Events, log: Log) -> None:
    """As with fs.inotify.max_user_watches used up by the time the second folder comes."""
    watcher = Watcher((inbox,), "native", recursive=True, events=events, log=log)  # type: ignore[arg-type]
    watcher.start()
    try:
        assert not watcher.polls
        real = InotifyFD.add_callback

        def exhausted(self: InotifyFD, path: bytes, *rest: Any) -> Any:
            if path.endswith(b"second"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(self, path, *rest)

        with mock.patch.object(InotifyFD, "add_callback", exhausted):
            (inbox / "first").mkdir()
            (inbox / "second").mkdir()
            wait_for(events, Event("folder", str(inbox / "second")))
        assert watcher.ensure()  # look through everything
        assert watcher.polls
        assert "max_user_watches" in log.named("watch.started")[-1]["reason"]
        assert not watcher.ensure()
        (inbox / "first" / "a.png").touch()  # what has a watch is still told at once
        wait_for(events, Event("file", str(inbox / "first" / "a.png"), closed=True))
    finally:
        watcher.stop()


def test_an_error_in_the_handler_is_logged_and_asks_for_a_rescan(events: Events, log: Log) -> None:
    handler = _Handler(events, log)  # type: ignore[arg-type]
    handler.dispatch(FileCreatedEvent(src_path=object()))  # type: ignore[arg-type] # what no observer sends
    assert events.lost


@pytest.mark.usefixtures("watcher")
def test_a_deep_folder_moved_in_is_one_event(tmp_path: Path, inbox: Path, events: Events) -> None:
    deep = tmp_path / "whole"
    try:
        for folder in reversed([deep.joinpath(*["d"] * 1100), *deep.joinpath(*["d"] * 1100).parents]):
            folder.mkdir(exist_ok=True)
        deep.rename(inbox / "whole")
        wait_for(events, Event("folder", str(inbox / "whole")))
        (inbox / "whole").rename(inbox / "again")
        wait_for(events, Event("folder", str(inbox / "again")))
        assert list(events.drain()) == []
        (inbox / "again" / "d" / "a.png").write_bytes(b"x")
        wait_for(events, Event("file", str(inbox / "again" / "d" / "a.png"), closed=True))
    finally:
        subprocess.run(["rm", "-rf", inbox / "whole", inbox / "again", deep], check=True)
