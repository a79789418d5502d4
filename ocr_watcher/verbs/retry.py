"""`retry`: forget the failure of files, so that they are tried again. Works beside a running daemon.

Removing the error record is all it takes: the daemon sees that, and so does the next start. The
attempts that the journal counted go too.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ocr_watcher import log, names
from ocr_watcher.errors import FileError, OutputError, VanishedError
from ocr_watcher.inbox import records, scan
from ocr_watcher.inbox.files import open_folder, stat_file
from ocr_watcher.inbox.places import Places
from ocr_watcher.inbox.ready import Rules
from ocr_watcher.inbox.records import RecordState
from ocr_watcher.job import Stamp
from ocr_watcher.jobs.journal import Journal
from ocr_watcher.outputs import commit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ocr_watcher.config import Settings


@dataclass
class Forgotten:
    """How it went: paths that will be tried again, and paths that will not with the reason."""

    again: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)  # nothing to forget: not done yet
    refused: dict[str, str] = field(default_factory=dict)


def forget(settings: Settings, paths: Iterable[Path] | None) -> Forgotten:
    """Forget the failure of every file in `paths` (images, their error records, folders); None: of all."""
    rules = Rules.of(settings.watch.extensions, settings.watch.ignore, settings.watch.settle_s)
    places = Places.of(settings)
    outcome = Forgotten()
    where = settings.state_dir / names.JOURNAL
    with contextlib.ExitStack() as open_journal:
        journal = None
        if where.exists():
            journal = Journal(where, log.get())
            open_journal.callback(journal.close)
        for root, parts, name, asked in _targets(settings, rules, paths, outcome):
            path = os.path.join(root, *parts, name)
            try:
                with (
                    open_folder(root, parts) as folder,
                    places.open_records(root, parts, folder) as beside_records,
                ):
                    forgotten = _forget(beside_records, name)
                    if not forgotten and asked:
                        _note(outcome, path, _why_not(folder, beside_records, name, rules))
            except VanishedError:
                outcome.refused[path] = "there is no such file"
            except FileError as error:
                outcome.refused[path] = str(error)
            else:
                if forgotten:
                    outcome.again.append(path)
                    if journal is not None:
                        journal.end(path)
    return outcome


def _forget(folder: int, name: str) -> bool:
    """Remove the error record of a file; False where it has none. Raises `FileError`."""
    record = names.records_of(name).error
    if stat_file(folder, record) is None:
        return False
    commit.forget_failure(folder, name)
    if stat_file(folder, record) is not None:
        raise OutputError("its error record is not a file of ocr-watcher")
    return True


def _note(outcome: Forgotten, path: str, why_not: str) -> None:
    """Note how a file without error record stands."""
    if why_not:
        outcome.refused[path] = why_not
    else:
        outcome.waiting.append(path)


def _why_not(folder: int, beside_records: int, name: str, rules: Rules) -> str:
    """Why a file without error record will not be read; empty where it will.

    The descriptors are of the folder of the file and of that of its records.
    """
    status = stat_file(folder, name)
    if status is None:
        return "there is no such file"
    if records.lookup(name, Stamp.of(status), folder=beside_records) is RecordState.DONE:
        return "it has not failed: its result is there"
    if not rules.wants(name) or not stat.S_ISREG(status.st_mode):
        return "it is never read: see watch.extensions and watch.ignore"
    return ""


def _targets(
    settings: Settings, rules: Rules, paths: Iterable[Path] | None, outcome: Forgotten
) -> Iterator[tuple[Path, tuple[str, ...], str, bool]]:
    """Root, folders below it and name of every file meant; whether it was named itself."""
    if paths is None:
        for inbox in settings.watch.inbox:
            yield from _below(settings, rules, inbox, str(inbox))
        return
    for path in paths:
        # The named folder may be reached by links; what is below the inbox may not.
        real = Path(os.path.realpath(path.parent)) / path.name
        whole = Path(os.path.realpath(path)) if path.is_dir() and not path.is_symlink() else real
        for inbox in settings.watch.inbox:
            above = Path(os.path.realpath(inbox))
            if whole.is_relative_to(above):
                below = os.path.join(inbox, whole.relative_to(above))
                if path.is_dir() and not path.is_symlink():
                    yield from _below(settings, rules, inbox, os.path.normpath(below))
                else:
                    *parts, name = whole.relative_to(above).parts
                    yield inbox, tuple(parts), _image(name), True
                break
        else:
            outcome.refused[str(path)] = "it is in no inbox of this configuration"


def _image(name: str) -> str:
    """The image meant by a name: an error record stands for its image."""
    return name.removesuffix(".error.json")


def _below(
    settings: Settings, rules: Rules, inbox: Path, folder: str
) -> Iterator[tuple[Path, tuple[str, ...], str, bool]]:
    for item in scan.walk(
        folder,
        rules,
        recursive=settings.watch.recursive,
        has_record=Places.of(settings).has_record,
        trouble=lambda where, error: log.get().warning(
            "scan.trouble", path=where, message=f"cannot list it: {error.strerror}"
        ),
    ):
        if isinstance(item, scan.Found) and item.records:
            *parts, name = Path(item.path).relative_to(inbox).parts
            yield inbox, tuple(parts), name, False
