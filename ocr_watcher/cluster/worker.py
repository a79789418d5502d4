"""The Celery worker of a bridge: one task at a time, in the main thread, from queues that can be closed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import bootsteps
from celery.exceptions import Reject
from celery.worker import state

from ocr_watcher.cluster.broker import TASK, queue_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import celery

_TICK_S = 1.0


class NotTakenError(Exception):
    """A job is not done here: its message goes back to the queue, or away with `forget`."""

    def __init__(self, why: str, *, forget: bool = False) -> None:
        super().__init__(why)
        self.forget = forget


class Worker:
    """Takes jobs until told to stop. `run` is called once, in the main thread."""

    def __init__(
        self,
        app: celery.Celery,
        name: str,
        *,
        do: Callable[[dict[str, Any]], str],
        ready: Callable[[], None],
        tick: Callable[[], None],
    ) -> None:
        """Calls back in the main thread.

        Args:
            app: the application.
            name: of this worker.
            do: does one job, of which it is given the message; returns the outcome that is told to the
                others. May raise `NotTakenError`.
            ready: called when jobs are taken, also after the broker was away.
            tick: called every second between two jobs.
        """
        self._app = app
        self._name = name
        self._do = do
        self._ready = ready
        self._tick = tick
        self._consumer: Any = None
        self._closed: set[str] = set()

    def run(self) -> None:
        """Be a worker."""
        self._app.task(self._read, name=TASK, acks_late=True, ignore_result=True)
        self._app.steps["consumer"].add(self._valve())
        state.should_stop = None
        controller = self._app.WorkController(
            hostname=self._name,
            pool="solo",
            concurrency=1,
            without_gossip=True,
            without_mingle=True,
            # The herald beats, also while a document is waited for.
            without_heartbeat=True,
            task_events=True,
        )
        controller.start()
        if controller.exitcode:
            raise SystemExit(controller.exitcode)

    def stop(self) -> None:
        """End after the job in hand. Safe in a signal handler."""
        state.should_stop = 0

    def close(self, root: str) -> None:
        """Take no further jobs of a root. In the main thread."""
        if root not in self._closed:
            self._closed.add(root)
            if self._consumer is not None:
                self._consumer.cancel_task_queue(queue_of(root))

    def open(self, root: str) -> None:
        """Take them again."""
        if root in self._closed:
            self._closed.discard(root)
            if self._consumer is not None:
                self._consumer.add_task_queue(queue_of(root))

    def _read(self, fields: dict[str, Any]) -> str:
        try:
            return self._do(fields)
        except NotTakenError as error:
            raise Reject(str(error), requeue=not error.forget) from error

    def _valve(self) -> type[bootsteps.StartStopStep]:
        worker = self

        class Valve(bootsteps.StartStopStep):  # type: ignore[misc] # Celery has no types
            """Celery makes it anew whenever it has connected."""

            requires = ("celery.worker.consumer.tasks:Tasks",)

            def start(self, parent: Any) -> None:  # noqa: ANN401 - Celery has no types
                worker._consumer = parent
                for root in worker._closed:
                    parent.cancel_task_queue(queue_of(root))
                worker._ready()

            def stop(self, parent: Any) -> None:  # noqa: ANN401, ARG002 - Celery has no types
                worker._consumer = None

            def register_with_event_loop(self, parent: Any, hub: Any) -> None:  # noqa: ANN401, ARG002
                hub.call_repeatedly(_TICK_S, worker._tick)

        return Valve


def software() -> dict[str, str]:
    """What Celery's heartbeats say of the program."""
    return dict(state.SOFTWARE_INFO)
