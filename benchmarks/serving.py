"""What the HTTP server costs, carries and survives, with the real engine: `serving.py latency|memory|…`.

latency   one client, one receipt after the other: what a request takes beyond the OCR of its record
memory    resident memory of `serve` over 1,000 uploads, one of 100 MB that is refused, one that is stored
idle      `/livez` beside 1,000 connections that do nothing or drip
load      64 clients at once, against the same documents dropped into the folder
chaos     load, while the daemon is killed ten times and `serve` three times, with a recycle every few files;
          with `--leak-mb 20 --rss-limit-mb 900` at the memory limit, which it does not reach by itself

Documents are the JPEGs of `--documents FOLDER`. Prints JSON. Linux only.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import operator
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import urllib3
import yaml
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20
POLL_S = 0.05
# The daemon, but every page leaves so many MiB behind.
LEAKING = """
import runpy
from ocr_watcher.jobs.reader import Reader

kept, page = [], Reader.page

def leak(*given, **named):
    kept.append(b"1" * ({mb} << 20))
    return page(*given, **named)

Reader.page = leak
runpy.run_module("ocr_watcher", run_name="__main__", alter_sys=True)
"""


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("latency", "memory", "idle", "load", "chaos"))
    parser.add_argument("--documents", type=Path, required=True, help="folder of JPEGs")
    parser.add_argument("--requests", type=int, default=100, help="of latency")
    parser.add_argument("--uploads", type=int, default=1000, help="of memory")
    parser.add_argument("--clients", type=int, default=64, help="of load and chaos")
    parser.add_argument("--seconds", type=float, default=300, help="of load and chaos")
    parser.add_argument("--rounds", type=int, default=5, help="of load: by HTTP and by folder in turn")
    parser.add_argument(
        "--rss-limit-mb", type=int, help="of chaos: recycle at this resident memory, not every 20 files"
    )
    parser.add_argument("--leak-mb", type=int, default=0, help="of chaos: what every page leaves in memory")
    parser.add_argument("--model", default="PP-OCRv6_small")
    parser.add_argument("--params", type=yaml.safe_load, default={}, help="ocr.params, as {name: value, ...}")
    return parser.parse_args()


class Pair:
    """A daemon and a server, each restarted when it ends."""

    def __init__(
        self, ocr: dict[str, Any], *, fake: bool = False, leak_mb: int = 0, **sections: dict[str, Any]
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="bench-http-"))
        self.inbox = self._folder / "inbox"
        self.inbox.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        document = {
            "watch": {"inbox": "inbox"},
            "http": {"port": port, **sections.pop("http", {})},
            "ocr": ocr,
            **sections,
        }
        (self._folder / "config.yaml").write_text(yaml.safe_dump(document))
        self.address = f"http://127.0.0.1:{port}"
        self.spool = self._folder / ".ocr-watcher-http"
        self.started: collections.Counter[str] = collections.Counter()
        self._daemon = ["-m", "tests.fake_daemon" if fake else "ocr_watcher"]
        if leak_mb:
            self._daemon = ["-c", LEAKING.format(mb=leak_mb)]
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ends = threading.Event()
        self._keeper = threading.Thread(target=self._keep)

    def __enter__(self) -> Self:
        for verb in ("serve", "run"):
            self._start(verb)
        self._keeper.start()
        until(lambda: ask(f"{self.address}/readyz").status == 200 and self.is_ready(), 120)
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._keeper.join()
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.wait(30)
        shutil.rmtree(self._folder)

    def pid(self, verb: str) -> int:
        """The process that runs `serve` or `run` now."""
        return self._processes[verb].pid

    def kill(self, verb: str) -> None:
        """Without a word."""
        self._processes[verb].kill()

    def is_ready(self) -> bool:
        """Whether the daemon has said so."""
        return "daemon.ready" in (self._folder / "run.log").read_text()

    def log_of(self, verb: str) -> str:
        """What it wrote to standard error."""
        return (self._folder / f"{verb}.log").read_text()

    def rss_mb(self, verb: str = "serve") -> float:
        """Resident memory."""
        return _memory_mb(self.pid(verb), "VmRSS")

    def cpu_s(self, verb: str = "serve") -> float:
        """Processor time it took so far."""
        with open(f"/proc/{self.pid(verb)}/stat", encoding="ascii") as row:
            fields = row.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_mb(self, verb: str = "serve") -> float:
        """Resident memory at its highest."""
        return _memory_mb(self.pid(verb), "VmHWM")

    def _keep(self) -> None:
        while not self._ends.wait(POLL_S):
            for verb, process in list(self._processes.items()):
                if process.poll() is not None and not self._ends.is_set():
                    self._start(verb)

    def _start(self, verb: str) -> None:
        program = self._daemon if verb == "run" else ["-m", "ocr_watcher"]
        with (self._folder / f"{verb}.log").open("ab") as log:
            self._processes[verb] = subprocess.Popen(
                [sys.executable, *program, verb, "-c", "config.yaml"],
                cwd=self._folder,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            )
        self.started[verb] += 1


def _memory_mb(pid: int, key: str) -> float:
    with open(f"/proc/{pid}/status", encoding="ascii") as rows:
        return next(int(row.split()[1]) / 1024 for row in rows if row.startswith(key + ":"))


def until(condition: Callable[[], object], seconds: float) -> None:
    """Wait for what another process does."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(urllib3.exceptions.HTTPError, FileNotFoundError):
            if condition():
                return
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s")
        time.sleep(POLL_S)


def ask(address: str, method: str = "GET", *, body: bytes | None = None) -> urllib3.BaseHTTPResponse:
    """One request on a connection of its own."""
    with urllib3.PoolManager(retries=False, timeout=120) as pool:
        return pool.request(method, address, body=body)


def ocr_of(asked: argparse.Namespace) -> dict[str, Any]:
    """The configuration's section `ocr`."""
    return {"model": asked.model, "params": asked.params}


def documents_of(asked: argparse.Namespace) -> list[bytes]:
    """The JPEGs."""
    found = [path.read_bytes() for path in sorted(asked.documents.glob("*.jpg"))]
    if not found:
        raise SystemExit(f"no *.jpg in {asked.documents}")
    return found


# -- what is measured ------------------------------------------------------------------------------


def latency(asked: argparse.Namespace) -> dict[str, Any]:
    """One client, one request after the other."""
    documents = documents_of(asked)
    beyond_ms, ocr_ms = [], []
    with Pair(ocr_of(asked)) as pair, urllib3.PoolManager(retries=False, timeout=120) as pool:
        for number in range(asked.requests + 3):
            began = time.perf_counter()
            answer = pool.request(
                "POST",
                f"{pair.address}/v1/ocr",
                fields={"file": ("a.jpg", documents[number % len(documents)])},
            )
            took_ms = (time.perf_counter() - began) * 1000
            timing = json.loads(answer.data)["timing_ms"]
            if number >= 3:  # the first find files that nobody has read yet
                beyond_ms.append(took_ms - timing["load"] - timing["ocr"])
                ocr_ms.append(timing["ocr"])
        return {
            "requests": len(beyond_ms),
            "median_ocr_ms": round(statistics.median(ocr_ms)),
            "median_beyond_ms": round(statistics.median(beyond_ms), 1),
            "p95_beyond_ms": round(statistics.quantiles(beyond_ms, n=20)[-1], 1),
            "serve_rss_mb": round(pair.rss_mb(), 1),
        }


def memory(asked: argparse.Namespace) -> dict[str, Any]:
    """Many uploads, on an engine that takes no time, and two large ones."""
    documents = documents_of(asked)
    big = documents[0] + bytes(100 * MIB)
    figures: dict[str, Any] = {}
    with Pair(ocr_of(asked), fake=True) as pair:
        figures["rss_at_rest_mb"] = round(pair.rss_mb(), 1)
        with urllib3.PoolManager(retries=False, timeout=120, maxsize=8) as pool:
            for number in range(asked.uploads):
                body = documents[number % len(documents)]
                answer = pool.request("POST", f"{pair.address}/v1/ocr", body=body)
                if answer.status != 200:
                    raise RuntimeError(answer.data)
        figures["rss_after_uploads_mb"] = round(pair.rss_mb(), 1)
        status = None
        with contextlib.suppress(urllib3.exceptions.HTTPError, OSError):
            status = ask(f"{pair.address}/v1/ocr", "POST", body=big).status
        figures["100_mb_refused_with"] = status
        figures["rss_after_refusal_mb"] = round(pair.rss_mb(), 1)
        figures["uploads"] = asked.uploads
        figures["peak_mb"] = round(pair.peak_mb(), 1)
    with Pair(ocr_of(asked), fake=True, http={"max_body_mb": 200}) as pair:
        figures["100_mb_stored_with"] = ask(f"{pair.address}/v1/jobs", "POST", body=big).status
        figures["peak_with_100_mb_stored_mb"] = round(pair.peak_mb(), 1)
    return figures


def idle(asked: argparse.Namespace) -> dict[str, Any]:
    """Connections that do nothing, or send a byte a second of a body."""
    with Pair(ocr_of(asked), fake=True) as pair:
        before_mb = pair.rss_mb()
        host, port = pair.address.removeprefix("http://").split(":")
        lines = [socket.create_connection((host, int(port))) for _ in range(1000)]
        head = b"POST /v1/ocr HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n"
        dripping = lines[::2]
        for line in dripping:
            line.sendall(head)
        took_ms = []
        for _ in range(8):
            for line in dripping:
                with contextlib.suppress(OSError):
                    line.send(b"\x89")
            for _ in range(20):
                began = time.perf_counter()
                if ask(f"{pair.address}/livez").status != 200:
                    raise RuntimeError("not alive")
                took_ms.append((time.perf_counter() - began) * 1000)
            time.sleep(0.2)
        with_them_mb = pair.rss_mb()
        for line in lines:
            line.close()
        return {
            "connections": len(lines),
            "livez_median_ms": round(statistics.median(took_ms), 1),
            "livez_max_ms": round(max(took_ms), 1),
            "rss_before_mb": round(before_mb, 1),
            "rss_with_them_mb": round(with_them_mb, 1),
        }


@dataclass
class Clients:
    """Clients that send documents until told to stop, and look after what became of each."""

    pair: Pair
    documents: list[bytes]
    texts: list[str]
    statuses: collections.Counter[str] = field(default_factory=collections.Counter)
    wrong: int = 0
    lost: int = 0
    read: int = 0
    retry_after: list[int] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, count: int, seconds: float, during: Callable[[float], None] | None = None) -> float:
        """Run for a while; returns how long it took until the last had its answer."""
        began = time.monotonic()
        threads = [
            threading.Thread(target=self._client, args=(number, began + seconds)) for number in range(count)
        ]
        for thread in threads:
            thread.start()
        if during is not None:
            during(seconds)
        for thread in threads:
            thread.join()
        return time.monotonic() - began

    def _client(self, seed: int, until_: float) -> None:
        chooser = random.Random(seed)  # noqa: S311 - which document comes next
        pool = urllib3.PoolManager(retries=False, timeout=120)
        while time.monotonic() < until_:
            number = chooser.randrange(len(self.documents))
            try:
                answer = pool.request("POST", f"{self.pair.address}/v1/ocr", body=self.documents[number])
            except urllib3.exceptions.HTTPError as error:
                self._note(f"connection: {type(error).__name__}")
                time.sleep(0.2)
                continue
            body = json.loads(answer.data)
            self._note(f"{answer.status} {body['error']['code']}" if "error" in body else str(answer.status))
            if answer.status == 200:
                with self._lock:
                    self.read += 1
                    self.wrong += body["text"] != self.texts[number]
            elif answer.status == 202:
                self._fetch(pool, body["links"]["result"], number)
            elif answer.status == 429:
                wait_s = int(answer.headers["Retry-After"])
                with self._lock:
                    self.retry_after.append(wait_s)
                time.sleep(min(wait_s, max(0.0, until_ - time.monotonic())))

    def _note(self, what: str) -> None:
        with self._lock:
            self.statuses[what] += 1

    def _fetch(self, pool: urllib3.PoolManager, address: str, number: int) -> None:
        """Ask for an accepted job until its result is there, whatever happens to the server meanwhile."""
        while True:
            try:
                answer = pool.request("GET", f"{self.pair.address}{address}?wait=50")
            except urllib3.exceptions.HTTPError:
                time.sleep(0.2)
                continue
            if answer.status != 409:
                break
        with self._lock:
            self.read += 1
            self.lost += answer.status != 200
            self.wrong += answer.status == 200 and json.loads(answer.data)["text"] != self.texts[number]


def load(asked: argparse.Namespace) -> dict[str, Any]:
    """Many clients at once, then the same documents by folder."""
    documents = documents_of(asked)
    with Pair(ocr_of(asked), http={"keep_s": 20, "wait_s": 50}) as pair:
        clients = Clients(pair, documents, texts_of(pair, documents))
        by_http, by_folder, took_s, cpu_s = [], [], 0.0, 0.0
        busy: dict[str, list[float]] = {"http": [], "folder": []}
        for _ in range(asked.rounds):  # in turn, because the machine may be busier in one than in the other
            before, before_cpu_s, began, read_s = (
                clients.read,
                pair.cpu_s(),
                time.monotonic(),
                reading_s(pair),
            )
            round_s = clients.run(asked.clients, asked.seconds / asked.rounds)
            by_http.append((clients.read - before) / round_s)
            took_s, cpu_s = took_s + round_s, cpu_s + pair.cpu_s() - before_cpu_s
            read_s, began = _note_share(busy["http"], pair, read_s, began)
            by_folder.append(drain(pair, documents, asked.seconds / asked.rounds))
            _note_share(busy["folder"], pair, read_s, began)
        peak_mb = pair.peak_mb()
        until(lambda: not [name for name in os.listdir(pair.spool) if name != ".server"], 120)
        return {
            "clients": asked.clients,
            "seconds": round(took_s),
            "statuses": dict(clients.statuses),
            "wrong_texts": clients.wrong,
            "lost": clients.lost,
            "documents_per_s": [round(rate, 3) for rate in by_http],
            "folder_documents_per_s": [round(rate, 3) for rate in by_folder],
            "median_http_to_folder": round(statistics.median(map(operator.truediv, by_http, by_folder)), 3),
            "share_of_time_reading": busy,
            "serve_cpu_share": round(cpu_s / took_s, 4),
            "retry_after_s": [min(clients.retry_after, default=0), max(clients.retry_after, default=0)],
            "serve_peak_mb": round(peak_mb, 1),
            "left_in_the_spool": 0,
        }


def reading_s(pair: Pair) -> float:
    """How long the daemon has decoded and read, in all; waits until the last is counted."""
    time.sleep(1.5)
    return total_of(pair, "ocrwatcher_ocr_seconds_sum") + total_of(pair, "ocrwatcher_load_seconds_sum")


def _note_share(shares: list[float], pair: Pair, before_s: float, began: float) -> tuple[float, float]:
    """Note in which share of the time since `began` the daemon read; returns what the next begins with."""
    now, read_s = time.monotonic(), reading_s(pair)
    shares.append(round((read_s - before_s) / (now - began), 3))
    return read_s, time.monotonic()


def texts_of(pair: Pair, documents: list[bytes]) -> list[str]:
    """What is read of each document when nothing else is going on."""
    answers = [ask(f"{pair.address}/v1/ocr", "POST", body=document) for document in documents]
    return [json.loads(answer.data)["text"] for answer in answers]


def drain(pair: Pair, documents: list[bytes], seconds: float) -> float:
    """Documents a second by folder, with some always waiting."""
    for path in pair.inbox.iterdir():
        path.unlink()
    began, number = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        waiting = number - len(list(pair.inbox.glob("*.json")))
        for _ in range(64 - waiting):
            (pair.inbox / f".{number}").write_bytes(documents[number % len(documents)])
            os.rename(pair.inbox / f".{number}", pair.inbox / f"{number}.jpg")
            number += 1
        time.sleep(0.25)
    until(lambda: len(list(pair.inbox.glob("*.json"))) == number, 600)
    return number / (time.monotonic() - began)


def chaos(asked: argparse.Namespace) -> dict[str, Any]:
    """Clients while processes are killed and recycled."""
    documents = documents_of(asked)
    chance = random.Random(1)  # noqa: S311 - when it happens
    kills = ["run"] * 10 + ["serve"] * 3
    chance.shuffle(kills)
    limit_mb = asked.rss_limit_mb
    recycle = {"max_jobs": 20} if limit_mb is None else {"soft_limit_mb": limit_mb, "rss_limit_mb": limit_mb}
    with Pair(ocr_of(asked), leak_mb=asked.leak_mb, memory=recycle, http={"wait_s": 50}) as pair:
        clients = Clients(pair, documents, texts_of(pair, documents))

        def during(seconds: float) -> None:
            for verb in kills:
                time.sleep(seconds / (len(kills) + 1))
                pair.kill(verb)

        took_s = clients.run(asked.clients, asked.seconds, during)
        until(lambda: not waiting_in(pair.spool), 600)
        time.sleep(2)
        records = [name for name in os.listdir(pair.spool) if name.endswith(".json")]
        stems = [name.partition(".")[0] for name in records]
        documents_there = [
            name for name in os.listdir(pair.spool) if not name.startswith(".") and name.count(".") == 1
        ]
        return {
            "clients": asked.clients,
            "seconds": round(took_s),
            "killed": dict(collections.Counter(kills)),
            "starts": dict(pair.started),
            "statuses": dict(clients.statuses),
            "wrong_texts": clients.wrong,
            "lost": clients.lost,
            "documents": len(documents_there),
            "records": len(records),
            "documents_with_exactly_one_record": len(set(stems)) if len(set(stems)) == len(stems) else -1,
            "files_total": total_of(pair, "ocrwatcher_files_total"),
            "recycles_total": total_of(pair, "ocrwatcher_recycles_total"),
            "pages_total": total_of(pair, "ocrwatcher_pages_total"),
        }


def waiting_in(spool: Path) -> list[str]:
    """Documents without a record."""
    names = set(os.listdir(spool))
    return [
        name
        for name in names
        if not name.startswith(".") and name.count(".") == 1 and f"{name}.json" not in names
    ]


def total_of(pair: Pair, name: str) -> float:
    """The sum of a counter over its labels."""
    text = ask(f"{pair.address}/metrics").data.decode()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    )


MEASURES = {"latency": latency, "memory": memory, "idle": idle, "load": load, "chaos": chaos}


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    chosen = arguments()
    print(json.dumps(MEASURES[chosen.what](chosen), indent=1))
