"""The parts of a cluster one by one, without a broker: window, messages, roots, spool, courier."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest

from ocr_watcher import names
from ocr_watcher.cluster import courier, roots
from ocr_watcher.cluster.courier import Courier, CutOffError, End
from ocr_watcher.cluster.guard import Signs, Verdict
from ocr_watcher.cluster.hosts import AWAY_S, Beat, Hosts, as_fields, from_fields
from ocr_watcher.cluster.message import Message
from ocr_watcher.cluster.spool import FOLDERS, Errand, Spool, SpoolError
from ocr_watcher.cluster.window import LOST_S, Window
from ocr_watcher.document import Document, EngineFacts, Line, MemoryUse, Output, Page, Source, Timing
from ocr_watcher.errors import TruncatedError
from ocr_watcher.inbox.places import Places
from ocr_watcher.inbox.ready import Rules
from ocr_watcher.job import Job, Outcome, Stamp
from ocr_watcher.outputs import sidecar
from tests.support import RULES, Clock, error_of, sidecar_of, unprivileged

if TYPE_CHECKING:
    from collections.abc import Iterator


# -- messages -----------------------------------------------------------------------------------


def message(name: str = "scan.png", *parts: str, root: str = "scans", stamp: Stamp | None = None) -> Message:
    return Message(root, "", parts, name, stamp or Stamp(7, 1_700_000_000_123_456_789))


@pytest.mark.parametrize("name", ["scan.png", "Größe.png", "\udcff\udc80.png", 'a"b\\c\n.png'])
def test_a_message_survives_the_broker(name: str) -> None:
    sent = message(name, "März", "b")
    assert Message.from_dict(json.loads(json.dumps(sent.as_dict()))) == sent


def test_the_same_version_is_the_same_job_whoever_offers_it() -> None:
    one = message()
    assert one.id == Message(one.root, "another share", one.parts, one.name, one.stamp).id
    others = [
        message("scan2.png"),
        message("scan.png", "folder"),
        message(root="other"),
        message(stamp=Stamp(8, 1_700_000_000_123_456_789)),
        message(stamp=Stamp(7, 1_700_000_000_123_456_788)),
    ]
    assert len({other.id for other in [one, *others]}) == 6


@pytest.mark.parametrize(
    "change",
    [
        {"name": ".."},
        {"name": "a/b"},
        {"name": ""},
        {"name": 7},
        {"parts": ["..", "etc"]},
        {"parts": ["/etc"]},
        {"parts": None},
        {"parts": ["a\0b"]},
        {"size_bytes": "many"},
        {"root": None},
        {"share": ["x"]},
    ],
)
def test_a_message_that_leads_elsewhere_is_none(change: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Message.from_dict({**message().as_dict(), **change})


def test_a_message_without_a_field_is_none() -> None:
    for field in message().as_dict():
        fields = message().as_dict()
        del fields[field]
        with pytest.raises(KeyError):
            Message.from_dict(fields)


# -- the window ---------------------------------------------------------------------------------


def job(path: Path, number: int = 0) -> Job:
    return Job(path, (), f"{number}.png", Stamp(number, 1), settled=True, queued_at=0.0)


def offered(window: Window, path: Path, count: int) -> list[Message]:
    messages = []
    for number in range(count):
        one = job(path, number)
        sent = Message.of(one, "scans", "")
        assert window.offer(one, sent)
        messages.append(sent)
    return messages


def test_the_window_is_bounded(tmp_path: Path) -> None:
    window = Window(3, Clock())
    messages = offered(window, tmp_path, 3)
    fourth = job(tmp_path, 4)
    assert not window.offer(fourth, Message.of(fourth, "scans", ""))
    assert window.ended(messages[1].id) == job(tmp_path, 1)
    assert window.offer(fourth, Message.of(fourth, "scans", ""))
    assert len(window) == 3
    assert window.ended(messages[1].id) is None


def test_what_is_in_the_broker_is_waited_for(tmp_path: Path) -> None:
    clock = Clock()
    window = Window(3, clock)
    for one in offered(window, tmp_path, 2):
        window.sent(one.id)
    clock.pass_(10 * LOST_S)
    assert window.look([], {"scans": 1}) == []


def test_what_neither_broker_nor_bridge_has_is_lost(tmp_path: Path) -> None:
    clock = Clock()
    window = Window(3, clock)
    first, second = offered(window, tmp_path, 2)
    window.sent(first.id)
    window.sent(second.id)
    assert window.look([(second.id, "host1")], {"scans": 0}) == []
    clock.pass_(LOST_S + 1)
    assert window.look([(second.id, "host1")], {"scans": 0}) == [job(tmp_path, 0)]
    assert [task for task, _ in window.jobs()] == [second.id]


def test_what_has_just_left_the_broker_is_on_its_way(tmp_path: Path) -> None:
    clock = Clock()
    window = Window(3, clock)
    (only,) = offered(window, tmp_path, 1)
    window.sent(only.id)
    clock.pass_(100 * LOST_S)  # behind others
    assert window.look([], {"scans": 1}) == []
    clock.pass_(1)
    assert window.look([], {"scans": 0}) == []  # a bridge has taken it, and has not told yet
    clock.pass_(LOST_S - 2)
    assert window.look([(only.id, "host1")], {"scans": 0}) == []
    clock.pass_(LOST_S - 2)
    assert window.look([], {"scans": 0}) == []  # it has ended, and the event is on its way


def test_what_is_not_sent_yet_is_not_lost(tmp_path: Path) -> None:
    clock = Clock()
    window = Window(3, clock)
    offered(window, tmp_path, 1)
    for _ in range(2):
        clock.pass_(10 * LOST_S)
        assert window.look([], {"scans": 0}) == []
    assert len(window.unsent()) == 1


def test_what_a_host_had_that_went_away_is_lost_also_behind_a_full_queue(tmp_path: Path) -> None:
    clock = Clock()
    window = Window(3, clock)
    (only,) = offered(window, tmp_path, 1)
    window.sent(only.id)
    assert window.look([(only.id, "host1")], {"scans": 9}) == []
    assert window.look([], {"scans": 9}) == []
    clock.pass_(LOST_S - 1)
    assert window.look([], {"scans": 9}) == []
    clock.pass_(2)
    assert window.look([], {"scans": 9}) == [job(tmp_path, 0)]


def test_what_a_host_gave_back_is_in_the_broker_again(tmp_path: Path) -> None:
    clock = Clock()
    window = Window(3, clock)
    (only,) = offered(window, tmp_path, 1)
    window.sent(only.id)
    assert window.look([(only.id, "host1")], {"scans": 0}) == []
    window.returned(only.id)
    for _ in range(3):
        clock.pass_(LOST_S)
        assert window.look([], {"scans": 1}) == []


# -- hosts --------------------------------------------------------------------------------------


def test_a_host_is_there_as_long_as_it_is_heard() -> None:
    clock = Clock()
    hosts = Hosts(clock)
    hosts.hear("bridge@b", Beat(tasks=("2",)))
    clock.pass_(AWAY_S - 1)
    hosts.hear("bridge@a", Beat(tasks=("1", "3")))
    assert [host.name for host in hosts.present()] == ["bridge@a", "bridge@b"]
    clock.pass_(2)
    assert dict(hosts.in_hand()) == {"1": "bridge@a", "3": "bridge@a"}
    hosts.leave("bridge@a")
    assert hosts.present() == []


def test_a_heartbeat_survives_the_broker() -> None:
    beat = Beat(tasks=("1",), daemon=True, queue=3, rss_mb=300.5, roots=("scans",), done=9)
    event = json.loads(json.dumps({"type": "worker-heartbeat", **as_fields(beat)}))
    assert from_fields(Beat, event) == beat
    assert from_fields(Beat, {"type": "worker-heartbeat", "active": 1}) is None
    assert from_fields(Beat, {**event, "ocr_queue": "many"}) is None


# -- the guard ----------------------------------------------------------------------------------


def signs(now: float, jobs: int = 1, *, busy: bool = False) -> Signs:
    return Signs(now, jobs, ("scans",), busy)


def test_a_worker_that_gets_jobs_is_left_alone() -> None:
    verdict = Verdict()
    for look in range(100):
        assert verdict.look(signs(look * 10, jobs=look), {"scans": 9}, look * 10) == ""


def test_a_worker_without_jobs_is_left_alone() -> None:
    verdict = Verdict()
    for look in range(100):
        assert verdict.look(signs(look * 10), {"scans": 0, "others": 9}, look * 10) == ""
        assert verdict.look(signs(look * 10, busy=True), {"scans": 9}, look * 10) == ""
        assert verdict.look(signs(0), None, look * 10) == ""  # the broker is away


def test_a_worker_to_which_no_job_comes_is_started_afresh() -> None:
    verdict = Verdict()
    found = [verdict.look(signs(look * 10), {"scans": 9}, look * 10) for look in range(9)]
    assert found[:7] == [""] * 7
    assert "none arrives" in found[8]


def test_a_worker_that_stands_still_is_started_afresh() -> None:
    assert Verdict().look(signs(0), {"scans": 0}, 100) == ""
    assert "has not moved" in Verdict().look(signs(0), {"scans": 0}, 130)


# -- roots --------------------------------------------------------------------------------------


def test_a_root_keeps_its_identity(tmp_path: Path) -> None:
    assert roots.identity_of(tmp_path) == ""
    made = roots.mark(tmp_path)
    assert len(made) == 32
    assert roots.mark(tmp_path) == made == roots.identity_of(tmp_path)
    assert os.listdir(tmp_path) == [names.SHARE_MARK]


def test_a_root_that_cannot_be_written_has_no_identity(reachable: Path) -> None:
    root = reachable / "root"
    root.mkdir(mode=0o555)
    with unprivileged():
        assert roots.mark(root) == ""


def test_a_mark_of_somebody_else_is_none(tmp_path: Path) -> None:
    (tmp_path / names.SHARE_MARK).write_text("hello")
    assert roots.identity_of(tmp_path) == ""


NOTHING: Mapping[str, str] = MappingProxyType({})

# -- courier and spool --------------------------------------------------------------------------


@dataclass
class Place:
    """A share, a spool, and who carries between them."""

    share: Path
    spool: Spool
    folder: Path | None = None
    archive: Path | None = None

    @property
    def courier(self) -> Courier:
        places = Places((self.share,), self.folder, self.archive, root_names=("scans",))
        return Courier({"scans": self.share}, places, self.spool, RULES)

    def drop(self, name: str = "scan.png", content: bytes = b"picture") -> Message:
        path = self.share / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return self.message(path)

    def message(self, path: Path) -> Message:
        parts = path.relative_to(self.share).parts
        trees = [tree for tree in (self.folder, self.archive) if tree is not None]
        identity = roots.mark(self.share, *trees)
        return Message("scans", identity, parts[:-1], parts[-1], Stamp.of(path.stat()))

    def fetch(self, sent: Message) -> Errand:
        errand, end = self.courier.fetch(sent)
        assert end is None
        assert errand is not None
        return errand

    def is_empty(self) -> bool:
        return all(not os.listdir(self.spool.folder / str(number)) for number in range(FOLDERS))


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that any user may look into; pytest's own may be private to one."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.fixture
def place(reachable: Path) -> Iterator[Place]:
    share = reachable / "share"
    share.mkdir()
    roots.mark(share)
    spool = Spool(reachable / "spool")
    spool.open()
    for folder in (share, spool.folder, *spool.folder.iterdir()):
        if folder.is_dir():
            folder.chmod(0o777)  # some tests are another user for a while
    yield Place(share, spool)
    spool.close()


def read(errand: Errand, text: str = "text", outputs: Mapping[str, str] = NOTHING) -> None:
    """What the daemon does; `outputs` is the content of further ones by format."""
    made = []
    for kind, content in outputs.items():
        name = names.output_of(errand.message.name, kind)
        (errand.folder / name).write_text(content)
        digest = hashlib.sha256(content.encode()).hexdigest()
        made.append(Output(kind, names.printable(name), len(content), digest))
    line = Line(text, 1.0, ((0.0, 0.0), (9.0, 0.0), (9.0, 9.0), (0.0, 9.0)))
    document = Document(
        Source(errand.message.name, Stamp.of(os.stat(errand.path)), "0" * 64),
        [Page(0, 10, 10, 1.0, (line,), text)],
        EngineFacts("fake", "fake", "fake", "0", "0"),
        Timing(0, 0, 0, 0),
        MemoryUse(1, 1, 1),
        outputs=tuple(made),
    )
    path = errand.folder / names.records_of(errand.message.name).sidecar
    path.write_bytes(b"".join(sidecar.document_json(document)))


def fail(errand: Errand, *, will_retry: bool = False) -> None:
    source = Source(errand.message.name, errand.message.stamp, None)
    record = sidecar.error_json(source, TruncatedError("cut"), attempts=1, will_retry=will_retry)
    (errand.folder / names.records_of(errand.message.name).error).write_bytes(record)


@pytest.mark.parametrize("name", ["scan.png", "a/b/Größe.png", "x" * 251 + ".png"])
def test_a_document_goes_there_and_its_record_comes_back(place: Place, name: str) -> None:
    sent = place.drop(name)
    errand = place.fetch(sent)
    assert (errand.folder / sent.name).read_bytes() == b"picture"
    assert Stamp.of(os.stat(errand.path)) == sent.stamp
    assert place.courier.deliver(errand) is None  # not read yet
    read(errand)
    assert place.courier.deliver(errand) is End.DONE
    assert sidecar_of(place.share / name)["text"] == "text"
    assert place.is_empty()
    # Delivered again by the broker: nothing is read twice.
    assert place.courier.fetch(sent) == (None, End.DONE)


def test_a_failure_comes_back_too(place: Place) -> None:
    sent = place.drop()
    errand = place.fetch(sent)
    fail(errand)
    assert place.courier.deliver(errand) is End.FAILED
    assert error_of(place.share / "scan.png")["error"]["code"] == "truncated"
    assert place.is_empty()
    assert place.courier.fetch(sent) == (None, End.FAILED)


def test_what_the_daemon_tries_again_is_waited_for(place: Place) -> None:
    errand = place.fetch(place.drop())
    fail(errand, will_retry=True)
    assert place.courier.deliver(errand) is None
    assert not (place.share / "scan.png.error.json").exists()


def test_what_changed_while_it_waited_is_not_fetched(place: Place) -> None:
    sent = place.drop()
    place.drop(content=b"another picture")
    assert place.courier.fetch(sent) == (None, End.CHANGED)
    assert place.is_empty()


def test_what_changes_while_it_is_copied_does_not_stay(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = place.drop()
    real = Spool.begin

    def begin(spool: Spool, message: Message) -> Errand:
        with (place.share / "scan.png").open("ab") as file:
            file.write(b"more")
        return real(spool, message)

    monkeypatch.setattr(Spool, "begin", begin)
    assert place.courier.fetch(sent) == (None, End.CHANGED)
    assert place.is_empty()


@pytest.mark.parametrize("change", ["replaced", "removed", "folder removed"])
def test_a_record_of_another_version_never_gets_back(place: Place, change: str) -> None:
    sent = place.drop("folder/scan.png")
    errand = place.fetch(sent)
    read(errand)
    path = place.share / "folder" / "scan.png"
    if change == "replaced":
        path.write_bytes(b"another")
    else:
        path.unlink()
    if change == "folder removed":
        path.parent.rmdir()
    assert place.courier.deliver(errand) is (End.CHANGED if change == "replaced" else End.GONE)
    assert not (place.share / "folder" / "scan.png.json").exists()
    assert place.is_empty()


def test_a_record_that_another_host_was_quicker_with_stays(place: Place) -> None:
    sent = place.drop()
    slow, quick = place.fetch(sent), place.fetch(sent)
    read(slow, "slow")
    read(quick, "quick")
    assert place.courier.deliver(quick) is End.DONE
    assert place.courier.deliver(slow) is End.DONE
    assert sidecar_of(place.share / "scan.png")["text"] == "quick"
    assert place.is_empty()


def test_without_the_share_nothing_is_gone(place: Place) -> None:
    sent = place.drop()
    errand = place.fetch(place.drop("other.png"))
    read(errand)
    away = place.share.with_name("away")
    place.share.rename(away)
    with pytest.raises(CutOffError):
        place.courier.fetch(sent)
    place.share.mkdir()  # as the mount point of a share that is not mounted
    with pytest.raises(CutOffError):
        place.courier.fetch(sent)
    with pytest.raises(CutOffError):
        place.courier.deliver(errand)
    with pytest.raises(CutOffError):
        place.courier.is_current(sent)
    place.share.rmdir()
    away.rename(place.share)
    assert place.courier.deliver(errand) is End.DONE


def test_a_root_that_this_host_does_not_know_is_cut_off(place: Place) -> None:
    with pytest.raises(CutOffError, match=r"cluster\.roots has no other"):
        place.courier.fetch(message(root="other"))


def test_a_link_is_not_followed(place: Place, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"picture")
    (place.share / "scan.png").symlink_to(secret)
    sent = Message("scans", "", (), "scan.png", Stamp.of(secret.stat()))
    assert place.courier.fetch(sent)[1] in (End.GONE, End.CHANGED)
    assert place.is_empty()


def test_somebody_elses_json_is_told_and_left_alone(place: Place) -> None:
    sent = place.drop()
    (place.share / "scan.png.json").write_text('{"title": "IMG"}')
    assert place.courier.fetch(sent) == (None, End.RETRY)
    assert error_of(place.share / "scan.png")["error"]["code"] == "output_exists"
    assert place.is_empty()


def test_somebody_elses_json_that_comes_meanwhile_is_left_alone(place: Place) -> None:
    errand = place.fetch(place.drop())
    read(errand)
    (place.share / "scan.png.json").write_text('{"title": "IMG"}')
    assert place.courier.deliver(errand) is End.RETRY
    assert (place.share / "scan.png.json").read_text() == '{"title": "IMG"}'
    assert error_of(place.share / "scan.png")["error"]["code"] == "output_exists"


def test_a_file_that_this_host_may_not_read_is_tried_again_later(place: Place) -> None:
    sent = place.drop()
    (place.share / "scan.png").chmod(0)
    with unprivileged():
        assert place.courier.fetch(sent) == (None, End.RETRY)
    error = error_of(place.share / "scan.png")["error"]
    assert error["will_retry"]
    assert place.is_empty()


def test_a_file_that_no_daemon_here_would_read_is_tried_again_later(place: Place) -> None:
    rules = Rules.of([".png"], [], 0.0)
    sent = place.drop("photo.heic")
    choosy = Courier({"scans": place.share}, Places(), place.spool, rules)
    assert choosy.fetch(sent) == (None, End.RETRY)
    assert "does not read" in error_of(place.share / "photo.heic")["error"]["message"]


def test_a_share_that_takes_nothing_keeps_the_record_in_the_spool(place: Place) -> None:
    errand = place.fetch(place.drop("folder/scan.png"))
    read(errand)
    (place.share / "folder").chmod(0o555)
    with unprivileged(), pytest.raises(CutOffError, match=r"cannot write scan\.png\.json"):
        place.courier.deliver(errand)
    assert errand.has_document()
    (place.share / "folder").chmod(0o755)
    assert place.courier.deliver(errand) is End.DONE


def test_the_spool_tells_the_next_bridge_what_is_in_it(place: Place) -> None:
    read_one, waiting = place.fetch(place.drop("a.png")), place.fetch(place.drop("b.png"))
    read(read_one)
    place.spool.close()
    again = Spool(place.spool.folder)
    again.open()
    assert sorted(again.errands(), key=lambda errand: errand.path) == [read_one, waiting]
    again.close()


def test_a_spool_that_is_full_takes_no_more(place: Place) -> None:
    for number in range(FOLDERS):
        place.fetch(place.drop(f"{number}.png"))
    with pytest.raises(SpoolError):
        place.courier.fetch(place.drop("more.png"))


def test_what_is_no_errand_is_cleared(place: Place) -> None:
    (place.spool.folder / "0" / names.ERRAND).write_text("{")
    (place.spool.folder / "1" / "left.png").write_text("x")
    assert place.spool.errands() == []
    assert place.fetch(place.drop()).folder.name == "0"


def test_outputs_come_back_with_the_record(place: Place) -> None:
    sent = place.drop("folder/scan.png")
    errand = place.fetch(sent)
    read(errand, outputs={"txt": "text", "alto": "<alto/>"})
    assert place.courier.deliver(errand) is End.DONE
    folder = place.share / "folder"
    assert sorted(os.listdir(folder)) == ["scan.png", "scan.png.alto.xml", "scan.png.json", "scan.png.txt"]
    assert (folder / "scan.png.alto.xml").read_text() == "<alto/>"
    assert place.is_empty()
    # The next version's replace them: they are known as ours.
    errand = place.fetch(place.drop("folder/scan.png", b"another picture"))
    read(errand, outputs={"txt": "another text"})
    assert place.courier.deliver(errand) is End.DONE
    assert sorted(os.listdir(folder)) == ["scan.png", "scan.png.json", "scan.png.txt"]
    assert (folder / "scan.png.txt").read_text() == "another text"


def test_outputs_that_are_not_what_the_record_says_are_not_put_back(place: Place) -> None:
    errand = place.fetch(place.drop())
    read(errand, outputs={"txt": "text"})
    (errand.folder / "scan.png.txt").write_text("tixt")
    with pytest.raises(SpoolError, match="not what the record says"):
        place.courier.deliver(errand)
    assert not (place.share / "scan.png.json").exists()


def test_a_host_that_stood_still_puts_no_record_beside_the_outputs_of_another(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = place.drop()
    slow, quick = place.fetch(sent), place.fetch(sent)
    read(slow, "slow", {"txt": "slow"})
    read(quick, "quick", {"txt": "quick"})
    real = courier._unless_overtaken

    def late(folders: Any, errand: Errand, made: Any) -> Iterator[bytes]:
        if errand is slow:
            assert place.courier.deliver(quick) is End.DONE
        yield from real(folders, errand, made)

    monkeypatch.setattr(courier, "_unless_overtaken", late)
    with pytest.raises(CutOffError, match="another host"):
        place.courier.deliver(slow)
    assert sidecar_of(place.share / "scan.png")["text"] == "quick"
    assert (place.share / "scan.png.txt").read_text() == "quick"
    assert place.courier.deliver(slow) is End.DONE  # tried again
    assert place.is_empty()


def test_records_go_into_the_tree_of_results(place: Place, reachable: Path) -> None:
    place.folder = reachable / "results"
    place.folder.mkdir()
    sent = place.drop("a/scan.png")
    errand = place.fetch(sent)
    read(errand, outputs={"txt": "text"})
    assert place.courier.deliver(errand) is End.DONE
    below = place.folder / "scans" / "a"
    assert sorted(os.listdir(below)) == ["scan.png.json", "scan.png.txt"]
    assert os.listdir(place.share / "a") == ["scan.png"]
    assert place.courier.fetch(sent) == (None, End.DONE)


def test_without_the_tree_of_results_nothing_is_done(place: Place, reachable: Path) -> None:
    place.folder = reachable / "results"
    place.folder.mkdir()
    errand = place.fetch(place.drop())
    read(errand)
    place.folder.rename(reachable / "away")
    place.folder.mkdir()
    with pytest.raises(CutOffError):
        place.courier.deliver(errand)
    assert os.listdir(place.folder) == []


def test_a_document_that_has_its_record_goes_into_the_archive(place: Place, reachable: Path) -> None:
    place.archive = reachable / "archive"
    place.archive.mkdir()
    sent = place.drop("a/scan.png")
    errand = place.fetch(sent)
    read(errand)
    assert place.courier.deliver(errand) is End.DONE
    assert sorted(os.listdir(place.archive / "scans" / "a")) == ["scan.png", "scan.png.json"]
    assert os.listdir(place.share / "a") == []
    assert place.courier.fetch(sent) == (None, End.GONE)


def test_a_move_into_the_archive_that_was_broken_off_is_made_up_for(place: Place, reachable: Path) -> None:
    errand = place.fetch(place.drop())
    read(errand)
    assert place.courier.deliver(errand) is End.DONE
    place.archive = reachable / "archive"
    place.archive.mkdir()
    assert place.courier.fetch(place.message(place.share / "scan.png")) == (None, End.DONE)
    assert sorted(os.listdir(place.archive / "scans")) == ["scan.png", "scan.png.json"]


def test_an_end_means_something_for_the_inbox() -> None:
    assert {end.outcome for end in End} == {
        Outcome.DONE, Outcome.FAILED, Outcome.GONE, Outcome.RESETTLE, Outcome.RETRY,
    }  # fmt: skip
