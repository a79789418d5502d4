"""Which settings decide what is read, and the wish to have older results read again with those of now.

The wish is a file in the state folder. Whoever looks at records takes what was read with other settings for
work again, one at a time and behind what is new; a result stays where it is until the new one replaces it.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from ocr_watcher import names
from ocr_watcher.errors import UnavailableError
from ocr_watcher.inbox.records import Reread

if TYPE_CHECKING:
    from pathlib import Path

    from ocr_watcher.config import Settings

# These decide where models are and how quickly they compute, not what comes out.
# A profile is a name for other settings, which count themselves.
_INDIFFERENT = {"profile", "model_store", "threads", "job_timeout_s"}


def decisive(settings: Settings) -> dict[str, object]:
    """The settings that decide what is read from a page.

    Those that have their default are left out, but for the few whose default may change: so a new setting in
    a later version, which nobody has set, does not make older results outdated.
    """
    fields = type(settings.ocr).model_fields
    return {
        **{
            name: value
            for name, value in settings.ocr.model_dump(exclude=_INDIFFERENT).items()
            if value != fields[name].get_default(call_default_factory=True)
        },
        "engine": settings.ocr.engine,
        "model": settings.ocr.model,
        "max_side_px": settings.image.max_side_px,
        "pdf.text": settings.pdf.text,
        **({"words": True} if settings.output.words else {}),
    }


def key(settings: Settings) -> str:
    """A short name for them, as records have it: 16 hexadecimal digits."""
    text = json.dumps(decisive(settings), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def request(settings: Settings) -> None:
    """Wish for it. Raises `UnavailableError` where the state folder cannot be written."""
    path = settings.state_dir / names.REREAD
    fresh = path.with_name(path.name + ".tmp")
    wish = {"settings": key(settings), "before_ns": time.time_ns()}
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        fresh.write_text(json.dumps(wish), "ascii")
        os.replace(fresh, path)
    except OSError as error:
        raise UnavailableError(
            f"cannot write the state folder {settings.state_dir}: {error.strerror}",
            hint="Ask as the user of the service, or as root.",
        ) from error


def requested(settings: Settings) -> Reread | None:
    """The wish, where there is one for these settings; one for others waits until they are in force."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        wish = json.loads((settings.state_dir / names.REREAD).read_bytes())
        if wish["settings"] == key(settings):
            return Reread(wish["settings"], int(wish["before_ns"]))
    return None


def version(state_dir: Path) -> tuple[int, int] | None:
    """What changes with the wish; None where there is none. One stat."""
    try:
        status = os.stat(state_dir / names.REREAD)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
