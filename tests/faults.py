"""Operating-system faults, on demand: the N-th open, write, fsync, rename, unlink or SQL statement fails.

Or ends the process there. Patches `os` and the journal's SQLite connection of this process while active.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

CALLS = ("open", "write", "fsync", "rename", "replace", "unlink", "mkdir", "setxattr")
ERRORS = ("ENOSPC", "EIO", "EACCES", "MemoryError")

_SQLITE_SAYS = {
    "ENOSPC": "database or disk is full",
    "EIO": "disk I/O error",
    "EACCES": "attempt to write a readonly database",
}


def error_of(name: str, *, sql: bool) -> Exception:
    """The exception that such a fault arrives as."""
    if name == "MemoryError":
        return MemoryError()
    if sql:
        return sqlite3.OperationalError(_SQLITE_SAYS[name])
    number = getattr(errno, name)
    return OSError(number, os.strerror(number))


@dataclass
class Faults:
    """Fails the `nth` call (from 1) with `error`, and every later one too with `for_good`.

    `error` "death" ends the process by SIGKILL at that call instead.
    """

    nth: int
    error: str
    for_good: bool = False
    calls: list[str] = field(default_factory=list)

    @property
    def reached(self) -> bool:
        return len(self.calls) >= self.nth

    def step(self, name: str) -> None:
        self.calls.append(name)
        if len(self.calls) == self.nth or (self.for_good and self.reached):
            if self.error == "death":
                os.kill(os.getpid(), signal.SIGKILL)
            raise error_of(self.error, sql=name.startswith("sql"))

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """While inside, the calls count and fail."""
        faults = self

        class Connection(sqlite3.Connection):
            def execute(self, *args: Any) -> sqlite3.Cursor:
                faults.step(f"sql {args[0].split()[0]}")
                return super().execute(*args)

            def __exit__(self, *args: object) -> Any:
                if args[0] is None:
                    try:
                        faults.step("sql COMMIT")
                    except BaseException:
                        self.rollback()
                        raise
                return super().__exit__(*args)  # type: ignore[arg-type]

        def connect(*args: Any, **options: Any) -> sqlite3.Connection:
            faults.step("sql connect")
            return Connection(*args, **options)

        def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **options: Any) -> Any:
                faults.step(name)
                return real(*args, **options)

            return call

        with contextlib.ExitStack() as patches:
            for name in CALLS:
                patches.enter_context(mock.patch.object(os, name, counted(name, getattr(os, name))))
            patches.enter_context(mock.patch.object(sqlite3, "connect", connect))
            yield
