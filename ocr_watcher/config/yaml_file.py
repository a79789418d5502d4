"""The configuration file as plain data that knows its lines.

Reads YAML into dictionaries, lists and scalars, notes on which line each value stands and how the user wrote
it, and collects mistakes, so that all of them are reported at once and in the order of the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from yaml.reader import ReaderError

from ocr_watcher.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

At = tuple[str | int, ...]
"""Where a value stands: section, key, then the keys and positions below it."""

_MAX_DEPTH = 32  # sections, keys and the deepest engine arguments need 6
_MAX_NUMBER = (
    10**18
)  # bounds the engine's arguments, which have no bounds of their own; refuses infinity and NaN

_TAG = "tag:yaml.org,2002:"
_NUMBERS = {_TAG + "int", _TAG + "float"}
_SCALARS = {_TAG + name for name in ("str", "int", "float", "bool", "null")}


class Spot(NamedTuple):
    """The line of a value, counted from 1, and what was found there, in words."""

    line: int
    found: str


class Mistake(NamedTuple):
    """One mistake: its line (None: it is in no line of the file), its key, and the rest of the message."""

    line: int | None
    at: At
    text: str


@dataclass(frozen=True)
class YamlFile:
    """The data of a configuration file, the spot of each value in it, and the mistakes found so far.

    `name` is what the file is called in messages.
    """

    name: str
    data: dict[str, Any] = field(default_factory=dict)
    spots: dict[At, Spot] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def read(self, text: str, allowed: list[str]) -> None:
        """Fill this from YAML. What cannot be used is left out and noted as a mistake.

        Args:
            text: the content of the file.
            allowed: the keys of the top level, for the message about a file that has none.

        Raises:
            ConfigError: the text is not YAML.
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
            problem = (
                f"found {self.spots[()].found}; must be keys and values (allowed here: {', '.join(allowed)})"
            )
            self.mistakes.append(Mistake(line, (), problem))

    def line_of(self, *candidates: At) -> int | None:
        """The line of the first of these values that the file has; None where it has none of them."""
        return next((self.spots[at].line for at in candidates if at in self.spots), None)

    def error(self) -> ConfigError:
        """All mistakes as one error, in the order of the file."""
        lines = []
        for line, at, text in sorted(self.mistakes, key=lambda mistake: mistake.line or 0):
            place = self.name if line is None else f"{self.name}:{line}"
            lines.append(": ".join(part for part in (place, dotted(at), printable(text)) if part))
        return ConfigError("\n".join(lines), hint="`ocr-watcher check-config` checks it again.")


# -- words for what stands in the file ----------------------------------------------------------


def dotted(at: At) -> str:
    """The key as the user knows it. Each folder of a list is `watch.inbox`; the line tells them apart."""
    return ".".join(shown(part) for part in at if isinstance(part, str))


def shown(text: str, limit: int = 60) -> str:
    """Text from the file, cut after `limit` characters and made printable."""
    return printable(text if len(text) <= limit else text[: limit - 1] + "…")


def printable(text: str) -> str:
    """Text that is safe on any terminal, and one line: control characters and lone surrogates are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _found(value: object, node: yaml.Node) -> str:
    """The value as the user wrote it, and the type that YAML gave it where that may be a surprise."""
    match value:
        case None:
            return "nothing (null)"
        case str():
            return f'"{shown(value)}"'
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
    return f"{shown(node.value)} ({kind})"


# -- from YAML nodes to plain data --------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML without the parts that no settings file needs.

    Aliases are refused, and with them merge keys, cycles and files that expand without bounds. Structures
    deeper than `_MAX_DEPTH` are refused too. Dates are text, and so is a lone `=`, which PyYAML recognises
    but cannot construct.
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


class _UnusableError(Exception):
    """A node that gives no value. The text says why."""


class _Missing:
    """Stands for a value that was left out. None would not do: it is a value."""


def _plain(node: yaml.Node, at: At, file: YamlFile, loader: _Loader) -> Any:  # noqa: ANN401 - any YAML value
    """Turn a node into a dictionary, a list or a scalar.

    Notes spots and mistakes on the way, and leaves out what cannot be used.
    """
    if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
        items = _items(node.value, at, file, loader)
        return {key: value for key, value in items if value is not _Missing}
    if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
        values = [
            _noted(item, (*at, position), item.start_mark.line + 1, file, loader)
            for position, item in enumerate(node.value)
        ]
        # A list with one item left out would have wrong positions, and mistakes in it wrong lines.
        return _Missing if _Missing in values else values
    if not isinstance(node, yaml.ScalarNode) or node.tag not in _SCALARS:
        tag = shown(node.tag.replace(_TAG, "!!"))
        raise _UnusableError(f"found the YAML tag {tag}, which cannot be used here; text needs quotes")
    return _scalar(node, loader)


def _items(
    pairs: list[tuple[yaml.Node, yaml.Node]], at: At, file: YamlFile, loader: _Loader
) -> Iterator[tuple[str, Any]]:
    """The usable items of a mapping. Notes a mistake for every other one."""
    for key_node, value_node in pairs:
        line = key_node.start_mark.line + 1
        # The text as it is written: `on` and `1` are names here, not true and 1.
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
        if key is None or key_node.tag == _TAG + "merge":
            text = "found a merge key (<<)" if key else "found a list or a mapping as a key"
            file.mistakes.append(Mistake(line, at, f"{text}, which cannot be used here"))
        elif (first := file.spots.get((*at, key))) is not None:
            file.mistakes.append(Mistake(line, (*at, key), f"given twice, first on line {first.line}"))
        elif bad := _unusable_character(key):
            file.mistakes.append(Mistake(line, (*at, key), bad))
        else:
            yield key, _noted(value_node, (*at, key), line, file, loader)


def _noted(node: yaml.Node, at: At, line: int, file: YamlFile, loader: _Loader) -> Any:  # noqa: ANN401 - any YAML value
    """The value of a node, its spot noted; `_Missing`, with a mistake noted, where it has none."""
    file.spots[at] = Spot(line, "a value that cannot be used")
    try:
        value = _plain(node, at, file, loader)
    except _UnusableError as reason:
        file.mistakes.append(Mistake(line, at, str(reason)))
        return _Missing
    if value is not _Missing:
        file.spots[at] = Spot(line, _found(value, node))
    return value


def _scalar(node: yaml.ScalarNode, loader: _Loader) -> str | float | bool | None:
    text: str = node.value
    if bad := _unusable_character(text):
        raise _UnusableError(bad)
    if node.tag in _NUMBERS and ":" in text:
        return text  # YAML 1.1 would read 1:30 as 90
    try:
        value: str | float | bool | None = loader.construct_object(node)
    except (ValueError, LookupError):  # for example `0x_`, `!!int ""`, `!!bool x`, thousands of digits
        raise _UnusableError(f'found "{shown(text)}", which cannot be read; text needs quotes') from None
    if isinstance(value, int | float) and not -_MAX_NUMBER < value < _MAX_NUMBER:
        raise _UnusableError(f"found {shown(text)}; must be a finite number of at most 18 digits")
    return value


def _unusable_character(text: str) -> str:
    """Name the first NUL or lone surrogate: files, variables and terminals cannot take them. Empty: none."""
    bad = re.search("[\0\ud800-\udfff]", text)
    return f"contains the character U+{ord(bad[0]):04X}, which cannot be used here" if bad else ""


# -- what is not YAML ---------------------------------------------------------------------------

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
"""A part of PyYAML's description, and what to do about it. The first that fits is taken."""


def _yaml_problem(error: yaml.YAMLError, text: str) -> str:
    """`line: not valid YAML …`, in PyYAML's words and with what to do about it."""
    if isinstance(error, ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return f"{line}: not valid YAML: contains the character U+{error.character:04X}"
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return f"1: not valid YAML: {shown(str(error), 200)}"
    mark = error.problem_mark
    said = shown(", ".join(part for part in (error.context, error.problem) if part), 200)
    hint = next((f"; {hint}" for part, hint in _YAML_HINTS.items() if part in said), "")
    return f"{mark.line + 1}: not valid YAML at column {mark.column + 1}: {said}{hint}"
