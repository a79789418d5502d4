"""A browser on the server's page, for tests: both of them, and what every test looks out for."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

import pytest
from PIL import Image, ImageDraw, ImageFont

from tests.support import Process, daemon, write_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
AXE: Final = Path(os.environ.get("AXE", ROOT / ".bench/axe/node_modules/axe-core/axe.min.js"))
DESKTOP, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}

SHOP = ["CORNER BAKERY", "12 Mill Lane, Oldbridge", "Tel. 555 0142"]
ITEMS = [
    ("Rye bread 750 g", "4.20"),
    ("Butter croissant x 3", "5.70"),
    ("Apple juice 0.7 l", "2.95"),
    ("Oat biscuits", "3.40"),
]
TOTAL = ("TOTAL", "16.25")
THANKS = "Thank you for your visit"


def receipt() -> tuple[Image.Image, dict[str, tuple[float, float]]]:
    """A receipt, and the middle of each of its words (px)."""
    image = Image.new("RGB", (720, 980), "white")
    pen = ImageDraw.Draw(image)
    words: dict[str, tuple[float, float]] = {}

    def put(text: str, left: float, top: float, size: int) -> None:
        font = ImageFont.load_default(size)
        pen.text((left, top), text, "#222", font)
        for at, word in enumerate(text.split(" ")):
            before = " ".join([*text.split(" ")[:at], ""])
            start = left + font.getlength(before)
            words[word] = (start + font.getlength(word) / 2, top + size * 0.6)

    for row, text in enumerate(SHOP):
        size = 44 if row == 0 else 28
        width = ImageFont.load_default(size).getlength(text)
        put(text, (720 - width) / 2, 60 + row * 60, size)
    for row, (what, price) in enumerate(ITEMS):
        put(what, 70, 300 + row * 62, 30)
        put(price, 570, 300 + row * 62, 30)
    pen.line((70, 560, 650, 560), "#222", 3)
    put(TOTAL[0], 70, 590, 40)
    put(TOTAL[1], 550, 590, 40)
    put(THANKS, 180, 740, 28)
    return image, words


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser without a window. Skips the test, and says why, where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="NOT TESTED: playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("NOT TESTED: there is no Chromium: apt install chromium")
    with api.sync_playwright() as playwright:
        # As root it has no sandbox of its own. What it shows is ours.
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield started
        finally:
            started.close()


class Site:
    """A daemon and a server, each a process of its own, in a folder."""

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        *,
        real: bool = False,
        **sections: Any,
    ) -> None:
        self.folder = folder
        self.inbox = folder / "inbox"
        self._environment = environment
        self._real = real
        self._at_end = contextlib.ExitStack()
        self._daemon_at_end = contextlib.ExitStack()
        # The port stays the same when the server is started again.
        self._port = free_port()
        sections.setdefault("http", {})
        write_config(folder, **{**sections, "http": {"port": self._port, **sections["http"]}})

    def __enter__(self) -> Self:
        self._at_end.callback(lambda: self._daemon_at_end.close())  # noqa: PLW0108 - another one by then
        self.start_daemon()
        self.start_server()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.close()
        self._at_end.close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start_daemon(self, environment: Mapping[str, str] | None = None) -> None:
        self._daemon_at_end = contextlib.ExitStack()
        self.daemon = self._daemon_at_end.enter_context(
            daemon(self.folder, environment or self._environment, real=self._real)
        )
        self.daemon.wait_for("daemon.ready")

    def kill_daemon(self) -> None:
        self.daemon.signal(signal.SIGKILL)
        self.daemon.wait()
        self._daemon_at_end.close()

    def start_server(self) -> None:
        self.server = Process(["-m", "ocr_watcher", "serve", "-c", "config.yaml"], self.folder)
        self.server.wait_for("http.ready")

    def kill_server(self) -> None:
        self.server.signal(signal.SIGKILL)
        self.server.wait()
        self.server.close()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


class Tab:
    """A tab, and everything in it that must not happen."""

    def __init__(self, browser: Any, address: str, **context: Any) -> None:
        self.context = browser.new_context(**{"viewport": DESKTOP, **context})
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.hosts: set[str] = set()
        self.allowed: Callable[[str], bool] = lambda _text: False
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.wrong.append(f"exception: {error}"))
        self.page.on("request", lambda request: self._asked(request.url))
        self.page.on("dialog", lambda dialog: self.wrong.append(f"dialog: {dialog.message}"))
        self.address = address

    def open(self, path: str = "/") -> Any:
        self.page.goto(self.address + path)
        return self.page

    def check(self) -> None:
        """Nothing on the console, nothing from elsewhere."""
        wrong = [text for text in self.wrong if not self.allowed(text)]
        assert wrong == []
        assert self.hosts <= {urlsplit(self.address).netloc}

    def close(self) -> None:
        self.context.close()

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.wrong.append(f"{message.type}: {message.text} {message.location.get('url', '')}")

    def _asked(self, url: str) -> None:
        if not url.startswith(("blob:", "data:")):
            self.hosts.add(urlsplit(url).netloc)


def drop(page: Any, *files: tuple[str, str, bytes]) -> None:
    """Drop files (name, media type, bytes) onto the page, as a hand with a mouse does."""
    packed = [[name, kind, base64.b64encode(data).decode()] for name, kind, data in files]
    page.evaluate(
        """(files) => {
            const carried = new DataTransfer();
            for (const [name, type, text] of files) {
                const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
                carried.items.add(new File([bytes], name, { type }));
            }
            for (const kind of ["dragenter", "dragover", "drop"]) {
                const event = new DragEvent(kind, { dataTransfer: carried, bubbles: true, cancelable: true });
                document.getElementById("drop").dispatchEvent(event);
            }
        }""",
        packed,
    )


def axe(page: Any) -> list[str]:
    """What axe-core finds that is serious."""
    page.evaluate(AXE.read_text("utf-8"))
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{one['impact']}: {one['id']}: {node['html'][:120]}: {node['failureSummary'][:300]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


def resident_mb(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text("ascii")
    return int(text.partition("VmRSS:")[2].split()[0]) / 1024


def heap_mb(page: Any) -> float:
    """What the tab's scripts keep, after everything that can be collected is."""
    session = page.context.new_cdp_session(page)
    for _ in range(2):
        session.send("HeapProfiler.collectGarbage")
        time.sleep(0.1)
    used: float = session.send("Runtime.getHeapUsage")["usedSize"]
    session.detach()
    return used / 2**20


def nodes(page: Any) -> int:
    """How many DOM nodes the tab has, those of what is gone included."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    count: int = session.send("Memory.getDOMCounters")["nodes"]
    session.detach()
    return count
