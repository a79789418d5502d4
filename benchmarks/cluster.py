"""A cluster on this machine, measured: memory of dispatcher and bridge, what the broker holds, throughput.

    export PYTHONPATH=.bench/cluster
    python -m benchmarks.cluster memory --finished 100000 --waiting 1000000
    python -m benchmarks.cluster memory --jobs 10000
    python -m benchmarks.cluster hosts --corpus FOLDER --files 600 --hosts 3

`hosts` runs daemons with the real engine, one thread each, in namespaces of their own, against one alone on
the same files. `memory` uses the tests' fake engine. Needs redis-server; `hosts` needs root.
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
from tests.support import Process, dot

_MIB = 1 << 20
# By then the dispatcher has given back what the scan left behind.
_TRIMMED_S = 12


def rss_mb(process: Process | None) -> float:
    """Resident memory, now (MiB)."""
    return round(psutil.Process(there(process).pid).memory_info().rss / _MIB, 1)


def cpu_s(pid: int) -> float:
    """Processor time that a process has used (s)."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def there(process: Process | None) -> Process:
    """The same; it was started."""
    if process is None:
        raise ValueError("it was not started")
    return process


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
        print(f"dispatcher, empty share: RSS {rss_mb(made.dispatcher)} MiB", flush=True)
        if asked.finished:
            finished(made.share, asked.finished)
            scan = scanned(made)
            took_ms = scan["duration_ms"]
            time.sleep(_TRIMMED_S)
            print(f"{scan['current']} finished: scan {took_ms} ms; RSS {rss_mb(made.dispatcher)} MiB")
        if asked.waiting:
            waiting(made.share, asked.waiting)
            scan = scanned(made)
            client, name = made.redis.client(), queue_of("scans")
            most, until = 0, time.monotonic() + 30
            while time.monotonic() < until:
                most = max(most, client.llen(name))
                time.sleep(0.2)
            kib = client.memory_usage(name, samples=0) / 1024
            print(f"{asked.waiting} waiting: {most} messages in Redis at most, {kib:.0f} KiB; "
                  f"scan {scan['duration_ms']} ms; RSS {rss_mb(made.dispatcher)} MiB")  # fmt: skip
        if asked.jobs:
            jobs(made, asked.jobs)


def scanned(made: Cluster) -> dict[str, int]:
    """Start the dispatcher anew; returns what its first scan told."""
    return made.start_dispatcher().wait_for("scan.done", seconds=3600)[0]


def jobs(made: Cluster, count: int) -> None:
    """One host reads so many documents of no work."""
    bridge = there(made.add_host().bridge)
    bridge.wait_for("bridge.ready")
    start_mb = most_mb = rss_mb(bridge)
    pids = {"dispatcher": there(made.dispatcher).pid, "bridge": bridge.pid, "redis": made.redis.pid}
    used_s = {name: cpu_s(pid) for name, pid in pids.items()}
    began = time.monotonic()
    for number in range(count):
        dot(made.folder / "new.png", (12, 12)).rename(made.share / f"{number}.png")
    while (ended := len(bridge.events("job.ended"))) < count:
        most_mb = max(most_mb, rss_mb(bridge))
        time.sleep(5)
    took_s = time.monotonic() - began
    each = {name: f"{(cpu_s(pid) - used_s[name]) / ended * 1000:.1f} ms" for name, pid in pids.items()}
    print(f"bridge: RSS {start_mb} MiB at the start, {rss_mb(bridge)} after {ended} jobs, {most_mb} at most; "
          f"{ended / took_s:.0f} jobs/s; processor time of a job {each}; "
          f"dispatcher RSS {rss_mb(made.dispatcher)}")  # fmt: skip


# -- throughput ------------------------------------------------------------------------------------


def run_hosts(folder: Path, corpus: list[Path], count: int, hosts: int) -> float:
    """Read `count` files with so many hosts; returns files a second from the first to the last record."""
    folder.mkdir()
    environment = {"FAKE_AWAY_S": "30", "FAKE_LOST_S": "15", "FAKE_HEARTBEAT_S": "2", "FAKE_LISTEN_S": "5"}
    with cluster(folder, hosts=0, environment=environment, ocr={"threads": 1}) as made:
        for _ in range(hosts):
            host = made.add_host(apart=True, real=True)
            there(host.daemon).wait_for("daemon.ready", seconds=300)
            there(host.bridge).wait_for("bridge.ready")
        return measure(made, corpus, count)


def measure(made: Cluster, corpus: list[Path], count: int) -> float:
    """Drop everything, wait for all records, look at them."""
    began = time.monotonic()
    for number in range(count):
        picture = corpus[number % len(corpus)]
        shutil.copy(picture, made.folder / "new")
        (made.folder / "new").rename(made.share / f"{number:05}{picture.suffix}")
    while records(made.share) < count:
        time.sleep(0.1)
    took_s = time.monotonic() - began
    time.sleep(1)
    ended = [there(host.bridge).events("job.ended") for host in made.hosts]
    readings = sum(len(there(host.daemon).events("ocr.done")) for host in made.hosts)
    took_ms = statistics.median(event["took_ms"] for events in ended for event in events)
    rss = [(rss_mb(host.daemon), rss_mb(host.bridge)) for host in made.hosts]
    print(f"{len(made.hosts)} hosts: {count} files in {took_s:.1f} s, {count / took_s:.2f}/s; "
          f"jobs {[len(events) for events in ended]}, {readings} readings, median {took_ms:.0f} ms; "
          f"RSS of daemon, bridge {rss}; dispatcher {rss_mb(made.dispatcher)}", flush=True)  # fmt: skip
    # A job may be delivered twice, and seen to be done: what counts is that nothing was read twice.
    if readings != count:
        raise ValueError("something was read twice, or not at all")
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
        began = time.monotonic()
        for number in range(count):
            picture = corpus[number % len(corpus)]
            shutil.copy(picture, folder / "new")
            (folder / "new").rename(inbox / f"{number:05}{picture.suffix}")
        while records(inbox) < count:
            time.sleep(0.1)
        took_s = time.monotonic() - began
    finally:
        daemon.close()
    print(f"one daemon alone: {count} files in {took_s:.1f} s, {count / took_s:.2f}/s", flush=True)
    return count / took_s


def hosts(folder: Path, asked: argparse.Namespace) -> None:
    """One alone, one through the broker, several; repeated, since other work here comes and goes."""
    corpus = sorted(path for path in asked.corpus.iterdir() if path.suffix in (".jpg", ".png"))
    for turn in range(asked.repeat):
        base = alone(folder / f"alone{turn}", corpus, asked.files)
        one = run_hosts(folder / f"one{turn}", corpus, asked.files, 1)
        many = run_hosts(folder / f"many{turn}", corpus, asked.files, asked.hosts)
        print(
            f"one host {one / base:.2f}, {asked.hosts} hosts {many / base:.2f} of one daemon alone",
            flush=True,
        )


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
