"""From the configuration file to settings, and back to YAML.

This is the only reader of the configuration file, and it opens no other file. It guesses nothing, and
reports all mistakes at once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import yaml
from pydantic import ValidationError

from ocr_watcher.config import diagnosis, profiles
from ocr_watcher.config.settings import (
    DEFAULT_MEMORY_ENV,
    ONLY_WHERE_GIVEN,
    SECTIONS,
    TOP_LEVEL,
    Settings,
)
from ocr_watcher.config.yaml_file import Mistake, YamlFile, shown
from ocr_watcher.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pydantic_core import ErrorDetails

DEFAULT_FILE = "config.yaml"
"""Read from the current folder when no file is named."""

CONFIG_VARIABLE = "OCR_WATCHER_CONFIG"
"""Environment variable that names the file when the command line does not."""

_MAX_FILE_BYTES = 64 * 1024  # a configuration is a page or two; a larger file is probably something else


Key: TypeAlias = tuple[str, ...]
"""A setting, such as `("ocr", "model")`, or a key below it, such as `("ocr", "params", "det")`."""


@dataclass(frozen=True)
class Check:
    """A rule that belongs to a module above this one, such as which models there are.

    `reads` names the settings that the rule looks at. It is not asked while one of them has a mistake,
    because it would then judge a default. `find` yields the mistakes: the key, and the rest of the message.
    A mistake in a setting that the file does not have is reported on the line of another one that it reads.
    """

    reads: tuple[Key, ...]
    find: Callable[[Settings], Iterable[tuple[Key, str]]]


def load(path: Path | None, checks: Iterable[Check] = ()) -> Settings:
    """Read the configuration file. Whatever it leaves out has its default.

    Args:
        path: the file. None: the one `OCR_WATCHER_CONFIG` names, else `config.yaml` in the current
            folder if there is one, else no file: the defaults, relative to the current folder.
        checks: further rules. Their mistakes are reported together with all others.

    Raises:
        ConfigError: the file cannot be read or is wrong. The message has a line for each mistake,
            `file:line: section.key: found …; must be …`.
    """
    try:
        here = Path.cwd()
    except OSError:
        raise ConfigError("the current folder does not exist any more") from None
    if path is None:
        path = file_by_convention()
    if path is None:
        return _settings(YamlFile("default settings"), here, checks)
    file = YamlFile(shown(str(path), 4096))
    file.read(_text_of(path, file.name), TOP_LEVEL)
    source = Path(os.path.abspath(path))
    return _settings(file, source.parent, checks).model_copy(update={"source": source})


def file_by_convention() -> Path | None:
    """The configuration file where none is named on the command line; None where there is none."""
    if named := os.environ.get(CONFIG_VARIABLE):
        return Path(named)
    # lexists also finds a dangling link: that is a mistake to report, not a missing file.
    return Path(DEFAULT_FILE) if os.path.lexists(DEFAULT_FILE) else None


def _text_of(path: Path, name: str) -> str:
    """The file's text; `name` is what the file is called in messages."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: the name contains NUL
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


def _settings(file: YamlFile, base: Path, checks: Iterable[Check]) -> Settings:
    """Validate the whole file, and raise all its mistakes at once. `base`: relative paths start there."""
    diagnosis.set_aside_unknown_keys(file)
    # Sections that the file does not have are validated too: their default paths need `base`.
    data = profiles.laid_under({name: {} for name in SECTIONS if name not in ONLY_WHERE_GIVEN} | file.data)
    settings, details = _validated(data, base)
    file.mistakes.extend(diagnosis.in_words(detail, file) for detail in details)
    checks = tuple(checks)
    # What the checks find is told together with everything else that is wrong.
    usable = settings or _usable(data, base, details, {key[0] for check in checks for key in check.reads})
    if usable is not None:
        file.mistakes.extend(_found_by(checks, usable, file))
    if settings is None or file.mistakes:
        raise file.error()
    return settings


def _validated(data: dict[str, Any], base: Path) -> tuple[Settings | None, list[ErrorDetails]]:
    """The settings, or None and what is wrong with them."""
    try:
        return Settings.model_validate(data, context=base), []
    except ValidationError as error:
        return None, error.errors(include_url=False)


def _usable(
    data: dict[str, Any], base: Path, details: list[ErrorDetails], sections: set[str]
) -> Settings | None:
    """The settings of these sections without those that have mistakes; defaults for all others.

    None where a default is wrong too, which is the case if a variable of the environment is.
    """
    wrong = {diagnosis.key_of(detail)[:2] for detail in details}
    left = {
        name: {
            key: value for key, value in data[name].items() if name in sections and (name, key) not in wrong
        }
        for name in SECTIONS
        if name in data
    }
    return _validated(left, base)[0]


def _found_by(checks: tuple[Check, ...], settings: Settings, file: YamlFile) -> list[Mistake]:
    """What the checks find, each with its line."""
    wrong = {mistake.at for mistake in file.mistakes}
    return [
        Mistake(file.line_of(key, key[:2], *check.reads, key[:1]), key, text)
        for check in checks
        # A mistake in a whole section is a mistake in each of its settings.
        if not wrong.intersection([*check.reads, *(key[:1] for key in check.reads)])
        for key, text in check.find(settings)
    ]


# -- back to YAML -------------------------------------------------------------------------------


class _Dumper(yaml.SafeDumper):
    """Escapes what is not printable. Unescaped, PyYAML writes U+0085 in a way that is read as a space."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if data.isprintable() else '"')


_Dumper.add_representer(str, _Dumper.represent_str)


def without_secrets(settings: Settings) -> tuple[Settings, list[str]]:
    """The same settings without passwords, to be shown, and the keys that have some."""
    hidden = []
    if settings.pdf.passwords:
        hidden.append("pdf.passwords")
        settings = settings.model_copy(update={"pdf": settings.pdf.model_copy(update={"passwords": ()})})
    before, at, host = (settings.cluster.broker or "").rpartition("@")
    scheme, _, user = before.partition("://")
    if at and ":" in user:
        hidden.append("cluster.broker")
        shown_url = f"{scheme}://{user.partition(':')[0]}:***@{host}"
        settings = settings.model_copy(
            update={"cluster": settings.cluster.model_copy(update={"broker": shown_url})}
        )
    return settings, hidden


def effective(settings: Settings) -> str:
    """All settings in force as YAML. Loaded again, from any folder, it gives equal settings."""
    dump = settings.model_dump(mode="json")
    dump = {name: value for name, value in dump.items() if value is not None or name not in ONLY_WHERE_GIVEN}
    removed = {name: None for name in DEFAULT_MEMORY_ENV if name not in dump["memory"]["env"]}
    dump["memory"]["env"] |= removed
    # No line is folded: the width is larger than any file that is read.
    return yaml.dump(dump, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_MAX_FILE_BYTES)
