"""Celery, seen from here: one queue for each root, one task, events. The one place that reaches into Celery.

The messages are small and the same for every broker that Celery knows. Nothing is kept in the broker that a
look at the disk could not tell: a broker that forgot everything costs one scan.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from ocr_watcher.cluster.hosts import HEARTBEAT_S
from ocr_watcher.errors import UnavailableError

try:
    import celery
    import kombu
    import kombu.exceptions
except ImportError as error:  # an extra
    raise UnavailableError(
        f"the libraries for several machines are missing: {error.name}",
        hint="`make cluster`, or `pip install ocr-watcher[cluster]`.",
    ) from error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ocr_watcher.cluster.message import Message
    from ocr_watcher.config import Settings

_T = TypeVar("_T")

TASK: Final = "ocr_watcher.read"
HEARTBEAT: Final = "worker-heartbeat"
ONLINE: Final = "worker-online"
OFFLINE: Final = "worker-offline"
SUCCEEDED: Final = "task-succeeded"
RETURNED: Final = "ocr-returned"
"""Of a job that a bridge gave back."""
ENDED_ASIDE: Final = "ocr-ended"
"""Of a job that was acknowledged before it ended."""
DISPATCH: Final = "ocr-dispatch"
"""What a dispatcher tells of itself."""
_QUEUE_PREFIX: Final = "ocr-watcher."
# No call of the broker takes longer. A broker behind a broken link would hold up everything for ever.
_SOCKET_TIMEOUT_S: Final = 10.0
_GOODBYE_S: Final = 1.0
# How long to wait before a connection is tried again.
_AGAIN_S: Final = 2.0


def queue_of(root: str) -> str:
    """The name of a root's queue."""
    return _QUEUE_PREFIX + root


def make_app(settings: Settings) -> celery.Celery:
    """The Celery application; connects to nothing yet."""
    cluster = settings.cluster
    if cluster.broker is None or not cluster.roots:
        raise UnavailableError(
            "cluster.broker and cluster.roots are not set",
            hint="Say where the broker is, and which shared folders there are.",
        )
    app = celery.Celery("ocr_watcher", broker=cluster.broker, set_as_current=False)
    options: dict[str, Any] = {
        "socket_timeout": _SOCKET_TIMEOUT_S,
        "socket_connect_timeout": _SOCKET_TIMEOUT_S,
    }
    if cluster.broker.startswith(("redis", "sentinel")):
        options |= {
            "visibility_timeout": cluster.visibility_timeout_s,
            "socket_keepalive": True,
            "health_check_interval": 10,
            # The sweep for messages that were never acknowledged: every 10 s, by each host.
            "unacked_restore_interval": 10,
            "unacked_restore_throttle": 1,
        }
    else:
        options = {}
    app.conf.update(
        broker_transport_options=options,
        broker_connection_timeout=_SOCKET_TIMEOUT_S,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_heartbeat=0,  # nobody answers it while a document is waited for
        task_queues=[kombu.Queue(queue_of(root)) for root in cluster.roots],
        task_default_queue=queue_of(next(iter(cluster.roots))),
        task_acks_late=True,
        task_acks_on_failure_or_timeout=False,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        worker_pool="solo",
        worker_concurrency=1,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=cluster.broker.startswith("redis"),
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_soft_shutdown_timeout=9,
        worker_proc_alive_timeout=30,
    )
    return app


class Sender:
    """Puts messages into the broker and looks at its queues. For one thread."""

    def __init__(self, app: celery.Celery) -> None:
        self._app = app
        self._connection: kombu.Connection | None = None

    def send(self, message: Message) -> None:
        """Raises `BrokerError`."""
        self._do(
            lambda connection: self._app.send_task(
                TASK,
                args=[message.as_dict()],
                task_id=message.id,
                queue=queue_of(message.root),
                connection=connection,
                ignore_result=True,
                retry=False,
            )
        )

    def queued(self, roots: Iterable[str]) -> dict[str, int]:
        """How many messages wait for each root. Raises `BrokerError`."""
        return self._do(lambda connection: {root: self._declared(connection, root) for root in roots})

    def purge(self, roots: Iterable[str]) -> int:
        """Empty the queues; returns how many messages that were. Raises `BrokerError`."""

        def purge(connection: kombu.Connection) -> int:
            count = 0
            for root in roots:
                self._declared(connection, root)
                count += kombu.Queue(queue_of(root)).bind(connection.default_channel).purge() or 0
            return count

        return self._do(purge)

    def close(self) -> None:
        """Let go of the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.release()

    @staticmethod
    def _declared(connection: kombu.Connection, root: str) -> int:
        told = kombu.Queue(queue_of(root)).bind(connection.default_channel).queue_declare()
        # kombu's own answers differ: some give the name alone
        return int(getattr(told, "message_count", 0) or 0)

    def _do(self, act: Callable[[kombu.Connection], _T]) -> _T:
        connection = self._connection or self._app.connection_for_write()
        try:
            if self._connection is None:
                connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
                self._connection = connection
            return act(connection)
        except (
            *connection.connection_errors,
            *connection.channel_errors,
            kombu.exceptions.KombuError,
            OSError,
        ) as error:
            self.close()
            raise BrokerError(str(error) or type(error).__name__) from error


class BrokerError(Exception):
    """The broker cannot be reached, or refused."""


class Listener(threading.Thread):
    """Hears events, on a connection of its own that is made again whenever it is lost."""

    def __init__(self, app: celery.Celery, hear: Callable[[Mapping[str, Any]], None]) -> None:
        """`hear` is called with each event, by this thread."""
        super().__init__(name="listener", daemon=True)
        self._app = app
        self._hear = hear
        self.since: float | None = None  # monotonic s; None while it hears nothing
        self.error = ""  # why it heard nothing the last time, in words
        self._ends = False

    def run(self) -> None:
        """Listen until told to stop."""
        while not self._ends:
            try:
                with self._app.connection_for_read() as connection:
                    receiver = self._app.events.Receiver(connection, handlers={"*": self._hear})
                    connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
                    self.since = time.monotonic()
                    receiver.capture(limit=None, timeout=None, wakeup=False)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again
                self.error = str(error) or type(error).__name__
                logging.getLogger(__name__).debug("listener: %s", error)
            self.since = None
            if not self._ends:
                time.sleep(_AGAIN_S)

    def stop(self) -> None:
        """End at the next event; it is a daemon thread, so nobody waits for it."""
        self._ends = True


class Herald(threading.Thread):
    """Tells of a process, every `HEARTBEAT_S`, on a connection of its own.

    A worker that waits for a document cannot send Celery's heartbeats itself.
    """

    def __init__(self, app: celery.Celery, name: str, tell: Callable[[], Iterable[Event]]) -> None:
        """`tell` gives what to send; it is called by this thread."""
        super().__init__(name="herald", daemon=True)
        self._app = app
        self._name = name
        self._tell = tell
        self._ends = threading.Event()
        self._soon = threading.Event()
        self._more: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def run(self) -> None:
        """Tell until told to stop."""
        while not self._ends.is_set():
            try:
                with self._app.connection_for_write() as connection:
                    connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
                    events = self._app.events.Dispatcher(
                        connection, hostname=self._name, buffer_while_offline=False
                    )
                    while not self._ends.is_set():
                        self._send(events)
                        self._soon.wait(HEARTBEAT_S)
                        self._soon.clear()
                    self._send(events)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again
                logging.getLogger(__name__).debug("herald: %s", error)
                self._ends.wait(_AGAIN_S)

    def tell_ended(self, task: str, outcome: str) -> None:
        """A job that the broker no longer knows has ended."""
        self.tell_soon(Event(ENDED_ASIDE, {"uuid": task, "outcome": outcome}))

    def tell_soon(self, event: Event) -> None:
        """Send this at once, with the next heartbeat; at the end too."""
        self._more.put(event)
        self._soon.set()

    def stop(self) -> None:
        """End, within a moment where the broker answers."""
        self._ends.set()
        self._soon.set()
        if self.is_alive():
            self.join(_GOODBYE_S)

    def _send(self, events: Any) -> None:  # noqa: ANN401 - Celery has no types
        while not self._more.empty():
            event = self._more.get_nowait()
            events.send(event.kind, **event.fields)
        for event in self._tell():
            events.send(event.kind, **event.fields)


class Event(NamedTuple):
    """What is told: a type of Celery's, or one of ours, which its tools pass over; and fields."""

    kind: str
    fields: Mapping[str, Any]
