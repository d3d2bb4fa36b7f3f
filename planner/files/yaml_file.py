"""A YAML file read with the line of every value, so that all of its errors are reported together."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from planner.errors import UsageError, perhaps
from planner.files import escape
from planner.files.reading import FileKind, read_text
from planner.units import counted

_MAX_DEPTH: Final = 16
"""Recipes reach 2 levels and fleets 3. The scanner takes minutes for thousands, and whoever walks nodes recurses."""
_MAX_VALUE_CHARACTERS: Final = 2**16
_MAX_NAME_CHARACTERS: Final = 4096
"""The longest path of Linux."""
_OPENING: Final = (
    yaml.BlockMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.FlowSequenceStartToken,
)
_CLOSING: Final = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)

NodePath = tuple[str | int, ...]
"""Keys and indices that lead to a value."""


def compose(path: Path, kind: FileKind) -> yaml.Node | None:
    """The nodes of a file; None for an empty one.

    Args:
        path: the file.
        kind: what it is for, and its bounds.

    Raises:
        UsageError: unreadable, too large, nested too deeply, or not YAML; with the line where there is one.
    """
    text, where = read_text(path, kind), escape.shown(path)
    with _explained(where, kind.what):
        _check_tokens(where, text, kind.what)
        return yaml.compose(text, Loader=yaml.SafeLoader)


def parse_value(text: str, where: str) -> Any:
    """A value that was typed as YAML, held to the same rules as in a file.

    Raises:
        UsageError: not a YAML value, too long, or with aliases or tags; begins with `where`.
    """
    if len(text) > _MAX_VALUE_CHARACTERS:
        raise UsageError(f"{where}: a value of more than {_MAX_VALUE_CHARACTERS} characters")
    try:
        _check_tokens(where, text, "a value")
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UsageError(f"{where}: '{escape.shown(text[:60])}' is not a YAML value") from None


@contextlib.contextmanager
def _explained(where: str, what: str) -> Iterator[None]:
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        problem = one_line(error.problem or error.context)
        raise UsageError(f"{where}{line}: not valid YAML: {problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{where}: not valid YAML: {one_line(str(error))}") from None
    except RecursionError:
        raise UsageError(f"{where}: nested too deeply for {what}") from None


def _check_tokens(where: str, text: str, what: str) -> None:
    """Refuse before it costs anything what such a text does not need. Aliases multiply, and tags make odd
    values of any text."""
    depth = 0
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        line = token.start_mark.line + 1
        if isinstance(token, yaml.AliasToken):
            raise UsageError(f"{where}:{line}: aliases (*{escape.shown(token.value)}) have no place in {what}")
        if isinstance(token, yaml.TagToken):
            raise UsageError(f"{where}:{line}: tags (!...) have no place in {what}")
        depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
        if depth > _MAX_DEPTH:
            raise UsageError(f"{where}:{line}: nested too deeply for {what}")


def tree(node: yaml.Node, path: Path, kind: FileKind) -> tuple[Any, dict[NodePath, str]]:
    """A node of a file as dicts, lists and scalars, and where each of its values was given: ``recipe.yaml:7``.

    Raises:
        UsageError: a key that is no word or is given twice, or a scalar that YAML cannot make.
    """
    places: dict[NodePath, str] = {}
    name = escape.shown(path)

    def walk(node: yaml.Node, at: NodePath) -> Any:
        places.setdefault(at, f"{name}:{line_of(node)}")
        if isinstance(node, yaml.SequenceNode):
            return [walk(child, (*at, index)) for index, child in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            return _scalar(node)
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            here = f"{name}:{line_of(key_node)}"
            if not isinstance(key_node, yaml.ScalarNode):
                raise UsageError(f"{here}: expected a key that is a word")
            key = str(key_node.value)
            if key in values:
                raise UsageError(f"{here}: {escape.shown(key)} is given twice")
            inner = (*at, key)
            places[inner] = here
            values[key] = walk(value_node, inner)
        return values

    with _explained(name, kind.what):
        return walk(node, ()), places


@dataclass(slots=True)
class Entry:
    """A mapping of the file: values by key, each node with its line."""

    line: int
    values: dict[str, yaml.Node]


@dataclass(slots=True)
class YamlReader:
    """Reads values and collects problems instead of stopping at the first."""

    problems: list[tuple[int, str]] = field(default_factory=list)

    def raise_problems(self, path: Path) -> None:
        """All problems as one error, in the order of the lines.

        Raises:
            UsageError: there are any.
        """
        name = escape.shown(path.name)
        lines = [f"{name}:{line}: {problem}" for line, problem in sorted(set(self.problems))]
        if lines:
            raise UsageError("\n".join([f"{escape.shown(path)} has {counted(len(lines), 'error')}", *lines]))

    def entries(self, top: Entry, key: str, needed: bool) -> Iterator[yaml.Node]:
        """The nodes of a list."""
        node = top.values.get(key)
        if node is None:
            if needed:
                self.say(top.line, f"{key} is missing")
            return
        if not isinstance(node, yaml.SequenceNode):
            self.say(line_of(node), f"{key} is {kind(node)}; expected a list")
            return
        if needed and not node.value:
            self.say(line_of(node), f"{key} is empty")
        yield from node.value

    def mapping(self, node: yaml.Node, what: str, keys: tuple[str, ...]) -> Entry | None:
        """A mapping with none but these keys; None where it is something else."""
        if not isinstance(node, yaml.MappingNode):
            self.say(line_of(node), f"{what} is {kind(node)}; expected keys and values")
            return None
        values: dict[str, yaml.Node] = {}
        for key_node, value in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else ""
            if key not in keys:
                self.say(line_of(key_node), f"unknown key {str(key)[:60]!r}. {known(str(key), keys)}")
            elif key in values:
                self.say(line_of(key_node), f"{key} is given twice")
            else:
                values[key] = value
        return Entry(line_of(node), values)

    def value(self, entry: Entry, key: str, kind: type, default: Any) -> Any:
        """A text or a truth value."""
        node = entry.values.get(key)
        if node is None:
            return default
        value = plain(node)
        if kind is str and isinstance(node, yaml.ScalarNode) and not isinstance(value, (bool, type(None))):
            value = node.value  # a size or a name that YAML takes for a number
        if type(value) is not kind:
            wanted = {str: "a text", bool: "true or false"}[kind]
            self.at(entry, key, f"{key} is {shown(node)}; expected {wanted}")
            return default
        if isinstance(value, str) and not (value.isprintable() and len(value) <= _MAX_NAME_CHARACTERS):
            self.at(entry, key, f"{key} is {escape.shown(value)!r}; expected one line of text that can be printed")
            return default
        return value

    def needed(self, entry: Entry, key: str) -> str | None:
        """A text that has to be there."""
        if key not in entry.values:
            self.say(entry.line, f"{key} is missing")
            return None
        text: str | None = self.value(entry, key, str, None)
        return text

    def number(self, entry: Entry, key: str, low: int, high: int) -> int | None:
        """A whole number in a range; None where it is not given."""
        if key not in entry.values:
            return None
        value = plain(entry.values[key])
        if type(value) is not int or not low <= value <= high:
            expected = f"a whole number from {low} to {high}"
            self.at(entry, key, f"{key} is {shown(entry.values[key])}; expected {expected}")
            return None
        return value

    def time(self, entry: Entry, key: str) -> float | None:
        """A number above 0; None where it is not given."""
        if key not in entry.values:
            return None
        value = plain(entry.values[key])
        if type(value) not in (int, float) or not 0 < value <= sys.float_info.max:
            self.at(entry, key, f"{key} is {shown(entry.values[key])}; expected a number above 0")
            return None
        return float(value)

    def texts(self, entry: Entry, key: str) -> list[tuple[str, int]]:
        """One text or a list of them, each with its line."""
        node = entry.values.get(key)
        if node is None:
            return []
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        found = []
        for each in nodes:
            if isinstance(each, yaml.ScalarNode):
                found.append((str(each.value), line_of(each)))
            else:
                self.say(line_of(each), f"{key} holds {kind(each)}; expected names")
        return found

    def at(self, entry: Entry, key: str, problem: str) -> None:
        """Note a problem at the line of a key."""
        node = entry.values.get(key)
        self.say(line_of(node) if node is not None else entry.line, problem)

    def say(self, line: int, problem: str) -> None:
        """Note a problem, on one line."""
        self.problems.append((line, escape.visible(problem)))


def line_of(node: yaml.Node) -> int:
    """The line on which a node begins."""
    return int(node.start_mark.line) + 1


def plain(node: yaml.Node) -> Any:
    """A scalar's value as YAML reads it; None for lists and mappings."""
    if not isinstance(node, yaml.ScalarNode):
        return None
    try:
        return _scalar(node)
    except (yaml.YAMLError, ValueError):
        return node.value


def _scalar(node: yaml.Node) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    finally:
        loader.dispose()


def kind(node: yaml.Node) -> str:
    """What a node is, in words."""
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    return "empty" if plain(node) is None else "a single value"


def shown(node: yaml.Node) -> str:
    """A node as written, or what it is."""
    return repr(node.value[:60]) if isinstance(node, yaml.ScalarNode) and node.value else kind(node)


def known(word: str, names: Iterable[str]) -> str:
    """The nearest names, or all of them."""
    return perhaps(word, names) or "Known: " + ", ".join(list(names)[:12])


def one_line(text: str | None, limit: int = 120) -> str:
    """A text without its line breaks, cut where it is long."""
    flat = escape.visible(" ".join((text or "").split()))
    return flat if len(flat) <= limit else flat[: limit - 3] + "..."
