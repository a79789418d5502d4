"""Parts of the HTTP server that need no server: parsers, rules, the lane, what is known of the daemon."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import queue
import signal
import socket
import threading
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from ocr_watcher import cli, names
from ocr_watcher.config import is_loopback
from ocr_watcher.document import Line, Page, Source
from ocr_watcher.errors import ConfigError, UnavailableError
from ocr_watcher.http import content
from ocr_watcher.http.daemon_state import AWAY_S, DaemonState
from ocr_watcher.http.embedded import FormParser, JsonParser, Parser
from ocr_watcher.http.events import LogTail, told_of_folders
from ocr_watcher.http.problems import Problem
from ocr_watcher.http.server import Server, listen, passed_sockets
from ocr_watcher.http.spool import Entry, Spool, as_problem, expired
from ocr_watcher.http.waiting import Pace
from ocr_watcher.inbox import ticket
from ocr_watcher.inbox.ticket import Ticket
from ocr_watcher.inputs.table import FAMILIES
from ocr_watcher.job import Job, Stamp
from ocr_watcher.jobs import totals
from ocr_watcher.jobs.journal import Journal
from ocr_watcher.jobs.lanes import Lanes
from ocr_watcher.outputs import reading, sidecar
from ocr_watcher.service import lock
from ocr_watcher.service.told import StatusFile, Told
from tests.support import Clock, Log, Process, settings, write_config
from tests.test_http import PNG
from tests.test_sidecar import LINE, STAMP, document

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocr_watcher.jobs.totals import Key

IMITATION = '", "pages": [{"index": 0}], "engine": {"index": '


def record(pages: int) -> bytes:
    """A sidecar of so many pages, with text that looks like one."""
    lines = (LINE, Line(IMITATION, 0.5, LINE.polygon))
    made = [Page(number, 200, 100, 0.5, lines, "text\n" + IMITATION) for number in range(pages)]
    return b"".join(sidecar.document_json(document(Source("a.png", STAMP, "0" * 64), made)))


STEM = "0123456789abcdef" * 2


# -- documents in text -----------------------------------------------------------------------------


def taken_apart(parser: Parser, text: bytes, step: int) -> tuple[bytes, dict[str, object]]:
    out = b"".join(parser.feed(text[at : at + step]) for at in range(0, len(text), step))
    last, fields = parser.end()
    return out + last, fields


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    data=st.binary(max_size=600),
    before=st.dictionaries(st.text(max_size=8).filter(lambda name: name != "file"), _JSON, max_size=3),
    after=st.dictionaries(st.text(max_size=8).filter(lambda name: name != "file"), _JSON, max_size=3),
    step=st.integers(1, 50),
    escaped=st.booleans(),
    indent=st.sampled_from([None, 1]),
)
def test_a_document_in_json_is_taken_out_whatever_stands_around(
    data: bytes,
    before: dict[str, object],
    after: dict[str, object],
    step: int,
    *,
    escaped: bool,
    indent: int | None,
) -> None:
    encoded = base64.b64encode(data).decode()
    text = json.dumps({**before, "file": encoded, **after}, indent=indent)
    if escaped:
        text = text.replace(encoded, encoded.replace("/", "\\/").replace("+", "\\u002b"))
    assert taken_apart(JsonParser("file"), text.encode(), step) == (data, {**before, **after})


@given(
    data=st.binary(max_size=600),
    fields=st.dictionaries(
        st.text(max_size=8).filter(lambda name: name != "image_data"), st.text(max_size=20), max_size=3
    ),
    step=st.integers(1, 50),
    quoted=st.booleans(),
)
def test_a_document_in_a_form_is_taken_out(
    data: bytes, fields: dict[str, str], step: int, quoted: bool
) -> None:
    encoded = base64.b64encode(data).decode()
    pairs = [*fields.items(), ("image_data", encoded)]
    text = urllib.parse.urlencode(pairs)
    if not quoted:  # many clients do not
        text = text.replace(urllib.parse.quote_plus(encoded), encoded)
    assert taken_apart(FormParser("image_data"), text.encode(), step) == (data, fields)


@given(st.binary(max_size=300), st.integers(1, 20))
def test_anything_else_is_refused_and_nothing_else_happens(text: bytes, step: int) -> None:
    for parser in (JsonParser("file"), FormParser("image_data")):
        with contextlib.suppress(Problem):
            taken_apart(parser, text, step)


@pytest.mark.parametrize("head", ["data:image/png;base64,", "data:;base64,", " data:application/pdf;BASE64,"])
def test_a_data_url_is_taken_too(head: str) -> None:
    text = json.dumps({"file": head + base64.b64encode(b"hello").decode()}).encode()
    assert taken_apart(JsonParser("file"), text, 7) == (b"hello", {})


# -- what a document is ----------------------------------------------------------------------------

HEADS = {
    b"\x89PNG\r\n\x1a\n": ".png",
    b"\xff\xd8\xff\xe0": ".jpg",
    b"GIF89a": ".gif",
    b"BM": ".bmp",
    b"RIFF\x10\x00\x00\x00WEBPVP8 ": ".webp",
    b"II*\x00": ".tif",
    b"MM\x00+": ".tif",
    b"\x00\x00\x00\x0cjP  \r\n\x87\n": ".jp2",
    b"\xff\x4f\xff\x51\x00\x2f": ".jp2",
    b"\x00\x00\x00\x1cftypavif\x00\x00\x00\x00avif": ".avif",
    b"\x00\x00\x00\x1cftypmif1\x00\x00\x00\x00mif1avif": ".avif",
    b"\x00\x00\x00\x1cftypheic\x00\x00\x00\x00mif1heic": ".heic",
    b"%PDF-1.7": ".pdf",
    b"\n\n  %PDF-1.4": ".pdf",
}


@pytest.mark.parametrize("head", HEADS)
def test_the_server_and_the_decoders_agree_what_a_document_is(head: bytes) -> None:
    assert content.extension_of(head + bytes(100)) == HEADS[head]
    assert HEADS[head] in names.SPOOL_EXTENSIONS
    assert any(family.sniff(head + bytes(100)) for family in FAMILIES)


@given(st.binary(max_size=64))
def test_nothing_goes_in_that_no_decoder_would_take(head: bytes) -> None:
    if content.extension_of(head) is not None:
        assert any(family.sniff(head) for family in FAMILIES)


# -- the spool -------------------------------------------------------------------------------------


def entries(*names_and_ages: tuple[str, float]) -> list[Entry]:
    return [Entry(name, 10_000.0 - age_s) for name, age_s in names_and_ages]


TICKET = f".{STEM}.job"


@pytest.mark.parametrize(
    ("present", "over"),
    [
        ([(f"{STEM}.png", 9000), (TICKET, 9000)], False),  # never read: kept
        ([(f"{STEM}.png", 9000), (TICKET, 9000), (f"{STEM}.png.json", 99)], False),
        ([(f"{STEM}.png", 9000), (TICKET, 9000), (f"{STEM}.png.json", 101)], True),
        ([(f"{STEM}.png", 9000), (TICKET, 9000), (f"{STEM}.png.error.json", 101)], True),
        ([(f"{STEM}.png.json", 200)], False),  # its document went just now
        ([(f"{STEM}.png.json", 400)], True),
        ([(TICKET, 400)], True),
        ([(f".{STEM}.upload", 9000)], False),
        ([("somebody.else", 9000), (".server", 9000)], False),
    ],
)
def test_what_is_kept_and_what_goes(present: list[tuple[str, float]], over: bool) -> None:
    assert expired(entries(*present), 10_000.0, keep_s=100) == ([STEM] if over else [])


def test_the_sweep_removes_all_of_a_job_and_nothing_else(tmp_path: Path) -> None:
    own = [f"{STEM}.png", TICKET, f"{STEM}.png.json", f"{STEM}.png.ocr.pdf"]
    others = [f"{'f' * 32}.png", f".{'f' * 32}.job", "somebody.else"]
    for name in own + others:
        (tmp_path / name).write_bytes(b"x")
    spool = Spool(tmp_path, keep_s=100)
    assert spool.sweep(now_s=1e12) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)


def test_one_server_to_a_spool(tmp_path: Path) -> None:
    first, second = Spool(tmp_path / "spool", 100), Spool(tmp_path / "spool", 100)
    first.open()
    with pytest.raises(UnavailableError, match="another server"):
        second.open()
    first.close()
    second.close()


@pytest.mark.parametrize(
    "job",
    ["", "..", "../x", "a/b", "\0", "\udcff", "x" * 100_000, STEM.upper()],
)
def test_an_id_is_never_a_path(tmp_path: Path, job: str) -> None:
    assert Spool(tmp_path, 100).find(job) is None


def test_a_ticket_comes_back_as_it_was(tmp_path: Path) -> None:
    made = Ticket("id", f"{STEM}.png", "ä\udcff\n", ("pdf", "tsv"), "2026-01-01T00:00:00Z", "batch", 0.5, "o")
    (tmp_path / TICKET).write_bytes(made.as_bytes())
    read = ticket.of_document(str(tmp_path / f"{STEM}.png"))
    assert read is not None
    assert read.formats == ("pdf", "tsv")
    assert (read.id, read.batch, read.min_score, read.owner) == ("id", "batch", 0.5, "o")
    assert ticket.of_document(str(tmp_path / "other.png")) is None


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"null", b"[" * 100_000, b'{"id": 1}'])
def test_what_is_no_ticket_is_none(text: bytes) -> None:
    assert ticket.parse(text) is None


def test_a_disk_that_is_full_and_one_that_is_away() -> None:
    assert as_problem(OSError(28, "No space left on device")).status == 507
    assert as_problem(OSError(5, "Input/output error")).status == 503


# -- waiting, and the daemon -----------------------------------------------------------------------


def test_the_time_to_come_again_follows_what_documents_take() -> None:
    clock = Clock()
    pace = Pace(clock)
    for _ in range(40):
        began = clock.now
        clock.pass_(4.0)
        pace.ended(began)
    assert pace.document_s == pytest.approx(4.0, abs=0.01)
    assert pace.retry_after_s(64) == 32
    # Two that came together: the second took as long as the time after the first.
    began = clock.now
    clock.pass_(4.0)
    pace.ended(began)
    clock.pass_(4.0)
    pace.ended(began)
    assert pace.document_s == pytest.approx(4.0, abs=0.01)


def daemon_seen(folder: Path, clock: Clock, wall: Clock) -> DaemonState:
    return DaemonState(folder / "state", folder / "spool", 30.0, clock=clock, wall_clock=wall)


def test_a_daemon_that_is_away_for_long_is_a_problem(tmp_path: Path) -> None:
    made = settings(tmp_path, state_dir="state", http={"spool": "spool"})
    clock, wall = Clock(), Clock()
    seen = daemon_seen(tmp_path, clock, wall)
    assert seen.problem() is None  # both may be starting
    clock.pass_(AWAY_S + 1)
    problem = seen.problem()
    assert problem is not None
    assert problem.status == 503
    with lock.hold_lock(made):
        clock.pass_(1)
        assert seen.problem() is None
        assert seen.running
    clock.pass_(AWAY_S - 1)
    assert seen.problem() is None  # a recycle
    clock.pass_(2)
    assert seen.problem() is not None


@pytest.mark.parametrize(
    ("spool", "told_at", "word"),
    [
        ("spool", "1970-01-01T00:16:00Z", None),
        ("other", "1970-01-01T00:16:00Z", "watch"),
        ("spool", "1970-01-01T00:14:00Z", "answer"),
    ],
)
def test_a_daemon_that_does_not_work_for_us_is_a_problem(
    tmp_path: Path, spool: str, told_at: str, word: str | None
) -> None:
    made = settings(tmp_path, state_dir="state", http={"spool": "spool"})
    with lock.hold_lock(made):
        StatusFile(tmp_path / "state" / "status.json").write(
            Told(pid=1, spool=str(tmp_path / spool), updated_at=told_at)
        )
        problem = daemon_seen(tmp_path, Clock(), Clock(1000.0)).problem()
    if word is None:
        assert problem is None
    else:
        assert problem is not None
        assert word in str(problem)


# -- lanes -----------------------------------------------------------------------------------------


def job(root: Path, name: str) -> Job:
    return Job(root, (), name, Stamp(1, 1), settled=True, queued_at=0.0)


def taken(lanes: Lanes) -> list[str]:
    found = []
    while not lanes.empty():
        one = lanes.get()
        assert one is not None
        found.append(one.name)
    return found


def test_two_lanes_take_turns(tmp_path: Path) -> None:
    lanes = Lanes(100, spool=tmp_path / "spool", spool_size=10)
    for number in range(5):
        lanes.put_nowait(job(tmp_path / "inbox", f"f{number}"))
    for number in range(3):
        lanes.put_nowait(job(tmp_path / "spool", f"h{number}"))
    assert taken(lanes) == ["f0", "h0", "f1", "h1", "f2", "h2", "f3", "f4"]


def test_a_full_lane_keeps_no_other_from_coming_in(tmp_path: Path) -> None:
    lanes = Lanes(1, spool=tmp_path / "spool", spool_size=1)
    lanes.put_nowait(job(tmp_path / "inbox", "f"))
    with pytest.raises(queue.Full):
        lanes.put_nowait(job(tmp_path / "inbox", "g"))
    assert not lanes.hurries(job(tmp_path / "inbox", "f"))
    lanes.put_nowait(job(tmp_path / "spool", "h"))
    with pytest.raises(queue.Full):
        lanes.put_nowait(job(tmp_path / "spool", "i"))
    assert lanes.hurries(job(tmp_path / "inbox", "f"))
    assert not lanes.hurries(job(tmp_path / "spool", "h"))
    assert lanes.qsize() == 2


def test_who_waits_for_a_job_is_told_that_there_will_be_none() -> None:
    lanes = Lanes(1)
    got: list[Job | None] = []
    thread = threading.Thread(target=lambda: got.append(lanes.get()))
    thread.start()
    lanes.close()
    thread.join(10)
    assert got == [None]


# -- totals ----------------------------------------------------------------------------------------


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal.sqlite3", Log())  # type: ignore[arg-type] # collects
    yield made
    made.close()


def files(counted: dict[Key, float]) -> dict[str, float]:
    return {key.label: value for key, value in counted.items() if key.name == totals.FILES}


def test_a_file_counts_once(journal: Journal) -> None:
    for path in ("/a", "/b"):
        journal.begin(path, Stamp(1, 1))
        journal.end(path, totals.of_failed("truncated"))
        journal.end(path, totals.of_failed("truncated"))
    assert files(journal.totals()) == {"truncated": 2}


def test_a_file_counts_that_was_done_when_the_process_was_killed(journal: Journal, tmp_path: Path) -> None:
    sidecar_path = tmp_path / "a.png.json"
    sidecar_path.write_bytes(record(2))
    journal.begin("/a", Stamp(1, 1))  # and then: killed
    journal.begin("/b", Stamp(1, 1))
    journal.sweep(lambda path: totals.of_record(str(sidecar_path)) if path == "/a" else None)
    journal.end("/a", totals.of_record(str(sidecar_path)))
    assert files(journal.totals()) == {"ok": 1}


def test_times_fall_into_their_buckets() -> None:
    assert totals.bucket_of(0.0) == "0.01"
    assert totals.bucket_of(0.01) == "0.01"
    assert totals.bucket_of(0.011) == "0.025"
    assert totals.bucket_of(1e9) == "+Inf"
    assert totals.BUCKETS[-1] == "+Inf"


# -- a record, page by page ------------------------------------------------------------------------


def test_a_record_is_read_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = record(3)
    expected = list(reading.pages(io.BytesIO(whole)))
    assert expected
    assert reading.count(io.BytesIO(whole)) == len(expected)
    for block_bytes in (1, 2, 7, 100):
        monkeypatch.setattr(reading, "_BLOCK_BYTES", block_bytes)
        assert list(reading.pages(io.BytesIO(whole))) == expected
        assert reading.count(io.BytesIO(whole)) == len(expected)


def test_what_is_no_record_raises() -> None:
    for text in (b"", b"{}", b'{"text": "", "pages": [{"index": 0'):
        with pytest.raises(ValueError, match="it"):
            list(reading.pages(io.BytesIO(text)))


# -- events ----------------------------------------------------------------------------------------


def test_the_tail_of_a_log_goes_on_after_the_file_was_renamed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text('{"event": "old"}\n')
    tail = LogTail(log)
    tail.skip()
    with log.open("a") as file:
        file.write('{"event": "a"}\nno json\n{"event": "half')
    assert [event["event"] for event in tail.events()] == ["a"]
    with log.open("a") as file:
        file.write('"}\n')
    assert [event["event"] for event in tail.events()] == ["half"]
    log.rename(tmp_path / "log.1")
    log.write_text('{"event": "b"}\n')
    assert [event["event"] for event in tail.events()] == ["b"]
    assert list(tail.events()) == []


def test_what_came_by_http_is_not_told_of_as_a_file() -> None:
    def below(path: str) -> str | None:
        return path.removeprefix("/in/") if path.startswith("/in/") else None

    assert told_of_folders({"event": "ocr.done", "path": "/spool/x.png"}, below) is None
    assert told_of_folders({"event": "daemon.ready"}, below) is None
    told = told_of_folders({"event": "ocr.done", "path": "/in/x.png", "rss_mb": 1}, below)
    assert told == {"event": "ocr.done", "path": "x.png"}


# -- addresses and sockets -------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LocalHost"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "::", "192.168.1.1", "localhost.example", "127.0.0.1.example"])
def test_no_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_an_address_for_others_needs_a_key(tmp_path: Path) -> None:
    made = settings(tmp_path, http={"port": 0}).served(host="0.0.0.0")  # noqa: S104
    one = listen(made)
    with one, pytest.raises(ConfigError, match="api_keys_file"):
        Server(settings(tmp_path), made, [one], collect=dict, log=Log())  # type: ignore[arg-type]


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    http = settings(tmp_path, http={"port": 0}).served()
    with listen(http) as one:
        one.listen()
        port = one.getsockname()[1]
        with pytest.raises(UnavailableError, match=str(port)):
            listen(settings(tmp_path, http={"port": port}).served())


def test_sockets_are_passed_in_by_a_service_manager() -> None:
    assert passed_sockets({}) == []
    assert passed_sockets({"LISTEN_PID": "1", "LISTEN_FDS": "1"}) == []
    assert socket.AF_UNIX


def test_a_server_without_a_port_to_use_exits_69(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with listen(settings(tmp_path, http={"port": 0}).served()) as one:
        one.listen()
        port = one.getsockname()[1]
        assert cli.main(["serve", "-c", str(tmp_path / "config.yaml"), "--port", str(port)]) == 69
    assert "cannot listen" in capsys.readouterr().err


def test_a_server_for_others_without_keys_exits_78(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings(tmp_path, http={"port": 0})
    asked = ["serve", "-c", str(tmp_path / "config.yaml"), "--host", "0.0.0.0"]  # noqa: S104
    assert cli.main(asked) == 78
    assert "api_keys_file" in capsys.readouterr().err


# -- both processes --------------------------------------------------------------------------------


def test_daemon_and_server_start_and_end_together(tmp_path: Path) -> None:
    write_config(tmp_path, http={"port": 0}, memory={"max_jobs": 1})
    # The program, on the fake engine.
    code = (
        "import sys; from ocr_watcher.service.together import Together;"
        "sys.exit(Together([sys.executable, '-m', 'tests.fake_daemon'], 'config.yaml', 'serve').run())"
    )
    both = Process(["-c", code], tmp_path)
    try:
        both.wait_for("daemon.ready")
        address = both.wait_for("http.ready")[0]["address"]
        pool = urllib3.PoolManager(retries=False, timeout=30)
        for _ in range(3):  # a recycle after each
            answer = pool.request("POST", f"{address}/v1/ocr", body=PNG)
            assert answer.status == 200
        both.wait_for("daemon.ready", 3)
        pool.clear()
        both.signal(signal.SIGINT)
        assert both.wait() == 0
        assert both.events("http.exiting")
        assert both.events("daemon.exiting")
    finally:
        both.close()
