"""What the broker carries: where a document is and which version of it, never its bytes.

The path is a root's name and the steps below it, so that the share may be mounted elsewhere on each host. The
identity follows from the content: the same version of the same document is the same job, however often it is
offered.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ocr_watcher.job import Stamp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ocr_watcher.job import Job

_ID_DIGITS = 32


@dataclass(frozen=True)
class Message:
    """One version of one document.

    `root` is a key of `cluster.roots`, `share` the identity of that folder (see `roots`; "" where it has
    none), `parts` the folders below it, `name` the file.
    """

    root: str
    share: str
    parts: tuple[str, ...]
    name: str
    stamp: Stamp

    @classmethod
    def of(cls, job: Job, root: str, share: str) -> Message:
        """The message for a job of an inbox that is this root."""
        return cls(root, share, job.parts, job.name, job.stamp)

    @property
    def id(self) -> str:
        """The task's identity, 32 hexadecimal digits; it does not depend on `share`."""
        told = json.dumps([self.root, *self.parts, self.name, *self.stamp])
        return hashlib.sha256(told.encode("ascii")).hexdigest()[:_ID_DIGITS]

    @property
    def below(self) -> str:
        """The path below the root, for the log."""
        return os.path.join(self.root, *self.parts, self.name)

    def as_dict(self) -> dict[str, Any]:
        """As it travels, and as it is kept in a spool: names that are no UTF-8 have surrogates."""
        return {
            "root": self.root,
            "share": self.share,
            "parts": list(self.parts),
            "name": self.name,
            "size_bytes": self.stamp.size_bytes,
            "mtime_ns": self.stamp.mtime_ns,
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Message:
        """Raises ValueError, KeyError or TypeError where it is none, or leads out of its root."""
        parts, name = tuple(fields["parts"]), fields["name"]
        for step in (*parts, name):
            if not isinstance(step, str) or step in ("", ".", "..") or "/" in step or "\0" in step:
                raise ValueError(f"{step!r} is no name of a file")
        root, share = fields["root"], fields["share"]
        if not isinstance(root, str) or not isinstance(share, str):
            raise TypeError("root and share are text")
        return cls(root, share, parts, name, Stamp(int(fields["size_bytes"]), int(fields["mtime_ns"])))
