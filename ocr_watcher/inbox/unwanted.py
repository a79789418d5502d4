"""Files that are passed over because of their names: counted by extension, and said once.

One line says it for thousands of files. But a document may be under a wrong name, so the first files of each
extension are looked at.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from ocr_watcher import names

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

KindOf: TypeAlias = "Callable[[bytes], str]"
"""What a file is by its first bytes, in a word; empty where it is no document."""

HEAD_BYTES = 1024
# So many files of each extension are opened.
_LOOKED_AT = 10
# More different extensions are counted together: whoever puts dates behind a dot has thousands.
_MAX_EXTENSIONS = 50
_OTHERS = "others"
_HEIC = (".heic", ".heif")


@dataclass
class _Passed:
    """Files of one extension: how many, the first, and one that looks like a document, with its kind."""

    files: int = 0
    first: str = ""
    document: str = ""
    kind: str = ""


class Unwanted:
    """What a walk passed over, by extension."""

    def __init__(self, kind_of: Callable[[str], KindOf | None] = lambda _extension: None) -> None:
        """`kind_of` gives what looks at files of an extension; None where none of them is to be opened."""
        self._kind_of = kind_of
        self._passed: dict[str, _Passed] = {}

    @property
    def counts(self) -> dict[str, int]:
        """How many files of each extension, the most frequent first; "" stands for no extension."""
        pairs = ((extension, passed.files) for extension, passed in self._passed.items())
        return dict(sorted(pairs, key=lambda pair: -pair[1]))

    def add(self, path: str, folder: int | None = None) -> None:
        """Count a file; `folder` is the descriptor of the folder that it is in."""
        extension = names.extension_of(path)
        if extension not in self._passed and len(self._passed) >= _MAX_EXTENSIONS:
            extension = _OTHERS
        passed = self._passed.setdefault(extension, _Passed())
        passed.files += 1
        passed.first = passed.first or path
        if passed.files <= _LOOKED_AT and not passed.kind and (kind_of := self._kind_of(extension)):
            passed.kind = kind_of(head_of(path if folder is None else os.path.basename(path), folder))
            passed.document = path if passed.kind else ""

    def items(self) -> list[tuple[str, _Passed]]:
        """Extension and files."""
        return list(self._passed.items())


def in_words(counts: dict[str, int]) -> str:
    """`3 .docx, 1 without extension`."""
    shown = [f"{count} {extension or 'without extension'}" for extension, count in list(counts.items())[:8]]
    return ", ".join(shown) + (", …" if len(counts) > len(shown) else "")


def head_of(name: str, folder: int | None = None) -> bytes:
    """The first bytes of a regular file; none where it cannot be read."""
    try:
        if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            return b""
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        try:
            return os.read(fd, HEAD_BYTES)
        finally:
            os.close(fd)
    except OSError:
        return b""


@dataclass
class Told:
    """What this process has said of unwanted names, so that it says it once."""

    log: FilteringBoundLogger
    kind_of: KindOf = lambda _head: ""
    _extensions: set[str] = field(default_factory=set)

    def is_new(self, extension: str) -> bool:
        """Whether nothing was said of files of this extension."""
        return extension not in self._extensions and len(self._extensions) <= _MAX_EXTENSIONS

    def look(self) -> Unwanted:
        """What a walk may count in, so that it looks at files of an extension that is new."""
        return Unwanted(lambda extension: self.kind_of if self.is_new(extension) else None)

    def tell(self, unwanted: Unwanted) -> None:
        """Say what is new after a walk."""
        for extension, passed in unwanted.items():
            if not self.is_new(extension):
                continue
            self._extensions.add(extension)
            say = self.log.warning if passed.kind else self.log.info
            say(
                "file.unwanted",
                path=passed.document or passed.first,
                extension=extension,
                files=passed.files,
                message=_why(extension, passed.kind),
                hint=_what_to_do(extension, passed.kind),
            )


def _why(extension: str, kind: str) -> str:
    what = f"{extension} is not in watch.extensions" if extension else "its name has no extension"
    if names.is_output(extension):
        what = f"{extension} is an ending of our own outputs"
    if extension == _OTHERS:
        what = "its extension is not in watch.extensions"
    return f"not read although it looks like {kind}: {what}" if kind else f"not read: {what}"


def _what_to_do(extension: str, kind: str) -> str:
    if extension in _HEIC:
        return 'Their decoder is an extra: `make heic`, or pip install "ocr-watcher[heic]".'
    nameless = not extension or extension == _OTHERS or names.is_output(extension)
    if kind and nameless:
        return "Give it the extension of its kind; or name it to `ocr-watcher once`, which reads any name."
    if kind:
        return f"Add {extension} to watch.extensions, or give it the extension of its kind."
    if nameless:
        return "Only images and PDFs are read. What is to be left alone without a word is in watch.ignore."
    return f"Only images and PDFs are read. With *{extension} in watch.ignore nothing is said of such files."
