"""Whatever an inbox can be, in the real daemon: odd names and times, odd kinds, mounts, a full disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from ocr_watcher import config, names
from ocr_watcher.service import lock
from ocr_watcher.verbs import status
from tests.support import daemon, dot, error_of, record, sidecar_of, until, write_config

if TYPE_CHECKING:
    from collections.abc import Iterator

as_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root may mount, make devices and give files away"
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_config(tmp_path)
    return tmp_path


def records(inbox: Path) -> list[str]:
    return sorted(name for name in os.listdir(inbox) if name.endswith(".json"))


# -- names -------------------------------------------------------------------------------------

STEMS = (
    "line\nbreak",
    "\r\t\x1b[31m",
    "日本語のファイル",
    "Ελληνικά кириллица עברית العربية",
    "👩‍👩‍👧‍👦",
    "nfc é and nfd e\u0301",
    "right-to-left \u202egnp",
    "\udcff\udcfe\udc80",  # as Python shows bytes that are no UTF-8
    "quote\" and 'quote' and `tick`",
    "back\\slash and $HOME and %s and {x}",
    " blanks ",
    "-rf",
    "e" * 251,
    "ü" * 125 + "u",
    "\udcff" * 251,
    "x.png.error",
)


def test_every_name_ends_with_its_record_beside_it(home: Path) -> None:
    inbox = home / "inbox"
    files = [f"{stem}.png" for stem in STEMS]
    assert sum(len(os.fsencode(name)) == 255 for name in files) == 3
    good, bad = dot(home / "good.png").read_bytes(), b"no image"
    bads = [f"{'f' + name[1:] if len(os.fsencode(name)) == 255 else 'bad ' + name}" for name in files]
    for name, content in [*((n, good) for n in files), *((n, bad) for n in bads)]:
        if name in files[::2]:  # half of them before the start
            (inbox / name).write_bytes(content)
    with daemon(home) as running:
        running.wait_for("scan.done")
        for name, content in [*((n, good) for n in files[1::2]), *((n, bad) for n in bads)]:
            (inbox / name).write_bytes(content)
        until(lambda: len(records(inbox)) == len(files) + len(bads))
        assert running.stop() == 0
    for name in files:
        document = sidecar_of(inbox / name)
        assert (document["text"], document["source"]["name"]) == ("48x64", names.printable(name))
    for name in bads:
        assert error_of(inbox / name)["error"]["code"] == "unsupported_format"
    expected = [names.records_of(name).sidecar for name in files] + [
        names.records_of(name).error for name in bads
    ]
    assert records(inbox) == sorted(expected)
    assert len(os.listdir(inbox)) == 2 * (len(files) + len(bads))
    print(f"{len(files)} names, each good and bad: {len(files)} sidecars, {len(bads)} error records")


def test_the_same_stem_with_every_extension(home: Path) -> None:
    inbox = home / "inbox"
    files = [
        f"scan.{end}" for end in ("png", "PNG", "Png", "jpg", "jpeg", "bmp", "tif", "tiff", "webp", "gif")
    ]
    with daemon(home) as running:
        running.wait_for("daemon.ready")
        for width, name in enumerate(files, 20):
            dot(inbox / name, (width, 10))
        running.wait_for("ocr.done", len(files))
        assert running.stop() == 0
    for width, name in enumerate(files, 20):
        assert sidecar_of(inbox / name)["text"] == f"10x{width}"
    assert records(inbox) == sorted(f"{name}.json" for name in files)
    print(f"{len(files)} extensions, one stem: {len(files)} sidecars")


@as_root
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed: root may read all")
def test_a_file_that_may_not_be_read_is_told_whatever_its_name_and_stops_nothing(home: Path) -> None:
    """The name is part of what the operating system says, and the record of that must be valid."""
    write_config(home, logging={"level": "debug"})
    inbox = home / "inbox"
    bad = inbox / "\udcff\udcfe.png"
    dot(bad)
    bad.chmod(0o600)
    os.chown(bad, 12345, 12345)
    # What lets root read everything is taken away, so that permissions bind the daemon as any user.
    prefix = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-chown"]
    with daemon(home, {"FAKE_PAUSE_S": "0.05"}, prefix=prefix) as running:
        levels = [event["level"] for event in running.wait_for("ocr.failed", 4)]
        assert levels[:4] == ["warning", "debug", "debug", "debug"]  # the cause is told once
        dot(inbox / "good.png")
        running.wait_for("ocr.done")
        error = error_of(bad)["error"]
        assert (error["code"], error["will_retry"]) == ("unreadable", True)
        assert r"\xff\xfe.png" in error["message"]
        bad.chmod(0o644)
        running.wait_for("ocr.done", 2)
        assert running.stop() == 0
    assert sidecar_of(bad)["status"] == "ok"


# -- times -------------------------------------------------------------------------------------

_YEAR_NS = 365 * 24 * 3600 * 10**9


def test_neither_modification_times_nor_the_wall_clock_matter(home: Path) -> None:
    """Times from 1965 to 2300, while the wall clock of the process jumps about at every look."""
    inbox = home / "inbox"
    times = {f"{1970 + years}.png": years * _YEAR_NS for years in (-5, 0, 1, 30, 67, 68, 90, 330)}
    with daemon(home, {"FAKE_CLOCK": "1"}) as running:
        running.wait_for("daemon.ready")
        for name, mtime_ns in times.items():
            dot(home / name)
            os.utime(home / name, ns=(mtime_ns, mtime_ns))
            shutil.copy2(home / name, inbox / name)
        running.wait_for("ocr.done", len(times))
        # Set back and forth afterwards: another version, which is read again.
        for name, mtime_ns in times.items():
            os.utime(inbox / name, ns=(mtime_ns + 1, mtime_ns + 1))
            (inbox / f"{name}.json").unlink()
        running.wait_for("ocr.done", 2 * len(times))
        assert running.stop() == 0
        assert len(running.events("file.queued")) == 2 * len(times)
    for name, mtime_ns in times.items():
        assert sidecar_of(inbox / name)["source"]["mtime_ns"] == mtime_ns + 1
    with daemon(home, {"FAKE_CLOCK": "1"}) as running:
        (scan,) = running.wait_for("scan.done")
        assert (scan["found"], scan["current"], scan["queued"]) == (len(times), len(times), 0)
        assert running.stop() == 0
    print(f"{len(times)} times from 1965 to 2300, wall clock jumping: each read once a version")


# -- files that change while they are read ---------------------------------------------------------


def picture(path: Path, size: tuple[int, int]) -> Path:
    """A BMP: 16x12 and 12x16 take the same number of bytes. All have the same time."""
    Image.new("L", size, 255).save(path)
    os.utime(path, ns=(1, 1))
    return path


def test_an_image_replaced_while_it_is_read_ends_with_the_new_content(home: Path) -> None:
    inbox = home / "inbox"
    path = picture(inbox / "a.bmp", (16, 12))
    old = path.stat()
    with daemon(home, {"FAKE_READ_S": "0.5"}) as running:
        until((home / "reading").exists)
        picture(home / "new.bmp", (12, 16)).rename(path)
        new = path.stat()
        assert (new.st_size, new.st_mtime_ns) == (old.st_size, old.st_mtime_ns)  # only the inode tells
        running.wait_for("ocr.done")
        assert len(running.events("file.changed")) == 1
        assert running.stop() == 0
    assert sidecar_of(path)["text"] == "16x12"
    assert records(inbox) == ["a.bmp.json"]
    print("replaced during OCR by a file of the same size and time: 1 result, of the new content")


def test_an_image_linked_and_overwritten_while_it_is_read_ends_with_the_new_content_twice(home: Path) -> None:
    inbox = home / "inbox"
    path = dot(inbox / "a.png")
    with daemon(home, {"FAKE_READ_S": "0.5"}) as running:
        until((home / "reading").exists)
        os.link(path, inbox / "b.png")  # the same file under two names
        path.write_bytes(dot(home / "new.png", (30, 20)).read_bytes())
        until(lambda: records(inbox) == ["a.png.json", "b.png.json"])
        running.wait_for("ocr.done", 2)
        assert running.stop() == 0
        assert len(running.events("ocr.done")) == 2
    assert sidecar_of(inbox / "a.png")["text"] == sidecar_of(inbox / "b.png")["text"] == "20x30"
    print("a second name and new content during OCR: 2 sidecars of the new content")


# -- other kinds -------------------------------------------------------------------------------


def test_pipes_sockets_devices_folders_and_links_with_an_images_name_are_left_alone(home: Path) -> None:
    inbox = home / "inbox"
    kinds = ["pipe", "open-pipe", "socket", "folder", "link", "dangling", "loop"]
    os.mkfifo(inbox / "pipe.png")
    os.mkfifo(inbox / "open-pipe.png")
    writer = os.open(inbox / "open-pipe.png", os.O_RDWR)
    os.write(writer, dot(home / "good.png").read_bytes())
    (inbox / "folder.png").mkdir()
    (inbox / "link.png").symlink_to(home / "good.png")
    (inbox / "dangling.png").symlink_to("nowhere")
    (inbox / "loop.png").symlink_to("loop.png")
    if os.geteuid() == 0:
        os.mknod(inbox / "character.png", 0o666 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero
        os.mknod(inbox / "block.png", 0o666 | stat.S_IFBLK, os.makedev(7, 255))
        kinds += ["character", "block"]
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(inbox):  # its path may have 108 bytes
        listener.bind("socket.png")
        with daemon(home) as running:
            running.wait_for("file.ignored", len(kinds))
            dot(inbox / "good.png")
            running.wait_for("ocr.done")
            assert running.stop() == 0
            ignored = {Path(event["path"]).stem for event in running.events("file.ignored")}
            assert len(running.events("file.queued")) == 1
    os.close(writer)
    assert ignored == set(kinds)
    assert records(inbox) == ["good.png.json"]
    print(f"{len(kinds)} things that are no files: ignored, each said once")


@as_root
def test_records_belong_to_the_owner_of_the_image_and_have_its_mode(home: Path) -> None:
    inbox = home / "inbox"
    owners = {"a.png": (1234, 5678, 0o640), "b.png": (0, 1, 0o600), "c.png": (65534, 65534, 0o444)}
    for name, (user, group, mode) in owners.items():
        for path in (dot(home / name), home / f"bad-{name}"):
            path.touch()
            os.chown(path, user, group)
            path.chmod(mode)
            path.rename(inbox / path.name)
    with daemon(home) as running:
        until(lambda: len(records(inbox)) == 6)
        assert running.stop() == 0
    for name, (user, group, mode) in owners.items():
        for path in (inbox / f"{name}.json", inbox / f"bad-{name}.error.json"):
            status = path.stat()
            assert (status.st_uid, status.st_gid) == (user, group)
            assert stat.S_IMODE(status.st_mode) == (mode | 0o600) & 0o666
    print("6 records with the owner, group and mode of their images")


# -- mounts and full disks -----------------------------------------------------------------------


@contextlib.contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[None]:
    """A small disk, mounted on `folder` while inside."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], check=True)
    try:
        yield
    finally:
        # Busy for as long as somebody has a file of it open.
        until(lambda: subprocess.run(["umount", folder], check=False, capture_output=True).returncode == 0)


@as_root
@pytest.mark.parametrize("mode", ["native", "polling"])
def test_an_inbox_may_be_unmounted_and_mounted_again(home: Path, mode: str) -> None:
    write_config(home, watch={"mode": mode, "poll_interval_s": 0.5})
    inbox = home / "inbox"
    here = [dot(inbox / "below-0.png")]
    with daemon(home) as running:
        running.wait_for("ocr.done")
        for turn in range(3):
            with tmpfs(inbox, "1m"):
                dot(inbox / f"on-{turn}.png")
                until((inbox / f"on-{turn}.png.json").exists)
                dot(inbox / f"on-{turn}-again.png")  # and once more, when the new watch is there
                until((inbox / f"on-{turn}-again.png.json").exists)
                assert sidecar_of(inbox / f"on-{turn}.png")["text"] == "48x64"
            here.append(dot(inbox / f"below-{turn + 1}.png"))
            until(here[-1].with_name(f"{here[-1].name}.json").exists)
        assert running.stop() == 0
        done = [event["path"] for event in running.events("ocr.done")]
    assert len(done) == len(set(done)) == 10
    assert records(inbox) == sorted(f"{path.name}.json" for path in here)
    print(f"{mode}: mounted and unmounted 3 times, {len(done)} files done, each once")


@as_root
@pytest.mark.parametrize("also_state", [False, True], ids=["inbox", "inbox, state and log"])
def test_a_full_disk_leaves_no_half_record_and_all_is_done_once_there_is_room(
    home: Path, also_state: bool
) -> None:
    disk = home / "disk"
    disk.mkdir()
    inbox = disk / "inbox"
    write_config(
        home,
        watch={"inbox": "disk/inbox", "rescan_interval_s": 3600},
        state_dir="disk/state" if also_state else "state",
        logging={"file": "disk/log" if also_state else "log"},
    )
    files = [f"{number}.png" for number in range(8)]
    with tmpfs(disk, "512k"):
        inbox.mkdir()
        content = dot(home / "good.png").read_bytes()
        for name in files:
            (inbox / f"{name}.part").write_bytes(content)
        (inbox / "bad.png.part").write_text("no image")
        with daemon(home, {"FAKE_PAUSE_S": "0.2"}) as running:
            running.wait_for("scan.done")
            with (disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
                while True:
                    filler.write(bytes(4096))
            for name in (*files, "bad.png"):
                (inbox / f"{name}.part").rename(inbox / name)  # takes no room
            failed: set[str] = set()

            def all_failed() -> bool:
                failed.update(event["path"] for event in running.events("ocr.failed"))
                failed.update(event["path"] for event in running.events("sidecar.failed"))
                assert records(inbox) == []
                return len(failed) == 9

            until(all_failed)
            assert shutil.disk_usage(disk).free == 0
            assert not running.ended
            (disk / "filler").unlink()
            until(lambda: len(records(inbox)) == 9)
            assert running.stop() == 0
            tries = len(running.events("ocr.failed"))
        for name in files:
            assert sidecar_of(inbox / name)["status"] == "ok"
        assert error_of(inbox / "bad.png")["error"]["attempts"] == 1
        for name in records(inbox):
            record(inbox / name)
        assert len(os.listdir(inbox)) == 18
    print(f"a full disk of 512 KiB: {tries} failed tries, no half record; 8 sidecars, 1 error record")


@as_root
@pytest.mark.parametrize("second", [False, True], ids=["the first start", "a later start"])
def test_a_full_disk_under_the_state_folder_keeps_nobody_from_starting(home: Path, second: bool) -> None:
    disk = home / "disk"
    disk.mkdir()
    write_config(home, state_dir="disk/state")
    with tmpfs(disk, "512k"):
        (disk / "state").mkdir()
        if second:
            with daemon(home) as running:
                running.wait_for("daemon.ready")
                assert running.stop() == 0
        with (disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(4096))
        dot(home / "inbox" / "a.png")
        with daemon(home) as running:
            running.wait_for("ocr.done")
            # The page that the lock file had is written again; a first one has no place.
            assert lock.running(disk / "state") == (running.pid if second else 0)
            assert running.stop() == 0


# -- files that wait ---------------------------------------------------------------------------


def test_files_in_whose_place_somebody_elses_records_stand_keep_nobody_waiting(home: Path) -> None:
    """A photo export with a JSON file of its own for each picture: far more than the queue holds."""
    write_config(home, queue={"max_size": 4}, watch={"rescan_interval_s": 1})
    inbox = home / "inbox"
    count = 60
    for number in range(count):
        dot(inbox / f"IMG{number}.png")
        (inbox / f"IMG{number}.png.json").write_text('{"title": "IMG"}')
    with daemon(home, {"FAKE_PAUSE_S": "0.01"}) as running:
        running.wait_for("ocr.failed", count)
        for number in range(20):
            dot(inbox / f"good{number}.png")
        running.wait_for("ocr.done", 20, seconds=20)
        (inbox / "IMG7.png.json").unlink()
        (inbox / "IMG8.png.json").rename(inbox / "IMG8.json")
        dot(inbox / "IMG9.png", (30, 20))  # another picture: said again
        running.wait_for("ocr.done", 22)
        running.wait_for("ocr.failed", count + 1)
        assert running.stop() == 0
        assert len(running.events("ocr.failed")) == count + 1
        assert {event["code"] for event in running.events("ocr.failed")} == {"output_exists"}
    with daemon(home) as running:  # nothing of it is said again at the next start
        running.wait_for("scan.done")
        dot(inbox / "last.png")
        running.wait_for("ocr.done")
        assert running.stop() == 0
        assert running.events("ocr.failed") == []
        assert len(running.events("file.queued")) == 1
    assert sidecar_of(inbox / "IMG7.png")["status"] == sidecar_of(inbox / "IMG8.png")["status"] == "ok"
    assert (inbox / "IMG6.png.json").read_text() == '{"title": "IMG"}'
    files = status.collect(config.load(home / "config.yaml")).files
    assert (files.waiting, files.retrying, files.done) == (58, 58, 23)


@pytest.mark.parametrize("folder", [None, "text"])
def test_a_file_in_whose_outputs_place_somebody_elses_stands_is_told_once(
    home: Path, folder: str | None
) -> None:
    records = home / (folder or "inbox")
    records.mkdir(exist_ok=True)
    write_config(
        home,
        watch={"rescan_interval_s": 1},
        output={"formats": "txt", **({"folder": folder} if folder else {})},
    )
    inbox = home / "inbox"
    (records / "a.png.txt").write_text("mine")
    dot(inbox / "a.png")
    with daemon(home, {"FAKE_PAUSE_S": "0.01"}) as running:
        running.wait_for("ocr.failed")
        for number in range(3):  # each is found by a scan or an event of its own
            dot(inbox / f"good{number}.png")
            running.wait_for("ocr.done", number + 1)
        assert len(running.events("ocr.failed")) == 1
        assert record(records / "a.png.error.json")["error"]["format"] == "txt"
        (records / "a.png.txt").rename(records / "mine.txt")
        running.wait_for("ocr.done", 4)
        assert running.stop() == 0
        assert len(running.events("ocr.failed")) == 1
    assert sorted(path.name for path in records.glob("a.png.*")) == ["a.png.json", "a.png.txt"]
    assert (records / "mine.txt").read_text() == "mine"


# -- folders with odd rights -------------------------------------------------------------------


@contextlib.contextmanager
def append_only(folder: Path) -> Iterator[None]:
    """Files can be made in the folder, but neither renamed nor removed."""
    if subprocess.run(["chattr", "+a", folder], check=False, capture_output=True).returncode:
        pytest.skip("NO FOLDER CAN BE MADE APPEND-ONLY HERE: not root, or another file system")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-a", folder], check=True)


@pytest.mark.skipif(shutil.which("chattr") is None, reason="chattr is not installed")
def test_a_folder_where_nothing_can_be_renamed_fills_with_nothing(home: Path) -> None:
    write_config(home, logging={"level": "debug"}, watch={"rescan_interval_s": 1})
    inbox = home / "inbox"
    dot(inbox / "a.png")
    (inbox / "bad.png").write_text("no image")
    script = {"FAKE_PAUSE_S": "0.02", "FAKE_READS": "1"}
    with append_only(inbox):
        for _ in range(2):  # the next start leaves nothing either
            with daemon(home, script) as running:
                running.wait_for("ocr.failed", 8)
                assert sum(event["level"] == "warning" for event in running.events("ocr.failed")) <= 4
                assert running.stop() == 0
        assert len(os.listdir(inbox)) == 3
        (home / "reads").touch()
        assert len((home / "reads").read_text().splitlines()) <= 2  # nor is anything read for nothing
        with daemon(home, script) as running:
            running.wait_for("ocr.failed", 2)
            subprocess.run(["chattr", "-a", inbox], check=True)
            until(lambda: records(inbox) == ["a.png.json", "bad.png.error.json"])
            assert running.stop() == 0
            assert len([e for e in running.events("file.leftover") if not e["removed"]]) <= 1
    assert len(os.listdir(inbox)) == 4


# -- trees -------------------------------------------------------------------------------------


def test_what_lies_too_deep_is_said_once_and_is_not_waited_for(home: Path) -> None:
    """Deeper than any path can tell: 2,500 levels."""
    inbox = home / "inbox"
    try:
        here = os.open(inbox, os.O_RDONLY)
        content = dot(home / "good.png").read_bytes()
        for _ in range(2500):
            os.mkdir("d", dir_fd=here)
            below = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        with os.fdopen(os.open("deep.png", os.O_CREAT | os.O_WRONLY, dir_fd=here), "wb") as file:
            file.write(content)
        os.close(here)
        dot(inbox / "d" / "d" / "good.png")
        write_config(home, watch={"rescan_interval_s": 1})
        with daemon(home) as running:
            running.wait_for("ocr.done")
            running.wait_for("daemon.ready")
            dot(inbox / "d" / "more.png")
            running.wait_for("ocr.done", 2)
            dot(inbox / "d" / "again.png")
            running.wait_for("ocr.done", 3)
            (ignored,) = running.events("file.ignored")
            assert "path is longer than" in ignored["reason"]
            assert [event["mode"] for event in running.events("watch.started")] == ["native"]
            now = status.collect(config.load(home / "config.yaml"))
            assert now.files.waiting == 0
            assert now.files.done == 3
            assert "path is longer than" in now.troubles[0]
            began = time.monotonic()
            assert running.stop() == 0
            assert time.monotonic() - began < 5
    finally:
        subprocess.run(["rm", "-rf", inbox / "d"], check=True)
