"""Everything at once, at random, to a dispatcher, a broker and three hosts in namespaces of their own.

Kills of every process, a host that is frozen past the visibility time-out, one cut off from the share,
a broker that is emptied, clocks ten minutes apart, documents that are replaced. `CLUSTER_KILLS` is how many
kills, `CLUSTER_SEED` repeats a run as far as that goes; the seed is printed.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from tests.cluster import Cluster, Host, cluster, why_not, why_not_apart
from tests.support import dot, record, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support import Process

if not why_not():
    from ocr_watcher.cluster.broker import queue_of

KILLS = int(os.environ.get("CLUSTER_KILLS", "40"))
SEED = int(os.environ.get("CLUSTER_SEED", random.randrange(10**6)))  # noqa: S311 - no secret
FILES = 3 * KILLS
# A restart takes a second or two on a busy machine: often enough that some are killed while they start.
BETWEEN_KILLS_S = 1.5
VISIBILITY_S = 8

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(KILLS * 20 + 600),
    pytest.mark.skipif(bool(why_not()), reason=f"NO CLUSTER IS TESTED HERE: {why_not()}"),
    pytest.mark.skipif(bool(why_not_apart()), reason=f"NO CHAOS ON THIS MACHINE: {why_not_apart()}"),
]


@dataclass
class Chaos:
    """The cluster, the documents, and what was done to both."""

    made: Cluster
    number: random.Random
    widths: dict[Path, int] = field(default_factory=dict)  # of the version that is there
    done: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)
    frozen: set[int] = field(default_factory=set)
    crashed: list[str] = field(default_factory=list)
    ends: bool = False

    # -- documents -----------------------------------------------------------------------------

    def write(self, path: Path) -> None:
        """A new version, of a width that no other has."""
        width = 10 + sum(self.done[what] for what in ("dropped", "replaced"))
        dot(self.made.folder / "new.png", (width, 4)).rename(path)
        self.widths[path] = width

    def drop(self) -> None:
        folder = self.made.share / f"folder{self.number.randrange(5)}"
        folder.mkdir(exist_ok=True)
        self.write(folder / f"{self.done['dropped']}.png")
        self.done["dropped"] += 1

    def replace(self) -> None:
        if self.widths:
            self.write(self.number.choice(list(self.widths)))
            self.done["replaced"] += 1

    # -- processes -----------------------------------------------------------------------------

    def supervise(self) -> None:
        """Start again whatever has ended, as a service manager does. A thread."""
        while not self.ends:
            with self.lock:
                made = self.made
                for process in made.processes():
                    if process.ended and process.code != -signal.SIGKILL:
                        self.crashed.append(process.text)
                if made.dispatcher is not None and made.dispatcher.ended:
                    made.start_dispatcher()
                for host in made.hosts:
                    if host.daemon is not None and host.daemon.ended:
                        host.start_daemon()
                    if host.bridge is not None and host.bridge.ended:
                        host.start_bridge()
            time.sleep(0.3)

    def kill(self) -> None:
        host = self.number.choice(self.made.hosts)
        what, process = self.number.choice(
            [
                ("daemon", host.daemon),
                ("daemon", host.daemon),
                ("bridge", host.bridge),
                ("bridge", host.bridge),
                ("dispatcher", self.made.dispatcher),
                ("broker", None),
            ]
        )
        with self.lock:
            if process is None:
                self.made.redis.kill()
                time.sleep(self.number.uniform(0, 1))
                self.made.redis.start()
            elif not process.ended:
                os.kill(process.pid, signal.SIGKILL)
        self.done[f"kill {what}"] += 1

    def freeze(self, host: Host) -> None:
        """Stop a whole host for longer than the broker waits for it."""
        with self.lock:
            stopped = [process for process in (host.daemon, host.bridge) if process and not process.ended]
            for process in stopped:
                process.signal(signal.SIGSTOP)
        threading.Timer(2 * VISIBILITY_S, self._thaw, [stopped]).start()
        self.done["frozen"] += 1

    @staticmethod
    def _thaw(stopped: list[Process]) -> None:
        for process in stopped:
            if not process.ended:
                process.signal(signal.SIGCONT)

    def cut_off(self, host: Host) -> None:
        """Take the share away from a bridge, so that there is an empty folder in its place."""
        with self.lock:
            bridge = host.bridge
            assert bridge is not None
            mount = str(host.folder / "mnt")
            inside = ["nsenter", "--mount", "--target", str(bridge.pid)]
            if bridge.ended or subprocess.run([*inside, "umount", "-l", mount], check=False).returncode:
                return
        back = [*inside, "mount", "--bind", str(self.made.share), mount]
        threading.Timer(VISIBILITY_S, subprocess.run, [back], {"check": False}).start()
        self.done["cut off"] += 1

    def empty_broker(self) -> None:
        with self.lock:
            self.made.redis.client().flushall()
        self.done["emptied"] += 1

    # -- all of it -----------------------------------------------------------------------------

    def run(self) -> None:
        acts: list[Callable[[], None]] = [
            *((self.empty_broker,) * 3),
            *((lambda: self.freeze(self.number.choice(self.made.hosts)),) * 2),
            *((lambda: self.cut_off(self.number.choice(self.made.hosts)),) * 2),
        ]
        for turn in range(KILLS):
            for _ in range(FILES // KILLS):
                self.drop()
            if turn % 3 == 0:
                self.replace()
            if turn % max(1, KILLS // 20) == 0:
                self.number.choice(acts)()
            self.kill()
            time.sleep(self.number.uniform(0, 2 * BETWEEN_KILLS_S))

    def is_right(self, path: Path) -> bool:
        """Whether a document has one record, of the version that is there."""
        made = path.with_name(path.name + ".json")
        if not made.exists() or path.with_name(path.name + ".error.json").exists():
            return False
        told = record(made)
        return bool(
            told["pages"][0]["width_px"] == self.widths[path]
            and told["source"]["mtime_ns"] == path.stat().st_mtime_ns
            and told["source"]["name"] == path.name
        )

    def wrong(self) -> list[str]:
        return [str(path) for path in self.widths if not self.is_right(path)]


def test_every_document_has_its_record_in_the_end(tmp_path: Path) -> None:
    print("seed", SEED)
    sections = {
        "cluster": {"visibility_timeout_s": VISIBILITY_S},
        "retry": {"max_attempts": 1000},  # a daemon that is killed with a file in hand
        "queue": {"max_size": 16},
    }
    environment = {"FAKE_READ_S": "0.2", "FAKE_SHARE_HUNG_S": "4", "FAKE_DAEMON_AWAY_S": "8"}
    with cluster(tmp_path, hosts=0, environment=environment, **sections) as made:
        for wrong_by_s in (0, 600, -600):
            made.add_host({"FAKE_CLOCK_S": str(wrong_by_s)}, apart=True)
        chaos = Chaos(made, random.Random(SEED))  # noqa: S311 - repeatable
        supervisor = threading.Thread(target=chaos.supervise, daemon=True)
        supervisor.start()
        began = time.monotonic()
        try:
            chaos.run()
            began_to_settle = time.monotonic()
            until(lambda: chaos.crashed or not chaos.wrong(), 300)
        finally:
            chaos.ends = True
            supervisor.join()
        settled = time.monotonic()
        assert chaos.crashed == []
        until(lambda: made.redis.client().llen(queue_of("scans")) == 0)
        reads = Counter(width for _, width in made.reads())
        versions = sum(chaos.done[what] for what in ("dropped", "replaced"))
        twice = sum(count - 1 for count in reads.values())
        print(dict(chaos.done))
        print(
            f"{len(chaos.widths)} documents, {versions} versions, {sum(reads.values())} readings of "
            f"{len(reads)} versions, {twice} more than once; chaos {began_to_settle - began:.0f} s, "
            f"all right {settled - began_to_settle:.0f} s later"
        )
        left = [
            path for path in made.share.rglob("*") if path.is_file() and path.suffix not in (".png", ".json")
        ]
        assert [path.name for path in left if path.name != ".ocr-watcher-share"] == []
        assert not list(made.share.rglob("*.error.json"))
