"""What a client asked for with a document that came by HTTP: a small file beside it in the spool.

The server writes it before the document appears; the daemon looks into it for the outputs that it should
make. What the client calls the file is data in it, and never a path.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass

from ocr_watcher import names

_MAX_BYTES = 1 << 16


@dataclass(frozen=True)
class Ticket:
    """One job.

    Attributes:
        id: By what the client knows the job; whoever knows it may have the result.
        document: Name of the document in the spool.
        name: What the client calls it; "" where it did not say.
        formats: Outputs that were asked for with the upload, keys of `output.formats`.
        received_at: When it came (ISO 8601, UTC).
        batch: The client's name for a group of jobs; "" where there is none.
        min_score: Lines below it are left out, where the client's API has such a wish.
        owner: Who sent it, as a digest of the key; "" where no key was sent.
    """

    id: str
    document: str
    name: str = ""
    formats: tuple[str, ...] = ()
    received_at: str = ""
    batch: str = ""
    min_score: float = 0.0
    owner: str = ""

    def as_bytes(self) -> bytes:
        """The content of the file."""
        return json.dumps(asdict(self), ensure_ascii=False).encode("utf-8", "backslashreplace")


def parse(content: bytes) -> Ticket | None:
    """A ticket from its file; None where that is no ticket."""
    try:
        fields = json.loads(content)
        return Ticket(
            id=str(fields["id"]),
            document=str(fields["document"]),
            name=str(fields["name"]),
            formats=tuple(str(kind) for kind in fields["formats"]),
            received_at=str(fields["received_at"]),
            batch=str(fields["batch"]),
            min_score=float(fields["min_score"]),
            owner=str(fields["owner"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def of_document(document: str, *, folder: int | None = None) -> Ticket | None:
    """The ticket of a document (a path, or a name in an open folder); None where there is none."""
    content = read(document, folder=folder)
    return None if content is None else parse(content)


def read(document: str, *, folder: int | None = None) -> bytes | None:
    """The file of that ticket; None where there is none."""
    head, tail = os.path.split(document)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(os.path.join(head, names.ticket_of(tail)), flags, dir_fd=folder)
        try:
            return os.read(fd, _MAX_BYTES)
        finally:
            os.close(fd)
    except OSError:
        return None
