"""Reading `planner/data/lmdeploy.toml`: the entry of a section that holds for a version, checked against its schema.

What is read is checked when it is read; `planner.lmdeploy.versions.check` checks all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar, get_args, get_origin

from packaging.version import InvalidVersion, Version

from planner.data import parse_toml, read_toml_at, toml_tables
from planner.errors import UsageError
from planner.kinds import Word

FILE = "lmdeploy.toml"
NOTES = frozenset({"source", "before", "note", "notes", "inferred"})
"""Keys for readers: where a fact stands, and facts that no formula needs yet."""

Schema = TypeVar("Schema")
"""A named tuple of `planner.lmdeploy.rules`; its fields are keys, and those with a default may be absent."""
Band = Mapping[str, Any]


class TableError(Exception):
    """The shipped table is not what the code expects; the message names file, section, band and key."""


class Table:
    """The table and the checks that it passes before anything is taken from it.

    A section is a dotted path such as ``turbomind.kv_budget``; a band is one of its entries, which says for which
    `versions` it holds.
    """

    def __init__(self, data: Mapping[str, Any], file: str = FILE) -> None:
        self._data = data
        self._file = file

    def at(self, path: str) -> Any:
        """What stands at a dotted path."""
        value: Any = self._data
        for name in path.split("."):
            if name not in value:
                raise self._error(path, None, f"there is no {name}")
            value = value[name]
        return value

    def rules(self, schema: type[Schema], sections: tuple[str, ...], version: Version) -> Schema:
        """The keys of all `sections` that hold for a version, as one object.

        Raises:
            TableError: what the table says for that version cannot be used.
            UsageError: no band holds the version; only the PyTorch engine's part has such gaps.
        """
        left = set(_fields(schema))
        values: dict[str, Any] = {}
        for section in sections:
            entry = self.band(section, version)
            self._known(schema, section, entry, left)
            left -= set(entry)
            values |= self._values(schema, section, entry)
        self._nothing_left(schema, sections, left)
        return _made(schema, values)

    def band(self, section: str, version: Version) -> Band:
        """The one band of a section that holds a version."""
        return band(self.at(section), version)

    def named(self, path: str, name: str) -> Band | None:
        """The entry of a list that has this name, None where there is none."""
        return next((entry for entry in self.at(path) if entry["name"] == name), None)

    def one(self, schema: type[Schema], path: str, value: Band | None = None) -> Schema:
        """A table without bands: the one at `path`, or `value`, which stands somewhere in it."""
        entry = self.at(path) if value is None else value
        self._known(schema, path, entry, set(_fields(schema)))
        self._complete(schema, path, entry, set(_fields(schema)))
        return _made(schema, self._values(schema, path, entry))

    def check_bands(self, schema: type[Schema], sections: tuple[str, ...]) -> None:
        """Whether the bands of each section meet, say the same keys and together all that the schema asks, once."""
        left = set(_fields(schema))
        for section in sections:
            bands: list[Band] = self.at(section)
            self._meet(section, bands)
            keys = {key for entry in bands for key in entry} - NOTES - {"versions"}
            for entry in bands:
                self._known(schema, section, entry, left)
                self._complete(schema, section, entry, keys)
            left -= keys
        self._nothing_left(schema, sections, left)

    def check_values(self, schema: type[Schema], sections: tuple[str, ...]) -> None:
        """`check_bands`, and whether every value of every band can be used."""
        self.check_bands(schema, sections)
        for section in sections:
            for entry in self.at(section):
                self._values(schema, section, entry)

    def check_sections(self, known: set[str]) -> None:
        """Whether the table has the sections that somebody reads, and no others."""
        found = {
            f"{name}.{part}" if isinstance(value, dict) else name
            for name, value in self._data.items()
            for part in (value if isinstance(value, dict) else ("",))
        }
        for section in sorted(found ^ known):
            raise self._error(section, None, "is read by nobody" if section in found else "is missing")

    def _meet(self, section: str, bands: list[Band]) -> None:
        """Bands follow one another without a gap and without an overlap."""
        spans = []
        for entry in bands:
            if not isinstance(entry.get("versions"), str):
                raise self._error(section, entry, "versions is not one range such as >=0.6.0,<0.6.2")
            spans.append(span(entry["versions"]))
        for entry, (_, end), (start, _) in zip(bands, spans, spans[1:], strict=False):
            if end is None or start is None or end != start:
                what = "overlaps" if end is None or start is None or start < end else "leaves a gap before"
                raise self._error(section, entry, f"{what} the next, which begins with {start}")

    def _known(self, schema: type[Schema], path: str, entry: Band, left: set[str]) -> None:
        for key in entry:
            if key not in left and key not in NOTES and not (key == "versions" and key not in _fields(schema)):
                known = key in _fields(schema)
                raise self._error(path, entry, f"{key} {'is said elsewhere too' if known else 'is read by nobody'}")

    def _complete(self, schema: type[Schema], path: str, entry: Band, keys: set[str]) -> None:
        for key in _fields(schema):
            if key in keys and key not in entry and key not in _defaults(schema):
                raise self._error(path, entry, f"{key} is missing")

    def _nothing_left(self, schema: type[Schema], sections: tuple[str, ...], left: set[str]) -> None:
        missing = left - set(_defaults(schema))
        if missing:
            raise self._error(" ".join(sections), None, f"no section says {', '.join(sorted(missing))}")

    def _values(self, schema: type[Schema], path: str, entry: Band) -> dict[str, Any]:
        kinds = schema.__annotations__
        return {key: self._value(kinds[key], entry[key], path, entry, key) for key in _fields(schema) if key in entry}

    def _value(self, kind: Any, value: Any, path: str, entry: Band, key: str) -> Any:
        """A value as its kind; the kinds are those of `planner.lmdeploy.rules`."""
        origin = get_origin(kind)
        if origin is tuple and isinstance(value, list):
            return tuple(self._value(get_args(kind)[0], each, path, entry, key) for each in value)
        if origin is dict and isinstance(value, dict):
            return {name: self._value(get_args(kind)[1], each, path, entry, key) for name, each in value.items()}
        if origin is None and issubclass(kind, Word):
            words = [str(word) for word in kind]
            if value not in words:
                raise self._error(path, entry, f"{key} is {value!r}; expected one of {', '.join(words)}")
            return kind(value)
        if origin is None and issubclass(kind, tuple) and isinstance(value, dict):
            return self.one(kind, f"{path}.{key}", value)
        if kind is float and type(value) is int:
            return float(value)
        if origin is not None or type(value) is not kind:
            raise self._error(path, entry, f"{key} is {value!r}; expected {getattr(kind, '__name__', kind)}")
        return value

    def _error(self, path: str, entry: Band | None, what: str) -> TableError:
        band = entry.get("versions") or entry.get("name") if entry else None
        return TableError(f"{self._file} [{path}]{f' {band}' if band else ''}: {what}")


def _fields(schema: type[Any]) -> tuple[str, ...]:
    return tuple(schema._fields)


def _defaults(schema: type[Any]) -> dict[str, Any]:
    return dict(schema._field_defaults)


def _made(schema: Callable[..., Schema], values: dict[str, Any]) -> Schema:
    return schema(**values)


class ShippedTable(Table):
    """The table that lmplan ships. Of the file only what is asked for is parsed: all of it takes a tenth of a start."""

    def __init__(self) -> None:
        super().__init__({})

    def at(self, path: str) -> Any:
        """What stands at a dotted path."""
        try:
            return read_toml_at(self._file, path)
        except KeyError as error:
            raise self._error(path, None, f"there is no {error.args[0]}") from None

    def band(self, section: str, version: Version) -> Band:
        """The one band of a section that holds a version. The line behind its header says the `versions` of a band."""
        texts = toml_tables(self._file)[section]
        spans = [{"text": text, **parse_toml(text.split("\n", 2)[1])} for text in texts]
        held: Band = parse_toml(band(spans, version)["text"].partition("\n")[2])
        return held

    def named(self, path: str, name: str) -> Band | None:
        """The entry of a list that has this name, or None. Each entry has a line, which begins with its name."""
        table, _, _ = path.rpartition(".")
        (text,) = toml_tables(self._file)[table]
        lines = (line for line in text.splitlines() if line.startswith(f'  {{ name = "{name}", '))
        entries = (parse_toml(f"entry = {line.rstrip(',')}")["entry"] for line in lines)
        return next((entry for entry in entries if entry["name"] == name), None)


@cache
def shipped() -> Table:
    """The table that lmplan ships."""
    return ShippedTable()


@cache
def span(text: str) -> tuple[Version | None, Version | None]:
    """The first version of a range such as ``>=0.6.0,<0.6.2`` and the one that ends it; None where it is open.

    Raises:
        TableError: it is no such range.
    """
    low, high = None, None
    for part in text.split(","):
        try:
            if part.startswith(">=") and low is None:
                low = Version(part[2:])
            elif part.startswith("<") and high is None:
                high = Version(part[1:])
            else:
                raise InvalidVersion(part)
        except InvalidVersion:
            raise TableError(f"{text!r} is no range of versions such as >=0.6.0,<0.6.2") from None
    if low is not None and high is not None and low >= high:
        raise TableError(f"{text!r} holds no version")
    return low, high


def holds(ranges: str | list[str] | tuple[str, ...], version: Version) -> bool:
    """Whether any of the ranges holds the version."""
    for text in [ranges] if isinstance(ranges, str) else ranges:
        low, high = span(text)
        if (low is None or low <= version) and (high is None or version < high):
            return True
    return False


def band(bands: list[dict[str, Any]], version: Version) -> dict[str, Any]:
    """The one entry of an array of tables whose ``versions`` holds `version`.

    Raises:
        UsageError: none does; only the PyTorch engine's part has such gaps.
    """
    for entry in bands:
        if holds(entry["versions"], version):
            return entry
    raise UsageError(
        f"lmplan does not know the rules of this engine in LMDeploy {version}",
        "The PyTorch engine is planned for 0.18.0; TurboMind for 0.4.0 and newer",
    )
