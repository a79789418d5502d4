"""Clients that are not among our libraries: two for Apache Tika, and the HTTP code of PaddleOCR's MCP server.

`make test-clients` puts them where these tests find them; elsewhere they are skipped.
"""

from __future__ import annotations

import asyncio
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.http_house import House
from tests.test_http import PNG

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("strangers")) as made:
        yield made


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "scän.png"
    path.write_bytes(PNG)
    return path


def test_tika_client(house: House, scan: Path) -> None:
    client: Any = pytest.importorskip("tika_client")
    with client.TikaClient(tika_url=house.address) as tika:
        assert tika.tika.as_text.from_file(scan).content == "48x64\n"
        assert "48x64" in tika.tika.as_html.from_file(scan).content
        assert tika.tika.as_text.from_buffer(PNG).type == "image/png"
        [item] = tika.rmeta.as_text.from_file(scan)
        assert item.content == "48x64\n"


def test_tika_python(house: House, scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tika")
    monkeypatch.setattr(importlib.import_module("tika.tika"), "TikaClientOnly", True)
    parser: Any = importlib.import_module("tika.parser")
    assert parser.from_file(str(scan), serverEndpoint=house.address)["content"] == "48x64\n"
    plain = parser.from_file(str(scan), serverEndpoint=house.address, service="text")
    assert (plain["status"], plain["content"]) == (200, "48x64\n")


def test_the_mcp_server_of_paddleocr(house: House, scan: Path) -> None:
    pytest.importorskip("paddleocr_mcp")
    hosted: Any = importlib.import_module("paddleocr_mcp.inference.ocr.self_hosted")
    request: Any = importlib.import_module("paddleocr_mcp.inference.types").InferenceRequest
    errors: Any = importlib.import_module("paddleocr_mcp.inference.errors")

    async def read(**asked: Any) -> Any:
        client = hosted.OCRSelfHostedInference(house.address)
        await client.start()
        try:
            return await client.predict(request(input_data=str(scan), **asked))
        finally:
            await client.stop()

    off = {"use_doc_orientation_classify": False, "use_doc_unwarping": False}
    for file_type in ("image", None):
        result = asyncio.run(read(file_type=file_type, runtime_params=off))
        assert (result.text, result.confidence) == ("48x64", 1.0)
        assert result.text_lines[0].bbox == [0, 0, 64, 48]
    with pytest.raises(errors.InferenceError, match="422"):
        asyncio.run(read(file_type="image", runtime_params={"text_det_thresh": 0.9}))
