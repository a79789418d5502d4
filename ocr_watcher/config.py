"""YAML to frozen, strict settings: the only reader of the configuration file and of the environment.

Nothing is guessed: an unknown key, a number in quotes or a value out of range is a mistake, and all
mistakes are reported at once, each with its line and in plain words. Imports `errors`, PyYAML and
pydantic only. It must never create or open anything but the configuration file itself: whether folders
exist and models are there is for the modules that use them to find out.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError
from yaml.reader import ReaderError

from ocr_watcher.errors import ConfigError
from ocr_watcher.privacy import cache_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydantic_core import ErrorDetails

DEFAULT_FILE = "config.yaml"
"""Read from the current folder when no file is named."""

CONFIG_VARIABLE = "OCR_WATCHER_CONFIG"
"""Environment variable that names the file when the command line does not."""

MODEL_STORE_VARIABLE = "OCR_WATCHER_MODEL_STORE"
"""Environment variable behind `ocr.model_store`; relative paths in it are relative to the current folder."""

DEFAULT_EXTENSIONS = (".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".tif", ".tiff", ".webp", ".gif")

DEFAULT_IGNORE = (
    # Hidden files; then names that programs give to what is not finished yet.
    *(".*", "*~", "~$*", "*.tmp", "*.part", "*.partial", "*.filepart", "*.crdownload", "*.!qB", "*.swp"),
    # Covered by `.*`, and named so that they stay ignored when somebody takes that one out.
    *("._*", ".~lock.*", ".syncthing.*", ".stfolder", ".stversions", ".DS_Store"),
    # What file managers, NAS systems and file systems leave in shared folders.
    *("@eaDir", "#recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information", "lost+found"),
    *("Thumbs.db", "desktop.ini", "__MACOSX"),
)
"""Globs on the names of files and folders: other programs' temporary files, thumbnails and bins."""

DEFAULT_MEMORY_ENV = {
    "FLAGS_use_mkldnn": "1",
    "FLAGS_allocator_strategy": "auto_growth",
    "FLAGS_eager_delete_tensor_gb": "0.0",
    "FLAGS_fast_eager_deletion_mode": "1",
    "FLAGS_fraction_of_gpu_memory_to_use": "0.0",
    "CUDA_VISIBLE_DEVICES": "",
}
"""Set before Paddle is imported unless `memory.env` says otherwise; docs/memory.md has the measurements."""

_MAX_FILE_BYTES = 64 * 1024  # a configuration is a page or two; anything larger is some other file
_MAX_INBOXES = 100  # each is compared with each
_MAX_DEPTH = 32  # sections, keys and the deepest engine arguments need 6
_MAX_NUMBER = 10**18  # for engine arguments, which have no bounds of their own; excludes infinity and NaN
_DAY_S = 86_400.0
_MAX_MEMORY_MB = 16 * 1024 * 1024  # 16 TiB: whoever writes more has written bytes


# -- the settings ------------------------------------------------------------------------------


def _refused(text: str, *, at: tuple[str, ...] = ()) -> PydanticCustomError:
    """A mistake in this module's own words ("must …"); `at` names the key if it is not the one refused."""
    return PydanticCustomError("refused", "{text}", {"text": text, "at": at})


def _absolute(value: object, info: ValidationInfo) -> Path:
    """Expand `~`; make absolute from the configuration file's folder, or the current one without a file."""
    if not isinstance(value, str | Path):
        raise _refused("must be a path")
    if not str(value).strip():
        raise _refused("must not be empty")
    expanded = os.path.expanduser(value)
    if expanded.startswith("~"):
        raise _refused(f"must begin with a known user's home folder; a folder of that name is ./{value}")
    base = info.context if isinstance(info.context, Path) else Path.cwd()
    # Not resolve(): the paths in logs and sidecars are to be those the user wrote.
    return Path(os.path.abspath(base / expanded))


def _real(path: Path) -> Path:
    """Follow symbolic links, so that two names of one folder compare equal; never raises for a loop."""
    return Path(os.path.realpath(path))


def _is_inside(inner: Path, outer: Path) -> bool:
    return _real(inner).is_relative_to(_real(outer))


def _one_or_many(value: object) -> object:
    """One folder or a list of them → tuple; the items are checked later, each on its own line."""
    if isinstance(value, str | Path):
        return (value,)
    if not isinstance(value, list | tuple):
        raise _refused("must be a folder or a list of folders")
    if not 1 <= len(value) <= _MAX_INBOXES:
        raise _refused(f"must name at least one folder, and at most {_MAX_INBOXES}")
    return tuple(value)


def _no_duplicates(inboxes: tuple[Path, ...]) -> tuple[Path, ...]:
    seen: set[Path] = set()
    for inbox in inboxes:
        if _real(inbox) in seen:
            raise _refused(f"must not name a folder twice: {inbox}")
        seen.add(_real(inbox))
    return inboxes


def _words_or_list(value: object) -> object:
    """`.png .jpg` or a list → tuple."""
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
    """A model's name stays as it is; what looks like a path becomes an absolute one."""
    if value.startswith((".", "~")) or "/" in value or os.sep in value:
        return str(_absolute(value, info))
    return value


def _model_store(value: object) -> object:
    """Unset: the environment's choice, else the user's cache folder."""
    if value is not None:
        return value
    if store := os.environ.get(MODEL_STORE_VARIABLE):
        return store if store.startswith("~") else Path.cwd() / store
    return Path(cache_folder(), "models")


def _mapping(value: object) -> object:
    """A key with only comments under it is an empty mapping."""
    return {} if value is None else value


def _over_defaults(value: object) -> object:
    """The user's variables over the default ones; null takes a default out."""
    if value is None:
        value = {}
    if not isinstance(value, dict):
        return value  # refused by the field's own type, in its words
    merged = {**DEFAULT_MEMORY_ENV, **value}
    return {name: text for name, text in merged.items() if text is not None}


def _variable_name(value: str) -> str:
    if not value or "=" in value:
        raise _refused("must be the name of an environment variable")
    return value


def _variable_value(value: object) -> str:
    """Numbers as they are written, true and false as 1 and 0: what Paddle's FLAGS_* variables understand."""
    if isinstance(value, bool):
        return str(int(value))
    if not isinstance(value, str | int | float):
        raise _refused("must be text, a number, or true or false")
    return str(value)


_Folder = Annotated[Path, BeforeValidator(_absolute)]
_Text = Annotated[str, Field(min_length=1)]
_Positive = Annotated[float, Field(gt=0)]


class _Section(BaseModel):
    """Frozen; unknown keys, other types and infinite numbers refused; defaults checked like given values."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False
    )


class WatchSettings(_Section):
    """Which files are looked at, and when they count as finished. `inbox` is absolute, never empty."""

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
        """A file below two inboxes would be found twice."""
        inboxes: tuple[Path, ...] = info.data.get("inbox", ())
        for inner in inboxes:
            for outer in inboxes:
                if recursive and inner is not outer and _is_inside(inner, outer):
                    text = f"must not have {inner} inside {outer} while watch.recursive is true"
                    raise _refused(text, at=("watch", "inbox"))
        return recursive


class QueueSettings(_Section):
    """The bounded window onto the inbox."""

    max_size: int = Field(default=256, ge=1, le=1_000_000)


class ImageSettings(_Section):
    """Limits on one image. `max_file_mb` is in MiB, `max_megapixels` in millions of pixels."""

    max_file_mb: _Positive = Field(default=10.0, le=100_000)
    max_megapixels: _Positive = Field(default=100.0, le=100_000)
    max_side_px: int = Field(default=1024, gt=0, le=65_535)


class OcrSettings(_Section):
    """The engine. `model` is a name, or an absolute folder; `model_store` is absolute, set or not."""

    engine: Literal["onnxruntime", "paddle"] = "onnxruntime"
    provider: Literal["auto", "onnxruntime", "openvino"] = "auto"
    precision: Literal["auto", "fp32"] = "auto"
    model: Annotated[_Text, AfterValidator(_model)] = "PP-OCRv6_small"
    model_store: Annotated[_Folder, BeforeValidator(_model_store)] = Field(
        default=None, validate_default=True
    )
    lang: _Text | None = None
    threads: int = Field(default=0, ge=0, le=1024)
    min_score: float = Field(default=0.0, ge=0, le=1)
    params: Annotated[dict[str, Any], BeforeValidator(_mapping)] = Field(default_factory=dict)
    job_timeout_s: _Positive = Field(default=120.0, le=_DAY_S)


class MemorySettings(_Section):
    """Limits in MiB. `env` is the complete set of variables: the defaults with the user's over them."""

    soft_limit_mb: int = Field(default=1024, gt=0, le=_MAX_MEMORY_MB)
    rss_limit_mb: int = Field(default=1536, gt=0, le=_MAX_MEMORY_MB)
    # RLIMIT_DATA counts reserved memory, not resident memory: it cannot be compared with the two above.
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
    def _warn_before_the_end(cls, rss_limit_mb: int, info: ValidationInfo) -> int:
        soft_limit_mb = info.data.get("soft_limit_mb", 0)
        if rss_limit_mb < soft_limit_mb:
            raise _refused(f"must be at least memory.soft_limit_mb, which is {soft_limit_mb}")
        return rss_limit_mb


class RetrySettings(_Section):
    """How often a file is tried."""

    max_attempts: int = Field(default=3, ge=1, le=1000)


class LoggingSettings(_Section):
    """The rotating file of JSON lines. `file` is absolute; `max_mb` is in MiB."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    file: _Folder = Field(default="logs/ocr_watcher.log", validate_default=True)
    max_mb: _Positive = Field(default=20.0, le=100_000)
    backups: int = Field(default=5, ge=0, le=1000)


class Settings(_Section):
    """Everything a user can set, checked and complete. Every path is absolute.

    `source` is the file it was read from, or None. It cannot be set in the file, is left out of dumps
    and does not count when settings are compared.
    """

    watch: WatchSettings = Field(default_factory=WatchSettings)
    queue: QueueSettings = Field(default_factory=QueueSettings)
    image: ImageSettings = Field(default_factory=ImageSettings)
    ocr: OcrSettings = Field(default_factory=OcrSettings)
    memory: MemorySettings = Field(default_factory=MemorySettings)
    retry: RetrySettings = Field(default_factory=RetrySettings)
    logging: LoggingSettings = Field(default_factory=LoggingSettings)
    state_dir: _Folder = Field(default=".ocr-watcher", validate_default=True)
    source: Path | None = Field(default=None, exclude=True)

    @field_validator("logging")
    @classmethod
    def _log_outside(cls, logging: LoggingSettings, info: ValidationInfo) -> LoggingSettings:
        """A log file that grows inside an inbox would wake the watcher with every line."""
        if (inbox := _inbox_around(logging.file.parent, info)) is not None:
            raise _refused(f"must be outside the inbox {inbox}", at=("logging", "file"))
        return logging

    @field_validator("state_dir")
    @classmethod
    def _state_outside(cls, state_dir: Path, info: ValidationInfo) -> Path:
        if (inbox := _inbox_around(state_dir, info)) is not None:
            raise _refused(f"must be outside the inbox {inbox}")
        return state_dir

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Settings) and self.model_dump() == other.model_dump()

    __hash__ = None  # type: ignore[assignment] # `ocr.params` is a mapping


def _inbox_around(folder: Path, info: ValidationInfo) -> Path | None:
    watch: WatchSettings | None = info.data.get("watch")  # None: has mistakes of its own
    inboxes = watch.inbox if watch is not None else ()
    return next((inbox for inbox in inboxes if _is_inside(folder, inbox)), None)


_SECTIONS: dict[str, type[_Section]] = {
    name: info.annotation
    for name, info in Settings.model_fields.items()
    if isinstance(info.annotation, type) and issubclass(info.annotation, _Section)
}
_TOP_LEVEL = [name for name in Settings.model_fields if name != "source"]


# -- public functions --------------------------------------------------------------------------


def load(path: Path | None) -> Settings:
    """Read the configuration file; whatever it leaves out has its default.

    Args:
        path: the file. None: the one `OCR_WATCHER_CONFIG` names, else `config.yaml` in the current
            folder if there is one, else no file: the defaults, relative to the current folder.

    Raises:
        ConfigError: the file cannot be read or is wrong. The message has a line for each mistake,
            `file:line: section.key: found …; must be …`.
    """
    try:
        here = Path.cwd()
    except OSError:
        raise ConfigError("the current folder does not exist any more") from None
    if path is None:
        path = _file_by_convention()
    if path is None:
        return _settings(_Document("default settings"), here)
    document = _Document(_shown(str(path), 4096))
    document.read(_text_of(path, document.name))
    source = Path(os.path.abspath(path))
    return _settings(document, source.parent).model_copy(update={"source": source})


def effective(settings: Settings) -> str:
    """All settings in force as YAML. Loaded again, from any folder, it gives equal settings."""
    dump = settings.model_dump(mode="json")
    removed = {name: None for name in DEFAULT_MEMORY_ENV if name not in dump["memory"]["env"]}
    dump["memory"]["env"] |= removed
    return yaml.dump(dump, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_MAX_FILE_BYTES)


def suggest(word: str, allowed: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The one of `allowed` that `word` was probably meant to be, case aside; None when none is near.

    `cutoff` is difflib's similarity, 0 to 1; 0.6 is its own default.
    """
    by_lower = {name.lower(): name for name in allowed}
    near = difflib.get_close_matches(word[:100].lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[near[0]] if near else None


# -- the file: text → plain data that knows its lines ---------------------------------------------

_At = tuple[str | int, ...]
"""Where a value is: section, key, then keys and positions further down."""


class _Spot(NamedTuple):
    line: int
    found: str


class _Mistake(NamedTuple):
    line: int | None
    key: str
    text: str


@dataclass(frozen=True)
class _Document:
    """A configuration file as plain data, where each value stands in it, and what is wrong so far."""

    name: str
    data: dict[str, Any] = field(default_factory=dict)
    spots: dict[_At, _Spot] = field(default_factory=dict)
    mistakes: list[_Mistake] = field(default_factory=list)

    def read(self, text: str) -> None:
        """Fill from YAML. What cannot be used is left out and noted as a mistake.

        Raises:
            ConfigError: it is not YAML at all.
        """
        try:
            loader = _Loader(text)
            root = loader.get_single_node()
        except yaml.YAMLError as error:
            raise ConfigError(f"{self.name}:{_yaml_problem(error, text)}") from None
        if root is None:
            return
        line = root.start_mark.line + 1
        content = _noted(root, (), line, self, loader)
        if isinstance(content, dict):
            self.data.update(content)
        elif content is not _Missing and content is not None:
            allowed = ", ".join(_TOP_LEVEL)
            text = f"found {self.spots[()].found}; must be keys and values (allowed here: {allowed})"
            self.mistakes.append(_Mistake(line, "", text))

    def error(self) -> ConfigError:
        """Every mistake, in the order of the file."""
        lines = [
            f"{self.name}{'' if line is None else f':{line}'}: {f'{key}: ' if key else ''}{_printable(text)}"
            for line, key, text in sorted(self.mistakes, key=lambda mistake: mistake.line or 0)
        ]
        return ConfigError("\n".join(lines), hint="`ocr-watcher check-config` checks it again.")


_TAG = "tag:yaml.org,2002:"
_NUMBERS = {_TAG + "int", _TAG + "float"}
_SCALARS = {_TAG + name for name in ("str", "int", "float", "bool", "null")}


class _Loader(yaml.SafeLoader):
    """YAML without what no settings file needs.

    Aliases are refused, and with them merge keys, cycles and documents that expand without bounds; so
    are structures deeper than `_MAX_DEPTH`. A date is text, and so is a lone `=`, which PyYAML
    recognises but cannot construct.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own class attribute
        first: [(tag, regexp) for tag, regexp in resolvers if tag in _SCALARS or tag == _TAG + "merge"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call] # PyYAML's stubs
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="found an alias, which cannot be used here", problem_mark=mark)
        if self.depth > _MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


class _Dumper(yaml.SafeDumper):
    """Escapes what is not printable: in other styles PyYAML writes U+0085 so that it is read as a space."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar(_TAG + "str", data, style=None if data.isprintable() else '"')


_Dumper.add_representer(str, _Dumper.represent_str)


class _UnusableError(Exception):
    """A node that gives no value; the text says why."""


def _plain(node: yaml.Node, at: _At, document: _Document, loader: _Loader) -> Any:  # noqa: ANN401
    """Node → dict, list or scalar. Notes spots and mistakes on the way; leaves out what it cannot use."""
    if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
        items = _items(node.value, at, document, loader)
        return {key: value for key, value in items if value is not _Missing}
    if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
        values = [
            _noted(item, (*at, position), item.start_mark.line + 1, document, loader)
            for position, item in enumerate(node.value)
        ]
        # Without one item the others would have other positions, and mistakes in them other lines.
        return _Missing if _Missing in values else values
    if not isinstance(node, yaml.ScalarNode) or node.tag not in _SCALARS:
        tag = _shown(node.tag.replace(_TAG, "!!"))
        raise _UnusableError(f"found the YAML tag {tag}, which cannot be used here; text needs quotes")
    return _scalar(node, loader)


class _Missing:
    """Stands for a value that was left out; None is a value."""


def _items(
    pairs: list[tuple[yaml.Node, yaml.Node]], at: _At, document: _Document, loader: _Loader
) -> Iterator[tuple[str, Any]]:
    for key_node, value_node in pairs:
        line = key_node.start_mark.line + 1
        # The text as it is written: `on` and `1` are names here, not true and 1.
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
        if key is None or key_node.tag == _TAG + "merge":
            text = "found a merge key (<<)" if key else "found a list or a mapping as a key"
            document.mistakes.append(_Mistake(line, _dotted(at), f"{text}, which cannot be used here"))
        elif (first := document.spots.get((*at, key))) is not None:
            text = f"given twice, first on line {first.line}"
            document.mistakes.append(_Mistake(line, _dotted((*at, key)), text))
        elif bad := _unusable_character(key):
            document.mistakes.append(_Mistake(line, _dotted((*at, key)), bad))
        else:
            yield key, _noted(value_node, (*at, key), line, document, loader)


def _noted(node: yaml.Node, at: _At, line: int, document: _Document, loader: _Loader) -> Any:  # noqa: ANN401
    document.spots[at] = _Spot(line, "a value that cannot be used")
    try:
        value = _plain(node, at, document, loader)
    except _UnusableError as reason:
        document.mistakes.append(_Mistake(line, _dotted(at), str(reason)))
        return _Missing
    if value is not _Missing:
        document.spots[at] = _Spot(line, _found(value, node))
    return value


def _scalar(node: yaml.ScalarNode, loader: _Loader) -> str | float | bool | None:
    text: str = node.value
    if bad := _unusable_character(text):
        raise _UnusableError(bad)
    if node.tag in _NUMBERS and ":" in text:
        return text  # YAML 1.1 would read 1:30 as 90
    try:
        value: str | float | bool | None = loader.construct_object(node)
    except (ValueError, LookupError):  # `0x_`, `!!int ""`, `!!bool x`, thousands of digits
        raise _UnusableError(f'found "{_shown(text)}", which cannot be read; text needs quotes') from None
    if isinstance(value, int | float) and not -_MAX_NUMBER < value < _MAX_NUMBER:
        raise _UnusableError(f"found {_shown(text)}; must be a finite number of at most 18 digits")
    return value


def _unusable_character(text: str) -> str:
    """Neither files, nor variables, nor a terminal can take NUL and halves of surrogate pairs."""
    bad = re.search("[\0\ud800-\udfff]", text)
    return f"contains the character U+{ord(bad[0]):04X}, which cannot be used here" if bad else ""


def _file_by_convention() -> Path | None:
    if named := os.environ.get(CONFIG_VARIABLE):
        return Path(named)
    # lexists: a dangling link is a mistake to report, not a missing file.
    return Path(DEFAULT_FILE) if os.path.lexists(DEFAULT_FILE) else None


def _text_of(path: Path, name: str) -> str:
    """The file's text; `name` is how it is called in messages."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else None
        raise ConfigError(
            f"{name}: cannot be read: {reason or error}",
            hint=f"Name the file with -c, or in the environment variable {CONFIG_VARIABLE}.",
        ) from None
    if len(content) > _MAX_FILE_BYTES:
        raise ConfigError(f"{name}: larger than {_MAX_FILE_BYTES // 1024} KiB; is it a configuration file?")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name}:{line}: not UTF-8 text; save the file as UTF-8") from None


# -- mistakes in plain words -------------------------------------------------------------------

_YAML_HINTS = {
    "alias": "text that begins with * needs quotes",
    "character '\\t'": "indent with spaces, not tabs",
    "that cannot start any token": "text that begins with this character needs quotes",
    "anchor": "text that begins with & needs quotes",
    "tag": "text that begins with ! needs quotes",
    "mapping values": "text with a colon and a space in it needs quotes; or the indentation is wrong",
    "could not find expected ':'": "a key has a colon and a space after it",
    "expected <block end>": "the indentation differs from the lines above",
}
"""Part of PyYAML's description → what to do about it; the first that fits is taken."""

_WORDS = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "dict_type": "must be keys and values",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "refused": "{text}",
}
"""pydantic's error type → our words, with its context filled in."""

_UNITS = {"_s": "seconds", "_mb": "MiB", "_px": "pixels"}
_VALUE_CUTOFF = 0.45  # among three words the nearest is worth naming: `inotify` finds `native` at 0.46


def _settings(document: _Document, base: Path) -> Settings:
    """Check the document as a whole; raise all its mistakes at once."""
    _set_aside_unknown_keys(document)
    # A section that is missing is validated too: its default paths need `base`.
    data = {name: {} for name in _SECTIONS} | document.data
    try:
        settings = Settings.model_validate(data, context=base)
    except ValidationError as error:
        details = error.errors(include_url=False)
        document.mistakes.extend(_translated(detail, document) for detail in details)
        raise document.error() from None
    if document.mistakes:
        raise document.error()
    return settings


def _set_aside_unknown_keys(document: _Document) -> None:
    """Take what has no place out of the document's data, and empty sections with it."""
    for key, value in list(document.data.items()):
        if key not in _TOP_LEVEL:
            document.mistakes.append(_unknown((key,), document))
            del document.data[key]
        elif key in _SECTIONS and not isinstance(value, dict):
            del document.data[key]
            if value is not None:  # null: only comments under it
                line, found = document.spots[(key,)]
                allowed = ", ".join(_SECTIONS[key].model_fields)
                text = f"found {found}; must be a section (allowed here: {allowed})"
                document.mistakes.append(_Mistake(line, key, text))
        elif key in _SECTIONS:
            for name in [name for name in value if name not in _SECTIONS[key].model_fields]:
                document.mistakes.append(_unknown((key, name), document))
                del value[name]


def _unknown(at: tuple[str, ...], document: _Document) -> _Mistake:
    *sections, key = at
    allowed = list(_SECTIONS[sections[0]].model_fields) if sections else _TOP_LEVEL
    name = key.rpartition(".")[2]  # `watch.inbox:` in one word
    home = next((section for section, model in _SECTIONS.items() if name in model.model_fields), None)
    if home is not None:
        advice = f"; {name} belongs under {home}"
    elif sections and key in _TOP_LEVEL:
        advice = f"; {key} belongs at the top level, without indentation"
    elif near := suggest(key, allowed):
        advice = f"; did you mean {near}?"
    else:
        advice = ""
    text = f"unknown key{advice} (allowed here: {', '.join(allowed)})"
    return _Mistake(document.spots[at].line, _dotted(at), text)


def _translated(detail: ErrorDetails, document: _Document) -> _Mistake:
    """One of pydantic's errors as a mistake: line, key, what was found, what is allowed."""
    context: dict[str, Any] = {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in detail.get("ctx", {}).items()
    }
    at: _At = context.get("at") or tuple(part for part in detail["loc"] if part != "[key]")
    # One folder given as text is item 0 of a list that the file does not have.
    spot = document.spots.get(at) or document.spots.get(at[:-1] if isinstance(at[-1], int) else at)
    found = f"found {spot.found}" if spot else _not_set(detail["input"])
    if detail["type"] == "literal_error":
        allowed = re.findall("'(.*?)'", context["expected"])
        wanted = f"must be one of {', '.join(allowed)}"
        if near := suggest(str(detail["input"]), allowed, cutoff=_VALUE_CUTOFF):
            wanted += f"; did you mean {near}?"
    else:
        wanted = _WORDS.get(detail["type"], "cannot be used here").format(**context)
    if detail["type"] == "string_type" and detail["input"] is None:
        wanted += "; text that begins with # needs quotes"
    elif detail["type"] == "string_type" and isinstance(detail["input"], int | float):
        wanted += "; write it in quotes"
    unit = next((unit for suffix, unit in _UNITS.items() if _dotted(at).endswith(suffix)), None)
    if unit and "le" in context:
        wanted += f" {unit}"
    line = next((document.spots[a].line for a in (at, at[:2], at[:1]) if a in document.spots), None)
    return _Mistake(line, _dotted(at), f"{found}; {wanted}")


def _not_set(default: object) -> str:
    return f"not set (default {default})" if isinstance(default, str | int | float) else "not set"


def _dotted(at: _At) -> str:
    """`watch.inbox` for the list and for each folder in it: the line tells them apart."""
    return ".".join(_shown(part) for part in at if isinstance(part, str))


def _found(value: object, node: yaml.Node) -> str:
    """The value as the user wrote it, and what YAML made of it where that may be a surprise."""
    match value:
        case None:
            return "nothing (null)"
        case str():
            return f'"{_shown(value)}"'
        case dict():
            return "keys and values"
        case list():
            return "a list"
        case bool():
            kind = "boolean"
        case int():
            kind = "integer"
        case _:
            kind = "number"
    return f"{_shown(node.value)} ({kind})"


def _shown(text: str, limit: int = 60) -> str:
    """Short enough for a line with other things on it, and printable."""
    return _printable(text if len(text) <= limit else text[: limit - 1] + "…")


def _printable(text: str) -> str:
    """Safe on any terminal and in one line: control characters and halves of surrogates are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _yaml_problem(error: yaml.YAMLError, text: str) -> str:
    """`line: not valid YAML …`, in PyYAML's words and with what to do about it."""
    if isinstance(error, ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return f"{line}: not valid YAML: contains the character U+{error.character:04X}"
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return f"1: not valid YAML: {_shown(str(error), 200)}"
    mark = error.problem_mark
    said = _shown(", ".join(part for part in (error.context, error.problem) if part), 200)
    hint = next((f"; {hint}" for part, hint in _YAML_HINTS.items() if part in said), "")
    return f"{mark.line + 1}: not valid YAML at column {mark.column + 1}: {said}{hint}"
