"""Several hosts with a real broker: every document its record, whatever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from ocr_watcher import config, names
from tests.cluster import Cluster, cluster, why_not
from tests.support import PYTHONPATH, Process, dot, sidecar_of, until

if TYPE_CHECKING:
    from pathlib import Path

if not why_not():
    from ocr_watcher.cluster import examination, overview
    from ocr_watcher.cluster.broker import queue_of

pytestmark = pytest.mark.skipif(bool(why_not()), reason=f"NO CLUSTER IS TESTED HERE: {why_not()}")


def drop(made: Cluster, count: int, first: int = 0) -> list[Path]:
    """Images of different widths, put there by rename."""
    images = []
    for number in range(first, first + count):
        made_aside = dot(made.folder / "new.png", (20 + number, 10))
        images.append(made_aside.rename(made.share / f"{number}.png"))
    return images


def all_read(images: list[Path], seconds: float = 60) -> None:
    until(lambda: all(image.with_name(image.name + ".json").exists() for image in images), seconds)
    for image in images:
        stamp = image.stat()
        source = sidecar_of(image)["source"]
        assert (source["name"], source["mtime_ns"]) == (image.name, stamp.st_mtime_ns)


def drop_until_each_read(made: Cluster, first: int) -> None:
    """Images in small lots until every host had one: which host is quicker to ask is nobody's promise."""
    dropped: list[Path] = []
    hosts = {host.name for host in made.hosts}

    def each() -> bool:
        lot = drop(made, 2 * len(hosts), first + len(dropped))
        dropped.extend(lot)
        all_read(lot)
        return {name for name, width in made.reads() if width >= 20 + first} == hosts

    until(each, 60)


def reads_of(made: Cluster, image: Path) -> list[str]:
    """The hosts that read it."""
    width = 20 + int(image.name.split(".")[0])
    return [host for host, read in made.reads() if read == width]


def kill(process: Process | None) -> None:
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_three_hosts_read_what_is_dropped_into_the_share(tmp_path: Path) -> None:
    with cluster(tmp_path, hosts=3, environment={"FAKE_READ_S": "0.1"}) as made:
        for host in made.hosts:
            assert host.bridge is not None
            host.bridge.wait_for("bridge.ready")
        images = drop(made, 30)
        all_read(images)
        assert sorted(width for _, width in made.reads()) == [20 + number for number in range(30)]
        drop_until_each_read(made, 100)
        # What the daemons read is gone from the spools, and nothing is left in the broker.
        spools = [path for host in made.hosts for path in (host.folder / ".ocr-watcher-cluster").glob("*/*")]
        assert spools == []
        until(lambda: made.redis.client().llen(queue_of("scans")) == 0)
        assert made.redis.client().hlen("unacked") == 0
        for process in made.processes():
            assert process.stop() == 0, process.text


def test_a_bridge_that_is_killed_goes_on_with_what_its_daemon_reads(tmp_path: Path) -> None:
    with cluster(
        tmp_path, hosts=2, environment={"FAKE_READ_S": "2", "FAKE_AWAY_S": "30", "FAKE_LOST_S": "20"}
    ) as made:
        (image,) = drop(made, 1)
        until(made.reads)
        host = next(host for host in made.hosts if host.name == made.reads()[0][0])
        kill(host.bridge)
        host.start_bridge().wait_for("bridge.resumed")
        all_read([image])
        assert reads_of(made, image) == [host.name]


def test_a_host_that_dies_is_replaced_by_another(tmp_path: Path) -> None:
    with cluster(tmp_path, hosts=2, environment={"FAKE_READ_S": "1"}) as made:
        images = drop(made, 4)
        until(made.reads)
        host = next(host for host in made.hosts if host.name == made.reads()[0][0])
        kill(host.daemon)
        kill(host.bridge)
        all_read(images)
        assert len(made.reads()) == 5  # the one in its hand once more


def test_a_host_without_its_daemon_takes_no_jobs_and_gives_back_the_one_in_hand(tmp_path: Path) -> None:
    with cluster(tmp_path, hosts=2, environment={"FAKE_READ_S": "0.5"}) as made:
        images = drop(made, 2)
        until(lambda: len(made.reads()) == 2)
        host = made.hosts[0]
        kill(host.daemon)
        all_read(images)
        assert host.bridge is not None
        host.bridge.wait_for("bridge.closed")
        all_read(drop(made, 4, first=10))
        host.start_daemon()
        host.bridge.wait_for("bridge.opened")
        drop_until_each_read(made, 100)


def test_a_dispatcher_that_is_killed_has_nothing_read_twice(tmp_path: Path) -> None:
    with cluster(tmp_path, hosts=2, environment={"FAKE_READ_S": "0.3"}) as made:
        images = drop(made, 30)
        for _ in range(2):
            before = len(made.reads())
            until(lambda: len(made.reads()) > before + 2)  # noqa: B023 - called before the next turn
            kill(made.dispatcher)
            made.start_dispatcher()
        all_read(images)
        assert len(made.reads()) == 30


def test_a_broker_that_forgot_everything_costs_one_look(tmp_path: Path) -> None:
    with cluster(tmp_path, hosts=2, environment={"FAKE_READ_S": "0.2"}) as made:
        images = drop(made, 20)
        until(lambda: len(made.reads()) > 3)
        made.redis.client().flushall()
        all_read(images)
        assert len(made.reads()) == 20
        more = drop(made, 10, first=20)
        until(lambda: len(made.reads()) > 23)
        made.redis.kill()
        assert made.dispatcher is not None
        made.dispatcher.wait_for("broker.away")
        made.redis.start()
        all_read(more, 120)
        assert len(made.reads()) == 30


def test_the_broker_holds_no_more_than_the_window(tmp_path: Path) -> None:
    with cluster(tmp_path, hosts=0, queue={"max_size": 4}) as made:
        images = drop(made, 60)
        client, name = made.redis.client(), queue_of("scans")
        until(lambda: client.llen(name) == 4)
        kill(made.dispatcher)
        made.start_dispatcher().wait_for("dispatch.ready")
        until(lambda: client.llen(name) == 4)
        made.add_host()
        most = 0

        def look() -> bool:
            nonlocal most
            most = max(most, client.llen(name))
            return len(made.reads()) == 60

        until(look, 90)
        all_read(images)
        assert most <= 4


def test_a_frozen_host_does_no_harm_when_it_thaws(tmp_path: Path) -> None:
    sections = {"cluster": {"visibility_timeout_s": 4}}
    with cluster(tmp_path, hosts=2, environment={"FAKE_READ_S": "0.5"}, **sections) as made:
        images = drop(made, 8)
        until(made.reads)
        host = next(host for host in made.hosts if host.name == made.reads()[0][0])
        frozen = [process for process in (host.daemon, host.bridge) if process is not None]
        for process in frozen:
            process.signal(signal.SIGSTOP)
        all_read(images)  # by the other one, also what the frozen one had
        before = {image: image.with_name(image.name + ".json").read_bytes() for image in images}
        until(lambda: made.redis.client().hlen("unacked") == 0, 30)  # delivered again by the broker
        for process in frozen:
            process.signal(signal.SIGCONT)
        spool = host.folder / ".ocr-watcher-cluster"
        until(lambda: not list(spool.glob("*/*")) and not list(spool.glob("*/.errand")))
        assert {image: image.with_name(image.name + ".json").read_bytes() for image in images} == before
        all_read(drop(made, 4, first=20))


def test_a_host_that_is_cut_off_from_the_share_leaves_the_jobs_to_others(tmp_path: Path) -> None:
    with cluster(tmp_path, hosts=0, environment={"FAKE_READ_S": "0.2", "FAKE_SHARE_HUNG_S": "2"}) as made:
        for number in (1, 2):
            (tmp_path / f"mount{number}").symlink_to(made.share)
            made.sections["cluster"] = {"roots": {"scans": str(tmp_path / f"mount{number}")}}
            made.add_host()
        drop_until_each_read(made, 100)
        mount, empty = tmp_path / "mount1", tmp_path / "empty"
        empty.mkdir()
        mount.unlink()
        mount.symlink_to(empty)
        all_read(drop(made, 10))
        bridge = made.hosts[0].bridge
        assert bridge is not None
        bridge.wait_for("bridge.closed")
        mount.unlink()
        mount.symlink_to(made.share)
        bridge.wait_for("bridge.opened")
        drop_until_each_read(made, 1000)


def test_what_takes_long_is_set_aside(tmp_path: Path) -> None:
    with cluster(tmp_path, hosts=1, environment={"FAKE_READ_S": "3", "FAKE_PATIENCE_S": "0.5"}) as made:
        images = drop(made, 3)
        all_read(images)
        dispatcher = made.dispatcher
        assert dispatcher is not None
        dispatcher.wait_for("job.ended", 3)
        assert len(made.reads()) == 3
        assert dispatcher.events("job.lost") == []


def test_a_document_that_is_replaced_on_its_way_is_read_in_its_new_version(tmp_path: Path) -> None:
    with cluster(tmp_path, hosts=1, environment={"FAKE_READ_S": "1"}) as made:
        first, second = drop(made, 2)
        until(lambda: len(made.reads()) == 1)  # one is read, the other waits in the broker
        for image, width in ((first, 90), (second, 91)):
            dot(made.folder / "new.png", (width, 10)).rename(image)
        all_read([first, second])
        until(lambda: {sidecar_of(image)["pages"][0]["width_px"] for image in (first, second)} == {90, 91})


def test_hosts_with_wrong_clocks_work(tmp_path: Path) -> None:
    with cluster(tmp_path, hosts=1, environment={"FAKE_READ_S": "0.1"}) as made:
        made.add_host({"FAKE_CLOCK_S": "600"})
        made.add_host({"FAKE_CLOCK_S": "-600"})
        all_read(drop(made, 30))
        assert len(made.reads()) == 30


def test_names_that_are_no_utf_8_are_read(tmp_path: Path) -> None:
    with cluster(tmp_path, hosts=1) as made:
        folder = os.fsencode(made.share) + b"/M\xe4rz"
        os.mkdir(folder)
        dot(made.share / "a.png").rename(os.fsdecode(folder + b"/\xff\xfe.png"))
        until(lambda: os.path.exists(folder + b"/\xff\xfe.png.json"))


def test_status_doctor_and_metrics_tell_of_the_hosts(tmp_path: Path) -> None:
    with cluster(tmp_path, hosts=2) as made:
        all_read(drop(made, 4))
        told = subprocess.run(
            [sys.executable, "-m", "ocr_watcher", "status", "--json", "-c", "dispatch/config.yaml"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": PYTHONPATH},
            capture_output=True,
            check=True,
        )
        status = json.loads(told.stdout)["cluster"]
        assert [host["name"] for host in status["hosts"]] == ["host1", "host2"]
        assert sum(host["done"] for host in status["hosts"]) >= 4
        assert all(host["daemon"] and host["rss_mb"] > 0 for host in status["hosts"])
        (dispatcher,) = status["dispatchers"]
        assert (dispatcher["done"], dispatcher["roots"]) == (4, ["scans"])
        assert status["queued"] == {"scans": 0}


def test_doctor_sees_what_hosts_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "_PATIENCE_S", 5.0)
    with cluster(tmp_path, hosts=1, environment={"FAKE_CLOCK_S": "600"}) as made:
        (tmp_path / "elsewhere").mkdir()
        made.sections["cluster"] = {"roots": {"scans": str(tmp_path / "elsewhere")}}
        made.add_host()
        settings = config.load(tmp_path / "dispatch" / "config.yaml")
        until(lambda: len(overview.look(settings).hosts) == 2)
        found = list(examination.examine(settings))
        wrong = [(one.name, one.found) for one in found if one.verdict == "FAIL"]
        assert ("clocks", "bridge@host1 is +600 s from this one") in wrong
        assert any("host2 sees nothing of it" in what for _, what in wrong)
        right = [one.found for one in found if one.verdict == "ok"]
        assert any("host1 sees what this host renames there" in what for what in right)
        assert not (made.share / names.SHARE_PROBE).exists()


def test_figures_for_prometheus(tmp_path: Path) -> None:
    with cluster(tmp_path, hosts=1) as made:
        all_read(drop(made, 3))
        assert made.dispatcher is not None
        bridge = made.hosts[0].bridge
        assert bridge is not None
        figures = ""
        for process in (made.dispatcher, bridge):
            (served,) = process.events("metrics.served")
            figures += urllib.request.urlopen(served["address"], timeout=10).read().decode()  # noqa: S310 - ours
        families = {family.name: family for family in text_string_to_metric_families(figures)}
        ended = {
            sample.labels["outcome"]: sample.value for sample in families["ocrwatcher_bridge_jobs"].samples
        }
        assert ended["done"] == 3
        assert families["ocrwatcher_dispatch_hosts"].samples[0].value == 1
        assert families["ocrwatcher_dispatch_window_capacity"].samples[0].value == 256
        assert str(tmp_path) not in figures


def test_uploads_to_a_host_without_an_engine_are_read_by_others(tmp_path: Path) -> None:
    with cluster(tmp_path, hosts=1) as made:
        front = made.config("front")
        document = yaml.safe_load((front / "config.yaml").read_text())
        document["http"] = {"via": "cluster", "port": 0, "spool": str(made.share / "uploads")}
        (front / "config.yaml").write_text(yaml.safe_dump(document))
        server = Process(["-m", "ocr_watcher", "serve", "-c", "config.yaml"], front)
        try:
            (ready,) = server.wait_for("http.ready")
            picture = dot(tmp_path / "new.png", (70, 20)).read_bytes()
            for wanted in ("json", "hocr", "pdf"):
                request = urllib.request.Request(  # noqa: S310 - ours
                    f"{ready['address']}/v1/ocr?format={wanted}", data=picture, method="POST"
                )
                with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - ours
                    content = answer.read()
                    assert answer.status == 200
                if wanted == "json":
                    assert json.loads(content)["pages"][0]["width_px"] == 70
                if wanted == "pdf":
                    assert content.startswith(b"%PDF")
            assert [width for _, width in made.reads()] == [70] * 3
        finally:
            server.close()
