"""Puts outputs and records in place: each appears complete or not at all, and the sidecar last.

A file is written under a temporary name in its folder, flushed, renamed. The folder is an open descriptor, so
what is written lands where it was meant to, whatever has happened to the path since. What this program did
not write is never replaced: an output is ours if the sidecar names its hash, or if it carries a mark with its
hash (an extended attribute). Where there are no such attributes, a claim beside it names the hashes until the
sidecar does.

Of two records the stale one goes first: an error record makes way for a sidecar, and a sidecar for an error
record, before the new one is written. A crash between the two leaves a document without record, which is done
again, never one with both.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from ocr_watcher import names
from ocr_watcher.document import Output
from ocr_watcher.errors import AccessError, OutputError, OutputExistsError, VanishedError
from ocr_watcher.inbox.files import check_can_rename, discard, open_file, stat_file
from ocr_watcher.inbox.records import claimed, is_foreign, manifest
from ocr_watcher.names import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from io import BufferedReader

_BLOCK_BYTES: Final = 1 << 16
_MARK: Final = "user.ocr-watcher.sha256"


class Making:
    """A file in the making. It is locked until it is discarded: no process takes it for a leftover."""

    def __init__(self, folder: int, name: str, like: os.stat_result) -> None:
        """Begin a file that will be `name` in the open folder, readable by those who may read the document.

        `like` is the status of the document. Raises OSError.
        """
        check_can_rename(folder)
        self.name = name
        self.size_bytes = 0
        self.is_marked = False
        self._folder = folder
        self._hash = hashlib.sha256()
        self._block = bytearray()
        self._temporary: str | None = names.temporary()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self._temporary, flags, 0o600, dir_fd=folder)
        with suppress(OSError):  # some network file systems lock nothing
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The text is as private as its picture. Owner and group follow where we may set them
        # (root); elsewhere the record belongs to the service.
        with suppress(OSError):
            os.fchown(self._fd, like.st_uid, like.st_gid)
        with suppress(OSError):  # file systems without modes refuse this
            os.fchmod(self._fd, (like.st_mode & 0o666) | 0o600)

    @property
    def sha256(self) -> str:
        """Of all that was written."""
        return self._hash.hexdigest()

    def write(self, pieces: Iterable[bytes]) -> None:
        """Add to the file. Raises `OutputError`, and what going through `pieces` raises."""
        for piece in pieces:
            if len(piece) >= _BLOCK_BYTES:  # a picture: without a copy of it
                with _as_output_error(self.name):
                    self._flush()
                    self._add(piece)
                continue
            self._block += piece
            if len(self._block) >= _BLOCK_BYTES:
                with _as_output_error(self.name):
                    self._flush()

    def finish(self, *, mark: bool = False, times_ns: tuple[int, int] | None = None) -> None:
        """Bring all of it to the disk; with `mark` it says that it is ours. Raises OSError.

        `times_ns` are the times of access and modification that it gets.
        """
        self._flush()
        if times_ns is not None:
            os.utime(self._fd, ns=times_ns)
        if mark:
            try:
                os.setxattr(self._fd, _MARK, f"{self.size_bytes}:{self.sha256}".encode())
                self.is_marked = True
            except OSError:  # the file system has no such attributes, or no room for one
                pass
        os.fsync(self._fd)

    def put(self) -> None:
        """Give the file its name; it stays locked until it is discarded. Raises OSError."""
        if self._temporary is not None:
            os.rename(self._temporary, self.name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            self._temporary = None

    def discard(self) -> None:
        """Let go of it, and remove it unless it is in place."""
        temporary, self._temporary = self._temporary, None
        try:
            if temporary is not None:
                with suppress(OSError):
                    discard(self._folder, temporary)
        finally:  # what is left has no lock: the next process removes it
            self._close()

    def _flush(self) -> None:
        """Write what has come together: blocks that are worth a call of the operating system."""
        block = bytes(self._block)
        self._block.clear()
        self._add(block)

    def _add(self, data: bytes) -> None:
        self._hash.update(data)
        self.size_bytes += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):  # it was flushed
                os.close(fd)


# -- whose files there are -----------------------------------------------------------------------


def check_place(folder: int, document: str, kinds: Iterable[str] = ()) -> None:
    """Raise `OutputExistsError` where somebody else's file has the name of the sidecar or of an output.

    `kinds` are the formats that are to be written, keys of `names.OUTPUT_SUFFIXES`. What cannot be read for
    want of permission is somebody else's: ours would be readable. Raises OSError where the operating system
    refuses otherwise.
    """
    own = names.records_of(document)
    try:
        foreign = is_foreign(folder, own.sidecar)
    except PermissionError:
        foreign = True
    if foreign:
        raise OutputExistsError(f"{printable(own.sidecar)} exists and is not a sidecar of ocr-watcher")
    with _as_output_error(own.sidecar):
        check_can_rename(folder)
    there = {
        kind: name for kind in kinds if stat_file(folder, name := names.output_of(document, kind)) is not None
    }
    known = _known(folder, document) if there else {}
    for kind, name in there.items():
        try:
            ours = _is_ours(folder, name, known)
        except PermissionError:
            ours = False
        if not ours:
            raise OutputExistsError(f"{printable(name)} exists and was not written by ocr-watcher", kind=kind)


def _known(folder: int, document: str) -> dict[str, set[str]]:
    """What outputs of ours are, `SIZE:SHA256` by name, as the sidecar and a claim say. Raises OSError."""
    known: dict[str, set[str]] = {}
    for output in manifest(folder, names.records_of(document).sidecar):
        known.setdefault(output.name, set()).add(f"{output.size_bytes}:{output.sha256}")
    for name, what in claimed(folder, names.claim_of(document)).items():
        known.setdefault(printable(name), set()).update(what)
    return known


def _is_ours(folder: int, name: str, known: Mapping[str, set[str]]) -> bool:
    """Whether a file is as we left it. A file that somebody changed is theirs. Raises OSError."""
    with _opened(folder, name) as file:
        if file is None:  # a link, a folder
            return False
        expected = set(known.get(printable(name), ()))
        with suppress(OSError):  # no such attribute, or no attributes at all
            expected.add(os.getxattr(file.fileno(), _MARK).decode("ascii", "replace"))
        size_bytes = os.fstat(file.fileno()).st_size
        if not any(what.startswith(f"{size_bytes}:") for what in expected):
            return False
        return f"{size_bytes}:{hashlib.file_digest(file, 'sha256').hexdigest()}" in expected


@contextmanager
def _opened(folder: int, name: str) -> Iterator[BufferedReader | None]:
    """Open a regular file; None where there is none of the name. Raises OSError."""
    try:
        file = open_file(folder, name)
    except VanishedError:
        yield None
        return
    except AccessError as error:
        raise (error.__cause__ or error) from None
    with file:
        yield file


def outputs_of(folder: int, document: str) -> list[tuple[str, str]]:
    """Format and name of the outputs that the sidecar of `document` names. Raises OSError."""
    return [
        (output.format, name)
        for output in manifest(folder, names.records_of(document).sidecar)
        if output.format in names.OUTPUT_SUFFIXES
        and printable(name := names.output_of(document, output.format)) == output.name
    ]


# -- putting in place ----------------------------------------------------------------------------


def begin(folder: int, document: str, kind: str, like: os.stat_result) -> Making:
    """Begin an output of `document`. Raises `OutputError`."""
    name = names.output_of(document, kind)
    with _as_output_error(name):
        return Making(folder, name, like)


def finish(kind: str, making: Making) -> Output:
    """Bring an output to the disk, and describe it. Raises `OutputError`."""
    with _as_output_error(making.name):
        making.finish(mark=True)
    return Output(kind, printable(making.name), making.size_bytes, making.sha256)


def commit(
    folder: int,
    document: str,
    like: os.stat_result,
    pieces: Iterable[bytes],
    outputs: Mapping[str, Making] | None = None,
    *,
    keep_others: bool = False,
) -> None:
    """Put outputs in place, then write the sidecar of `document` (a file name): the commit point.

    Outputs of an earlier version that are not among these are removed: they would be of another version than
    all others.

    Args:
        folder: descriptor of the folder for records.
        document: the file that the record is about.
        like: its status; the record gets its mode, and its owner where this process may give files away.
        pieces: the record's bytes, in order.
        outputs: finished files by format.
        keep_others: outputs of other formats are of the same version, and stay.

    Raises `OutputError` where the folder cannot be written, `OutputExistsError` where somebody else's file is
    in the way, and what going through `pieces` raises.
    """
    outputs = outputs or {}
    check_place(folder, document, outputs)
    own = names.records_of(document)
    with _as_output_error(own.sidecar), _claim(folder, document, like, list(outputs.values())):
        stale = [] if keep_others else outputs_of(folder, document)
        for making in outputs.values():
            with _as_output_error(making.name):
                making.put()
        known = _known(folder, document)
        _remove_outputs(folder, [name for kind, name in stale if kind not in outputs], known)
        _remove(folder, own.error)
        _write(folder, own.sidecar, pieces, like)


def commit_error(folder: int, document: str, like: os.stat_result, record: bytes) -> None:
    """Write the error record of `document`, like `commit`; outputs of an earlier version go."""
    own = names.records_of(document)
    with _as_output_error(own.error):
        foreign = is_foreign(folder, own.error)
    if foreign:
        raise OutputError(
            f"{printable(own.error)} exists and is not an error record of ocr-watcher",
            hint="Move that file away.",
        )
    with _as_output_error(own.error):
        stale = [name for _, name in outputs_of(folder, document)]
        _remove_outputs(folder, stale, _known(folder, document) if stale else {})
        _remove(folder, own.sidecar)
        _write(folder, own.error, (record,), like)


def forget_failure(folder: int, document: str) -> None:
    """Remove the error record of `document`, so that it is tried again."""
    own = names.records_of(document)
    with _as_output_error(own.error):
        _remove(folder, own.error)


@contextmanager
def _as_output_error(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {printable(name)}: {error.strerror or error}") from error


def _write(folder: int, name: str, pieces: Iterable[bytes], like: os.stat_result) -> None:
    """Put a file at `name`, complete or not at all."""
    making = Making(folder, name, like)
    try:
        making.write(pieces)
        making.finish()
        making.put()
    finally:
        making.discard()
    with suppress(OSError):  # some network file systems cannot flush a folder
        os.fsync(folder)


@contextmanager
def _claim(folder: int, document: str, like: os.stat_result, outputs: Sequence[Making]) -> Iterator[None]:
    """Say of outputs without a mark that they are ours, until they are in place and the sidecar names them.

    What is left of it after a crash, or because it cannot be removed, goes at a scan once it is not needed.
    """
    name = names.claim_of(document)
    if all(making.is_marked for making in outputs):
        yield
        with suppress(OSError):  # an earlier one: they had no marks then
            if stat_file(folder, name) is not None:
                os.unlink(name, dir_fd=folder)
        return
    known = _known(folder, document)
    for making in outputs:
        known.setdefault(making.name, set()).add(f"{making.size_bytes}:{making.sha256}")
    claim = {"": [names.records_of(document).sidecar]} | {key: sorted(what) for key, what in known.items()}
    making = Making(folder, name, like)
    try:
        making.write((json.dumps(claim).encode(),))
        making.finish()
        making.put()
        yield
        with suppress(OSError):
            os.unlink(name, dir_fd=folder)
    finally:
        making.discard()


def _remove_outputs(folder: int, stale: Iterable[str], known: Mapping[str, set[str]]) -> None:
    for name in stale:
        if stat_file(folder, name) is not None and _is_ours(folder, name, known):
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)


def _remove(folder: int, name: str) -> None:
    """Remove a record of ours; nothing happens where there is none or it is somebody else's."""
    if stat_file(folder, name) is not None and not is_foreign(folder, name):
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
