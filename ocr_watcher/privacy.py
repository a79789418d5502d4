"""Keeps the libraries from calling out, and their caches below ours. docs/privacy.md says what was looked at.

Everything here is an environment variable, because the libraries read theirs when they are imported,
and child processes (pip, helpers) inherit it.
"""

from __future__ import annotations

import os

# Set whatever the environment says: "sends nothing anywhere" is a promise, not a default.
_SWITCHED_OFF = {
    # ONNX Runtime 1.32 looks up a host of its maker twelve seconds after the start, and keeps a device
    # id and a database of events in ~/.cache/Microsoft.
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    # pip asks its index for a newer pip when it fetches a model.
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    # PaddleX asks four model hubs whether they are there before it downloads a model that is named in the
    # configuration and not in the store.
    "PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK": "True",
}


def cache_folder() -> str:
    """The folder for everything that can be made again: $XDG_CACHE_HOME, else ~/.cache, and our name.

    The XDG Base Directory Specification wants a relative path to be ignored.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "ocr-watcher")


def apply() -> None:
    """Set the variables for this process and its children. Runs when the package is imported."""
    os.environ.update(_SWITCHED_OFF)
    cache = cache_folder()
    os.environ.setdefault("MPLCONFIGDIR", os.path.join(cache, "matplotlib"))
    # Models that PaddleOCR downloaded itself, before this was set, stay where they are found.
    if not os.path.isdir(os.path.expanduser("~/.paddlex/official_models")):
        os.environ.setdefault("PADDLE_PDX_CACHE_HOME", os.path.join(cache, "paddlex"))
