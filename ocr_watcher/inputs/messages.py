"""What a helper process and its parent say to each other: a length in four bytes, then JSON.

Standard library only, because a helper can import nothing else.
"""

from __future__ import annotations

import json
import os
from typing import Any

LENGTH_BYTES = 4


class RefusalError(Exception):
    """A helper cannot do what it was asked; the message is a short code, or a decoder's own sentence."""


def encoded(message: dict[str, Any]) -> bytes:
    """A message as it is sent."""
    content = json.dumps(message).encode()
    return len(content).to_bytes(LENGTH_BYTES, "little") + content


def send(channel: int, message: dict[str, Any]) -> None:
    """Write a message to a descriptor."""
    view = memoryview(encoded(message))
    while view:
        view = view[os.write(channel, view) :]


def receive(channel: int) -> dict[str, Any] | None:
    """Wait for a message on a descriptor; None at the end."""
    length = _read(channel, LENGTH_BYTES)
    content = None if length is None else _read(channel, int.from_bytes(length, "little"))
    if content is None:
        return None
    message: dict[str, Any] = json.loads(content)
    return message


def _read(channel: int, size_bytes: int) -> bytes | None:
    content = b""
    while len(content) < size_bytes:
        part = os.read(channel, size_bytes - len(content))
        if not part:
            return None
        content += part
    return content
