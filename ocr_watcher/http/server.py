"""`serve` from start to exit code: sockets, application, signals. A process of its own beside the daemon."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from aiohttp import web

from ocr_watcher import log
from ocr_watcher.config import is_loopback
from ocr_watcher.errors import ConfigError, ExitCode, UnavailableError
from ocr_watcher.http.app import HEADERS, App
from ocr_watcher.http.gate import Gate, Keys
from ocr_watcher.http.guard import IDLE_S, Guards
from ocr_watcher.http.line import Line
from ocr_watcher.http.service import Service
from ocr_watcher.http.spool import Spool
from ocr_watcher.http.waiting import Waiting
from ocr_watcher.service.health import Notifier

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ocr_watcher.config import HttpSettings, Settings
    from ocr_watcher.http.about import Collect

# Connections that wait for `accept`: as many as may come while the server is restarted.
_BACKLOG: Final = 4096
# What is under way when the server stops is answered within this time (s).
_STOP_S: Final = 5.0
_FIRST_PASSED_FD: Final = 3
_SWEEP_S: Final = 60.0


def run(
    settings: Settings,
    http: HttpSettings,
    *,
    collect: Collect,
    ready: Callable[[str], None] = lambda _address: None,
) -> ExitCode:
    """Serve until a signal; `ready` is told the address. Raises `ServiceError`.

    Args:
        settings: the configuration, which is the daemon's too.
        http: its section for the server, in force.
        collect: gives what `status --json` prints.
        ready: is called with the address when requests are answered.
    """
    keys = Keys(http.api_keys_file) if http.api_keys_file is not None else None
    spool = Spool(http.spool, http.keep_s)
    sockets = passed_sockets(os.environ) or [_listen(http)]
    try:
        _check_addresses(sockets, keys)
        spool.open()
        asyncio.run(
            _serve(
                settings, http, spool=spool, gate=Gate(keys), sockets=sockets, collect=collect, ready=ready
            )
        )
    finally:
        spool.close()
        for one in sockets:
            one.close()
    return ExitCode.OK


async def _serve(
    settings: Settings,
    http: HttpSettings,
    *,
    spool: Spool,
    gate: Gate,
    sockets: list[socket.socket],
    collect: Collect,
    ready: Callable[[str], None],
) -> None:
    logger, loop = log.get(), asyncio.get_running_loop()
    line = Line(settings.state_dir, http.spool, settings.memory.stats_interval_s)
    waiting = Waiting(spool)
    waiting.add(spool.unfinished())
    service = Service(http, spool=spool, waiting=waiting, line=line, headers=HEADERS)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.stopping.set)

    guards = Guards()
    runner = web.AppRunner(
        App(settings, service, gate=gate, guards=guards, collect=collect, log=logger).make(),
        access_log=None,
        handle_signals=False,
        keepalive_timeout=IDLE_S,
        max_line_size=8190,
        max_field_size=8190,
        max_headers=100,
        lingering_time=2.0,
        read_bufsize=1 << 15,
        auto_decompress=False,
    )
    await runner.setup()
    assert runner.server is not None  # noqa: S101 - after setup
    factory = guards.around(runner.server)
    servers = [await loop.create_server(factory, sock=one, backlog=_BACKLOG) for one in sockets]
    tasks = [asyncio.create_task(waiting.run()), asyncio.create_task(_sweep(spool, http.keep_s))]
    notifier = Notifier(os.environ, time.monotonic)
    address = address_of(sockets[0])
    logger.info("http.ready", address=address, spool=str(http.spool), waiting=len(waiting), pid=os.getpid())
    ready(address)
    notifier.ready()
    await service.stopping.wait()
    logger.info("http.stopping")
    notifier.stopping()
    for server in servers:
        server.close()
    with suppress(TimeoutError):
        async with asyncio.timeout(_STOP_S):
            await runner.shutdown()
            await runner.server.shutdown(_STOP_S)
    for task in tasks:
        task.cancel()
    await runner.cleanup()
    logger.info("http.exiting")


async def _sweep(spool: Spool, keep_s: float) -> None:
    while True:
        await asyncio.sleep(min(_SWEEP_S, max(0.5, keep_s / 4)))
        with suppress(OSError):
            await asyncio.to_thread(spool.sweep)


# -- sockets ---------------------------------------------------------------------------------------


def passed_sockets(environ: Mapping[str, str]) -> list[socket.socket]:
    """The listening sockets that a service manager has passed in; see sd_listen_fds(3)."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(environ.get("LISTEN_FDS", "0"))
    found = []
    for fd in range(_FIRST_PASSED_FD, _FIRST_PASSED_FD + count):
        os.set_inheritable(fd, False)  # noqa: FBT003 - the standard library's
        one = socket.socket(fileno=fd)
        one.setblocking(False)  # noqa: FBT003
        found.append(one)
    return found


def _listen(http: HttpSettings) -> socket.socket:
    try:
        found = socket.getaddrinfo(
            http.host.strip("[]"), http.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        one = socket.socket(family, kind, protocol)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(address)
        one.setblocking(False)  # noqa: FBT003
    except OSError as error:
        raise UnavailableError(
            f"cannot listen on {http.host}:{http.port}: {error.strerror or error}",
            hint="Another program may use the port: set http.port, or --port.",
        ) from error
    return one


def _check_addresses(sockets: list[socket.socket], keys: Keys | None) -> None:
    for one in sockets:
        if one.family == socket.AF_UNIX or keys is not None:
            continue
        host = one.getsockname()[0]
        if not is_loopback(host):
            raise ConfigError(
                f"{host} can be reached from other machines, and there is no http.api_keys_file",
                hint="Set http.api_keys_file to a file with a key a line, or serve on 127.0.0.1.",
            )


def address_of(one: socket.socket) -> str:
    """Where a socket can be reached."""
    if one.family == socket.AF_UNIX:
        return f"unix:{one.getsockname()}"
    host, port = one.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
