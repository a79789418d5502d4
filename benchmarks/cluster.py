"""A cluster on this machine, measured: memory of dispatcher and bridge, what the broker holds, throughput.

    PYTHONPATH=.bench/cluster python -m benchmarks.cluster memory --finished 100000 --waiting 1000000 --jobs 10000
    PYTHONPATH=.bench/cluster python -m benchmarks.cluster hosts --corpus FOLDER --files 600 --hosts 3

`hosts` runs daemons with the real engine, one thread each, in namespaces of their own, against one alone on the
same files. `memory` uses the tests' fake engine. Needs redis-server; `hosts` needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from ocr_watcher.cluster.broker import queue_of
from ocr_watcher.outputs import sidecar
from tests.cluster import Cluster, cluster
from tests.support import Process, dot, until

_MIB = 1 << 20


def rss_mb(process: Process) -> float:
    """Resident memory, now (MiB)."""
    return round(psutil.Process(process.pid).memory_info().rss / _MIB, 1)


def records(share: Path) -> int:
    """How many sidecars there are."""
    with os.scandir(share) as entries:
        return sum(entry.name.endswith(".json") for entry in entries)


# -- memory ----------------------------------------------------------------------------------------


def finished(share: Path, count: int) -> None:
    """Documents that have their record; hard links of one picture, 1,000 a folder."""
    picture = dot(share.parent / "one.png", (10, 10))
    for first in range(0, count, 1000):
        folder = share / f"done{first // 1000:04}"
        folder.mkdir()
        for number in range(first, min(first + 1000, count)):
            path = folder / f"scan-{number:07}.png"
            shutil.copy2(picture, path)
            about = {
                "name": path.name,
                "size_bytes": path.stat().st_size,
                "mtime_ns": path.stat().st_mtime_ns,
            }
            head = {"schema": "ocr-watcher/1", "status": "ok", "source": about, "finished_at": sidecar.now()}
            Path(f"{path}.json").write_text(json.dumps(head))


def waiting(share: Path, count: int) -> None:
    """Documents that are to be read: hard links of one picture, 1,000 a folder."""
    picture = share
    for first in range(0, count, 1000):
        folder = share / f"wait{first // 1000:04}"
        folder.mkdir()
        for number in range(first, min(first + 1000, count)):
            if number % 30_000 == 0:  # a file has 65,000 names at most
                picture = dot(share.parent / f"other{number}.png", (11, 11))
            os.link(picture, folder / f"scan-{number:07}.png")


def memory(folder: Path, asked: argparse.Namespace) -> None:
    """Dispatcher with finished and waiting documents, bridge through many jobs."""
    with cluster(folder, hosts=0) as made:
        dispatcher = made.dispatcher
        assert dispatcher is not None
        print(f"dispatcher, empty share: RSS {rss_mb(dispatcher)} MiB")
        if asked.finished:
            finished(made.share, asked.finished)
            began = time.monotonic()
            made.start_dispatcher().wait_for("scan.done", seconds=3600)
            (scan, *_) = made.dispatcher.events("scan.done") if made.dispatcher else [{}]
            print(
                f"{asked.finished} finished: first scan {scan['duration_ms']} ms after {time.monotonic() - began:.0f} s"
            )
            print(f"dispatcher, {scan['current']} finished: RSS {rss_mb(made.dispatcher)} MiB")  # type: ignore[arg-type]
        if asked.waiting:
            waiting(made.share, asked.waiting)
            client, name = made.redis.client(), queue_of("scans")
            before = client.info("memory")["used_memory"]
            made.start_dispatcher().wait_for("scan.done", seconds=3600)
            most = 0
            until_at = time.monotonic() + 30
            while time.monotonic() < until_at:
                most = max(most, client.llen(name))
                time.sleep(0.2)
            grown = client.info("memory")["used_memory"] - before
            scan = made.dispatcher.events("scan.done")[0]  # type: ignore[union-attr]
            print(f"{asked.waiting} waiting: {most} messages in Redis at most, {grown / 1024:.0f} KiB more than empty; "
                  f"first scan {scan['duration_ms']} ms; dispatcher RSS {rss_mb(made.dispatcher)} MiB")  # type: ignore[arg-type]  # fmt: skip
        if asked.jobs:
            host = made.add_host()
            assert host.bridge is not None
            host.bridge.wait_for("bridge.ready")
            start_mb = rss_mb(host.bridge)
            new = made.share / "new"
            new.mkdir()
            began = time.monotonic()
            most_mb = start_mb
            for number in range(asked.jobs):
                dot(made.folder / "new.png", (12, 12)).rename(new / f"{number}.png")
            while (ended := len(host.bridge.events("job.ended"))) < asked.jobs:
                most_mb = max(most_mb, rss_mb(host.bridge))
                time.sleep(2)
            took_s = time.monotonic() - began
            print(f"bridge: RSS {start_mb} MiB at the start, {rss_mb(host.bridge)} after {ended} jobs, {most_mb} at most; "
                  f"{ended / took_s:.0f} jobs/s")  # fmt: skip


# -- throughput ------------------------------------------------------------------------------------


def run_hosts(folder: Path, corpus: list[Path], count: int, hosts: int) -> float:
    """Read `count` files with so many hosts; returns files a second from the first to the last record."""
    folder.mkdir()
    sections = {"ocr": {"threads": 1}, "watch": {"rescan_interval_s": 60}}
    environment = {"FAKE_AWAY_S": "30", "FAKE_LOST_S": "15"}
    with cluster(folder, hosts=0, environment=environment, **sections) as made:
        for _ in range(hosts):
            host = made.add_host(apart=True, real=True)
            assert host.bridge is not None
            assert host.daemon is not None
            host.daemon.wait_for("daemon.ready", seconds=300)
            host.bridge.wait_for("bridge.ready")
        return measure(made, corpus, count)


def measure(made: Cluster, corpus: list[Path], count: int) -> float:
    """Drop everything, wait for all records, look at them."""
    for number in range(count):
        picture = corpus[number % len(corpus)]
        shutil.copy(picture, made.folder / "new")
        (made.folder / "new").rename(made.share / f"{number:05}{picture.suffix}")
    began = time.monotonic()
    while records(made.share) < count:
        time.sleep(0.1)
    took_s = time.monotonic() - began
    ended = [event for host in made.hosts if host.bridge for event in host.bridge.events("job.ended")]
    done = [event for event in ended if event["outcome"] == "done"]
    each = [len(host.bridge.events("job.ended")) for host in made.hosts if host.bridge]
    read = sum(len(host.daemon.events("ocr.done")) for host in made.hosts if host.daemon)
    took_ms = statistics.median(event["took_ms"] for event in done)
    rss = [(rss_mb(host.daemon), rss_mb(host.bridge)) for host in made.hosts if host.daemon and host.bridge]
    print(f"{len(made.hosts)} hosts: {count} files in {took_s:.1f} s, {count / took_s:.2f}/s; jobs of each host {each}; "
          f"readings {read}; median job {took_ms:.0f} ms; RSS daemon, bridge {rss}", flush=True)  # fmt: skip
    assert len(done) == count == read
    return count / took_s


def alone(folder: Path, corpus: list[Path], count: int) -> float:
    """One daemon with one thread on a folder, without a cluster."""
    folder.mkdir()
    inbox = folder / "inbox"
    inbox.mkdir()
    (folder / "config.yaml").write_text(
        "watch: {inbox: inbox}\nocr: {threads: 1}\nlogging: {file: log/log}\n"
    )
    daemon = Process(["-m", "ocr_watcher", "run", "-c", "config.yaml"], folder)
    try:
        daemon.wait_for("daemon.ready", seconds=300)
        for number in range(count):
            picture = corpus[number % len(corpus)]
            shutil.copy(picture, folder / "new")
            (folder / "new").rename(inbox / f"{number:05}{picture.suffix}")
        began = time.monotonic()
        while records(inbox) < count:
            time.sleep(0.1)
        took_s = time.monotonic() - began
    finally:
        daemon.close()
    print(f"one daemon alone: {count} files in {took_s:.1f} s, {count / took_s:.2f}/s", flush=True)
    return count / took_s


def hosts(folder: Path, asked: argparse.Namespace) -> None:
    """One alone, one through the broker, several; repeated, because other work on the machine comes and goes."""
    corpus = sorted(path for path in asked.corpus.iterdir() if path.suffix in (".jpg", ".png"))
    for turn in range(asked.repeat):
        base = alone(folder / f"alone{turn}", corpus, asked.files)
        one = run_hosts(folder / f"one{turn}", corpus, asked.files, 1)
        many = run_hosts(folder / f"many{turn}", corpus, asked.files, asked.hosts)
        print(f"one host / alone {one / base:.2f}; {asked.hosts} hosts / alone {many / base:.2f}", flush=True)


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_subparsers(required=True)
    by_memory = what.add_parser("memory")
    by_memory.add_argument("--finished", type=int, default=0)
    by_memory.add_argument("--waiting", type=int, default=0)
    by_memory.add_argument("--jobs", type=int, default=0)
    by_memory.set_defaults(act=memory)
    by_hosts = what.add_parser("hosts")
    by_hosts.add_argument("--corpus", type=Path, required=True)
    by_hosts.add_argument("--files", type=int, default=600)
    by_hosts.add_argument("--hosts", type=int, default=3)
    by_hosts.add_argument("--repeat", type=int, default=1)
    by_hosts.set_defaults(act=hosts)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cluster-") as name:
        asked.act(Path(name), asked)


if __name__ == "__main__":
    main()
