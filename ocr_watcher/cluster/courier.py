"""One job on a host of the cluster: from the share into the spool, and its record back beside the document.

Knows neither broker nor daemon: it copies, looks, and puts back. The stamp is looked at before the copy, by the
copy, and before the record is put back; a record of another version never gets there.
"""

from __future__ import annotations

import os
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Final

from ocr_watcher import names
from ocr_watcher.cluster import roots
from ocr_watcher.cluster.spool import Errand, Spool
from ocr_watcher.document import Source
from ocr_watcher.errors import AccessError, OutputError, OutputExistsError, VanishedError
from ocr_watcher.inbox import records
from ocr_watcher.inbox.files import open_file, open_folder, stat_file
from ocr_watcher.inbox.records import RecordState
from ocr_watcher.job import Stamp
from ocr_watcher.outputs import commit, sidecar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ocr_watcher.cluster.message import Message
    from ocr_watcher.inbox.ready import Rules

_BLOCK_BYTES: Final = 1 << 16
_ENDED: Final = {RecordState.DONE: "done", RecordState.FAILED: "failed"}


class End(Enum):
    """How a job ended on this host; the words travel to the dispatcher."""

    DONE = "done"
    FAILED = "failed"
    GONE = "gone"
    CHANGED = "changed"  # another version is there now
    BLOCKED = "blocked"  # somebody else's file has the sidecar's name; the error record says so
    REFUSED = "refused"  # this host does not read such files


class CutOff(Exception):
    """This host does not see the share now: another one may."""


class Courier:
    """Carries documents in and records back."""

    def __init__(self, shares: Mapping[str, Path], spool: Spool, rules: Rules) -> None:
        """`shares` is `cluster.roots`; `rules` are those by which the daemon chooses documents."""
        self._shares = shares
        self._spool = spool
        self._rules = rules

    def fetch(self, message: Message) -> Errand | End:
        """Bring a document into the spool; or how the job ended already.

        Raises `CutOff` where the share is not to be seen or does not answer as it should, and OSError where
        the spool cannot be written.
        """
        if not self._rules.wants(message.name):
            return End.REFUSED
        root = self._root(message)
        try:
            with open_folder(root, message.parts) as folder:
                if (end := self._before(folder, message)) is not None:
                    return end
                with open_file(folder, message.name) as original:
                    if Stamp.of(os.fstat(original.fileno())) != message.stamp:
                        return End.CHANGED
                    errand = self._spool.begin(message)
                    if not self._spool.bring(errand, original):
                        self._spool.end(errand)
                        return End.CHANGED
                    return errand
        except VanishedError:
            self._root(message)  # it may be the share that is gone
            return End.GONE
        except (AccessError, OutputError) as error:
            raise CutOff(str(error)) from error

    def is_current(self, message: Message) -> bool:
        """Whether the document still is the version of the job. Raises `CutOff`."""
        try:
            with open_folder(self._root(message), message.parts) as folder:
                status = stat_file(folder, message.name)
        except VanishedError:
            self._root(message)
            return False
        except AccessError as error:
            raise CutOff(str(error)) from error
        return status is not None and Stamp.of(status) == message.stamp

    def deliver(self, errand: Errand) -> End | None:
        """Put the record back beside the document, and clear the spool; None where there is none yet.

        Raises `CutOff` where the share does not take it now: it stays in the spool. Raises OSError where the
        spool cannot be read or cleared.
        """
        message = errand.message
        state = errand.state()
        root = self._root(message)
        try:
            with open_folder(root, message.parts) as folder:
                end = self._after(folder, message)
                if end is None and state in _ENDED:
                    end = self._put_back(folder, errand, state)
        except VanishedError:
            self._root(message)
            end = End.GONE
        except (AccessError, OutputError) as error:
            raise CutOff(str(error)) from error
        if end is not None:
            self._spool.end(errand)
        return end

    def _root(self, message: Message) -> Path:
        """Where the share of a job is on this host. Raises `CutOff` where it is another one, or missing."""
        root = self._shares.get(message.root)
        if root is None:
            raise CutOff(f"cluster.roots has no {message.root}")
        try:
            there = roots.identity_of(root)
        except OSError as error:
            raise CutOff(f"{root}: {error.strerror}") from error
        if there != message.share and message.share:
            raise CutOff(f"{root} is not the share {message.root}: is it mounted?")
        return root

    def _before(self, folder: int, message: Message) -> End | None:
        """Whether a job has ended before it began. Raises as `fetch` does."""
        end = self._after(folder, message)
        if end is not None:
            return end
        try:
            commit.check_place(folder, message.name)
        except OutputExistsError as error:
            status = stat_file(folder, message.name)
            if status is None:
                return End.GONE
            source = Source(message.name, message.stamp, None)
            record = sidecar.error_json(source, error, attempts=1, will_retry=True)
            commit.commit_error(folder, message.name, status, record)
            return End.BLOCKED
        return None

    @staticmethod
    def _after(folder: int, message: Message) -> End | None:
        """Whether nothing is left to do, by document and record on the share. Raises `AccessError`."""
        status = stat_file(folder, message.name)
        if status is None:
            return End.GONE
        if Stamp.of(status) != message.stamp:
            return End.CHANGED
        state = records.lookup(message.name, message.stamp, folder=folder)
        return End(_ENDED[state]) if state in _ENDED else None

    @staticmethod
    def _put_back(folder: int, errand: Errand, state: RecordState) -> End:
        """Write the record beside the document. Raises `OutputError` or `AccessError`."""
        name = errand.message.name
        status = stat_file(folder, name)
        if status is None:
            return End.GONE
        own = names.records_of(name)
        try:
            if state is RecordState.DONE:
                commit.commit(folder, name, status, _pieces(errand.folder / own.sidecar))
            else:
                commit.commit_error(folder, name, status, (errand.folder / own.error).read_bytes())
        except OutputExistsError as error:
            record = sidecar.error_json(
                Source(name, errand.message.stamp, None), error, attempts=1, will_retry=True
            )
            commit.commit_error(folder, name, status, record)
            return End.BLOCKED
        return End(_ENDED[state])


def _pieces(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block


def forget(spool: Spool, errand: Errand) -> None:
    """Take a document out of the spool: it is read elsewhere, or not at all. What is in hand ends without record."""
    with suppress(OSError):
        spool.end(errand)
