"""The picture of two terminals in README: `terminal_picture.py docs/terminal.svg`, or `make screenshots`.

The real program runs on a terminal of its own in a new folder, with the default settings, and reads the
receipt that the page's tests draw; its model must be in the store. What both terminals show becomes an SVG,
in the colours that the program asked for. Two things only are changed: the temporary folder is called as in
`SHOWN`, and a line that is too long for the picture ends with an ellipsis. Linux only.
"""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the receipt is the tests', and so is the way to wait

from tests.page_house import receipt  # noqa: E402 - needs the line above
from tests.support import until  # noqa: E402

SHOWN = "/srv/scans"
COLUMNS = 124
LINE_PX, COLUMN_PX, MARGIN_PX, TITLE_PX = 19, 7.83, 14, 30
FONT = "13px ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
COLOURS = {"": "#d6deeb", "2": "#7f8c9d", "32": "#7ee787", "33": "#e3b341", "31": "#ff7b72", "36": "#79c0ff"}
COLOURS |= {"35": "#d2a8ff"}
PROMPT = "\x1b[32m$\x1b[m"
PROGRAM = [sys.executable, "-m", "ocr_watcher"]
SEQUENCE = re.compile("\x1b\\[([0-9;]*)m")


@dataclass
class Terminal:
    """A terminal with one process on it, and what that wrote so far."""

    command: list[str]
    folder: Path
    text: str = ""
    process: subprocess.Popen[bytes] = field(init=False)
    _reader: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        ours, theirs = pty.openpty()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
        environment.pop("OCR_WATCHER_CONFIG", None)
        self.process = subprocess.Popen(
            self.command, cwd=self.folder, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, args=(ours,), daemon=True)
        self._reader.start()

    def _read(self, descriptor: int) -> None:
        written = b""
        while True:
            try:
                piece = os.read(descriptor, 65536)
            except OSError:  # the last process on it has ended
                break
            if not piece:
                break
            written += piece
            self.text = written.decode(errors="replace").replace("\r\n", "\n")
        os.close(descriptor)

    def rows(self) -> list[str]:
        """What is on it when its process has ended."""
        self.process.wait(60)
        self._reader.join()
        return self.text.rstrip("\n").split("\n")


def asked(command: str, folder: Path) -> list[str]:
    """A command as somebody types it, and what it answers."""
    name, *arguments = command.split()
    run = [*PROGRAM, *arguments] if name == "ocr-watcher" else [name, *arguments]
    return [f"{PROMPT} {command}", *(row for row in Terminal(run, folder).rows() if row)]


def session() -> tuple[list[str], list[str]]:
    """The rows of both terminals."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "inbox").mkdir()
        (folder / "config.yaml").write_text(
            "watch: {inbox: inbox}\n"
        )  # says to `status` which service is meant
        receipt()[0].save(folder / "receipt.jpg", quality=92)
        service = Terminal([*PROGRAM, "run"], folder)
        until(lambda: "daemon.ready" in service.text, 120)
        commands = asked("cp receipt.jpg inbox/", folder)
        until(lambda: "queue.drained" in service.text, 120)
        commands += asked("jq -r .text inbox/receipt.jpg.json", folder)
        status: list[str] = []
        while not any("1 done" in row for row in status[-1:]):  # the service tells it a moment later
            status = asked("ocr-watcher status", folder)
        commands += status
        service.process.send_signal(signal.SIGINT)
        log = [f"{PROMPT} ocr-watcher run", *service.rows()]
        return [row.replace(name, SHOWN) for row in log], [row.replace(name, SHOWN) for row in commands]


def pieces(row: str) -> list[tuple[str, str]]:
    """A row as (colour, text), no longer than the picture is wide; columns of tabs are eight wide."""
    made: list[tuple[str, str]] = []
    colour, left, at = "", COLUMNS, 0
    for match in [*SEQUENCE.finditer(row), None]:
        text = row[at : match.start() if match else len(row)].expandtabs(8)
        if len(text) > left or (len(text) == left and match and SEQUENCE.sub("", row[match.end() :])):
            return [*made, (colour, text[: left - 1] + "…")]
        made.append((colour, text))
        left -= len(text)
        if match:
            codes = match[1].split(";")
            known = next((code for code in codes if code in COLOURS), None)
            colour = known or ("" if codes in ([""], ["0"]) else colour)
            at = match.end()
    return made


def drawn(title: str, rows: list[str], top: int, width: float) -> tuple[str, int]:
    """A window with these rows, as SVG, and where it ends (px)."""
    height = TITLE_PX + LINE_PX * len(rows) + MARGIN_PX
    size = f'width="{width - 2:.0f}" height="{height}"'
    middle = f'x="{width / 2:.0f}" y="{top + 20}" text-anchor="middle"'
    made = [
        f'<rect x="1" y="{top}" {size} rx="8" fill="#0d1b2a" stroke="#33475b"/>',
        f'<text {middle} fill="{COLOURS["2"]}">{escape(title)}</text>',
    ]
    for number, row in enumerate(rows):
        column, spans = 0, []
        for colour, text in pieces(row):
            if text.strip():
                left = MARGIN_PX + (column + len(text) - len(text.lstrip())) * COLUMN_PX
                shown = text.strip().replace(" ", "\N{NO-BREAK SPACE}")  # others are shown as one
                spans.append(
                    f'<tspan x="{left:.1f}" textLength="{len(shown) * COLUMN_PX:.1f}" '
                    f'fill="{COLOURS[colour]}">{escape(shown)}</tspan>'
                )
            column += len(text)
        if spans:
            made.append(f'<text y="{top + TITLE_PX + LINE_PX * (number + 0.7):.0f}">{"".join(spans)}</text>')
    return "\n".join(made), top + height


def main() -> None:
    """Write the picture to the file that the command line names."""
    log, commands = session()
    width = MARGIN_PX * 2 + COLUMNS * COLUMN_PX
    upper, end = drawn("the service", log, 1, width)
    lower, end = drawn("another terminal", commands, end + 10, width)
    text = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {end + 1}" width="{width:.0f}" '
        f'height="{end + 1}" style="font: {FONT}">\n{upper}\n{lower}\n</svg>\n'
    )
    Path(sys.argv[1]).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
