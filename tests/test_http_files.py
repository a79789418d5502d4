"""The list of documents, their pages, pictures and results, over HTTP; and what the memory was."""

from __future__ import annotations

import io
import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from ocr_watcher import names
from ocr_watcher.document import Line, Page, Source
from ocr_watcher.errors import ExitCode, TruncatedError
from ocr_watcher.http import listing, previews
from ocr_watcher.http.history import History
from ocr_watcher.http.summary import Summaries, text_of
from ocr_watcher.http.threads import Threads
from ocr_watcher.job import Stamp
from ocr_watcher.outputs import commit, sidecar
from ocr_watcher.service.retries import MAX_NOTES, Retries, ask
from ocr_watcher.service.told import LastExit, StatusFile, Told
from tests import pdfs
from tests.fuse import mounted, why_not
from tests.http_house import House, looking_at_once
from tests.support import dot, draw, until
from tests.test_sidecar import document

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

KEY_A, KEY_B = "a" * 24, "b" * 24


def done(path: Path, *texts: str, pages: int = 1, at_s: float | None = None) -> Path:
    """A document in an inbox with its record, as the daemon leaves it."""
    dot(path)
    status = path.stat()
    lines = tuple(
        Line(text, 0.9, ((5.0, 10.0 * n), (60.0, 10.0 * n), (60.0, 10.0 * n + 8), (5.0, 10.0 * n + 8)))
        for n, text in enumerate(texts)
    )
    made = [Page(number, 64, 48, 1.0, lines, "\n".join(texts)) for number in range(pages)]
    source = Source(path.name, Stamp.of(status), "0" * 64)
    _put(path, lambda fd: commit.commit(fd, path.name, status, sidecar.document_json(document(source, made))))
    if at_s is not None:
        os.utime(f"{path}.json", (at_s, at_s))
    return path


def failed(path: Path) -> Path:
    dot(path)
    status = path.stat()
    record = sidecar.error_json(
        Source(path.name, Stamp.of(status), None),
        TruncatedError(f"{path} ends before its image does"),
        attempts=1,
        will_retry=False,
    )
    _put(path, lambda fd: commit.commit_error(fd, path.name, status, record))
    return path


def _put(path: Path, act: Any) -> None:
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        act(folder)
    finally:
        os.close(folder)


@pytest.fixture(autouse=True)
def _now() -> Iterator[None]:
    with looking_at_once():
        yield


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with House(tmp_path) as made:
        yield made


def inbox_of(house: House) -> Path:
    return house.settings.watch.inbox[0]


def listed(house: House, query: str = "", **options: Any) -> list[dict[str, Any]]:
    files: list[dict[str, Any]] = house.ask("GET", f"/v1/files{query}", **options).json.get("files", [])
    return files


def names_of(files: Sequence[dict[str, Any]]) -> list[str]:
    return [file["name"] for file in files]


# -- the list --------------------------------------------------------------------------------------


def test_documents_of_folders_and_jobs_are_listed_the_latest_first(house: House) -> None:
    inbox = inbox_of(house)
    (inbox / "sub").mkdir()
    now = time.time()
    done(inbox / "old.png", "one", "two", pages=3, at_s=now - 100)
    done(inbox / "sub" / "new.png", "three", at_s=now - 50)
    failed(inbox / "bad.png")
    os.utime(inbox / "bad.png.error.json", (now - 70, now - 70))
    house.send(draw(inbox.parent / "x.png").read_bytes(), name="sent.png")
    files = listed(house)
    assert names_of(files) == ["sent.png", "sub/new.png", "bad.png", "old.png"]
    assert [file["state"] for file in files] == ["done", "done", "failed", "done"]
    assert [file["source"] for file in files] == ["http", "folder", "folder", "folder"]
    assert (files[3]["page_count"], files[3]["lines"], files[3]["ocr_ms"]) == (3, 6, 0)
    assert files[2]["error"]["code"] == "truncated"
    assert files[2]["error"]["hint"]


def test_what_waits_and_what_is_in_hand_is_listed(tmp_path: Path) -> None:
    with House(tmp_path, works=False) as house:
        dot(inbox_of(house) / "fresh.png")
        job = house.send(dot(tmp_path / "x.png").read_bytes(), "/v1/jobs", "queued.png").json["id"]
        files = {file["name"]: file for file in listed(house)}
        assert files["fresh.png"]["state"] == "waiting"
        assert (files["queued.png"]["state"], files["queued.png"]["place"]) == ("waiting", 1)
        assert files["queued.png"]["id"] == job
        house.work()
        assert {file["name"]: file["state"] for file in listed(house)}["queued.png"] == "done"


def test_the_list_goes_on_where_it_ended_also_among_documents_of_one_moment(house: House) -> None:
    for number in range(25):
        done(inbox_of(house) / f"{number:02}.png", "text", at_s=1_700_000_000 + number // 10)
    found: list[str] = []
    before = ""
    while True:
        answer = house.ask("GET", f"/v1/files?limit=4{before}").json
        found += names_of(answer["files"])
        assert answer["total"] == 25
        if answer["before"] is None:
            break
        before = f"&before={answer['before']}"
    assert len(found) == len(set(found)) == 25
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize(
    "query",
    [
        *("?limit=0", "?limit=201", "?limit=x", "?limit=-1", "?before=x", "?before=-1-1", "?before=1"),
        *("?job=x", "?job=" + "G" * 32, "?" + f"job={'a' * 32}&" * 101, "?state=done", "?state="),
    ],
)
def test_odd_questions_are_refused(house: House, query: str) -> None:
    answer = house.ask("GET", f"/v1/files{query}")
    assert (answer.status, answer.json["error"]["code"]) == (400, "bad_request")


@pytest.mark.parametrize(
    "query",
    [
        "?q=" + "x" * 300,
        "?q=.*(",
        "?q=%00",
        "?q=%ff",
        f"?before={9**20}-0",
        "?before=1-999999999",
        "?before=0-0",
    ],
)
def test_odd_questions_are_answered(house: House, query: str) -> None:
    done(inbox_of(house) / "a.png", "x")
    answer = house.ask("GET", f"/v1/files{query}")
    assert answer.status == 200
    assert names_of(answer.json["files"]) == (["a.png"] if "-0" in query and "=0" not in query else [])


def test_a_search_finds_names_and_texts(house: House) -> None:
    inbox = inbox_of(house)
    done(inbox / "invoice.png", 'He said: "pay\tnow"', "Größe 12 m²")
    done(inbox / "letter.png", "Dear Ms Holm", "an INVOICE is enclosed")
    done(inbox / "other.png", "nothing of it")
    assert names_of(listed(house, "?q=invoice")) == ["letter.png", "invoice.png"]
    assert names_of(listed(house, "?q=gr%C3%B6%C3%9Fe+12")) == ["invoice.png"]
    assert names_of(listed(house, "?q=holm+an+invoice")) == ["letter.png"]  # over the end of a line
    assert names_of(listed(house, '?q="pay now"')) == ["invoice.png"]
    assert listed(house, "?q=absent") == []
    (hit,) = listed(house, "?q=ms+holm")
    assert hit["excerpt"] == ["Dear ", "Ms Holm", " an INVOICE is enclosed"]


def test_only_what_failed(house: House) -> None:
    done(inbox_of(house) / "good.png", "x")
    failed(inbox_of(house) / "bad.png")
    assert names_of(listed(house, "?state=failed")) == ["bad.png"]


def test_what_is_gone_is_not_listed_and_what_came_is(house: House) -> None:
    gone = done(inbox_of(house) / "gone.png", "x")
    assert names_of(listed(house)) == ["gone.png"]
    gone.unlink()
    assert listed(house) == []


# -- who may see what ------------------------------------------------------------------------------


def test_no_path_of_this_machine_and_no_id_that_could_be_guessed(house: House, tmp_path: Path) -> None:
    done(inbox_of(house) / "a.png", "x")
    failed(inbox_of(house) / "bad.png")
    answers = [house.ask("GET", path) for path in ("/v1/files", "/v1/overview", "/v1/memory")]
    key = next(file["id"] for file in answers[0].json["files"] if file["name"] == "a.png")
    answers += [
        house.ask("GET", f"/v1/files/{key}{rest}")
        for rest in ("", "/result", "/result?format=hocr", "/pages/1", "/pages/1/picture", "/pages/2/picture")
    ]
    for answer in answers:
        assert str(tmp_path).encode() not in answer.body
    assert len(key) == 33
    for path in (inbox_of(house) / "a.png", "a.png"):
        assert key != "f" + names.stem_of(str(path))


@pytest.mark.parametrize(
    "key", ["f" + "0" * 32, "0" * 32, "..%2f..%2fetc%2fpasswd", "%2e%2e", "x", "f" * 33, "%00", "a.png"]
)
def test_an_id_that_nobody_gave_opens_nothing(house: House, key: str) -> None:
    done(inbox_of(house) / "a.png", "x")
    for rest in ("", "/result", "/pages/1", "/pages/1/picture"):
        assert house.ask("GET", f"/v1/files/{key}{rest}").status == 404
    assert house.ask("POST", f"/v1/files/{key}/retry").status == 404


def test_ids_outlive_the_server(house: House) -> None:
    done(inbox_of(house) / "a.png", "x")
    (before,) = listed(house)
    house.stop_server()
    house.start_server()
    assert house.ask("GET", f"/v1/files/{before['id']}").json["name"] == "a.png"


def test_folders_are_shown_only_where_that_is_wanted(tmp_path: Path) -> None:
    with House(tmp_path) as house:
        done(inbox_of(house) / "secret.png", "x")
        (known,) = listed(house)
    with House(tmp_path, show_folders=False) as house:
        job = house.send(dot(tmp_path / "x.png").read_bytes(), "/v1/jobs").json["id"]
        house.until_read(job)
        assert listed(house) == []
        assert [file["id"] for file in listed(house, f"?job={job}")] == [job]
        assert house.ask("GET", f"/v1/files/{known['id']}").status == 404
        assert house.ask("POST", f"/v1/files/{known['id']}/retry").status == 404
        assert "secret" not in house.ask("GET", "/v1/overview").text


def test_jobs_are_listed_to_who_sent_them(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"{KEY_A}\n{KEY_B}\n", "ascii")
    with House(tmp_path, api_keys_file=str(tmp_path / "keys")) as house:
        heads = [{"X-Api-Key": key} for key in (KEY_A, KEY_B)]
        for number, head in enumerate(heads):
            image = dot(tmp_path / "x.png").read_bytes()
            fields = {"file": (f"of-{number}.png", image)}
            assert house.ask("POST", "/v1/ocr", fields=fields, headers=head).status == 200
        assert [names_of(listed(house, headers=head)) for head in heads] == [["of-0.png"], ["of-1.png"]]
        assert house.ask("GET", "/v1/files").status == 401
        assert house.ask("GET", "/page/main.js").status == 200


def test_a_page_of_another_site_has_nothing_tried_again(house: House) -> None:
    failed(inbox_of(house) / "bad.png")
    (file,) = listed(house)
    answer = house.ask("POST", f"/v1/files/{file['id']}/retry", headers={"Origin": "http://evil.example"})
    assert answer.status == 403
    assert (inbox_of(house) / "bad.png.error.json").exists()


# -- one document ----------------------------------------------------------------------------------


def test_a_document_of_a_folder_has_pages_results_and_a_picture(house: House) -> None:
    path = done(inbox_of(house) / "a.png", "first", "second", pages=2)
    (inbox_of(house) / "a.png.ocr.pdf").write_bytes(b"%PDF-1.7")
    (file,) = listed(house)
    at = f"/v1/files/{file['id']}"
    assert house.ask("GET", at).json["formats"] == ["json", "txt", "hocr", "alto", "tsv", "pdf"]
    assert house.ask("GET", f"{at}/result?format=txt").text.splitlines()[:2] == ["first", "second"]
    assert house.ask("GET", f"{at}/result?format=pdf").body == b"%PDF-1.7"
    assert house.ask("GET", f"{at}/result?format=overlay").status == 409
    assert house.ask("GET", f"{at}/result?format=exe").status == 400
    assert house.ask("GET", f"{at}/pages/2").json["index"] == 1
    assert house.ask("GET", f"{at}/pages/3").status == 404
    assert house.ask("GET", f"{at}/pages/0").status == 400
    picture = house.ask("GET", f"{at}/pages/1/picture")
    assert (picture.body, picture.headers["Content-Type"]) == (path.read_bytes(), "image/png")
    assert "sandbox" in picture.headers["Content-Security-Policy"]


def test_a_link_in_an_inbox_shows_nothing_of_what_it_leads_to(house: House, tmp_path: Path) -> None:
    path = done(inbox_of(house) / "sub.png", "x")
    (file,) = listed(house)
    secret = tmp_path / "secret.png"
    dot(secret, (99, 99))
    path.unlink()
    path.symlink_to(secret)
    assert house.ask("GET", f"/v1/files/{file['id']}/pages/1/picture").status == 404


def test_a_job_has_a_preview_where_no_browser_shows_it(house: House, tmp_path: Path) -> None:
    page, other = Image.new("RGB", (600, 400), "white"), Image.new("RGB", (300, 900), "black")
    page.save(tmp_path / "two.tif", save_all=True, append_images=[other], compression="tiff_lzw")
    job = house.send((tmp_path / "two.tif").read_bytes(), "/v1/jobs", "two.tif").json["id"]
    assert house.until_read(job)["status"] == "done"
    for number, shape in ((1, "wide"), (2, "high")):
        answer = house.ask("GET", f"/v1/files/{job}/pages/{number}/picture")
        assert answer.headers["Content-Type"] == "image/jpeg"
        shown = Image.open(io.BytesIO(answer.body))
        assert (shown.width > shown.height) == (shape == "wide")
    assert house.ask("GET", f"/v1/files/{job}/pages/3/picture").json["error"]["code"] == "no_picture"
    kept = house.spool / names.PREVIEWS / names.stem_of(job)
    assert len(list(kept.iterdir())) == 2
    house.ask("DELETE", f"/v1/jobs/{job}")
    assert not kept.exists()


def test_the_first_pages_of_a_pdf_with_text_have_a_preview(house: House) -> None:
    made = pdfs.Pdf()
    for number in range(12):
        made.page(
            pdfs.text(f"Page number {number} has a line of text, which is long enough to count as some.")
        )
    job = house.send(made.bytes(), "/v1/jobs", "text.pdf").json["id"]
    assert house.until_read(job)["status"] == "done"
    assert house.ask("GET", f"/v1/files/{job}/pages/1").json["read_from"] == "text_layer"
    found = [house.ask("GET", f"/v1/files/{job}/pages/{number}/picture").status for number in (1, 10, 11)]
    assert found == [200, 200, 404]


def test_a_job_that_failed_is_tried_again(house: House, tmp_path: Path) -> None:
    house.engine.on_read = _raise
    job = house.send(dot(tmp_path / "x.png").read_bytes(), "/v1/jobs").json["id"]
    for _ in range(50):
        house.work()
    assert house.until_read(job)["status"] == "failed"
    house.engine.on_read = None
    answer = house.ask("POST", f"/v1/files/{job}/retry")
    assert (answer.status, answer.json["state"]) == (202, "waiting")
    assert house.until_read(job)["status"] == "done"


def _raise(_bgr: object) -> None:
    raise RuntimeError("scripted")


def test_a_document_of_a_folder_that_failed_is_tried_again(house: House) -> None:
    failed(inbox_of(house) / "bad.png")
    done(inbox_of(house) / "good.png", "x")
    file = next(file for file in listed(house, "?q=bad"))
    answer = house.ask("POST", f"/v1/files/{file['id']}/retry")
    assert (answer.status, answer.json["state"]) == (202, "waiting")
    retries = Retries(house.settings, house.spool, house.log)  # type: ignore[arg-type] # collects
    retries.step()
    assert not (inbox_of(house) / "bad.png.error.json").exists()
    assert house.log.named("file.retried")
    assert list((house.spool / names.RETRIES).iterdir()) == []
    good = next(file for file in listed(house, "?q=good"))
    answer = house.ask("POST", f"/v1/files/{good['id']}/retry")
    assert (answer.status, answer.json["error"]["code"]) == (409, "not_failed")


def test_records_in_a_tree_and_documents_in_the_archive(tmp_path: Path) -> None:
    for name in ("records", "archive"):
        (tmp_path / name).mkdir()
    with House(
        tmp_path,
        sections={
            "output": {
                "folder": str(tmp_path / "records"),
                "archive": str(tmp_path / "archive"),
                "on_success": "archive",
            }
        },
    ) as house:
        path = done(tmp_path / "archive" / "moved.png", "text")
        os.rename(f"{path}.json", tmp_path / "records" / "moved.png.json")
        dot(inbox_of(house) / "fresh.png")
        files = listed(house)
        assert {file["name"]: file["state"] for file in files} == {
            "moved.png": "done",
            "fresh.png": "waiting",
        }
        moved = next(file for file in files if file["state"] == "done")
        assert house.ask("GET", f"/v1/files/{moved['id']}/result?format=txt").text == "text\n"
        assert house.ask("GET", f"/v1/files/{moved['id']}/pages/1/picture").status == 200


def test_a_note_names_a_document_in_an_inbox_or_does_nothing(house: House, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    elsewhere = failed(tmp_path / "outside" / "bad.png")
    (inbox_of(house) / "link").symlink_to(tmp_path / "outside")
    inside = failed(inbox_of(house) / "bad.png")
    foreign = inbox_of(house) / "of-others.png"
    Path(f"{foreign}.error.json").write_text('{"theirs": 1}', "ascii")
    dot(foreign)
    for path in (
        str(elsewhere),
        f"{inbox_of(house)}/../outside/bad.png",
        f"{inbox_of(house)}/link/bad.png",
        f"{inbox_of(house)}//bad.png",
        f"{inbox_of(house)}/",
        f"{inbox_of(house)}/a\0b",
        f"{inbox_of(house)}/\udcff/absent.png",
        str(foreign),
    ):
        assert ask(house.spool, path)
    notes = house.spool / names.RETRIES
    (notes / "odd").write_bytes(b"\xff{")
    (notes / "list").write_text("[1]", "ascii")
    (notes / "much").write_bytes(bytes(100_000))
    (notes / "half.tmp").write_text('"', "ascii")
    Retries(house.settings, house.spool, house.log).step()  # type: ignore[arg-type] # collects
    assert [path.name for path in notes.iterdir()] == ["half.tmp"]
    for untouched in (elsewhere, inside, foreign):
        assert Path(f"{untouched}.error.json").exists()


def test_notes_have_a_limit(house: House) -> None:
    notes = house.spool / names.RETRIES
    notes.mkdir()
    for number in range(MAX_NOTES):
        (notes / str(number)).touch()
    failed(inbox_of(house) / "bad.png")
    (file,) = listed(house)
    assert house.ask("POST", f"/v1/files/{file['id']}/retry").status == 429


@pytest.mark.skipif(bool(why_not()), reason=f"NO MOUNT CAN HANG ON THIS MACHINE: {why_not()}")
def test_an_inbox_that_hangs_holds_up_no_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "Threads", lambda: Threads(0.5))
    monkeypatch.setattr(listing, "_LOOK_PATIENCE_S", 0.2)
    monkeypatch.setattr(listing, "_ABANDON_S", 0.5)
    for name in ("source", "mount", "inbox"):
        (tmp_path / name).mkdir()
    dot(tmp_path / "source" / "far.png")
    inboxes = {"watch": {"inbox": [str(tmp_path / "mount"), str(tmp_path / "inbox")]}}
    with (
        mounted(tmp_path / "source", tmp_path / "mount") as mount,
        House(tmp_path, sections=inboxes) as house,
    ):
        done(tmp_path / "inbox" / "near.png", "x")
        assert set(names_of(listed(house))) == {"mount/far.png", "inbox/near.png"}
        mount.send_signal(signal.SIGSTOP)
        # Until it is known, a list may be refused, but is not waited for.
        for _ in range(3):
            began = time.monotonic()
            assert house.ask("GET", "/v1/files").status in (200, 504)
            assert house.ask("GET", "/v1/overview").status == 200
            assert time.monotonic() - began < 5
        hung = (str(tmp_path / "mount"),)
        StatusFile(house.settings.state_dir / "status.json").write(
            Told(pid=1, spool=str(house.spool), updated_at=sidecar.now(), inboxes_hung=hung)
        )
        done(tmp_path / "inbox" / "later.png", "x")
        until(lambda: set(names_of(listed(house))) == {"inbox/later.png", "inbox/near.png"})
        told = house.ask("GET", "/v1/overview").json["status"]
        assert told["inboxes_hung"] == ["mount"]
        mount.send_signal(signal.SIGCONT)
        StatusFile(house.settings.state_dir / "status.json").write(
            Told(pid=1, spool=str(house.spool), updated_at=sidecar.now())
        )
        until(lambda: len(listed(house)) == 3)


# -- parts -----------------------------------------------------------------------------------------


def test_previews_of_folders_have_a_limit_and_those_of_jobs_go_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(previews, "MAX_BYTES", 2500)
    for at, name in enumerate(["f" + "1" * 32, "f" + "2" * 32, "f" + "3" * 32, "a" * 32, "b" * 32]):
        folder = tmp_path / names.PREVIEWS / name
        folder.mkdir(parents=True)
        (folder / "1.jpg").write_bytes(bytes(1000))
        os.utime(folder, (at, at))
    previews.prune(tmp_path, {"a" * 32})
    left = sorted(path.name for path in (tmp_path / names.PREVIEWS).iterdir())
    assert left == ["a" * 32, "f" + "2" * 32, "f" + "3" * 32]


@pytest.mark.parametrize(
    "text", ["plain", 'a "quote" \\', "\\", '"', "tab\tand\nline", "日本", "x" * 200_000, ""]
)
def test_the_text_of_a_record_is_found(tmp_path: Path, text: str) -> None:
    page = Page(0, 10, 10, 1.0, (), text)
    made = tmp_path / "a.json"
    made.write_bytes(
        b"".join(sidecar.document_json(document(Source('", "text": "x', Stamp(1, 2), "0" * 64), [page])))
    )
    assert text_of(str(made)) == text


def test_a_summary_counts_lines_and_not_what_looks_like_one(tmp_path: Path) -> None:
    line = Line('"polygon": [', 0.5, ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)))
    pages = [Page(number, 10, 10, 1.0, (line, line), line.text) for number in range(3)]
    made = tmp_path / "a.json"
    made.write_bytes(b"".join(sidecar.document_json(document(Source("a", Stamp(1, 2), "0" * 64), pages))))
    found = Summaries().of(str(made))
    assert found is not None
    assert (found.pages, found.lines) == (3, 6)


def told(
    at: str, rss_mb: float, started_at: str = "2026-01-01T00:00:00Z", left: LastExit | None = None
) -> Told:
    return Told(updated_at=at, rss_mb=rss_mb, started_at=started_at, last_exit=left)


def test_memory_is_remembered_by_steps_and_starts_are_marked() -> None:
    history = History()
    history.look(told("2026-01-01T00:00:01Z", 100.0), running=True)
    history.look(told("2026-01-01T00:00:03Z", 300.0), running=True)
    history.look(told("2026-01-01T00:00:03Z", 300.0), running=True)
    history.look(told("2026-01-01T00:00:07Z", 200.0), running=True)
    left = LastExit("RSS 1600 MiB is above", int(ExitCode.RECYCLE), "2026-01-01T00:00:09Z")
    history.look(told("2026-01-01T00:00:11Z", 50.0, "2026-01-01T00:00:10Z", left), running=True)
    history.look(told("2026-01-01T00:00:12Z", 60.0), running=False)
    began = 1767225600
    found = history.as_json(3600, began + 20)
    assert found["points"] == [[began, 300.0], [began + 5, 200.0], [began + 10, 50.0]]
    assert found["starts"] == [[began, None], [began + 10, "RSS 1600 MiB is above"]]
    assert history.as_json(86_400, began + 20)["points"] == [[began, 300.0]]
    assert history.as_json(3600, began + 3700)["points"] == []


def test_memory_before_the_server_started_is_in_the_log(tmp_path: Path) -> None:
    lines = [
        {"timestamp": "2026-01-01T00:00:00Z", "event": "daemon.starting", "pid": 1},
        {"timestamp": "2026-01-01T00:00:10Z", "event": "memory.stats", "rss_mb": 700.5},
        {"timestamp": "2026-01-01T00:00:20Z", "event": "daemon.exiting", "reason": "RSS", "exit_code": 75},
        {"timestamp": "2026-01-01T00:00:22Z", "event": "daemon.starting", "pid": 2},
        {"timestamp": "2026-01-01T00:00:30Z", "event": "ocr.done", "path": "/x", "rss_mb": "odd"},
        {"timestamp": "odd", "event": "memory.stats", "rss_mb": 1},
        {"event": "memory.stats"},
    ]
    log = tmp_path / "log"
    log.write_text("\n".join(map(json.dumps, lines)) + "\nno JSON\n[]\n", "utf-8")
    history = History()
    history.read_log(log)
    found = history.as_json(3600, 1767225600 + 60)
    assert found["points"] == [[1767225610, 700.5]]
    assert found["starts"] == [[1767225600, None], [1767225622, "RSS"]]
    History().read_log(tmp_path / "absent")


def test_memory_is_bounded() -> None:
    history = History()
    for second in range(20_000):
        history._note(second, 1.0)
    assert len(history.as_json(3600, 20_000)["points"]) <= 720
