"""The APIs that clients speak already, asked by the real client where the environment has it."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from paddleocr._api_client import errors, models
from paddleocr._api_client.client import PaddleOCRClient
from PIL import Image

from ocr_watcher.http.paddlex import Parameters
from tests.http_house import House
from tests.support import settings
from tests.test_http import PNG

if TYPE_CHECKING:
    from collections.abc import Iterator

ENCODED = base64.b64encode(PNG).decode()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("clients")) as made:
        yield made


def tiff() -> bytes:
    file = io.BytesIO()
    pages = [Image.new("RGB", (60 + number, 40), "white") for number in range(3)]
    pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:])
    return file.getvalue()


# -- PaddleX serving -------------------------------------------------------------------------------


def paddlex(house: House, **fields: Any) -> Any:
    return house.ask("POST", "/ocr", json={"file": ENCODED, **fields})


def test_paddlex(house: House) -> None:
    answer = paddlex(house, fileType=1, visualize=False, logId="mine")
    assert answer.status == 200
    assert {key: answer.json[key] for key in ("logId", "errorCode", "errorMsg")} == {
        "logId": "mine",
        "errorCode": 0,
        "errorMsg": "Success",
    }
    result = answer.json["result"]
    assert result["dataInfo"] == {"width": 64, "height": 48, "type": "image"}
    [page] = result["ocrResults"]
    pruned = page["prunedResult"]
    assert pruned["rec_texts"] == ["48x64"]
    assert pruned["rec_scores"] == [1.0]
    assert pruned["rec_polys"] == pruned["dt_polys"] == [[[0, 0], [64, 0], [64, 48], [0, 48]]]
    assert pruned["rec_boxes"] == [[0, 0, 64, 48]]
    assert page["inputImage"] is None


def test_paddlex_shows_the_picture_unless_told_not_to(house: House) -> None:
    """The example of PaddleX's documentation decodes `ocrImage` without a look."""
    for fields in ({}, {"visualize": None}, {"visualize": True}):
        [page] = paddlex(house, fileType=1, **fields).json["result"]["ocrResults"]
        assert base64.b64decode(page["ocrImage"]).startswith(b"\xff\xd8\xff")
    [page] = paddlex(house, fileType=1, visualize=False).json["result"]["ocrResults"]
    assert page["ocrImage"] is None


def test_paddlex_of_several_pages(house: House) -> None:
    encoded = base64.b64encode(tiff()).decode()
    result = house.ask("POST", "/ocr", json={"file": encoded, "fileType": 1}).json["result"]
    assert len(result["ocrResults"]) == 3
    assert result["dataInfo"]["type"] == "tiff"
    assert result["dataInfo"]["numPages"] == 3
    assert [page["width"] for page in result["dataInfo"]["pages"]] == [60, 61, 62]


def test_paddlex_health(house: House) -> None:
    answer = house.ask("GET", "/health").json
    assert (answer["errorCode"], answer["errorMsg"]) == (0, "Healthy")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"textDetThresh": 0.5}, "textDetThresh"),
        ({"useDocUnwarping": True}, "useDocUnwarping"),
        ({"textDetLimitType": "min"}, "textDetLimitType"),
        ({"returnWordBox": True}, "returnWordBox"),
        ({"fileType": 7}, "fileType"),
        ({"visualize": "yes"}, "visualize"),
        ({"textRecScoreThresh": "high"}, "textRecScoreThresh"),
        ({"file": None}, "file"),
        ({"file": "https://example.com/x.png"}, "address"),
    ],
)
def test_paddlex_refuses_by_name_what_one_engine_cannot_do(
    house: House, fields: dict[str, Any], named: str
) -> None:
    answer = (
        paddlex(house, logId="mine", **fields)
        if "file" not in fields
        else house.ask("POST", "/ocr", json={**fields, "logId": "mine"})
    )
    assert answer.status == answer.json["errorCode"]
    assert answer.status in (400, 422)
    assert named in answer.json["errorMsg"]
    assert answer.json["logId"] == "mine"


def test_paddlex_takes_what_is_set_anyway_or_switches_off(house: House) -> None:
    off = {
        "useDocUnwarping": False,
        "useTextlineOrientation": False,
        "textDetThresh": 0.3,
        "textDetLimitType": "max",
        "returnWordBox": None,
        "fileType": None,
    }
    assert paddlex(house, **off).status == 200


def test_paddlex_leaves_out_what_is_too_uncertain(house: House) -> None:
    page = paddlex(house, textRecScoreThresh=1.5).json["result"]["ocrResults"][0]
    assert page["prunedResult"]["rec_texts"] == []
    assert page["prunedResult"]["text_rec_score_thresh"] == 1.5


def test_paddlex_says_why_a_document_cannot_be_read(house: House) -> None:
    answer = house.ask("POST", "/ocr", json={"file": base64.b64encode(PNG[:60]).decode()})
    assert (answer.status, answer.json["errorCode"]) == (422, 422)
    assert "truncated" in answer.json["errorMsg"] or "end" in answer.json["errorMsg"]


def test_when_the_wait_is_over_it_says_where_the_result_will_be(tmp_path: Path) -> None:
    with House(tmp_path, works=False, wait_s=0) as house:
        answer = paddlex(house)
        assert (answer.status, answer.json["errorCode"]) == (504, 504)
        address = answer.headers["Location"]
        assert address in answer.json["errorMsg"]
        house.work()
        assert house.ask("GET", f"{address}/result").json["text"] == "48x64"


# -- RapidOCR API ----------------------------------------------------------------------------------

RAPID = {
    "0": {"rec_txt": "48x64", "dt_boxes": [[0, 0], [64, 0], [64, 48], [0, 48]], "score": "1.0000"},
}


def test_rapidocr_api_in_its_forms(house: House) -> None:
    assert house.ask("POST", "/ocr", fields={"image_file": ("a.png", PNG)}).json == RAPID
    assert house.ask("POST", "/ocr", fields={"image_data": ENCODED}).json == RAPID
    body = f"image_data={ENCODED}&use_det=true".replace("+", "%2B").replace("/", "%2F")
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert house.ask("POST", "/ocr", body=body, headers=form).json == RAPID


def test_rapidocr_api_without_an_image(house: House) -> None:
    answer = house.ask("POST", "/ocr", fields={"image": ("a.png", PNG)})
    assert answer.status == 400
    assert "image_file" in answer.json["detail"]


# -- Apache Tika -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "start"),
    [("text/plain", "48x64\n"), ("*/*", "48x64\n"), ("text/html", "<html>"), ("application/json", "{")],
)
def test_tika_answers_as_it_is_asked(house: House, accept: str, start: str) -> None:
    answer = house.ask("PUT", "/tika", body=PNG, headers={"Accept": accept})
    assert answer.status == 200
    assert answer.text.startswith(start)
    assert "48x64" in answer.text


def test_tika_in_json(house: House) -> None:
    disposition = {"Content-Disposition": 'attachment; filename="a.png"'}
    answer = house.ask("PUT", "/tika/text", body=PNG, headers=disposition).json
    assert answer["X-TIKA:content"] == "48x64\n"
    assert (answer["Content-Type"], answer["resourceName"]) == ("image/png", "a.png")
    [item] = house.ask("PUT", "/rmeta/text", body=PNG).json
    assert item["X-TIKA:content"] == "48x64\n"
    form = house.ask("POST", "/tika/form/text", fields={"upload-file": ("b.png", PNG)}).json
    assert (form["X-TIKA:content"], form["resourceName"]) == ("48x64\n", "b.png")


def test_tika_says_what_it_cannot_read(house: House) -> None:
    assert house.ask("PUT", "/tika", body=b"hello").status == 415
    assert house.ask("PUT", "/tika", body=PNG[:60]).status == 422


def test_tika_has_nothing_to_say_of_a_blank_page(tmp_path: Path) -> None:
    with House(tmp_path) as house:
        house.engine.on_read = lambda _bgr: {
            name: [] for name in ("rec_texts", "rec_scores", "dt_polys", "rec_polys", "rec_boxes")
        }
        assert house.ask("PUT", "/tika", body=PNG).status == 204
        assert house.ask("PUT", "/tika/text", body=PNG).json["X-TIKA:content"] == "\n"


# -- PaddleOCR's own client ------------------------------------------------------------------------


@pytest.fixture
def client(house: House, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("PADDLEOCR_BASE_URL", house.address)
    with PaddleOCRClient(token="any") as made:  # noqa: S106 - no server of ours looks at it
        made._poller._initial_interval = 0.05  # 3 s
        yield made


def test_paddleocrs_client(client: Any, tmp_path: Path) -> None:
    (tmp_path / "scan.png").write_bytes(PNG)
    result = client.ocr(file_path=str(tmp_path / "scan.png"))
    assert [page.pruned_result["rec_texts"] for page in result.pages] == [["48x64"]]
    assert result.data_info == {"width": 64, "height": 48, "type": "image"}


def test_paddleocrs_client_knows_progress_and_batches(client: Any, house: House, tmp_path: Path) -> None:
    (tmp_path / "scan.tif").write_bytes(tiff())
    job = client.submit_ocr(file_path=str(tmp_path / "scan.tif"), batch_id="mine")
    house.until_read(job.job_id)
    status = client.get_status(job.job_id)
    assert (status.state, status.progress.total_pages, status.progress.extracted_pages) == ("done", 3, 3)
    [same] = client.get_batch_status("mine").jobs
    assert same.job_id == job.job_id
    other = PaddleOCRClient(token="other", base_url=house.address)  # noqa: S106
    with other, pytest.raises(errors.APIError):
        other.get_batch_status("mine")


def test_paddleocrs_client_is_told_in_its_own_errors(client: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(PNG[:60])
    with pytest.raises(errors.JobFailedError, match="truncated"):
        client.ocr(file_path=str(tmp_path / "bad.png"))
    with pytest.raises(errors.InvalidRequestError, match="address"):
        client.ocr(file_url="https://example.com/x.png")
    with pytest.raises(errors.InvalidRequestError, match="textDetThresh"):
        client.ocr(file_path=str(tmp_path / "bad.png"), options=models.OCROptions(text_det_thresh=0.9))
    with pytest.raises(errors.InvalidRequestError, match="PaddleOCR-VL"):
        client.parse_document(file_path=str(tmp_path / "bad.png"))
    with pytest.raises(errors.InvalidRequestError, match="pageRanges"):
        client.ocr(file_path=str(tmp_path / "bad.png"), page_ranges="1-2")


def test_paddleocrs_client_is_told_to_come_again(tmp_path: Path) -> None:
    (tmp_path / "scan.png").write_bytes(PNG)
    keys = tmp_path / "keys"
    keys.write_text("secret\n")
    with House(tmp_path, works=False, max_waiting=1, api_keys_file=str(keys)) as house:
        stranger = PaddleOCRClient(token="wrong", base_url=house.address)  # noqa: S106
        with stranger, pytest.raises(errors.AuthError):
            stranger.submit_ocr(file_path=str(tmp_path / "scan.png"))
        with PaddleOCRClient(token="secret", base_url=house.address) as client:  # noqa: S106
            job = client.submit_ocr(file_path=str(tmp_path / "scan.png"))
            with pytest.raises(errors.RateLimitError):
                client.submit_ocr(file_path=str(tmp_path / "scan.png"))
            house.work()
            # The result comes without the key.
            assert client.wait_ocr_result(job).pages[0].pruned_result["rec_texts"] == ["48x64"]


def test_the_parameters_that_are_set_are_those_of_the_configuration(tmp_path: Path) -> None:
    made = settings(
        tmp_path, ocr={"params": {"text_det_thresh": 0.4}, "min_score": 0.5, "orientation": "off"}
    )
    parameters = Parameters(made)
    assert parameters.check({"textDetThresh": 0.4, "textRecScoreThresh": 0.6}).min_score == 0.6
    assert parameters.check({}).min_score == 0.5
    assert parameters.detector()["thresh"] == 0.4
