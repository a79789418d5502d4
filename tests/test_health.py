"""systemd's notification protocol, on a real socket."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ocr_watcher.service.health import Notifier
from tests.support import Clock


@pytest.mark.parametrize("abstract", [False, True])
def test_the_manager_hears_it(tmp_path: Path, abstract: bool) -> None:
    address = f"@ocr-watcher-test-{os.getpid()}" if abstract else str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address.replace("@", "\0"))
        clock = Clock()
        notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "20000000"}, clock)
        notifier.ready()
        notifier.status("3 done")
        for _ in range(11):  # beats at 0, 5 and 10 s
            notifier.beat()
            clock.pass_(1.0)
        notifier.stopping()
        manager.setblocking(False)
        heard = []
        while True:
            try:
                heard.append(manager.recv(4096).decode())
            except BlockingIOError:
                break
    assert heard == ["READY=1", "STATUS=3 done", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1", "STOPPING=1"]


def test_without_a_manager_nothing_happens(tmp_path: Path) -> None:
    for environ in ({}, {"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": "nonsense"}):
        notifier = Notifier(environ, Clock())
        notifier.ready()
        notifier.beat()


def test_a_watchdog_meant_for_another_process_is_not_fed() -> None:
    environ = {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}
    assert Notifier(environ, Clock())._interval_s() == 0.0
