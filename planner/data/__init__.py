"""Files shipped with lmplan, and the one way to read them."""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent


@cache
def read_toml(name: str, folder: Path = ROOT) -> dict[str, Any]:
    """The parsed `planner/data/<name>`, or the file of another folder of shipped data."""
    with (folder / name).open("rb") as file:
        value: dict[str, Any] = tomllib.load(file)
    return value


def parse_toml(text: str) -> dict[str, Any]:
    """TOML out of a shipped file."""
    value: dict[str, Any] = tomllib.loads(text)
    return value


@cache
def toml_tables(name: str) -> dict[str, tuple[str, ...]]:
    """The tables of `planner/data/<name>` as TOML, header and all, by their name: several where it is an array.

    What stands before the first header is the table of no name. A bracket begins every header's line and no other.
    """
    tables: dict[str, tuple[str, ...]] = {}
    head, *others = ("\n" + (ROOT / name).read_text(encoding="utf-8")).split("\n[")
    for text in (head, *(f"[{other}\n" for other in others)):
        header = text.partition("\n")[0].strip("[]")
        tables[header] = (*tables.get(header, ()), text)
    return tables


@cache
def read_toml_at(name: str, path: str) -> Any:
    """What stands at a dotted path of `planner/data/<name>`; the rest of the file is not parsed.

    tomllib takes 10 ms of CPU for all of lmdeploy.toml and 1 ms for most paths.

    Raises:
        KeyError: nothing does.
    """
    tables = toml_tables(name)
    own = [text for header, texts in tables.items() if f"{header}.".startswith(f"{path}.") for text in texts]
    value: Any = parse_toml("".join(own or tables[path.rpartition(".")[0]]))
    for key in path.split("."):
        value = value[key]
    return value


@cache
def read_toml_table(name: str, header: str) -> dict[str, Any] | None:
    """The one table ``[header]`` of `planner/data/<name>`, or None; the rest of the file is not parsed.

    tomllib takes 7 ms of CPU for all of gpus.toml and 0.2 ms for a card of it.
    """
    texts = toml_tables(name).get(header)
    return parse_toml(texts[0].partition("\n")[2]) if texts else None


@cache
def read_json(name: str) -> dict[str, Any]:
    """The parsed `planner/data/<name>`."""
    value = json.loads((ROOT / name).read_text(encoding="utf-8"))
    assert isinstance(value, dict), name
    return value
