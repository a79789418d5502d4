"""One job on a host of the cluster: from the share into the spool, and its record back beside the document.

Knows neither broker nor daemon: it copies, looks, and puts back. The stamp is looked at before the copy,
after the copy, and before the record is put back; a record of another version never gets there.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from enum import Enum
from typing import TYPE_CHECKING, Final

from ocr_watcher import names
from ocr_watcher.cluster import roots
from ocr_watcher.cluster.spool import SpoolError
from ocr_watcher.document import Source
from ocr_watcher.errors import AccessError, FileError, OutputExistsError, VanishedError
from ocr_watcher.inbox import records
from ocr_watcher.inbox.files import open_file, open_folder, stat_file
from ocr_watcher.inbox.records import RecordState
from ocr_watcher.job import Outcome, Stamp
from ocr_watcher.outputs import commit, sidecar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ocr_watcher.cluster.message import Message
    from ocr_watcher.cluster.spool import Errand, Spool
    from ocr_watcher.inbox.ready import Rules

_BLOCK_BYTES: Final = 1 << 16
_DIFFERENT: Final = "Give all hosts the same watch.extensions and watch.ignore, and the same decoders."


class End(Enum):
    """How a job ended on this host; the words travel to the dispatcher."""

    DONE = "done"
    FAILED = "failed"
    GONE = "gone"
    CHANGED = "changed"  # another version is there now
    RETRY = "retry"  # for a cause outside the document: to be offered again after a pause

    @property
    def outcome(self) -> Outcome:
        """What it means for the inbox that the document is in."""
        return Outcome.RESETTLE if self is End.CHANGED else Outcome(self.value)


_ENDED: Final = {RecordState.DONE: End.DONE, RecordState.FAILED: End.FAILED}


class CutOffError(Exception):
    """This host does not see the share now; another one may."""


class Courier:
    """Carries documents in and records back."""

    def __init__(self, shares: Mapping[str, Path], spool: Spool, rules: Rules) -> None:
        """`shares` is `cluster.roots`; `rules` are those by which the daemon chooses documents."""
        self._shares = shares
        self._spool = spool
        self._rules = rules

    def fetch(self, message: Message) -> tuple[Errand | None, End | None]:
        """Bring a document into the spool: the errand, or how the job has ended without one.

        Raises `CutOffError` where the share is not to be seen, `SpoolError` where the spool takes nothing.
        """
        if not self._rules.wants(message.name):
            error = AccessError("a host that took it does not read files of this name", hint=_DIFFERENT)
            return None, self._retry_later(message, error)
        errand: Errand | None = None
        try:
            with self._opened(message) as folder:
                if (end := self._over(folder, message)) is not None:
                    return None, end
                commit.check_place(folder, message.name)
                with open_file(folder, message.name) as original:
                    errand = self._spool.begin(message)
                    if self._spool.bring(errand, original):
                        return errand, None
            end = End.CHANGED
        except VanishedError:
            end = End.GONE
        except FileError as error:
            end = self._retry_later(message, error)
        except SpoolError:
            if errand is not None:
                with suppress(SpoolError):
                    self._spool.end(errand)
            raise
        if errand is not None:
            self._spool.end(errand)
        return None, end

    def is_current(self, message: Message) -> bool:
        """Whether the document still is the version of the job. Raises `CutOffError`."""
        try:
            with self._opened(message) as folder:
                status = stat_file(folder, message.name)
        except VanishedError:
            return False
        except AccessError as error:
            raise CutOffError(str(error)) from error
        return status is not None and Stamp.of(status) == message.stamp

    def deliver(self, errand: Errand) -> End | None:
        """Put the record back beside the document, and clear the spool; None where there is none yet.

        Raises `CutOffError` where the share does not take it now: it stays in the spool. Raises `SpoolError`
        where the spool cannot be read or cleared.
        """
        message = errand.message
        state = errand.state()
        try:
            with self._opened(message) as folder:
                end = self._over(folder, message)
                if end is None and state in _ENDED:
                    self._put_back(folder, errand, state)
                    end = _ENDED[state]
        except VanishedError:
            end = End.GONE
        except OutputExistsError as error:
            end = self._retry_later(message, error)
        except FileError as error:
            raise CutOffError(str(error)) from error
        if end is not None:
            self._spool.end(errand)
        return end

    def see(self, root: str, share: str) -> None:
        """Find out whether a share is here. Raises `CutOffError` where it is missing, or another one."""
        folder = self._shares.get(root)
        if folder is None:
            raise CutOffError(f"cluster.roots has no {root}")
        try:
            there = roots.identity_of(folder)
        except OSError as error:
            raise CutOffError(f"{folder}: {error.strerror}") from error
        if share not in ("", there):
            raise CutOffError(f"{folder} is not the share {root}: is it mounted?")

    @contextmanager
    def _opened(self, message: Message) -> Iterator[int]:
        """The open folder of a document, on the right share: what is missing there is really gone.

        Raises `CutOffError`, and `FileError` where it is not for want of the share.
        """
        self.see(message.root, message.share)
        try:
            with open_folder(self._shares[message.root], message.parts) as folder:
                yield folder
        except FileError:
            self.see(message.root, message.share)
            raise

    @staticmethod
    def _over(folder: int, message: Message) -> End | None:
        """Whether nothing is left to do, by document and record on the share. Raises `AccessError`."""
        status = stat_file(folder, message.name)
        if status is None:
            return End.GONE
        if Stamp.of(status) != message.stamp:
            return End.CHANGED
        return _ENDED.get(records.lookup(message.name, message.stamp, folder=folder))

    @staticmethod
    def _put_back(folder: int, errand: Errand, state: RecordState) -> None:
        """Write the record beside the document. Raises `FileError`."""
        name = errand.message.name
        status = stat_file(folder, name)
        if status is None:
            raise VanishedError(name)
        own = names.records_of(name)
        if state is RecordState.DONE:
            commit.commit(folder, name, status, _pieces(errand.folder / own.sidecar))
        else:
            commit.commit_error(folder, name, status, (errand.folder / own.error).read_bytes())

    def _retry_later(self, message: Message, error: FileError) -> End:
        """Say beside the document why it is not read now, where that can be written."""
        source = Source(message.name, message.stamp, None)
        record = sidecar.error_json(source, error, attempts=1, will_retry=True)
        with suppress(FileError, CutOffError), self._opened(message) as folder:
            status = stat_file(folder, message.name)
            if status is not None and Stamp.of(status) == message.stamp:
                commit.commit_error(folder, message.name, status, record)
        return End.RETRY


def _pieces(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block


def is_over(state: RecordState) -> bool:
    """Whether the daemon is through with a document."""
    return state in _ENDED
