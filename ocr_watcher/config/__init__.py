"""The configuration: the settings, the reader of their file, and its mistakes in plain words."""

from ocr_watcher.config.diagnosis import suggest
from ocr_watcher.config.loading import (
    CONFIG_VARIABLE,
    DEFAULT_FILE,
    Check,
    Key,
    effective,
    file_by_convention,
    load,
    without_secrets,
)
from ocr_watcher.config.settings import (
    DEFAULT_EXTENSIONS,
    DEFAULT_IGNORE,
    DEFAULT_MEMORY_ENV,
    MODEL_STORE_VARIABLE,
    ClusterSettings,
    HttpSettings,
    MemorySettings,
    OcrSettings,
    Settings,
    WatchSettings,
    is_loopback,
)

__all__ = [
    "CONFIG_VARIABLE",
    "DEFAULT_EXTENSIONS",
    "DEFAULT_FILE",
    "DEFAULT_IGNORE",
    "DEFAULT_MEMORY_ENV",
    "MODEL_STORE_VARIABLE",
    "Check",
    "ClusterSettings",
    "HttpSettings",
    "Key",
    "MemorySettings",
    "OcrSettings",
    "Settings",
    "WatchSettings",
    "effective",
    "file_by_convention",
    "is_loopback",
    "load",
    "suggest",
    "without_secrets",
]
