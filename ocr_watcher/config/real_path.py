"""Where a path really leads, asked in a way that always comes back: a folder may be on a mount that hangs."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

# A file system that does not answer for so long (s) is not waited for.
_PATIENCE_S = 2.0
# Paths that got no answer; asking again would only cost the same time again.
_unanswered: set[Path] = set()


def real_path(path: Path) -> Path:
    """Follow symbolic links, so that two names of one folder compare equal. A loop of links is no error.

    Where the file system does not answer, the path is returned as it is.
    """
    answers: list[str] = []

    def ask() -> None:
        # Signals are the main thread's. This one may be there for as long as the process.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        answers.append(os.path.realpath(path))

    if path not in _unanswered:
        asking = threading.Thread(target=ask, name=f"real path of {path}", daemon=True)
        asking.start()
        asking.join(_PATIENCE_S)
    if answers:
        return Path(answers[0])
    _unanswered.add(path)
    return path
