"""One job on a host of the cluster: from the share into the spool, and its record back beside the document.

Knows neither broker nor daemon: it copies, looks, and puts back. The stamp is looked at before the copy,
after the copy, and before the record is put back; a record of another version never gets there.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from ocr_watcher import log, names
from ocr_watcher.cluster import roots
from ocr_watcher.cluster.spool import SpoolError, as_spool_error
from ocr_watcher.document import Source
from ocr_watcher.errors import (
    AccessError,
    ChangedError,
    FileError,
    OutputError,
    OutputExistsError,
    VanishedError,
)
from ocr_watcher.inbox import records, ticket
from ocr_watcher.inbox.files import open_file, open_folder, stat_file
from ocr_watcher.inbox.records import RecordState
from ocr_watcher.job import Outcome, Stamp
from ocr_watcher.outputs import archive, commit, sidecar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ocr_watcher.cluster.message import Message
    from ocr_watcher.cluster.spool import Errand, Spool
    from ocr_watcher.inbox.places import Places
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


@dataclass(frozen=True)
class _Folders:
    """Descriptors of the open folders of a document and of its records; often the same."""

    document: int
    records: int


class Courier:
    """Carries documents in and records back."""

    def __init__(self, shares: Mapping[str, Path], places: Places, spool: Spool, rules: Rules) -> None:
        """`shares` is `cluster.roots`, `places` those of the roots; `rules` are the daemon's."""
        self._shares = shares
        self._places = places
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
            with self._opened(message) as folders:
                if (end := self._over(folders, message)) is not None:
                    return None, end
                commit.check_place(folders.records, message.name)
                with open_file(folders.document, message.name) as original:
                    errand = self._spool.begin(message)
                    self._spool.bring_ticket(errand, ticket.read(message.name, folder=folders.document))
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
            self.see(message.root, message.share)
            with open_folder(self._shares[message.root], message.parts) as folder:
                status = stat_file(folder, message.name)
        except VanishedError:
            self.see(message.root, message.share)
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
            with self._opened(message) as folders:
                end = self._over(folders, message)
                if end is None and state in _ENDED:
                    self._put_back(folders, errand, state)
                    end = _ENDED[state]
                    if state is RecordState.DONE:
                        end = self._archive(folders, message, end)
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
        folders = (folder, *self._places.trees)
        try:
            there = roots.identity_of(*folders)
        except OSError as error:
            raise CutOffError(f"{folder}: {error.strerror}") from error
        if not roots.is_same(share, there):
            shown = " and ".join(map(str, folders))
            raise CutOffError(f"{shown}: not the share of the dispatcher; is it mounted?")

    def probe(self, root: str) -> str:
        """What is seen of the file of `doctor` in a root; "" where there is none."""
        folder = self._shares.get(root)
        return "" if folder is None else roots.probe_of(root, folder)

    @contextmanager
    def _opened(self, message: Message) -> Iterator[_Folders]:
        """The open folders of a document, on the right share: what is missing there is really gone.

        Raises `CutOffError`, and `FileError` where it is not for want of the share.
        """
        self.see(message.root, message.share)
        root, parts = self._shares[message.root], message.parts
        try:
            with (
                open_folder(root, parts) as folder,
                self._places.open_records(root, parts, folder) as for_records,
            ):
                yield _Folders(folder, for_records)
        except FileError:
            self.see(message.root, message.share)
            raise

    def _over(self, folders: _Folders, message: Message) -> End | None:
        """Whether nothing is left to do, by document and record on the share. Raises `FileError`."""
        status = stat_file(folders.document, message.name)
        if status is None:
            return End.GONE
        if Stamp.of(status) != message.stamp:
            return End.CHANGED
        end = _ENDED.get(records.lookup(message.name, message.stamp, folder=folders.records))
        # A record without its move into the archive: whoever wrote it was broken off.
        return self._archive(folders, message, end) if end is End.DONE else end

    @staticmethod
    def _put_back(folders: _Folders, errand: Errand, state: RecordState) -> None:
        """Write outputs and record. Raises `FileError` and `SpoolError`."""
        name = errand.message.name
        status = stat_file(folders.document, name)
        if status is None:
            raise VanishedError(name)
        own = names.records_of(name)
        if state is RecordState.FAILED:
            with as_spool_error():
                record = (errand.folder / own.error).read_bytes()
            commit.commit_error(folders.records, name, status, record)
            return
        made: dict[str, commit.Making] = {}
        try:
            for output in errand.outputs():
                made[output.format] = commit.begin(folders.records, name, output.format, status)
                made[output.format].write(_blocks(errand.folder / made[output.format].name))
                if commit.finish(output.format, made[output.format]) != output:
                    raise SpoolError(f"{output.name} is not what the record says")
            pieces = _unless_overtaken(folders, errand, made)
            commit.commit(folders.records, name, status, pieces, made)
        finally:
            for making in made.values():
                making.discard()

    def _archive(self, folders: _Folders, message: Message, end: End) -> End:
        """Move a document that has its record into the archive, where there is one; returns the job's end."""
        root, parts = self._shares[message.root], message.parts
        try:
            with self._places.open_archive(root, parts, folders.document) as target:
                if target is None:
                    return end
                with open_file(folders.document, message.name) as file:
                    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                beside = folders.records == folders.document
                finished = archive.Finished(
                    message.name, message.stamp, sha256, folders.document, with_records=beside
                )
                archive.move(finished, target)
        except ChangedError:
            return End.CHANGED
        except VanishedError:
            return End.GONE
        except (FileError, OSError) as error:
            log.get().warning("job.not_archived", path=message.below, message=str(error))
            return End.RETRY
        return end

    def _retry_later(self, message: Message, error: FileError) -> End:
        """Say beside the document why it is not read now, where that can be written."""
        source = Source(message.name, message.stamp, None)
        record = sidecar.error_json(source, error, attempts=1, will_retry=True)
        with suppress(FileError, CutOffError), self._opened(message) as folders:
            status = stat_file(folders.document, message.name)
            if status is not None and Stamp.of(status) == message.stamp:
                commit.commit_error(folders.records, message.name, status, record)
        return End.RETRY


def _unless_overtaken(
    folders: _Folders, errand: Errand, made: Mapping[str, commit.Making]
) -> Iterator[bytes]:
    """The record; its outputs are in place. Raises `OutputError` where they are another host's by now.

    A host that stood still between its outputs and its record must not put that beside the other's outputs.
    """
    for making in made.values():
        with open_file(folders.records, making.name) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != making.sha256:
                raise OutputError("another host puts its own outputs there")
    status = stat_file(folders.document, errand.message.name)
    if status is None or Stamp.of(status) != errand.message.stamp:
        raise OutputError("the document has changed")
    yield from _blocks(errand.folder / names.records_of(errand.message.name).sidecar)


def _blocks(path: Path) -> Iterator[bytes]:
    """A file of the spool in pieces. Raises `SpoolError`."""
    with as_spool_error(), open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block


def is_over(state: RecordState) -> bool:
    """Whether the daemon is through with a document."""
    return state in _ENDED
