"""What `doctor` looks at where there are several hosts: the broker, their clocks, and the shares.

A file that this host renames in a root must be seen by each bridge that takes jobs of it, with its time kept
to the nanosecond: by that a record knows its document.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from ocr_watcher.cluster import roots
from ocr_watcher.cluster.broker import BrokerError, Sender, make_app
from ocr_watcher.cluster.hosts import HEARTBEAT_S
from ocr_watcher.cluster.overview import Overview

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ocr_watcher.cluster.hosts import Host
    from ocr_watcher.config import Settings

# A bridge looks at the share every 2 s and tells every 2 s; some shares show a new file only after seconds.
_PATIENCE_S: Final = 15.0
# Records and logs of hosts can be compared below that. Nothing depends on it before the clocks are
# further apart than what is left of the visibility time-out.
_CLOCKS_S: Final = 5.0


@dataclass(frozen=True)
class Finding:
    """One line of the report; see `verbs.doctor.Check`."""

    verdict: Literal["ok", "warn", "FAIL"]
    name: str
    found: str
    fix: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at everything. Raises `UnavailableError` where the libraries are missing."""
    overview = Overview(settings)
    overview.start()
    try:
        broker = _broker(settings)
        yield broker
        if broker.verdict == "FAIL":
            return
        overview.listen()
        yield from _hosts(overview)
        yield from _clocks(overview.hosts.present(), settings)
        for root, folder in settings.cluster.roots.items():
            yield from _share(root, folder, overview)
    finally:
        overview.stop()


def _broker(settings: Settings) -> Finding:
    sender = Sender(make_app(settings))
    try:
        began = time.monotonic()
        queued = sender.queued(settings.cluster.roots)
        took_ms = (time.monotonic() - began) * 1000
    except BrokerError as error:
        fix = "Is it running, and may this host reach it? See cluster.broker."
        return Finding("FAIL", "broker", f"does not answer: {error}", fix)
    finally:
        sender.close()
    waiting = ", ".join(f"{count} of {root}" for root, count in queued.items())
    return Finding("ok", "broker", f"answers in {took_ms:.0f} ms; in its queues: {waiting}")


def _hosts(overview: Overview) -> Iterator[Finding]:
    now = overview.now()
    if now.dispatchers:
        yield Finding("ok", "dispatch", ", ".join(one.name for one in now.dispatchers))
    else:
        yield Finding("warn", "dispatch", "none was heard", "Start `ocr-watcher dispatch` on one host.")
    roots_of: dict[str, str] = {}
    for one in now.dispatchers:
        for root in one.roots:
            if other := roots_of.get(root):
                fix = "One is enough for a root: with two, documents are read twice."
                yield Finding("warn", "dispatch", f"{one.name} and {other} both watch {root}", fix)
            roots_of[root] = one.name
    if not now.hosts:
        fix = "Start `ocr-watcher run` and `ocr-watcher bridge` on each host."
        yield Finding("warn", "hosts", "none was heard", fix)
    for host in now.hosts:
        if not host.daemon:
            yield Finding(
                "warn", "hosts", f"{host.name}: its daemon is away", "Start `ocr-watcher run` there."
            )
        elif host.closed:
            fix = "The log of that bridge says more."
            yield Finding("warn", "hosts", f"{host.name} takes nothing of {'; '.join(host.closed)}", fix)
        else:
            yield Finding("ok", "hosts", f"{host.name}: {host.rss_mb:.0f} MiB, {host.done} jobs ended")


def _clocks(hosts: list[Host], settings: Settings) -> Iterator[Finding]:
    """By the heartbeats, which are seconds old at most."""
    apart_s = {
        host.name: host.beat.wall_s - (time.time() - (time.monotonic() - host.heard_at)) for host in hosts
    }
    for name, seconds in apart_s.items():
        if abs(seconds) > settings.cluster.visibility_timeout_s / 4:
            fix = "Set the clocks (NTP): the broker would deliver documents again while they are read."
            yield Finding("FAIL", "clocks", f"{name} is {seconds:+.0f} s from this one", fix)
        elif abs(seconds) > _CLOCKS_S:
            fix = "Set the clocks (NTP), or times in records and logs cannot be compared."
            yield Finding("warn", "clocks", f"{name} is {seconds:+.0f} s from this one", fix)
    if apart_s and all(abs(seconds) <= _CLOCKS_S for seconds in apart_s.values()):
        yield Finding("ok", "clocks", f"no host is more than {_CLOCKS_S:.0f} s from this one")


def _share(root: str, folder: Path, overview: Overview) -> Iterator[Finding]:
    try:
        probe = roots.put_probe(root, folder)
    except OSError as error:
        fix = "Is it mounted, and may this user write there? With output.folder it may be read-only."
        yield Finding("warn", "share", f"{root}: {folder} cannot be written: {error.strerror}", fix)
        return
    try:
        yield _times(root, folder, probe)
        yield _identity(root, folder)
        yield from _seen_by_others(root, probe, overview)
    finally:
        roots.remove_probe(folder)


def _times(root: str, folder: Path, probe: str) -> Finding:
    if probe.endswith(f":{roots.PROBE_NS}"):
        return Finding("ok", "share", f"{root}: {folder} takes files and keeps their times")
    fix = "Use a share with exact times: a version of a document is known by its size and time."
    return Finding("warn", "share", f"{root}: {folder} changes the times of files", fix)


def _identity(root: str, folder: Path) -> Finding:
    if roots.identity_of(folder):
        return Finding("ok", "share", f"{root}: carries the mark of a dispatcher")
    fix = "A dispatcher that may write there makes it; without one an unmounted share is not noticed."
    return Finding("warn", "share", f"{root}: carries no mark", fix)


def _hosts_of(root: str, overview: Overview) -> list[Host]:
    """The bridges that have this root in their configuration."""
    return [
        host
        for host in overview.hosts.present()
        if root in host.beat.roots or any(why.startswith(f"{root}:") for why in host.beat.closed)
    ]


def _seen_by_others(root: str, probe: str, overview: Overview) -> Iterator[Finding]:
    """Who sees the probe, after a rename on this host."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline and any(
        probe not in host.beat.probes for host in _hosts_of(root, overview)
    ):
        time.sleep(HEARTBEAT_S / 10)
    for host in _hosts_of(root, overview):
        name = host.name.partition("@")[2]
        others = [seen for seen in host.beat.probes if seen.startswith(f"{root}:")]
        if probe in host.beat.probes:
            yield Finding("ok", "share", f"{root}: {name} sees what this host renames there")
        elif others:
            fix = "Its file system, or its mount options, change times: documents would be read without end."
            yield Finding("FAIL", "share", f"{root}: {name} sees other times", fix)
        else:
            fix = f"Is the same share mounted there? cluster.roots.{root} of that host says where it looks."
            yield Finding("FAIL", "share", f"{root}: {name} sees nothing of it in {_PATIENCE_S:.0f} s", fix)
