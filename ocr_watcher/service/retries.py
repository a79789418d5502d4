"""Another try for documents that failed, as the HTTP server's page asks for it.

The server may write nothing but its spool, so it leaves a note there, a file with a path in it. The daemon
takes the note away and removes the error record, if the path is one of a document in an inbox.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ocr_watcher import names
from ocr_watcher.errors import FileError
from ocr_watcher.inbox.files import open_folder
from ocr_watcher.inbox.places import Places
from ocr_watcher.outputs import commit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

    from ocr_watcher.config import Settings

_LOOK_S: Final = 1.0
MAX_NOTES: Final = 1000
"""So many may wait, for a daemon that is away."""
_MAX_BYTES: Final = 1 << 16


def ask(spool: Path, path: str) -> bool:
    """Leave a note about a document; False where there are too many already. Raises OSError."""
    folder = spool / names.RETRIES
    folder.mkdir(mode=0o700, exist_ok=True)
    if len(os.listdir(folder)) >= MAX_NOTES:
        return False
    note = folder / secrets.token_hex(8)
    fresh = note.with_suffix(".tmp")
    fresh.write_text(json.dumps(path), "ascii")
    fresh.rename(note)
    return True


class Retries(threading.Thread):
    """Looks for notes, in a thread of its own: the inbox that one is about may not answer."""

    def __init__(self, settings: Settings, spool: Path, log: FilteringBoundLogger) -> None:
        super().__init__(name="retries", daemon=True)
        self._inboxes = settings.watch.inbox
        self._places = Places.of(settings)
        self._folder = spool / names.RETRIES
        self._log = log

    def run(self) -> None:
        """Look for as long as the process lives; between two steps there is nothing to lose."""
        # Signals are the main thread's.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            time.sleep(_LOOK_S)
            with suppress(MemoryError, OSError):
                self.step()

    def step(self) -> None:
        """Do what the notes say that are there."""
        for path in self._notes():
            try:
                self._forget(path)
            except (FileError, ValueError) as error:  # ValueError: a zero byte in a path
                self._log.warning("retry.refused", path=path, message=str(error))

    def _notes(self) -> Iterator[str]:
        try:
            notes = sorted(name for name in os.listdir(self._folder) if not name.endswith(".tmp"))
        except OSError:
            return
        for name in notes:
            note, path = self._folder / name, None
            with suppress(OSError, ValueError):
                if note.stat().st_size <= _MAX_BYTES:
                    path = json.loads(note.read_bytes())
            try:
                note.unlink()
            except OSError:
                continue  # it would be done again and again
            if isinstance(path, str):
                yield path

    def _forget(self, path: str) -> None:
        """Remove the error record of a document in an inbox. Raises `FileError`."""
        for inbox in self._inboxes:
            above = os.path.join(inbox, "")
            if not path.startswith(above):
                continue
            *parts, name = path[len(above) :].split(os.sep)
            if not name or not {"", os.curdir, os.pardir}.isdisjoint(parts):
                continue
            with (
                open_folder(inbox, tuple(parts)) as folder,
                self._places.open_records(inbox, tuple(parts), folder) as beside_records,
            ):
                commit.forget_failure(beside_records, name)
            self._log.info("file.retried", path=path)
            return
        self._log.warning("retry.refused", path=path, message="it is in no inbox")
