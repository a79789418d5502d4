"""Previews in the spool: those of a job go with it, those of documents in folders when there are too many.

The daemon writes them (`outputs.preview`). Calls of the operating system block.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Final

from ocr_watcher import names

if TYPE_CHECKING:
    from collections.abc import Container, Iterator
    from pathlib import Path

MAX_BYTES: Final = 256 << 20
"""Of documents in folders, together."""


def remove(spool: Path, stem: str) -> None:
    """Remove those of a job."""
    shutil.rmtree(spool / names.PREVIEWS / stem, ignore_errors=True)


def prune(spool: Path, stems: Container[str | None]) -> None:
    """Remove those of jobs that are not among `stems`, and the oldest of folders beyond `MAX_BYTES`."""
    left: list[tuple[int, int, str]] = []
    for folder in _folders(spool):
        if names.stem_in(folder.name + ".") is None:
            left.append((*_age_and_size(folder.path), folder.path))
        elif folder.name not in stems:
            shutil.rmtree(folder.path, ignore_errors=True)
    over = sum(size for _, size, _ in left) - MAX_BYTES
    for _, size, path in sorted(left):
        if over <= 0:
            return
        shutil.rmtree(path, ignore_errors=True)
        over -= size


def _folders(spool: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(spool / names.PREVIEWS) as items:
            yield from items
    except OSError:
        return


def _age_and_size(folder: str) -> tuple[int, int]:
    """When it last changed (ns since 1970), and its bytes."""
    try:
        with os.scandir(folder) as items:
            size = sum(item.stat(follow_symlinks=False).st_size for item in items)
        return os.stat(folder).st_mtime_ns, size
    except OSError:
        return 0, 0
