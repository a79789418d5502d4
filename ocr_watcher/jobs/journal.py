"""Attempts and pages, in SQLite: which file is being worked on, how often, and what was read of it so far.

An attempt is recorded before it starts, so a file that kills the process is known by name after the restart.
The pages of a long document are kept as they are read, so that the restart goes on at the next one; its
attempts count for the page at hand. The journal is an aid, never a duty: where it is missing, damaged or
cannot be written, counts and pages are lost and the work goes on.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from ocr_watcher.jobs.totals import Key

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

    from ocr_watcher.job import Stamp
    from ocr_watcher.jobs.totals import Totals

_T = TypeVar("_T")
_NOTHING: Totals = MappingProxyType({})

# Paths are BLOBs: file names are bytes, and need not be UTF-8. A version is text: the nanoseconds of a
# date after 2262-04-11 are more than SQLite's integers hold. `key` says by which content and settings a page
# was read. Tables of an earlier layout hold nothing that cannot be made again, and are dropped.
_LAYOUT = 3
_TABLES = f"""
DROP TABLE IF EXISTS attempts;
DROP TABLE IF EXISTS pages;
CREATE TABLE attempts (
    path BLOB PRIMARY KEY,
    version TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    code TEXT NOT NULL,
    message TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE pages (
    path BLOB NOT NULL,
    page INTEGER NOT NULL,
    key TEXT NOT NULL,
    content BLOB NOT NULL,
    PRIMARY KEY (path, page)
);
PRAGMA user_version = {_LAYOUT};
"""
# Not one of them: what was counted cannot be made again.
_TOTALS_TABLE = """
CREATE TABLE IF NOT EXISTS totals (
    name TEXT NOT NULL, label TEXT NOT NULL, value REAL NOT NULL, PRIMARY KEY (name, label)
) WITHOUT ROWID;
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
    """The attempts and pages of one state folder. Safe to use from several threads."""

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
                (code, message.encode("utf-8", "replace").decode(), os.fsencode(path)),
            ),
            None,
        )

    def forgive(self, path: str) -> None:
        """The attempt was broken off for a reason outside the file: it does not count."""
        self._do(
            lambda db: db.execute(
                "UPDATE attempts SET attempts = max(attempts - 1, 0) WHERE path = ?", (os.fsencode(path),)
            ),
            None,
        )

    def end(self, path: str, counted: Totals = _NOTHING) -> None:
        """The file has its record, or is gone: forget it and its pages.

        `counted` is added to the totals, unless the file was ended before.
        """

        def act(db: sqlite3.Connection) -> None:
            began = db.execute("DELETE FROM attempts WHERE path = ?", (os.fsencode(path),)).rowcount
            db.execute("DELETE FROM pages WHERE path = ?", (os.fsencode(path),))
            if began:
                db.executemany(
                    "INSERT INTO totals VALUES (?, ?, ?) "
                    "ON CONFLICT (name, label) DO UPDATE SET value = value + excluded.value",
                    [(*key, value) for key, value in counted.items()],
                )

        self._do(act, None)

    def totals(self) -> dict[Key, float]:
        """Everything that was counted so far."""

        def act(db: sqlite3.Connection) -> dict[Key, float]:
            rows = db.execute("SELECT name, label, value FROM totals")
            return {Key(name, label): value for name, label, value in rows}

        nothing: dict[Key, float] = {}
        return self._do(act, nothing)

    def sweep(self, ended: Callable[[str], Totals | None]) -> None:
        """Forget every file that is done or gone: what a killed process left.

        `ended` gives what such a file adds to the totals; None where it is still to be read.
        """

        def act(db: sqlite3.Connection) -> list[str]:
            rows = db.execute("SELECT path FROM attempts UNION SELECT path FROM pages")
            return [os.fsdecode(row[0]) for row in rows]

        nothing: list[str] = []
        for path in self._do(act, nothing):
            if (counted := ended(path)) is not None:
                self.end(path, counted)

    # -- pages ---------------------------------------------------------------------------------

    def pages(self, path: str, key: str) -> int:
        """How many pages of `path` are kept, from the first without a gap.

        Those of another key are dropped.
        """

        def act(db: sqlite3.Connection) -> int:
            name = os.fsencode(path)
            db.execute("DELETE FROM pages WHERE path = ? AND key <> ?", (name, key))
            rows = db.execute("SELECT page FROM pages WHERE path = ? ORDER BY page", (name,))
            kept = [row[0] for row in rows]
            return next((index for index, page in enumerate(kept) if page != index), len(kept))

        return self._do(act, 0)

    def keeps_pages(self, path: str) -> bool:
        """Whether any page of `path` is kept, by whatever key."""

        def act(db: sqlite3.Connection) -> bool:
            rows = db.execute("SELECT 1 FROM pages WHERE path = ? LIMIT 1", (os.fsencode(path),))
            return rows.fetchone() is not None

        return self._do(act, otherwise=False)

    def keep_page(self, path: str, key: str, page: int, content: bytes) -> bool:
        """Keep a page that was read; from now on attempts count for the next one. False where it failed."""

        def act(db: sqlite3.Connection) -> bool:
            name = os.fsencode(path)
            db.execute("INSERT OR REPLACE INTO pages VALUES (?, ?, ?, ?)", (name, page, key, content))
            db.execute("UPDATE attempts SET attempts = 1, code = '', message = '' WHERE path = ?", (name,))
            return True

        return self._do(act, otherwise=False)

    def forget_pages(self, path: str) -> None:
        """Drop every page of `path`: they cannot be read back."""
        self._do(lambda db: db.execute("DELETE FROM pages WHERE path = ?", (os.fsencode(path),)), None)

    def page(self, path: str, key: str, page: int) -> bytes | None:
        """The content of a page that was kept; None where it is not there."""

        def act(db: sqlite3.Connection) -> bytes | None:
            row = db.execute(
                "SELECT content FROM pages WHERE path = ? AND page = ? AND key = ?",
                (os.fsencode(path), page, key),
            ).fetchone()
            return None if row is None else bytes(row[0])

        return self._do(act, None)

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
            if self._path.is_symlink():  # we make none: somebody wants another file written
                raise OSError("it is a symbolic link")
            # The main thread forgives and times out attempts that the consumer began; _lock serialises.
            db = sqlite3.connect(self._path, timeout=2.0, check_same_thread=False)
            try:
                # WAL with NORMAL: a commit survives the death of the process without a flush to
                # the disk; a power loss may cost the last counts, which is all they are.
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = NORMAL")
                if db.execute("PRAGMA user_version").fetchone()[0] != _LAYOUT:
                    db.executescript(_TABLES)
                db.executescript(_TOTALS_TABLE)
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
