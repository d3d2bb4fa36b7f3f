"""A YAML file read with the line of every value, so that all of its errors are reported together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from planner.errors import UsageError, perhaps
from planner.units import counted

MAX_FILE_BYTES: Final = 4 * 2**20


def compose(path: Path) -> yaml.Node | None:
    """The nodes of a file; None for an empty one.

    Raises:
        UsageError: unreadable, too large, or not YAML, with the line.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UsageError(f"{path} has more than {MAX_FILE_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise UsageError(f"{path.name}:{mark.line + 1 if mark else 1}: {error.problem or 'not YAML'}") from None
    except RecursionError:
        raise UsageError(f"{path} is nested too deeply") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path.name}:1: not YAML: {str(error).splitlines()[0]}") from None


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
        lines = [f"{path.name}:{line}: {problem}" for line, problem in sorted(set(self.problems))]
        if lines:
            raise UsageError("\n".join([f"{path} has {counted(len(lines), 'error')}", *lines]))

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
        if type(value) not in (int, float) or not 0 < value < float("inf"):
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
        """Note a problem."""
        self.problems.append((line, problem))


def line_of(node: yaml.Node) -> int:
    """The line on which a node begins."""
    return int(node.start_mark.line) + 1


def plain(node: yaml.Node) -> Any:
    """A scalar's value as YAML reads it; None for lists and mappings."""
    if not isinstance(node, yaml.ScalarNode):
        return None
    try:
        return yaml.SafeLoader("").construct_object(node)
    except (yaml.YAMLError, ValueError):
        return node.value


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
