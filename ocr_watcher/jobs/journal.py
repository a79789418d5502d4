"""Attempts, in SQLite: which file is being worked on, and how often each was begun without success.

An attempt is recorded before it starts, so a file that kills the process is known by name after
the restart. The journal is an aid, never a duty: where it is missing, damaged or cannot be
written, attempt counts are lost and the work goes on. Imports `errors` and `ready`.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

    from ocr_watcher.job import Stamp

_T = TypeVar("_T")

# Paths are BLOBs: file names are bytes, and need not be UTF-8. A version is text: the nanoseconds of a
# date after 2262-04-11 are more than SQLite's integers hold. Tables of an earlier layout hold nothing
# but counts, and are dropped.
_LAYOUT = 2
_TABLES = f"""
DROP TABLE IF EXISTS attempts;
CREATE TABLE attempts (
    path BLOB PRIMARY KEY,
    version TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    code TEXT NOT NULL,
    message TEXT NOT NULL
) WITHOUT ROWID;
PRAGMA user_version = {_LAYOUT};
"""


@dataclass(frozen=True)
class Attempts:
    """What is known of one version of a file before the next attempt.

    `count` attempts were begun and not finished; `code` and `message` tell how the last ended:
    empty code where the process ended with it.
    """

    count: int
    code: str
    message: str


class Journal:
    """The attempts of one state folder. Safe to use from several threads."""

    def __init__(self, path: Path, log: FilteringBoundLogger) -> None:
        self._path = path
        self._log = log
        self._lock = threading.Lock()
        self._broken = False
        self._db: sqlite3.Connection | None = None

    def close(self) -> None:
        """Close the database file."""
        with self._lock:
            self._disconnect()

    # -- the life of an attempt ----------------------------------------------------------------

    def begin(self, path: str, stamp: Stamp) -> Attempts:
        """Record that an attempt starts; returns what was known before it."""

        def act(db: sqlite3.Connection) -> Attempts:
            key = os.fsencode(path)
            row = db.execute(
                "SELECT version, attempts, code, message FROM attempts WHERE path = ?", (key,)
            ).fetchone()
            version = f"{stamp.size_bytes}:{stamp.mtime_ns}"
            known = Attempts(0, "", "")
            if row is not None and row[0] == version:
                known = Attempts(*row[1:])
            db.execute(
                "INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, '', '')", (key, version, known.count + 1)
            )
            return known

        return self._do(act, Attempts(0, "", ""))

    def failed(self, path: str, code: str, message: str) -> None:
        """The attempt ended with an error that may pass: it stays counted."""
        self._do(
            lambda db: db.execute(
                "UPDATE attempts SET code = ?, message = ? WHERE path = ?",
                (code, message, os.fsencode(path)),
            ),
            None,
        )

    def forgive(self, path: str) -> None:
        """The attempt was broken off for a reason outside the file: it does not count."""
        self._do(
            lambda db: db.execute(
                "UPDATE attempts SET attempts = max(attempts - 1, 0) WHERE path = ?",
                (os.fsencode(path),),
            ),
            None,
        )

    def end(self, path: str) -> None:
        """The file has its record, or is gone: forget it."""
        self._do(lambda db: db.execute("DELETE FROM attempts WHERE path = ?", (os.fsencode(path),)), None)

    # -- the database --------------------------------------------------------------------------

    def _do(self, act: Callable[[sqlite3.Connection], _T], otherwise: _T) -> _T:
        """Run `act` in a transaction; a damaged database is set aside and begun anew, once a call."""
        with self._lock:
            for _ in range(2):
                try:
                    with self._connect() as db:
                        result = act(db)
                except (sqlite3.OperationalError, MemoryError) as error:
                    # no space, no permission, locked, no memory: the file is sound, so it stays
                    self._complain("cannot be used: attempts are not counted", error)
                    self._disconnect()
                    return otherwise
                except (sqlite3.DatabaseError, OSError) as error:
                    self._disconnect()
                    self._complain("is damaged: beginning a new one, attempt counts are lost", error)
                    if not self._set_aside():
                        return otherwise
                except Exception as error:  # noqa: BLE001 - whatever it is, the work goes on
                    self._complain("cannot be used: attempts are not counted", error)
                    self._disconnect()
                    return otherwise
                else:
                    self._broken = False
                    return result
            return otherwise

    def _connect(self) -> sqlite3.Connection:
        if self._db is None:
            # The main thread forgives and times out attempts that the consumer began; _lock serialises.
            db = sqlite3.connect(self._path, timeout=2.0, check_same_thread=False)
            try:
                # WAL with NORMAL: a commit survives the death of the process without a flush to
                # the disk; a power loss may cost the last counts, which is all they are.
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = NORMAL")
                if db.execute("PRAGMA user_version").fetchone()[0] != _LAYOUT:
                    db.executescript(_TABLES)
            except BaseException:
                db.close()
                raise
            self._db = db
        return self._db

    def _disconnect(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with suppress(sqlite3.Error):
                db.close()

    def _set_aside(self) -> bool:
        try:
            os.replace(self._path, f"{self._path}.damaged-{time.time_ns()}")
            for suffix in ("-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        except OSError as error:
            self._complain("is damaged and cannot be moved away", error)
            return False
        return True

    def _complain(self, what: str, error: Exception) -> None:
        if not self._broken:  # once per trouble, not once per file
            self._broken = True
            self._log.warning("journal.trouble", path=str(self._path), message=what, error=str(error))
