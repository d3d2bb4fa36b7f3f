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


@cache
def read_json(name: str) -> dict[str, Any]:
    """The parsed `planner/data/<name>`."""
    value = json.loads((ROOT / name).read_text(encoding="utf-8"))
    assert isinstance(value, dict), name
    return value
