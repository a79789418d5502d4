"""A whole server in a thread, with a line behind it that reads on the fake engine: for tests of HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
import urllib3

from ocr_watcher.http import listing
from ocr_watcher.http.server import Server, listen
from ocr_watcher.inbox import records
from ocr_watcher.inbox.records import RecordState
from ocr_watcher.job import Job, Stamp
from ocr_watcher.jobs.journal import Journal
from ocr_watcher.jobs.reader import Reader
from ocr_watcher.jobs.worker import Worker
from ocr_watcher.ocr.engine import FakeEngine
from ocr_watcher.outputs.sidecar import now
from ocr_watcher.service import assembly, lock
from ocr_watcher.service.told import StatusFile, Told
from tests.support import Log, settings, tools

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ocr_watcher.config import Settings


@dataclass(frozen=True)
class Answer:
    """What a client got."""

    status: int
    headers: urllib3.HTTPHeaderDict
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8")

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@contextlib.contextmanager
def looking_at_once() -> Iterator[None]:
    """Every list is of this moment: tests put files in place of which no log tells."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_LOOK_S", "_LOOK_THROUGH_S", "_LOOK_THROUGH_FACTOR"):
            patch.setattr(listing, name, -1.0)
        yield


class House:
    """A server and its line. `with House(folder) as house: house.ask("GET", "/livez")`."""

    def __init__(
        self,
        folder: Path,
        *,
        daemon: bool = True,
        works: bool = True,
        sections: Mapping[str, Any] | None = None,
        **http: Any,
    ) -> None:
        """`daemon`: whether one seems to run; `works`: whether it reads what comes, without being told to."""
        self.settings: Settings = settings(
            folder, http={"port": 0, **http}, logging={"file": "log/log"}, **(sections or {})
        )
        self.log = Log()
        self._works = works
        self._seems_to_run = daemon
        self._at_end = contextlib.ExitStack()
        self._ends = threading.Event()
        self.engine = FakeEngine()
        self._client = urllib3.PoolManager(retries=False, timeout=30)
        assert self.settings.http is not None
        self.http = self.settings.http
        self.spool = self.http.spool

    def __enter__(self) -> Self:
        assembly.make_spool(self.http.spool, "http.spool")
        if self._seems_to_run:
            self._at_end.enter_context(lock.hold_lock(self.settings))
            StatusFile(self.settings.state_dir / "status.json").write(
                Told(pid=1, spool=str(self.spool), updated_at=now())
            )
        self._journal = Journal(self.settings.state_dir / "journal.sqlite3", self.log)  # type: ignore[arg-type]
        self.settings.state_dir.mkdir(exist_ok=True)
        self._at_end.callback(self._journal.close)
        reader = Reader(self.engine, min_score=0.0, words=True, give_back=lambda: None)
        self._worker = Worker(tools(self.engine, self._journal, self.log, spool=self.spool, reader=reader))
        if self._works:
            self._start(self._work_on)
        self.start_server()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_server()
        self._ends.set()
        self._at_end.close()

    def start_server(self) -> None:
        """Serve; also after `stop_server`."""
        self._socket = listen(self.http)
        server = Server(
            self.settings,
            self.http,
            [self._socket],
            collect=lambda: {"running": True, "in_hand": None, "files": {}},
            log=self.log,  # type: ignore[arg-type] # collects
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(server.start(), self._loop).result(30)
        self.server = server
        self.address = server.address

    def stop_server(self) -> None:
        """Stop serving."""
        asyncio.run_coroutine_threadsafe(self.server.stop(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._socket.close()
        self._client.clear()

    # -- the line ------------------------------------------------------------------------------

    def work(self) -> int:
        """Read everything that waits in the spool; returns how many documents that were."""
        read = 0
        for path in sorted(self.spool.glob("[0-9a-f]*")):
            if path.name.count(".") != 1:
                continue
            with contextlib.suppress(FileNotFoundError):
                stamp = Stamp.of(path.stat())
                if records.lookup(str(path), stamp) is RecordState.OPEN:
                    self._worker.step(Job(self.spool, (), path.name, stamp, settled=True, queued_at=0.0))
                    read += 1
        return read

    def _work_on(self) -> None:
        while not self._ends.wait(0.005):
            self.work()

    def _start(self, act: Any) -> None:
        thread = threading.Thread(target=act, daemon=True)
        thread.start()
        self._at_end.callback(thread.join)
        self._at_end.callback(self._ends.set)

    # -- a client ------------------------------------------------------------------------------

    def ask(self, method: str, path: str, **options: Any) -> Answer:
        """One request; `options` are urllib3's: `body`, `fields`, `headers`, `json`."""
        response = self._client.request(method, self.address + path, **options)
        return Answer(response.status, response.headers, response.data)

    def send(self, document: bytes, path: str = "/v1/ocr", name: str = "scan.png") -> Answer:
        """A document as a form, as `curl -F file=@scan.png` does."""
        return self.ask("POST", path, fields={"file": (name, document)})

    def files(self) -> list[str]:
        """Names of everything in the spool but the server's own lock."""
        return sorted(path.name for path in self.spool.iterdir() if path.name != ".server")

    def until_read(self, job: str) -> Any:
        """A job when it has ended."""
        deadline = time.monotonic() + 30
        while True:
            answer = self.ask("GET", f"/v1/jobs/{job}?wait=1").json
            if answer["status"] in ("done", "failed") or time.monotonic() > deadline:
                return answer
