"""`serve` from start to exit code: sockets, application, signals. A process of its own beside the daemon."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from aiohttp import web

from ocr_watcher import log, memory
from ocr_watcher.config import is_loopback
from ocr_watcher.errors import ConfigError, ExitCode, UnavailableError
from ocr_watcher.http.app import HEADERS, App
from ocr_watcher.http.daemon_state import ClusterState, DaemonState
from ocr_watcher.http.gate import Gate, Keys
from ocr_watcher.http.guard import IDLE_S, Guards
from ocr_watcher.http.history import History
from ocr_watcher.http.listing import Listing
from ocr_watcher.http.service import Service
from ocr_watcher.http.spool import Spool
from ocr_watcher.http.waiting import Waiting
from ocr_watcher.service.health import Notifier

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from structlog.typing import FilteringBoundLogger

    from ocr_watcher.config import HttpSettings, Settings
    from ocr_watcher.http.about import Collect

# Connections that wait for `accept`: as many as may come while the server is restarted.
_BACKLOG: Final = 4096
# What is under way when the server stops is answered within this time (s).
_STOP_S: Final = 5.0
_LAST_HEADS_S: Final = 0.1
_FIRST_PASSED_FD: Final = 3
_SWEEP_S: Final = 60.0
_REMEMBER_S: Final = 1.0


def run(
    settings: Settings,
    http: HttpSettings,
    *,
    collect: Collect,
    ready: Callable[[str], None] = lambda _address: None,
) -> ExitCode:
    """Serve until a signal. Raises `ServiceError`.

    Args:
        settings: the configuration, which is the daemon's too.
        http: its section for the server, in force.
        collect: gives what `status --json` prints.
        ready: is called with the address when requests are answered.
    """
    memory.use_one_heap()
    sockets = passed_sockets(os.environ) or [listen(http)]
    try:
        server = Server(settings, http, sockets, collect=collect, log=log.get())
        asyncio.run(_serve(server, ready))
    finally:
        for one in sockets:
            one.close()
    return ExitCode.OK


async def _serve(server: Server, ready: Callable[[str], None]) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await server.start()
    notifier = Notifier(os.environ, time.monotonic)
    try:
        ready(server.address)
        notifier.ready()
        await stop.wait()
        notifier.stopping()
    finally:
        await server.stop()


class Server:
    """Everything that is alive while requests are answered. `start` and `stop` are called once each."""

    def __init__(
        self,
        settings: Settings,
        http: HttpSettings,
        sockets: Sequence[socket.socket],
        *,
        collect: Collect,
        log: FilteringBoundLogger,
    ) -> None:
        """Raises `ConfigError` where whoever reaches the sockets would need no key."""
        self._settings = settings
        self._http = http
        self._sockets = sockets
        self._collect = collect
        self._log = log
        keys = Keys(http.api_keys_file) if http.api_keys_file is not None else None
        _check_addresses(sockets, keys)
        self._gate = Gate(keys)
        self._spool = Spool(http.spool, http.keep_s)
        self._servers: list[asyncio.Server] = []
        self._tasks: list[asyncio.Task[object]] = []

    @property
    def address(self) -> str:
        """Where requests are answered."""
        return address_of(self._sockets[0])

    async def start(self) -> None:
        """Answer requests from now on. Raises `UnavailableError`."""
        self._spool.open()
        state = ClusterState if self._http.via == "cluster" else DaemonState
        daemon = state(self._settings.state_dir, self._http.spool, self._settings.memory.stats_interval_s)
        waiting = Waiting(self._spool)
        waiting.add(self._spool.unfinished())
        self._service = Service(
            self._http, spool=self._spool, waiting=waiting, daemon=daemon, headers=HEADERS
        )
        folders = self._shows_folders()
        self._listing = Listing(self._settings, self._spool, daemon=daemon, waiting=waiting, folders=folders)
        history = History()
        await asyncio.to_thread(history.read_log, self._settings.logging.file)
        guards = Guards()
        self.app = App(
            self._settings,
            self._service,
            gate=self._gate,
            guards=guards,
            shows_folders=folders,
            collect=self._collect,
            listing=self._listing,
            history=history,
            log=self._log,
        ).make()
        # It logs every malformed request with a traceback, for whoever cares to fill the log.
        logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
        self._runner = web.AppRunner(
            self.app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=_STOP_S,
            keepalive_timeout=IDLE_S,
            max_line_size=8190,
            max_field_size=8190,
            max_headers=100,
            lingering_time=2.0,
            read_bufsize=1 << 15,
            auto_decompress=False,
        )
        await self._runner.setup()
        assert self._runner.server is not None  # noqa: S101 - after setup
        factory = guards.around(self._runner.server)
        loop = asyncio.get_running_loop()
        self._servers = [
            await loop.create_server(factory, sock=one, backlog=_BACKLOG) for one in self._sockets
        ]
        self._tasks = [
            asyncio.create_task(one)
            # The first look is the longest: nobody should have to wait for it.
            for one in (waiting.run(), self._sweep(), _remember(history, daemon), self._listing.look())
        ]
        self._log.info(
            "http.ready",
            address=self.address,
            spool=str(self._http.spool),
            waiting=len(waiting),
            pid=os.getpid(),
        )

    async def stop(self) -> None:
        """Take no further request; those under way are answered: who waits for a record gets 202."""
        self._log.info("http.stopping")
        for server in self._servers:
            server.close()
        # What has just been accepted brings its request along.
        await asyncio.sleep(_LAST_HEADS_S)
        self._service.stopping.set()
        await self._runner.cleanup()
        for task in self._tasks:
            task.cancel()
        self._spool.close()
        self._log.info("http.exiting")

    def _shows_folders(self) -> bool:
        """As set; else where nobody but this machine asks, whatever address the settings have."""
        set_to = self._http.show_folders
        return all(map(_is_local, self._sockets)) if set_to is None else set_to

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(_SWEEP_S, max(0.5, self._http.keep_s / 4)))
            with suppress(OSError):
                await asyncio.to_thread(self._spool.sweep)


async def _remember(history: History, daemon: DaemonState) -> None:
    """Keep the figures that the daemon tells."""
    while True:
        history.look(daemon.told, running=daemon.running)
        await asyncio.sleep(_REMEMBER_S)


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


def listen(http: HttpSettings) -> socket.socket:
    """A socket at the address of the settings. Raises `UnavailableError`."""
    try:
        found = socket.getaddrinfo(
            http.host.strip("[]"), http.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        one = socket.socket(family, kind, protocol)
        try:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(address)
            one.setblocking(False)  # noqa: FBT003
        except OSError:
            one.close()
            raise
    except OSError as error:
        raise UnavailableError(
            f"cannot listen on {http.host}:{http.port}: {error.strerror or error}",
            hint="Another program may use the port: set http.port, or --port.",
        ) from error
    return one


def _is_local(one: socket.socket) -> bool:
    """Whether only this machine reaches it."""
    return one.family == socket.AF_UNIX or is_loopback(one.getsockname()[0])


def _check_addresses(sockets: Sequence[socket.socket], keys: Keys | None) -> None:
    for one in sockets:
        if keys is None and not _is_local(one):
            host = one.getsockname()[0]
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
