"""Every name that this program gives to a file, in one place: records, temporary files, the state folder's.

Knows names only, touches no file.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


def printable(name: str) -> str:
    r"""A file name as valid Unicode: bytes that are no UTF-8 appear as `\\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


# -- beside the document -----------------------------------------------------------------------

SIDECAR_SUFFIX: Final = ".json"
ERROR_SUFFIX: Final = ".error.json"

MAX_NAME_BYTES: Final = 255
"""NAME_MAX of every file system in use. A document whose own name leaves no room for the suffix of a record
gets a shortened one."""
MAX_PATH_BYTES: Final = 4095 - len(ERROR_SUFFIX)
"""The longest path of a document. Those of its records then have PATH_MAX bytes, with their final zero."""
OUT_OF_REACH: Final = f"its path is longer than {MAX_PATH_BYTES} bytes"
# Hexadecimal digits of SHA-256 in a shortened name. With 8, a pair of names that share a record was found
# in 52,251 tries; with 16 that takes 2^32, and the record says which name it is about.
_DIGEST_DIGITS: Final = 16
_SHORTENED = re.compile(rf"~[0-9a-f]{{{_DIGEST_DIGITS}}}\Z")


class RecordNames(NamedTuple):
    """The names of a document's two records, in its folder."""

    sidecar: str
    error: str


def is_in_reach(path: str) -> bool:
    """Whether the path of a document is short enough."""
    # A character takes four bytes at most.
    return len(path) <= MAX_PATH_BYTES // 4 or len(os.fsencode(path)) <= MAX_PATH_BYTES


def records_of(document: str) -> RecordNames:
    """The names of the two records of `document` (a file name, no path)."""
    stem = _shortened(document, MAX_NAME_BYTES - len(ERROR_SUFFIX))
    return RecordNames(stem + SIDECAR_SUFFIX, stem + ERROR_SUFFIX)


def _shortened(name: str, longest: int) -> str:
    """A name of at most `longest` bytes; a longer one ends in a digest of the whole."""
    # A character takes four bytes at most: nearly every name is told by its length.
    if len(name) > longest // 4 and len(raw := os.fsencode(name)) > longest:
        digest = hashlib.sha256(raw).hexdigest()[:_DIGEST_DIGITS]
        # "ignore": the cut may fall into a multi-byte character
        return raw[: longest - 1 - _DIGEST_DIGITS].decode("utf-8", "ignore") + "~" + digest
    return name


OUTPUT_SUFFIXES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "txt": ".txt",
        "hocr": ".hocr",
        "alto": ".alto.xml",
        "tsv": ".tsv",
        "pdf": ".ocr.pdf",
        "overlay": ".overlay.jpg",
    }
)
"""What is added to a document's name for each further output, by format."""
_ANY_OUTPUT: Final = tuple(OUTPUT_SUFFIXES.values())
_LONGEST_SUFFIX: Final = max(map(len, _ANY_OUTPUT))


def output_of(document: str, kind: str) -> str:
    """The name of an output of `document` (a file name, no path); `kind` is a key of `OUTPUT_SUFFIXES`."""
    return _shortened(document, MAX_NAME_BYTES - _LONGEST_SUFFIX) + OUTPUT_SUFFIXES[kind]


def in_the_way(document: str) -> tuple[str, ...]:
    """Names of its sidecar and outputs: a file of somebody else that has one of them blocks the document."""
    return records_of(document).sidecar, *(output_of(document, kind) for kind in OUTPUT_SUFFIXES)


def is_output(name: str) -> bool:
    """Whether a file of this name may be a further output, which is never read as a document."""
    return name.lower().endswith(_ANY_OUTPUT)


def is_record(name: str) -> bool:
    """Whether a file of this name may be a record."""
    return name.endswith(SIDECAR_SUFFIX)


def document_of(record: str) -> str | None:
    """The document a record's name belongs to, None where it is no record's. Not for shortened names."""
    for suffix in (ERROR_SUFFIX, SIDECAR_SUFFIX):
        if record.endswith(suffix) and record != suffix:
            return record[: -len(suffix)]
    return None


def is_shortened(document: str) -> bool:
    """Whether `document_of` gave what may be a shortened name, from which the document's cannot be told."""
    return _SHORTENED.search(document) is not None


# -- files in the making -----------------------------------------------------------------------

# Temporary names carry a token of this process, so that the next process can tell leftovers of a
# killed one from files in the making. (A process id would not do: in a container it is always 1.)
_TOKEN = secrets.token_hex(4)
_TEMPORARY_PREFIX: Final = ".ocr-watcher-"
_CLAIM_SUFFIX: Final = ".claim"
_TEMPORARY = re.compile(r"\.ocr-watcher-([0-9a-f]{8})-[0-9a-f]{8}\.tmp")


def temporary() -> str:
    """A new name for a file in the making, in the folder where it is to be."""
    return f"{_TEMPORARY_PREFIX}{_TOKEN}-{secrets.token_hex(4)}.tmp"


def is_leftover(name: str) -> bool:
    """Whether `name` is a temporary file of another process, which may have been killed, or any claim."""
    if not name.startswith(_TEMPORARY_PREFIX):  # quick, and asked of every name
        return False
    match = _TEMPORARY.fullmatch(name)
    return match[1] != _TOKEN if match is not None else is_claim(name)


def claim_of(document: str) -> str:
    """The file that says, while outputs of `document` are put in place, that they are ours."""
    digest = hashlib.sha256(os.fsencode(document)).hexdigest()[:_DIGEST_DIGITS]
    return f"{_TEMPORARY_PREFIX}{digest}{_CLAIM_SUFFIX}"


def is_claim(name: str) -> bool:
    """Whether `name` is that of a claim."""
    return name.startswith(_TEMPORARY_PREFIX) and name.endswith(_CLAIM_SUFFIX)


# -- on a share and in the spool of a bridge ---------------------------------------------------

SHARE_MARK: Final = ".ocr-watcher-share"
"""Says which share a folder is; see `cluster.roots`."""
SHARE_PROBE: Final = ".ocr-watcher-probe"
"""What `doctor` puts into a root, to see whether the other hosts see it."""
ERRAND: Final = ".errand"
"""In a folder of a bridge's spool: whose document is in it."""

# -- in the spool of the HTTP server -----------------------------------------------------------

_STEM = re.compile(r"[0-9a-f]{32}")
_LONGEST_ID: Final = 100


def new_id() -> str:
    """A job's id, which nobody can guess: 128 random bits in hexadecimal."""
    return secrets.token_hex(16)


def stem_of(job: str) -> str:
    """The name of a job's files. An id cannot be told from it: names get into logs, and ids open results."""
    return hashlib.sha256(job[:_LONGEST_ID].encode("utf-8", "surrogatepass")).hexdigest()[:32]


def ticket_of(document: str) -> str:
    """The file beside a document in the spool that says what was asked for."""
    return f".{document.partition('.')[0]}.job"


SPOOL_EXTENSIONS: Final = (
    *(".png", ".jpg", ".gif", ".bmp", ".webp", ".tif"),
    *(".jp2", ".avif", ".heic", ".pdf"),
)
"""Of documents in the spool, by their content."""
_UPLOAD_SUFFIX: Final = ".upload"
SERVER_LOCK: Final = ".server"


def upload_of(stem: str) -> str:
    """A document while it comes in."""
    return f".{stem}{_UPLOAD_SUFFIX}"


def is_upload(name: str) -> bool:
    """Whether a file in the spool is a document that comes in."""
    return name.endswith(_UPLOAD_SUFFIX) and stem_in(name) is not None


def stem_in(name: str) -> str | None:
    """What names the job that a file in the spool belongs to; None where it is none of ours."""
    match = _STEM.match(name.removeprefix("."))
    return match[0] if match is not None and match.string[match.end() :].startswith(".") else None


SHOWN_BY_BROWSERS: Final = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".avif")
"""Extensions of documents that browsers show as they are, where they have one page."""
PREVIEWS: Final = ".previews"
"""The folder in the spool with a folder for each document that has previews."""


RETRIES: Final = ".retries"
"""The folder in the spool with notes of documents that are to be read again."""


def previews_of(document: str, version: tuple[int, int], *, in_spool: bool) -> str:
    """The folder in `PREVIEWS` for a document (a path) of this size and modification time.

    That of a document in the spool is named like its other files.
    """
    if in_spool:
        return os.path.basename(document).partition(".")[0]
    told = f"{document}\0{version[0]}\0{version[1]}".encode("utf-8", "surrogateescape")
    return "f" + hashlib.sha256(told).hexdigest()[:32]


def preview_of(page: int) -> str:
    """The preview of a page, from 0."""
    return f"{page + 1}.jpg"


# -- in the state folder -----------------------------------------------------------------------

JOURNAL: Final = "journal.sqlite3"
STATUS: Final = "status.json"
LOCK: Final = "lock"
DISPATCH_SUFFIX: Final = "-dispatch"
"""Added to the name of the state folder: that of a dispatcher."""
BRIDGE_LOCK: Final = "bridge.lock"
"""In a bridge's spool: held by the one that works on it."""
