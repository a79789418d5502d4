"""The spool: one flat folder that the daemon watches, and all the state there is of jobs that came by HTTP.

A document comes in under a dot-name, is flushed and renamed. From then on it belongs to the daemon, until its
record is there; the record is kept for `http.keep_s`. Both processes can end at any moment. Calls of the
operating system block: the server makes them in threads.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ocr_watcher import names
from ocr_watcher.errors import UnavailableError
from ocr_watcher.http import previews
from ocr_watcher.http.problems import Problem
from ocr_watcher.inbox import records, ticket
from ocr_watcher.inbox.records import RecordState
from ocr_watcher.job import Stamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from ocr_watcher.inbox.ticket import Ticket

# What has no document, or no end that anybody could fetch, is removed after so long (s): much longer than
# either process needs between two of its steps.
_ORPHANED_S = 300.0
# Bytes that are left free for records, journal and log.
_RESERVE_BYTES = 64 << 20
_SECRET_BYTES = 32


@dataclass(frozen=True)
class Job:
    """A document in the spool. `path` is the document's, `stamp` its version."""

    path: str
    stamp: Stamp
    ticket: Ticket

    @property
    def id(self) -> str:
        """By what the client knows it."""
        return self.ticket.id

    @property
    def extension(self) -> str:
        """Of the document, by its content."""
        return os.path.splitext(self.path)[1]

    @property
    def name(self) -> str:
        """What the client calls it; "" where it did not say."""
        return self.ticket.name

    @property
    def renamed(self) -> str:
        """What stands for its name in its results."""
        return self.ticket.name

    @property
    def beside(self) -> str:
        """The path beside which its records are: its own."""
        return self.path

    def state(self, stamp: Stamp) -> RecordState:
        """What its records say of this version."""
        return records.lookup(self.path, stamp)

    @property
    def record(self) -> str:
        """The path of its sidecar."""
        folder, document = os.path.split(self.path)
        return os.path.join(folder, names.records_of(document).sidecar)

    @property
    def error_record(self) -> str:
        """The path of its error record."""
        folder, document = os.path.split(self.path)
        return os.path.join(folder, names.records_of(document).error)

    def ended_s(self) -> float | None:
        """When its record was written (s since 1970); None where there is none."""
        with suppress(OSError):
            return os.stat(self.record).st_mtime
        return None

    def output(self, kind: str) -> str:
        """The path of a further output, which may not be there."""
        folder, document = os.path.split(self.path)
        return os.path.join(folder, names.output_of(document, kind))


@dataclass(frozen=True)
class Entry:
    """A file of the spool for `expired`: its name and modification time (s since 1970)."""

    name: str
    mtime_s: float


class Upload:
    """A document while it comes in. Removed again unless it is `commit`ted."""

    def __init__(self, folder: Path, job: str) -> None:
        """Raises OSError."""
        self.id = job
        self.stem = names.stem_of(job)
        self._folder = folder
        self._path = folder / names.upload_of(self.stem)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o600)
        self._committed = False

    def write(self, block: bytes) -> None:
        """Append. Raises OSError."""
        view = memoryview(block)
        while view:
            view = view[os.write(self._fd, view) :]

    def commit(self, made: Ticket) -> Job:
        """Hand it to the daemon, whole and on the disk. Raises OSError."""
        os.fsync(self._fd)
        stamp = Stamp.of(os.fstat(self._fd))
        path = str(self._folder / made.document)
        self._write_ticket(self._folder / names.ticket_of(made.document), made.as_bytes())
        os.rename(self._path, path)
        self._committed = True
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return Job(path, stamp, made)

    def close(self) -> None:
        """Let go; what was not committed is gone."""
        os.close(self._fd)
        if not self._committed:
            for name in (names.upload_of(self.stem), names.ticket_of(self.stem)):
                with suppress(OSError):
                    os.unlink(self._folder / name)

    @staticmethod
    def _write_ticket(path: Path, content: bytes) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, content)
            os.fsync(fd)
        finally:
            os.close(fd)


class Spool:
    """The folder."""

    def __init__(self, folder: Path, keep_s: float) -> None:
        self.folder = folder
        self._keep_s = keep_s
        self._lock: int | None = None
        self.secret = b""

    # -- the folder ----------------------------------------------------------------------------

    def open(self) -> None:
        """Make the folder, be its only server, and remove what an earlier one left half received.

        Raises `UnavailableError`.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(
                self.folder / names.SERVER_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise UnavailableError(
                f"cannot write the spool {self.folder}: {error.strerror}",
                hint="Set http.spool to a folder that this user may write.",
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UnavailableError(
                f"another server already works on the spool {self.folder}",
                hint="Stop it first; one is enough, however many clients there are.",
            ) from error
        self.secret = _secret(self._lock)
        for entry in self.entries():
            if names.is_upload(entry.name):
                with suppress(OSError):
                    os.unlink(self.folder / entry.name)

    def close(self) -> None:
        """Let the next server in."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def entries(self) -> list[Entry]:
        """Every file in it. Raises OSError."""
        found = []
        with os.scandir(self.folder) as items:
            for item in items:
                with suppress(FileNotFoundError):
                    found.append(Entry(item.name, item.stat(follow_symlinks=False).st_mtime))
        return found

    def check_space(self, upload_bytes: int) -> None:
        """Raise `Problem` 507 where the disk would be full after this upload."""
        free = os.statvfs(self.folder)
        if free.f_bavail * free.f_frsize < upload_bytes + _RESERVE_BYTES or free.f_favail == 0 < free.f_files:
            raise full()

    # -- jobs ----------------------------------------------------------------------------------

    def begin(self) -> Upload:
        """A new upload. Raises `Problem` 507."""
        try:
            return Upload(self.folder, names.new_id())
        except OSError as error:
            raise as_problem(error) from error

    def find(self, job: str) -> Job | None:
        """The job of this id; None where there is none."""
        found = self._find(names.stem_of(job))
        return found if found is not None and found.id == job else None

    def _find(self, stem: str) -> Job | None:
        made = ticket.of_document(str(self.folder / stem))
        if made is None or names.stem_in(made.document) != stem or os.sep in made.document:
            return None
        path = str(self.folder / made.document)
        try:
            status = os.lstat(path)
        except OSError:
            return None
        return Job(path, Stamp.of(status), made) if stat.S_ISREG(status.st_mode) else None

    def state(self, job: Job) -> RecordState:
        """What the records say: `OPEN` and `RETRY` mean that it is still to be read."""
        return records.lookup(job.path, job.stamp)

    def unfinished(self) -> list[Job]:
        """Every job without an end, the oldest first. Raises OSError."""
        return [job for job in self._jobs() if self.state(job) not in (RecordState.DONE, RecordState.FAILED)]

    def batch(self, batch: str, owner: str) -> list[Job]:
        """The jobs that a client put together under a name, the oldest first. Raises OSError."""
        return [job for job in self._jobs() if (job.ticket.batch, job.ticket.owner) == (batch, owner)]

    def _jobs(self) -> Iterator[Job]:
        """Every job, the oldest first. Raises OSError."""
        for entry in sorted(self.entries(), key=lambda entry: entry.mtime_s):
            stem = names.stem_in(entry.name)
            if stem is not None and entry.name == names.ticket_of(stem):
                job = self._find(stem)
                if job is not None:
                    yield job

    # -- removing ------------------------------------------------------------------------------

    def remove(self, job: Job) -> None:
        """Remove everything of a job. What is read at this moment gets no record."""
        document = job.ticket.document
        # The document first: a record that goes before it would have it read again.
        outputs = (names.output_of(document, kind) for kind in names.OUTPUT_SUFFIXES)
        for name in (document, *names.records_of(document), *outputs, names.ticket_of(document)):
            with suppress(OSError):
                os.unlink(self.folder / name)
        previews.remove(self.folder, names.stem_of(job.id))

    def sweep(self, now_s: float | None = None) -> int:
        """Remove what was kept long enough; returns how many jobs that were."""
        entries = self.entries()
        over = expired(entries, time.time() if now_s is None else now_s, self._keep_s)
        if over:
            by_stem = defaultdict(list)
            for entry in entries:
                by_stem[names.stem_in(entry.name)].append(entry.name)
            for stem in over:
                for name in sorted(by_stem[stem], key=_is_made):  # the document first, as in `remove`
                    with suppress(OSError):
                        os.unlink(self.folder / name)
        previews.prune(self.folder, {names.stem_in(entry.name) for entry in entries} - set(over))
        return len(over)


def _secret(lock: int) -> bytes:
    """What ids of documents in folders are made with; in the lock file, so that they outlive the server."""
    secret = os.pread(lock, _SECRET_BYTES, 0)
    if len(secret) != _SECRET_BYTES:
        secret = os.urandom(_SECRET_BYTES)
        with suppress(OSError):  # a full disk: then they hold until the server ends
            os.pwrite(lock, secret, 0)
    return secret


def _is_made(name: str) -> bool:
    """Whether a file of a job is not its document."""
    return name.startswith(".") or name.count(".") > 1


def expired(entries: Iterable[Entry], now_s: float, keep_s: float) -> list[str]:
    """The stems of the jobs of which everything is to be removed: kept long enough, or without a document."""
    by_stem: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        stem = names.stem_in(entry.name)
        if stem is not None and not names.is_upload(entry.name):
            by_stem[stem].append(entry)
    return [stem for stem, own in by_stem.items() if _is_expired(own, now_s, keep_s)]


def _is_expired(own: list[Entry], now_s: float, keep_s: float) -> bool:
    newest_s = max(entry.mtime_s for entry in own)
    if all(_is_made(entry.name) for entry in own):
        return now_s - newest_s > _ORPHANED_S
    ends = [entry.mtime_s for entry in own if names.is_record(entry.name)]
    return bool(ends) and now_s - max(ends) > keep_s


def full() -> Problem:
    """507: the disk is full."""
    return Problem(
        507,
        "disk_full",
        "there is no room for the document on the server's disk",
        hint="Send it again later.",
    )


def as_problem(error: OSError) -> Problem:
    """What a client is told where the spool cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return full()
    return Problem(
        503,
        "spool_unavailable",
        f"the spool cannot be written: {error.strerror}",
        hint="See the server's log.",
        headers={"Retry-After": "30"},
    )
