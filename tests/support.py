"""What several test modules need: a clock of their own, drawn images, a daemon in another process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import yaml
from PIL import Image, ImageDraw, ImageFont

from ocr_watcher import config, memory, names
from ocr_watcher.config import DEFAULT_EXTENSIONS, DEFAULT_IGNORE
from ocr_watcher.document import EngineFacts
from ocr_watcher.inbox.ready import Rules
from ocr_watcher.inputs.base import DecodeLimits
from ocr_watcher.jobs.attempt import Tools
from ocr_watcher.jobs.observers import LogObserver, Observers
from ocr_watcher.jobs.reader import Reader
from ocr_watcher.jobs.supervision import Supervision
from ocr_watcher.outputs import sidecar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ocr_watcher.jobs.journal import Journal
    from ocr_watcher.ocr.engine import Engine

RULES = Rules.of(DEFAULT_EXTENSIONS, DEFAULT_IGNORE, 1.0)
_VALIDATOR = jsonschema.Draft202012Validator(
    sidecar.schema(), format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
)

# Behind this checkout what the tests were told to find, such as OpenVINO or the decoder of HEIC.
PYTHONPATH = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])


@dataclass
class Clock:
    """A monotonic clock that stands still until a test moves it."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Log:
    """Collects events, as structlog's bound logger is called; works across threads."""

    events: list[dict[str, Any]] = field(default_factory=list)

    def __getattr__(self, level: str) -> Callable[..., None]:
        if level.startswith("_"):
            raise AttributeError(level)

        def say(event: str, **values: Any) -> None:
            self.events.append({"level": level, "event": event, **values})

        return say

    def named(self, event: str) -> list[dict[str, Any]]:
        return [one for one in self.events if one["event"] == event]


def draw(path: Path, text: str = "INVOICE 12345", size: tuple[int, int] = (480, 120)) -> Path:
    """A black line of text on white, saved in the format of the name."""
    image = Image.new("RGB", size, "white")
    font = ImageFont.load_default(size=size[1] * 0.4)
    ImageDraw.Draw(image).text((size[0] * 0.05, size[1] * 0.25), text, "black", font)
    image.save(path)
    return path


def dot(path: Path, size: tuple[int, int] = (64, 48)) -> Path:
    """The smallest work for the fake engine."""
    Image.new("RGB", size, "white").save(path)
    return path


def record(path: Path) -> dict[str, Any]:
    """A record, checked against the shipped schema."""
    document: dict[str, Any] = json.loads(path.read_text("utf-8"))
    _VALIDATOR.validate(document)
    return document


def sidecar_of(image: Path) -> dict[str, Any]:
    return record(image.with_name(names.records_of(image.name).sidecar))


def error_of(image: Path) -> dict[str, Any]:
    return record(image.with_name(names.records_of(image.name).error))


def write_config(folder: Path, **sections: Any) -> Path:
    """A configuration with an inbox that exists, quick to settle; `sections` are laid over it."""
    (folder / "inbox").mkdir(exist_ok=True)
    document: dict[str, Any] = {"watch": {"inbox": "inbox", "settle_s": 0.1}, "logging": {"file": "log/log"}}
    for name, values in sections.items():
        document[name] = {**document.get(name, {}), **values} if isinstance(values, dict) else values
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(document), "utf-8")
    return path


def settings(folder: Path, **sections: Any) -> config.Settings:
    return config.load(write_config(folder, **sections))


def tools(
    engine: Engine, journal: Journal, log: Log, clock: Callable[[], float] = time.monotonic, **changes: Any
) -> Tools:
    """What a worker works with, on small limits; `changes` replace what they name."""
    probe = changes.pop("memory", None) or memory.Memory()
    min_score = changes.pop("min_score", 0.0)
    queue_depth = changes.pop("queue_depth", int)
    supervision = Supervision(clock)
    made = Tools(
        reader=Reader(engine, min_score=min_score, give_back=probe.give_back, clock=clock),
        limits=DecodeLimits(max_file_bytes=1 << 20, max_pixels=1_000_000, max_side_px=100),
        page_mb=engine.page_mb,
        engine=EngineFacts(engine.name, engine.provider, engine.model, engine.version, "0"),
        settings_key="settings",
        max_attempts=3,
        journal=journal,
        memory=probe,
        guard=memory.Guard(memory.MemoryLimits(10_000, 10_000), log),  # type: ignore[arg-type] # collects
        supervision=supervision,
        observer=Observers([supervision, LogObserver(log, queue_depth)]),  # type: ignore[arg-type]
        others_wait=lambda: False,
        clock=clock,
    )
    return replace(made, **changes)


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s")
        time.sleep(0.01)


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Be a user whom file permissions bind, also where the tests run as root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # nobody
    try:
        yield
    finally:
        os.seteuid(user)


class Process:
    """A daemon in a process of its own, its log lines parsed as they come."""

    def __init__(
        self,
        arguments: list[str],
        folder: Path,
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        self._stderr = (folder / "stderr").open("w+b")
        self._process = subprocess.Popen(
            [*prefix, sys.executable, *arguments],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
            env={**os.environ, "PYTHONPATH": PYTHONPATH, **(environment or {})},
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def code(self) -> int | None:
        return self._process.returncode

    @property
    def text(self) -> str:
        return Path(self._stderr.name).read_text("utf-8", "replace")

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        parsed = []
        for row in self.text.splitlines():
            with contextlib.suppress(ValueError):
                parsed.append(json.loads(row))
        return [event for event in parsed if name in (None, event["event"])]

    def wait_for(self, event: str, count: int = 1, seconds: float = 60.0) -> list[dict[str, Any]]:
        def there() -> bool:
            if self._process.poll() is not None and len(self.events(event)) < count:
                raise AssertionError(f"ended with {self._process.returncode}:\n{self.text}")
            return len(self.events(event)) >= count

        until(there, seconds)
        return self.events(event)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self, seconds: float = 30.0) -> int:
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s:\n{self.text}") from None

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.wait()

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._stderr.close()


@contextlib.contextmanager
def daemon(
    folder: Path,
    environment: Mapping[str, str] | None = None,
    *,
    real: bool = False,
    prefix: Sequence[str] = (),
) -> Iterator[Process]:
    """`ocr-watcher run` in `folder`; with the fake engine unless `real` (see `fake_daemon`).

    `prefix` is a command that runs it.
    """
    module = "ocr_watcher" if real else "tests.fake_daemon"
    process = Process(["-m", module, "run", "-c", "config.yaml"], folder, environment, prefix)
    try:
        yield process
    finally:
        process.close()
