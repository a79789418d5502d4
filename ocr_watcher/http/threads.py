"""Threads for calls of the operating system that may not come back: on a mount whose server is gone.

One that does not come back is left behind, and holds up neither the next one nor the end of the process.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

from ocr_watcher.http.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")

PATIENCE_S: Final = 10.0
"""A disk that sleeps takes nearly as long to answer."""
_AT_ONCE: Final = 4
_MAX_LEFT: Final = 16


class Threads:
    """Runs functions in threads, a few at once."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._left = 0

    async def run(self, act: Callable[[], _T]) -> _T:
        """What `act` returns or raises. Raises `Problem` 504 where it does not come back in time."""
        if self._left >= _MAX_LEFT:
            raise hung()
        try:
            async with asyncio.timeout(self._patience_s), self._slots:
                future = self.start(act)
                try:
                    return await asyncio.shield(future)
                finally:
                    if not future.done():
                        self._left += 1
                        future.add_done_callback(self._came_back)
        except TimeoutError:
            raise hung() from None

    def start(self, act: Callable[[], _T]) -> asyncio.Future[_T]:
        """Run `act` in a thread of its own."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()

        def settle(result: _T | None, error: BaseException | None) -> None:
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type] # there is one where there is no error

        def work() -> None:
            result, error = None, None
            try:
                result = act()
            except BaseException as raised:  # noqa: BLE001 - raised where it is waited for
                error = raised
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(settle, result, error)

        threading.Thread(target=work, name="files", daemon=True).start()
        return future

    def _came_back(self, future: asyncio.Future[_T]) -> None:
        self._left -= 1
        if not future.cancelled():
            future.exception()  # nobody waits for it any more


def hung() -> Problem:
    """504: a file system does not answer."""
    return Problem(504, "inbox_hung", "a file system does not answer", hint="Is its server there?")
