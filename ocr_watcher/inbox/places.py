"""Where the records and outputs of a document are: beside it, or in a tree that mirrors the inbox.

With several inboxes each has a folder of its name in the tree, and so has every root of a cluster. A document
that is in no inbox, because it was named on the command line, has its records beside it.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

from ocr_watcher import names
from ocr_watcher.errors import OutputError
from ocr_watcher.inbox import access, records
from ocr_watcher.inbox.files import descend, descend_one
from ocr_watcher.inbox.records import RecordState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ocr_watcher.config import Settings
    from ocr_watcher.inbox.records import Reread
    from ocr_watcher.job import Stamp


@dataclass(frozen=True)
class Places:
    """The inboxes, and the trees of `output.folder` and `output.archive` (None: there is none).

    `root_names` is what the inboxes are called in the trees, where they are roots of a cluster.
    """

    inboxes: tuple[Path, ...] = ()
    folder: Path | None = None
    archive: Path | None = None
    root_names: tuple[str, ...] = ()

    @classmethod
    def of(cls, settings: Settings) -> Places:
        """Those of a configuration."""
        output = settings.output
        archive = output.archive if output.on_success == "archive" else None
        return cls(settings.watch.inbox, output.folder, archive)

    @classmethod
    def of_roots(cls, settings: Settings) -> Places:
        """Those of the roots of a cluster. A host may have some of the roots only, each somewhere else."""
        found = cls.of(settings)
        roots = settings.cluster.roots
        return cls(tuple(roots.values()), found.folder, found.archive, tuple(roots))

    @property
    def trees(self) -> tuple[Path, ...]:
        """Those that there are."""
        return tuple(tree for tree in (self.folder, self.archive) if tree is not None)

    def trees_of(self, inbox: Path) -> tuple[Path, ...]:
        """The parts of them that mirror one inbox."""
        own = self._own(os.path.join(inbox, ""))
        return tuple(tree.joinpath(*own) for tree in self.trees)

    def checks(self, *inboxes: Path) -> Iterator[Callable[[], None]]:
        """Checks that these inboxes and the trees are there and may be used as they have to be, one a folder.

        They raise `UnavailableError`.
        """
        writes = self.folder is None or self.archive is not None
        for inbox in inboxes:
            yield partial(access.check_inbox, inbox, writes=writes)
        for key, tree in (("output.folder", self.folder), ("output.archive", self.archive)):
            if tree is not None:
                yield partial(access.check_tree, tree, key)

    def with_records(self, document: str) -> str:
        """The path beside which the records of a document (an absolute path) are; often its own."""
        if self.folder is None:
            return document
        for inbox in self._prefixes:
            if document.startswith(inbox):
                return os.path.join(self.folder, *self._own(inbox), document[len(inbox) :])
        parts = self._below_an_inbox(document)
        return document if parts is None else os.path.join(self.folder, *parts)

    def documents_of(self, folder: str) -> list[str]:
        """Folders that documents with records in `folder` (a real path) may be in; that itself first."""
        found = [folder]
        if self.folder is None:
            return found
        tree = os.path.join(os.path.realpath(self.folder), "")
        if not os.path.join(folder, "").startswith(tree):
            return found
        below = os.path.join(folder, "")[len(tree) :]
        for inbox in self._prefixes:
            own = "".join(part + os.sep for part in self._own(inbox))
            if below.startswith(own):
                found.append(os.path.join(inbox, below[len(own) :]).rstrip(os.sep))
        if self.archive is not None:
            found.append(os.path.join(self.archive, below).rstrip(os.sep))
        return found

    @property
    def has_record(self) -> Callable[[str], bool] | None:
        """For `scan.walk`: whether there is a record of a document (a path) in the tree of records.

        None where there is no such tree: the scan itself sees the records beside documents.
        """
        return None if self.folder is None else self._has_record

    def _has_record(self, document: str) -> bool:
        folder, name = os.path.split(self.with_records(document))
        return any(os.path.lexists(os.path.join(folder, record)) for record in names.records_of(name))

    def lookup(self, document: str, stamp: Stamp, reread: Reread | None = None) -> RecordState:
        """What the records of a document (a path) say of its version `stamp`; see `records.lookup`.

        Where documents are archived, one that is done and still here is not over.
        """
        state = records.lookup(self.with_records(document), stamp, reread=reread)
        if (
            state is RecordState.DONE
            and self.archive is not None
            and self._below_an_inbox(document) is not None
        ):
            return RecordState.OPEN
        return state

    @contextmanager
    def open_records(self, root: Path, parts: tuple[str, ...], folder: int) -> Iterator[int]:
        """Open the folder for the records of a document, and make it where it is missing.

        Args:
            root: as in `job.Job`.
            parts: as in `job.Job`.
            folder: descriptor of the folder that the document is in.

        Yields the descriptor, which may be `folder`. Raises `OutputError`.
        """
        below = None if self.folder is None else self._below_an_inbox(os.path.join(root, *parts))
        if self.folder is None or below is None:
            yield folder
            return
        with self._open_or_make(self.folder, below, os.fstat(folder).st_mode) as opened:
            yield opened

    @contextmanager
    def open_archive(self, root: Path, parts: tuple[str, ...], folder: int) -> Iterator[int | None]:
        """The same for the folder in the archive; None where the document is not archived."""
        below = None if self.archive is None else self._below_an_inbox(os.path.join(root, *parts))
        if self.archive is None or below is None:
            yield None
            return
        with self._open_or_make(self.archive, below, os.fstat(folder).st_mode) as opened:
            yield opened

    @cached_property
    def _prefixes(self) -> tuple[str, ...]:
        return tuple(os.path.join(inbox, "") for inbox in self.inboxes)

    @cached_property
    def _real_prefixes(self) -> tuple[str, ...]:
        return tuple(os.path.join(os.path.realpath(inbox), "") for inbox in self.inboxes)

    def _own(self, prefix: str) -> tuple[str, ...]:
        """The folder that an inbox has for itself."""
        if self.root_names:
            return (self.root_names[self._prefixes.index(prefix)],)
        return () if len(self.inboxes) == 1 else (os.path.basename(prefix.rstrip(os.sep)),)

    def _below_an_inbox(self, path: str) -> tuple[str, ...] | None:
        """Steps from the top of a tree to what mirrors `path`; None where that is in no inbox."""
        for prefixes in (self._prefixes, self._real_prefixes):
            for prefix, named in zip(prefixes, self._prefixes, strict=True):
                if (path + os.sep).startswith(prefix):
                    below = path[len(prefix) :]
                    return (*self._own(named), *(below.split(os.sep) if below else ()))
        return None

    @staticmethod
    @contextmanager
    def _open_or_make(tree: Path, parts: tuple[str, ...], mode: int) -> Iterator[int]:
        """Open a folder below `tree`, which must be there; those on the way are made where there are none."""
        try:
            fd = _descend_and_make(tree, parts, mode & 0o777)
        except OSError as error:
            raise OutputError(
                f"cannot write into {tree.joinpath(*parts)}: {error.strerror or error}",
                hint=f"Check that {tree} is there, that it can be written, and that there is space.",
            ) from error
        try:
            yield fd
        finally:
            os.close(fd)


def _descend_and_make(tree: Path, parts: tuple[str, ...], mode: int) -> int:
    fd = descend(tree, ())
    for part in parts:
        try:
            try:
                below = descend_one(fd, part)
            except FileNotFoundError:
                with suppress(FileExistsError):  # somebody else made it meanwhile
                    os.mkdir(part, mode | 0o700, dir_fd=fd)
                below = descend_one(fd, part)
        finally:
            os.close(fd)
        fd = below
    return fd
