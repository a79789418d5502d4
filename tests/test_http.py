"""The HTTP server's own API: what goes in, what comes out, what is refused."""

from __future__ import annotations

import io
import json
import re
import shutil
import socket
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import jsonschema
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from ocr_watcher.http.bodies import MIB
from ocr_watcher.http.metrics import DaemonCollector
from ocr_watcher.outputs import sidecar
from ocr_watcher.outputs.sidecar import now
from ocr_watcher.service.told import InHand, LastExit, QueueState, Told, Total
from tests.http_house import House

if TYPE_CHECKING:
    from collections.abc import Iterator


def png(size: tuple[int, int] = (64, 48)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "white").save(file, "PNG")
    return file.getvalue()


PNG = png()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("http"), max_body_mb=1) as made:
        yield made


# -- a document in, its record out -----------------------------------------------------------------


def test_a_form_gets_the_record(house: House) -> None:
    answer = house.send(PNG, name="receipt.png")
    assert answer.status == 200
    jsonschema.validate(answer.json, sidecar.schema())
    assert answer.json["text"] == "48x64"
    assert answer.json["source"]["name"] == "receipt.png"


def test_a_body_gets_its_text(house: House) -> None:
    answer = house.ask("POST", "/v1/ocr?format=txt", body=PNG)
    assert (answer.status, answer.text) == (200, "48x64\n")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"


def test_a_document_that_cannot_be_read_gets_code_and_hint(house: House) -> None:
    answer = house.send(PNG[:60])
    assert answer.status == 422
    jsonschema.validate(answer.json, sidecar.schema())
    assert answer.json["error"]["code"] == "truncated"
    assert answer.json["error"]["hint"]


@pytest.mark.parametrize(
    "name", ["../../../etc/x.png", "a/b", "..", "x\0y", "-rf", "%2e%2e%2f", "é" * 300, '"; filename="y']
)
def test_the_clients_name_is_data_and_never_a_path(house: House, name: str) -> None:
    answer = house.ask("POST", f"/v1/ocr?name={_quoted(name)}", body=PNG)
    assert answer.status == 200
    assert answer.json["source"]["name"] == name
    assert all(re.fullmatch(r"\.?[0-9a-f]{32}(\.\w+)+", file) for file in house.files())


def _quoted(name: str) -> str:
    return "".join(f"%{byte:02x}" for byte in name.encode())


def test_a_jobs_life(tmp_path: Path) -> None:
    with House(tmp_path, works=False) as house:
        created = house.send(PNG, "/v1/jobs")
        assert created.status == 202
        job = created.json
        assert created.headers["Location"] == job["links"]["self"] == f"/v1/jobs/{job['id']}"
        assert (job["status"], job["place"]) == ("waiting", 1)
        assert house.send(PNG, "/v1/jobs").json["place"] == 2
        not_ready = house.ask("GET", job["links"]["result"])
        assert (not_ready.status, not_ready.json["error"]["code"]) == (409, "not_ready")
        house.work()
        assert house.ask("GET", f"{job['links']['self']}?wait=5").json["status"] == "done"
        assert house.ask("GET", job["links"]["result"]).json["text"] == "48x64"
        assert house.ask("DELETE", job["links"]["self"]).status == 204
        for address in job["links"].values():
            assert house.ask("GET", address).status == 404
        stem = house.files()[0].strip(".").partition(".")[0]
        assert all(stem in file for file in house.files())  # only the other job's are left


@pytest.mark.parametrize(
    ("kind", "media_type", "mark"),
    [
        ("txt", "text/plain", "48x64\n"),
        ("hocr", "text/html", "ocr_page"),
        ("alto", "application/xml", 'CONTENT="48x64"'),
        ("tsv", "text/tab-separated-values", "48x64"),
    ],
)
def test_formats_of_a_record_are_made_when_asked_for(
    house: House, kind: str, media_type: str, mark: str
) -> None:
    answer = house.send(PNG, f"/v1/ocr?format={kind}", name="<script>.png")
    assert (answer.status, answer.headers["Content-Type"].partition(";")[0]) == (200, media_type)
    assert mark in answer.text
    assert "<script>" not in answer.text
    job = house.until_read(house.send(PNG, "/v1/jobs").json["id"])
    assert mark in house.ask("GET", f"{job['links']['result']}?format={kind}").text


@pytest.mark.parametrize(
    ("kind", "media_type", "magic"),
    [("pdf", "application/pdf", b"%PDF-"), ("overlay", "image/jpeg", b"\xff\xd8\xff")],
)
def test_formats_of_pictures_are_asked_for_with_the_document(
    house: House, kind: str, media_type: str, magic: bytes
) -> None:
    answer = house.send(PNG, f"/v1/ocr?format={kind}")
    assert (answer.status, answer.headers["Content-Type"]) == (200, media_type)
    assert answer.body.startswith(magic)
    job = house.until_read(house.send(PNG, f"/v1/jobs?format=txt,{kind}").json["id"])
    assert house.ask("GET", f"{job['links']['result']}?format={kind}").body.startswith(magic)
    assert house.ask("DELETE", job["links"]["self"]).status == 204
    job = house.until_read(house.send(PNG, "/v1/jobs").json["id"])
    answer = house.ask("GET", f"{job['links']['result']}?format={kind}")
    assert (answer.status, answer.json["error"]["code"]) == (409, "not_made")


def test_records_have_words_where_a_format_wants_them(house: House) -> None:
    def has_words(path: str) -> bool:
        job = house.until_read(house.send(PNG, path).json["id"])
        record = house.ask("GET", job["links"]["result"]).json
        return "words" in record["pages"][0]["lines"][0]

    assert has_words("/v1/jobs?format=hocr")
    assert not has_words("/v1/jobs")


def test_a_failed_job_says_why(house: House) -> None:
    job = house.until_read(house.send(PNG[:60], "/v1/jobs").json["id"])
    assert (job["status"], job["error"]["code"]) == ("failed", "truncated")
    assert house.ask("GET", job["links"]["result"]).status == 422


def test_when_the_wait_is_over_the_job_goes_on(tmp_path: Path) -> None:
    with House(tmp_path, works=False) as house:
        answer = house.send(PNG, "/v1/ocr?wait=0")
        assert answer.status == 202
        house.work()
        assert house.ask("GET", answer.headers["Location"] + "/result?wait=5").json["text"] == "48x64"


def test_a_job_outlives_its_server(tmp_path: Path) -> None:
    with House(tmp_path, works=False) as house:
        job = house.send(PNG, "/v1/jobs", name="ä.png").json
        house.stop_server()
        house.start_server()
        again = house.ask("GET", job["links"]["self"]).json
        assert (again["status"], again["place"], again["name"]) == ("waiting", 1, "ä.png")
        house.work()
        assert house.ask("GET", job["links"]["self"] + "?wait=5").json["status"] == "done"


def test_what_was_half_received_is_gone_after_a_restart(tmp_path: Path) -> None:
    with House(tmp_path) as house:
        house.stop_server()
        (house.spool / f".{'0' * 32}.upload").write_bytes(b"half")
        house.start_server()
        assert house.files() == []


def test_ids_open_results_and_names_of_files_do_not(tmp_path: Path) -> None:
    with House(tmp_path) as house:
        job = house.send(PNG, "/v1/jobs").json["id"]
        [stem] = {file.strip(".").partition(".")[0] for file in house.files()}
        assert stem != job
        assert house.ask("GET", f"/v1/jobs/{stem}").status == 404
        assert house.ask("GET", f"/v1/jobs/{job[:-1]}").status == 404


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/v1/ocr?format=doc", "unknown_format"),
        ("/v1/ocr?wait=soon", "bad_request"),
        ("/v1/ocr?wait=nan", "bad_request"),
        ("/v1/ocr?wait=-1", "bad_request"),
        ("/v1/jobs?format=json,doc", "unknown_format"),
        ("/v1/jobs?format=", "unknown_format"),
        ("/v1/ocr?format=", "unknown_format"),
    ],
)
def test_what_is_not_understood_is_400(house: House, path: str, code: str) -> None:
    answer = house.send(PNG, path)
    assert (answer.status, answer.json["error"]["code"]) == (400, code)


@pytest.mark.parametrize("body", [b"hello", b"PK\x03\x04" + bytes(2000), b"\0" * 5000])
def test_content_that_is_no_document_is_415(house: House, body: bytes) -> None:
    answer = house.ask("POST", "/v1/ocr", body=body, headers={"Content-Type": "image/png"})
    assert (answer.status, answer.json["error"]["code"]) == (415, "unsupported_format")


def test_an_empty_body_is_400(house: House) -> None:
    assert house.ask("POST", "/v1/ocr", body=b"").status == 400
    assert house.ask("POST", "/v1/ocr", fields={"other": "x"}).status == 400


def test_a_compressed_body_is_415(house: House) -> None:
    answer = house.ask("POST", "/v1/ocr", body=PNG, headers={"Content-Encoding": "gzip"})
    assert (answer.status, answer.json["error"]["code"]) == (415, "unsupported_encoding")


def test_too_large_by_its_length_is_413_before_the_body_comes(house: House) -> None:
    with _connected(house) as line:
        line.sendall(b"POST /v1/ocr HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n")
        assert _head(line).startswith(b"HTTP/1.1 413 ")


def test_who_asks_before_sending_is_answered_before_sending(tmp_path: Path) -> None:
    head = b"POST /v1/ocr?wait=0 HTTP/1.1\r\nHost: localhost\r\n"
    head += b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    with House(tmp_path, works=False, max_waiting=1) as house:
        with _connected(house) as line:
            line.sendall(head % len(PNG))
            assert _head(line).startswith(b"HTTP/1.1 100 ")
            line.sendall(PNG)
            assert b"HTTP/1.1 202 " in _head(line)
        for length, status in ((len(PNG), b"429"), (1 << 30, b"413")):
            with _connected(house) as line:
                line.sendall(head % length)
                assert _head(line).startswith(b"HTTP/1.1 " + status)


def test_too_large_is_413_while_it_comes(house: House) -> None:
    before = house.files()

    def pieces() -> Iterator[bytes]:
        yield PNG
        for _ in range(200):
            yield bytes(MIB // 64)

    answer = house.ask("POST", "/v1/ocr", body=pieces())
    assert (answer.status, answer.json["error"]["code"]) == (413, "file_too_large")
    assert house.files() == before


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS"])
def test_other_methods_are_405(house: House, method: str) -> None:
    answer = house.ask(method, "/v1/ocr")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    assert not any(name.lower().startswith("access-control") for name in answer.headers)


def test_a_full_line_is_429_with_a_time(tmp_path: Path) -> None:
    with House(tmp_path, works=False, max_waiting=2) as house:
        for _ in range(2):
            assert house.send(PNG, "/v1/jobs").status == 202
        for path in ("/v1/ocr", "/v1/jobs", "/ocr", "/api/v2/ocr/jobs"):
            answer = house.send(PNG, path)
            assert answer.status == 429
            assert int(answer.headers["Retry-After"]) >= 1
        assert house.ask("PUT", "/tika", body=PNG).status == 429
        assert house.ask("GET", "/readyz").status == 429
        assert house.ask("GET", "/livez").status == 200
        house.work()
        assert house.send(PNG, "/v1/ocr?wait=0").status == 202


def test_the_line_is_not_overfilled_by_many_at_once(tmp_path: Path) -> None:
    with House(tmp_path, works=False, max_waiting=3) as house:
        head = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        lines = [_connected(house) for _ in range(8)]
        for line in lines:
            line.sendall(head % len(PNG) + PNG[:-1])
        for line in lines:  # all were admitted: the last byte decides
            line.sendall(PNG[-1:])
        statuses = sorted(int(_head(line).split()[1]) for line in lines)
        assert statuses == [202] * 3 + [429] * 5
        for line in lines:
            line.close()
        assert len([file for file in house.files() if file.endswith(".png")]) == 3


def test_without_a_daemon_it_is_503_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ocr_watcher.http.daemon_state.AWAY_S", 0.0)
    with House(tmp_path, daemon=False) as house:
        answer = house.send(PNG)
        assert (answer.status, answer.json["error"]["code"]) == (503, "daemon_away")
        assert answer.headers["Retry-After"]
        assert house.ask("GET", "/readyz").status == 503


def test_a_daemon_that_is_just_away_only_delays(tmp_path: Path) -> None:
    with House(tmp_path, daemon=False, works=False) as house:
        assert house.send(PNG, "/v1/ocr?wait=0").status == 202


def test_a_full_disk_is_507(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = house.files()
    with monkeypatch.context() as during:
        during.setattr("ocr_watcher.http.spool.Upload.write", refuse)
        answer = house.send(PNG)
    assert (answer.status, answer.json["error"]["code"]) == (507, "disk_full")
    assert house.files() == before


# -- what it tells of itself -----------------------------------------------------------------------


def test_every_address_is_described_and_every_description_has_its_address(house: House) -> None:
    described = house.ask("GET", "/openapi.json").json
    routes: set[tuple[str, str]] = set()
    for resource in house.server.app.router.resources():
        for route in resource:
            if route.method != "HEAD":
                routes.add((route.method.lower(), resource.canonical))
    told = {
        (method, path)
        for path, item in described["paths"].items()
        for method in item
        if method != "parameters"
    }
    assert routes == told


def test_the_description_is_valid_and_its_schemas_too(house: House) -> None:
    described = house.ask("GET", "/openapi.json").json
    text = json.dumps(described)
    for reference in re.findall(r'"\$ref": "#/components/schemas/(\w+)"', text):
        assert reference in described["components"]["schemas"]
    for schema in described["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_metrics_parse_and_name_no_path(house: House) -> None:
    house.send(PNG)
    house.ask("GET", "/v1/jobs/nothing")
    text = house.ask("GET", "/metrics").text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert [sample.value for sample in families["ocrwatcher_up"].samples] == [1.0]
    requests = families["ocrwatcher_http_requests"].samples
    assert {sample.labels["route"] for sample in requests} >= {"/v1/ocr", "/v1/jobs/{id}"}
    assert str(house.spool) not in text


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_promtool_has_nothing_to_say(house: House) -> None:
    house.send(PNG)
    result = subprocess.run(
        ["promtool", "check", "metrics"],
        input=house.ask("GET", "/metrics").body,
        capture_output=True,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


def test_the_dashboard_shows_metrics_that_there_are(house: House) -> None:
    house.send(PNG)
    house.send(b"hello")
    text = house.ask("GET", "/metrics").text
    dashboard = Path(__file__).parents[1].joinpath("examples", "grafana.json").read_text("utf-8")
    shown = set(re.findall(r"ocrwatcher_\w+", dashboard))
    # What only a running daemon tells; of this one there is no more than a status file.
    of_the_daemon = {name for name in shown if not name.startswith("ocrwatcher_http_")}
    assert shown - of_the_daemon <= set(re.findall(r"ocrwatcher_\w+", text))
    assert of_the_daemon <= known_metrics()


def known_metrics() -> set[str]:
    """Every metric that a daemon with something to tell has."""
    told = Told(
        queue=QueueState(1, 2, 3, 4, now()),
        in_hand=InHand("/x", 1, now(), 1),
        rss_mb=1.0,
        peak_rss_mb=1.0,
        last_exit=LastExit("", 75, now()),
        soft_limit_mb=1,
        rss_limit_mb=1,
        totals=(Total("files", "ok", 1), Total("files", "truncated", 1), Total("pages", "pixels", 1)),
        recycles=(Total("recycles", "memory", 1),),
    )
    seen = DaemonCollector(SimpleNamespace(told=told, running=True))  # type: ignore[arg-type]
    return {sample.name for family in seen.collect() for sample in family.samples}


def test_the_metrics_are_those_that_were_promised() -> None:
    names = """files_total pages_total queue_wait_seconds_bucket load_seconds_bucket ocr_seconds_bucket
        queue_length queue_capacity files_waiting files_failed oldest_waiting_seconds in_hand_seconds
        resident_memory_bytes peak_resident_memory_bytes memory_limit_bytes recycles_total last_exit_code
        up build_info"""
    assert {f"ocrwatcher_{name}" for name in names.split()} <= known_metrics()


def test_status_and_page(house: House) -> None:
    status = house.ask("GET", "/v1/status").json
    assert status["running"] is True
    assert status["http"]["max_waiting"] == 64
    assert "ocr-watcher" in house.ask("GET", "/").text


def test_files_of_folders_are_told_of_where_they_are_to_be(tmp_path: Path) -> None:
    for shown in (True, False):
        (tmp_path / str(shown)).mkdir()
        with House(tmp_path / str(shown), show_folders=shown) as house:
            assert ("files" in house.ask("GET", "/v1/status").json) is shown


def test_events_begin_with_a_snapshot_and_tell_of_known_jobs(tmp_path: Path) -> None:
    with House(tmp_path, works=False) as house:
        job = house.send(PNG, "/v1/jobs").json["id"]
        with _connected(house) as line:
            line.sendall(f"GET /v1/events?job={job} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            text = _until(line, b'"jobs": [')
            assert b"text/event-stream" in text
            assert b"event: snapshot" in text
            house.work()
            text = _until(line, b'"status": "done"')
            assert b"event: job" in text
        with _connected(house) as line:
            line.sendall(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert job.encode() not in _until(line, b'"jobs": []')


def test_nothing_may_be_kept_framed_or_guessed(house: House) -> None:
    for path in ("/", "/v1/jobs/x", "/livez"):
        headers = house.ask("GET", path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == ("no-cache" if path == "/" else "no-store")
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


# -- a bare connection -----------------------------------------------------------------------------


def _connected(house: House) -> socket.socket:
    host, port = house.address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def _head(line: socket.socket) -> bytes:
    return _until(line, b"\r\n\r\n")


def _until(line: socket.socket, mark: bytes) -> bytes:
    text = b""
    while mark not in text:
        block = line.recv(65536)
        if not block:
            raise AssertionError(f"closed after {text!r}")
        text += block
    return text
