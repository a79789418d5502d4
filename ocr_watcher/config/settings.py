"""Every setting: its type, its default, and what it may be. Frozen, strict, complete.

A number in quotes is not a number here, an unknown key is a mistake, and every path is absolute once it is
validated. This module never looks whether a folder or a model exists: the modules that use them find out.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from ocr_watcher.config.profiles import BOXES
from ocr_watcher.config.real_path import real_path
from ocr_watcher.privacy import cache_folder

MODEL_STORE_VARIABLE = "OCR_WATCHER_MODEL_STORE"
"""Environment variable that is used where `ocr.model_store` is not set. A relative path in it is relative to
the current folder."""

DEFAULT_EXTENSIONS = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".gif"),
    *(".pdf", ".avif", ".jp2", ".j2k", ".jpf"),
    # Its decoder is an extra; without it these names are as good as any other.
    *((".heic", ".heif") if importlib.util.find_spec("pillow_heif") else ()),
)

DEFAULT_IGNORE = (
    # Hidden files, then the names that programs give to unfinished files.
    *(".*", "*~", "~$*", "*.tmp", "*.part", "*.partial", "*.filepart", "*.crdownload", "*.!qB", "*.swp"),
    # `.*` covers these too. They are named so that they stay ignored when somebody removes `.*`.
    *("._*", ".~lock.*", ".syncthing.*", ".stfolder", ".stversions", ".DS_Store"),
    # What file managers, NAS systems and file systems leave in shared folders.
    *("@eaDir", "#recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information", "lost+found"),
    *("Thumbs.db", "desktop.ini", "__MACOSX"),
)
"""Globs on the names of files and folders: temporary files, thumbnails and bins of other programs."""

DEFAULT_MEMORY_ENV = {
    "FLAGS_use_mkldnn": "1",
    "FLAGS_allocator_strategy": "auto_growth",
    "FLAGS_eager_delete_tensor_gb": "0.0",
    "FLAGS_fast_eager_deletion_mode": "1",
    "FLAGS_fraction_of_gpu_memory_to_use": "0.0",
    "CUDA_VISIBLE_DEVICES": "",
}
"""Set before Paddle is imported unless `memory.env` says otherwise; docs/memory.md has the measurements."""

_MAX_INBOXES = 100  # every two of them are compared
_DAY_S = 86_400.0
_MAX_MEMORY_MB = 16 * 1024 * 1024  # 16 TiB: a larger number was probably meant as bytes


def _refused(text: str, *, at: tuple[str, ...] = ()) -> PydanticCustomError:
    """A mistake in our own words ("must …"). `at` is the key to blame, where it is not the one validated."""
    return PydanticCustomError("refused", "{text}", {"text": text, "at": at})


def _absolute(value: object, info: ValidationInfo) -> Path:
    """Expand `~` and make the path absolute.

    A relative path starts at the folder of the configuration file, which is the validation context; without
    a file it starts at the current folder.
    """
    if not isinstance(value, str | Path):
        raise _refused("must be a path")
    if not str(value).strip():
        raise _refused("must not be empty")
    expanded = os.path.expanduser(value)
    if expanded.startswith("~"):
        raise _refused(f"must begin with a known user's home folder; a folder of that name is ./{value}")
    base = info.context if isinstance(info.context, Path) else Path.cwd()
    # resolve() would follow links; the paths in logs and sidecars shall be those that the user wrote.
    return Path(os.path.abspath(base / expanded))


def _is_inside(inner: Path, outer: Path) -> bool:
    return real_path(inner).is_relative_to(real_path(outer))


def _one_or_many(value: object) -> object:
    """Turn one folder, or a list of them, into a tuple. Its items are validated later, one by one."""
    if isinstance(value, str | Path):
        return (value,)
    if not isinstance(value, list | tuple):
        raise _refused("must be a folder or a list of folders")
    if len(value) > _MAX_INBOXES:
        raise _refused(f"must name at most {_MAX_INBOXES} folders")
    return tuple(value)


def _no_duplicates(inboxes: tuple[Path, ...]) -> tuple[Path, ...]:
    seen: set[Path] = set()
    for inbox in inboxes:
        if real_path(inbox) in seen:
            raise _refused(f"must not name a folder twice: {inbox}")
        seen.add(real_path(inbox))
    return inboxes


def _words_or_list(value: object) -> object:
    """Turn words with spaces between them (`.png .jpg`), or a list, into a tuple."""
    if isinstance(value, str):
        value = value.split()
    if not isinstance(value, list | tuple):
        raise _refused("must be a list of file extensions, or several in one text with spaces between")
    if not value:
        raise _refused("must name at least one file extension")
    return tuple(value)


def _extension(value: str) -> str:
    if not re.fullmatch(r"\.[^\s/\\]+", value):
        raise _refused(f"must be a file extension such as .png, not {value!r}")
    if value.lower() == ".json":
        raise _refused("must not have .json in it, the extension of the results")
    return value.lower()


def _formats(value: object) -> object:
    """Turn words with spaces between them (`txt pdf`), or a list, into a tuple that has json in it.

    The JSON is the record of the document, so it is always written.
    """
    if isinstance(value, str):
        value = value.split()
    if not isinstance(value, list | tuple):
        raise _refused("must be a list of formats, or several in one text with spaces between")
    if any(value.count(item) > 1 for item in value):
        raise _refused("must not name a format twice")
    return tuple(value) if "json" in value else (*value, "json")


def _list(value: object) -> object:
    if not isinstance(value, list | tuple):
        raise _refused("must be a list; [] is an empty one")
    return tuple(value)


def _pattern(value: str) -> str:
    if not value:
        raise _refused("must not be empty")
    if "/" in value:
        raise _refused("must be a pattern for one name, without a /")
    return value


def _model(value: str, info: ValidationInfo) -> str:
    """Make a path absolute. A text without a separator is the name of a model and stays as it is."""
    if value.startswith((".", "~")) or "/" in value or os.sep in value:
        return str(_absolute(value, info))
    return value


def _model_store(value: object) -> object:
    """Where the setting is missing, take the folder that the environment names, else the user's cache."""
    if value is not None:
        return value
    if store := os.environ.get(MODEL_STORE_VARIABLE):
        return store if store.startswith("~") else Path.cwd() / store
    return Path(cache_folder(), "models")


def _off(value: object) -> object:
    """In YAML, `off` without quotes is false."""
    return "off" if value is False else value


def _mapping(value: object) -> object:
    """A key with only comments under it is null in YAML; here it means an empty mapping."""
    return {} if value is None else value


def _over_defaults(value: object) -> object:
    """Lay the user's variables over the default ones. A variable that is null is removed."""
    if value is None:
        value = {}
    if not isinstance(value, dict):
        return value  # pydantic refuses it: the field is a dictionary
    merged = {**DEFAULT_MEMORY_ENV, **value}
    return {name: text for name, text in merged.items() if text is not None}


def _variable_name(value: str) -> str:
    if not value or "=" in value:
        raise _refused("must be the name of an environment variable")
    return value


def _variable_value(value: object) -> str:
    """Turn the value into text. Paddle's FLAGS_* variables want 1 and 0 for true and false."""
    if isinstance(value, bool):
        return str(int(value))
    if not isinstance(value, str | int | float):
        raise _refused("must be text, a number, or true or false")
    return str(value)


_Folder = Annotated[Path, BeforeValidator(_absolute)]
_Text = Annotated[str, Field(min_length=1)]
_Positive = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """What all sections have in common.

    They are frozen and strict, refuse unknown keys and infinite numbers, and validate their defaults like
    values that are given: that is how a default path becomes absolute.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False
    )


class WatchSettings(Section):
    """Which files are read, and when they count as complete. `inbox` has absolute paths."""

    inbox: Annotated[tuple[_Folder, ...], BeforeValidator(_one_or_many), AfterValidator(_no_duplicates)] = (
        Field(default="inbox", validate_default=True)
    )
    recursive: bool = True
    mode: Literal["auto", "native", "polling"] = "auto"
    poll_interval_s: float = Field(default=5.0, ge=0.1, le=_DAY_S)
    rescan_interval_s: float = Field(default=60.0, ge=1, le=_DAY_S)
    settle_s: float = Field(default=1.0, ge=0, le=3600)
    extensions: Annotated[
        tuple[Annotated[str, AfterValidator(_extension)], ...], BeforeValidator(_words_or_list)
    ] = DEFAULT_EXTENSIONS
    ignore: Annotated[tuple[Annotated[str, AfterValidator(_pattern)], ...], BeforeValidator(_list)] = (
        DEFAULT_IGNORE
    )

    @field_validator("recursive")
    @classmethod
    def _nothing_twice(cls, recursive: bool, info: ValidationInfo) -> bool:  # noqa: FBT001 - pydantic's call
        """Refuse an inbox inside another one: a file in it would be found twice."""
        inboxes: tuple[Path, ...] = info.data.get("inbox", ())
        for inner in inboxes:
            for outer in inboxes:
                if recursive and inner is not outer and _is_inside(inner, outer):
                    text = f"must not have {inner} inside {outer} while watch.recursive is true"
                    raise _refused(text, at=("watch", "inbox"))
        return recursive


class QueueSettings(Section):
    """How many files wait in memory. All others wait on the disk."""

    max_size: int = Field(default=256, ge=1, le=1_000_000)


class ImageSettings(Section):
    """Limits on one image. `max_file_mb` is in MiB, `max_megapixels` in millions of pixels."""

    max_file_mb: _Positive = Field(default=10.0, le=100_000)
    max_megapixels: _Positive = Field(default=100.0, le=100_000)
    max_side_px: int = Field(default=1024, gt=0, le=65_535)


class PdfSettings(Section):
    """Limits on one PDF, and how it is read. `max_file_mb` is in MiB."""

    max_file_mb: _Positive = Field(default=100.0, le=100_000)
    max_pages: int = Field(default=2000, gt=0, le=1_000_000)
    page_timeout_s: _Positive = Field(default=30.0, le=_DAY_S)
    text: Literal["auto", "layer", "ocr"] = "auto"
    passwords: Annotated[tuple[_Text, ...], BeforeValidator(_list)] = Field(default=(), repr=False)


class OcrSettings(Section):
    """The engine. `model` is a name or the absolute path of a folder; `model_store` always has a value.

    What `profile` says is already in all other settings, see `profiles.laid_under`.
    """

    profile: Literal["balanced", "fast", "small-memory", "accurate"] = "balanced"
    engine: Literal["onnxruntime", "paddle"] = "onnxruntime"
    provider: Literal["auto", "onnxruntime", "openvino"] = "auto"
    precision: Literal["auto", "fp32"] = "auto"
    model: Annotated[_Text, AfterValidator(_model)] = "PP-OCRv6_small"
    model_store: Annotated[_Folder, BeforeValidator(_model_store)] = Field(
        default=None, validate_default=True
    )
    lang: _Text | None = None
    orientation: Annotated[Literal["auto", "off"], BeforeValidator(_off)] = "auto"
    upside_down_lines: bool = False
    threads: int = Field(default=0, ge=0, le=1024)
    min_score: float = Field(default=0.0, ge=0, le=1)
    params: Annotated[dict[str, Any], BeforeValidator(_mapping)] = Field(default_factory=lambda: dict(BOXES))
    job_timeout_s: _Positive = Field(default=120.0, le=_DAY_S)


class OutputSettings(Section):
    """What is written, and where. `formats` has json in it; `folder` and `archive` are absolute."""

    formats: Annotated[
        tuple[Literal["json", "txt", "hocr", "alto", "tsv", "pdf", "overlay"], ...], BeforeValidator(_formats)
    ] = ("json",)
    words: bool = False
    folder: _Folder | None = None
    archive: _Folder | None = None
    # After `archive`, which it needs: a validator sees only the fields before its own.
    on_success: Literal["keep", "archive"] = "keep"

    @field_validator("on_success")
    @classmethod
    def _archive_is_named(cls, on_success: str, info: ValidationInfo) -> str:
        """Refuse to archive into nowhere."""
        if on_success == "archive" and "archive" in info.data and info.data["archive"] is None:
            raise _refused("needs output.archive, the folder that documents are moved to")
        return on_success


class MemorySettings(Section):
    """Limits in MiB. `env` holds all variables: the defaults, and the user's laid over them."""

    soft_limit_mb: int = Field(default=1024, gt=0, le=_MAX_MEMORY_MB)
    rss_limit_mb: int = Field(default=1536, gt=0, le=_MAX_MEMORY_MB)
    # This one limits reserved memory (RLIMIT_DATA), the two above resident memory: they cannot be compared.
    hard_limit_mb: Annotated[int, Field(gt=0, le=_MAX_MEMORY_MB)] | None = None
    max_jobs: int = Field(default=0, ge=0)
    stats_interval_s: float = Field(default=30.0, ge=1, le=_DAY_S)
    env: Annotated[
        dict[
            Annotated[str, AfterValidator(_variable_name)],
            Annotated[str, BeforeValidator(_variable_value)],
        ],
        BeforeValidator(_over_defaults),
    ] = Field(default_factory=dict)

    @field_validator("rss_limit_mb")
    @classmethod
    def _at_least_soft_limit(cls, rss_limit_mb: int, info: ValidationInfo) -> int:
        """Refuse a limit that ends the process before the soft limit could warn of it."""
        soft_limit_mb = info.data.get("soft_limit_mb", 0)
        if rss_limit_mb < soft_limit_mb:
            raise _refused(f"must be at least memory.soft_limit_mb, which is {soft_limit_mb}")
        return rss_limit_mb


class RetrySettings(Section):
    """How often a file is tried."""

    max_attempts: int = Field(default=3, ge=1, le=1000)


class LoggingSettings(Section):
    """The rotating file of JSON lines. `file` is absolute; `max_mb` is in MiB."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    file: _Folder = Field(default="logs/ocr_watcher.log", validate_default=True)
    max_mb: _Positive = Field(default=20.0, le=100_000)
    backups: int = Field(default=5, ge=0, le=1000)


_BROKERS = ("redis://", "rediss://", "sentinel://", "amqp://", "amqps://")
# The dispatcher tells lost jobs by heartbeats within seconds. What the broker does by itself comes later, and
# must not come while a document is still read: see `cluster.bridge`.
_MIN_VISIBILITY_S = 4.0


def _broker(value: str) -> str:
    if not value.startswith(_BROKERS):
        raise _refused(f"must be a URL that begins with {', '.join(_BROKERS[:-1])} or {_BROKERS[-1]}")
    return value


def _root_name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", value):
        raise _refused("must be a name of small letters, digits, - and _")
    return value


class ClusterSettings(Section):
    """Work on several machines. `roots` are the shared folders: a name all hosts know, and where it is here.

    `spool` is where a bridge puts what the daemon of its host is to read.
    """

    broker: Annotated[_Text, AfterValidator(_broker)] | None = Field(default=None, repr=False)
    roots: Annotated[dict[Annotated[str, AfterValidator(_root_name)], _Folder], BeforeValidator(_mapping)] = (
        Field(default_factory=dict)
    )
    spool: _Folder = Field(default=".ocr-watcher-cluster", validate_default=True)
    visibility_timeout_s: float = Field(default=1800.0, ge=_MIN_VISIBILITY_S, le=_DAY_S)

    @property
    def is_on(self) -> bool:
        """Whether this host takes part."""
        return self.broker is not None


_LOOPBACK_NAMES = ("localhost",)


def is_loopback(host: str) -> bool:
    """Whether an address, or the name of one, is reached from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() in _LOOPBACK_NAMES


def _keys_file(value: object, info: ValidationInfo) -> Path | None:
    return None if value is None else _absolute(value, info)


class HttpSettings(Section):
    """The HTTP server. `via` says who reads: the daemon of this host, or the hosts of a cluster.

    `spool` and `api_keys_file` are absolute; `show_folders` is None for: on loopback.
    """

    via: Literal["daemon", "cluster"] = "daemon"
    host: _Text = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65_535)
    api_keys_file: Annotated[Path | None, BeforeValidator(_keys_file)] = None
    spool: _Folder = Field(default=".ocr-watcher-http", validate_default=True)
    show_folders: bool | None = None
    max_body_mb: _Positive = Field(default=20.0, le=100_000)
    max_waiting: int = Field(default=64, ge=1, le=100_000)
    wait_s: float = Field(default=50.0, ge=0, le=3600)
    keep_s: float = Field(default=3600.0, ge=1, le=365 * _DAY_S)

    @property
    def shows_folders(self) -> bool:
        """Whether documents that came by folder are shown."""
        return is_loopback(self.host) if self.show_folders is None else self.show_folders

    @field_validator("api_keys_file")
    @classmethod
    def _keys_beyond_loopback(cls, api_keys_file: Path | None, info: ValidationInfo) -> Path | None:
        """Refuse to serve whoever can reach the machine."""
        host = info.data.get("host", "127.0.0.1")
        if api_keys_file is None and not is_loopback(host):
            raise _refused(f"must be set where http.host ({host}) can be reached from other machines")
        return api_keys_file


class Settings(Section):
    """Everything that a user can set, validated and complete. Every path is absolute.

    `source` is the file that the settings were read from, or None. It cannot be set in the file, is left out
    of dumps and does not count when settings are compared.
    """

    watch: WatchSettings = Field(default_factory=WatchSettings)
    queue: QueueSettings = Field(default_factory=QueueSettings)
    image: ImageSettings = Field(default_factory=ImageSettings)
    pdf: PdfSettings = Field(default_factory=PdfSettings)
    ocr: OcrSettings = Field(default_factory=OcrSettings)
    output: OutputSettings = Field(default_factory=OutputSettings)
    memory: MemorySettings = Field(default_factory=MemorySettings)
    retry: RetrySettings = Field(default_factory=RetrySettings)
    logging: LoggingSettings = Field(default_factory=LoggingSettings)
    state_dir: _Folder = Field(default=".ocr-watcher", validate_default=True)
    http: HttpSettings | None = None
    cluster: ClusterSettings = Field(default_factory=ClusterSettings)
    source: Path | None = Field(default=None, exclude=True)

    def served(self, host: str | None = None, port: int | None = None) -> HttpSettings:
        """What the HTTP server goes by: the section, or its defaults; `host` and `port` go before."""
        http = self.http or HttpSettings.model_validate({"spool": f"{self.state_dir}-http"})
        given = {"host": host, "port": port}
        return http.model_copy(update={key: value for key, value in given.items() if value is not None})

    @field_validator("output")
    @classmethod
    def _outputs_outside(cls, output: OutputSettings, info: ValidationInfo) -> OutputSettings:
        """Refuse trees that get in the way of an inbox, and inboxes whose mirror images would be one."""
        for key in ("folder", "archive"):
            tree: Path | None = getattr(output, key)
            if tree is None:
                continue
            if (inbox := _inbox_around(tree, info)) is not None:
                raise _refused(f"must be outside the inbox {inbox}", at=("output", key))
            watch: WatchSettings | None = info.data.get("watch")
            named = [inbox.name for inbox in watch.inbox] if watch is not None else []
            if len(set(named)) < len(named):
                text = "needs inboxes of different names, since each has a folder of its name in this one"
                raise _refused(text, at=("output", key))
        if output.folder is not None and output.folder == output.archive:
            raise _refused("must not be output.folder", at=("output", "archive"))
        return output

    @field_validator("logging")
    @classmethod
    def _log_outside(cls, logging: LoggingSettings, info: ValidationInfo) -> LoggingSettings:
        """Refuse a log file inside an inbox: every line written to it would wake the watcher."""
        if (inbox := _inbox_around(logging.file.parent, info)) is not None:
            raise _refused(f"must be outside the inbox {inbox}", at=("logging", "file"))
        return logging

    @field_validator("state_dir")
    @classmethod
    def _state_outside(cls, state_dir: Path, info: ValidationInfo) -> Path:
        """Refuse a state folder inside an inbox, for the same reason."""
        if (inbox := _inbox_around(state_dir, info)) is not None:
            raise _refused(f"must be outside the inbox {inbox}")
        return state_dir

    @field_validator("http", mode="before")
    @classmethod
    def _spool_beside_state(cls, http: object, info: ValidationInfo) -> object:
        """Put the spool beside the state folder where it is not set."""
        if not isinstance(http, dict) or "spool" in http or "state_dir" not in info.data:
            return http
        return {**http, "spool": f"{info.data['state_dir']}-http"}

    @field_validator("http")
    @classmethod
    def _spool_apart(cls, http: HttpSettings | None, info: ValidationInfo) -> HttpSettings | None:
        """Refuse a spool that is, holds or lies in another folder of the service."""
        if http is None:
            return None
        watch: WatchSettings | None = info.data.get("watch")
        others = [*(watch.inbox if watch is not None else ()), info.data.get("state_dir")]
        for other in others:
            if other is not None and _are_near(http.spool, other):
                raise _refused(f"must be a folder apart from {other}", at=("http", "spool"))
        return http

    @field_validator("cluster", mode="before")
    @classmethod
    def _cluster_spool_beside_state(cls, cluster: object, info: ValidationInfo) -> object:
        """Put the spool beside the state folder where it is not set."""
        if not isinstance(cluster, dict) or "spool" in cluster or "state_dir" not in info.data:
            return cluster
        return {**cluster, "spool": f"{info.data['state_dir']}-cluster"}

    @field_validator("cluster")
    @classmethod
    def _cluster_apart(cls, cluster: ClusterSettings, info: ValidationInfo) -> ClusterSettings:
        """Refuse folders in which a document would be found twice, or by the wrong process."""
        http: HttpSettings | None = info.data.get("http")
        watch: WatchSettings | None = info.data.get("watch")
        if watch is not None and not watch.inbox and http is None and cluster.broker is None:
            raise _refused("must name at least one folder", at=("watch", "inbox"))
        if cluster.broker is None:
            if http is not None and http.via == "cluster":
                raise _refused("needs cluster.broker and cluster.roots", at=("http", "via"))
            return cluster
        if not cluster.roots:
            raise _refused("must name at least one shared folder, name: folder", at=("cluster", "roots"))
        local: list[Path | None] = [*(watch.inbox if watch is not None else ()), info.data.get("state_dir")]
        if http is not None and http.via == "daemon":
            local.append(http.spool)
        _check_roots(cluster, [folder for folder in local if folder is not None])
        _check_results(cluster, info.data.get("output"), http)
        return cluster

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Settings) and self.model_dump() == other.model_dump()

    __hash__ = None  # type: ignore[assignment] # `ocr.params` is a dictionary, which has no hash


def _check_roots(cluster: ClusterSettings, local: list[Path]) -> None:
    """Refuse roots and a spool that are, hold or lie in another folder of documents."""
    for name, root in cluster.roots.items():
        others = [other for key, other in cluster.roots.items() if key != name]
        for other in (*local, *others):
            if _are_near(root, other):
                text = f"must be apart from {other}: a document in both would be read twice"
                raise _refused(text, at=("cluster", "roots", name))
    for other in (*local, *cluster.roots.values()):
        if _are_near(cluster.spool, other):
            raise _refused(f"must be a folder apart from {other}", at=("cluster", "spool"))


def _check_results(
    cluster: ClusterSettings, output: OutputSettings | None, http: HttpSettings | None
) -> None:
    """Refuse results within a root, and a server that would look for its results in the wrong place."""
    shared = http is not None and http.via == "cluster"
    for key in ("folder", "archive"):
        tree: Path | None = getattr(output, key, None)
        if tree is not None and shared:
            raise _refused("cannot be used with http.via: cluster", at=("output", key))
        if tree is not None and any(_is_inside(tree, root) for root in cluster.roots.values()):
            raise _refused("must be outside the roots of the cluster", at=("output", key))
    if (
        shared
        and http is not None
        and not any(_is_inside(http.spool, root) for root in cluster.roots.values())
    ):
        raise _refused("must be one of cluster.roots, or in one", at=("http", "spool"))


def _are_near(one: Path, other: Path) -> bool:
    """Whether two folders are the same, or one is in the other."""
    return _is_inside(one, other) or _is_inside(other, one)


def _inbox_around(folder: Path, info: ValidationInfo) -> Path | None:
    """The inbox that `folder` is in, or None. Also None where the watch section itself has mistakes."""
    watch: WatchSettings | None = info.data.get("watch")
    inboxes = watch.inbox if watch is not None else ()
    return next((inbox for inbox in inboxes if _is_inside(folder, inbox)), None)


SECTIONS: dict[str, type[Section]] = {
    name: info.annotation
    for name, info in Settings.model_fields.items()
    if isinstance(info.annotation, type) and issubclass(info.annotation, Section)
} | {"http": HttpSettings}
"""The sections of the file, by name."""

ONLY_WHERE_GIVEN = ("http",)
"""Sections that switch something on by being in the file, also empty: without them it is off."""

TOP_LEVEL = [name for name in Settings.model_fields if name != "source"]
"""The keys that may stand at the top level of the file: the sections, and the settings outside of them."""
