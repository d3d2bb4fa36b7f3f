"""What `lmplan calibrate` found on this host, in the user's configuration folder."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from planner.errors import UsageError

SCHEMA = "lmplan.hosts/1"
# An entry made with --tp also has "communicator": [{"tp", "size_bytes", "late_bytes", "runs"}].
_FIELDS = (
    "product",
    "driver",
    "lmdeploy",
    "engine",
    "compute_capability",
    "cuda_context_bytes",
    "kernel_code_bytes",
    "kernel_code_spread_bytes",
    "late_code_bytes",
    "first_request_bytes",
    "runs",
)


def path() -> Path:
    """The file: hosts.json in LMPLAN_CONFIG_HOME, else in lmplan/ of XDG_CONFIG_HOME or ~/.config."""
    return _file(os.environ.get("LMPLAN_CONFIG_HOME"), os.environ.get("XDG_CONFIG_HOME"))


@cache
def _file(own: str | None, base: str | None) -> Path:
    """Spelled out once for each pair of variables: a sweep asks for every candidate."""
    if own:
        return Path(own) / "hosts.json"
    return Path(base or "~/.config").expanduser() / "lmplan" / "hosts.json"


@cache
def _entries(file: Path) -> tuple[dict[str, Any], ...]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{file} cannot be read: {error}", "lmplan calibrate --reset removes it") from None
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise UsageError(f"{file} is not of the schema {SCHEMA}", "lmplan calibrate --reset removes it")
    entries = value.get("hosts")
    if not isinstance(entries, list):
        raise UsageError(f"{file}: hosts is not a list", "lmplan calibrate --reset removes it")
    for entry in entries:
        _check(entry, file)
    return tuple(entries)


def _check(entry: Any, file: Path) -> None:
    hint = "lmplan calibrate --reset removes it"
    if not isinstance(entry, dict):
        raise UsageError(f"{file}: an entry of hosts is not an object", hint)
    for name in _FIELDS:
        if name not in entry:
            raise UsageError(f"{file}: {name} is missing", hint)
        if name.endswith(("_bytes", "runs")) and (not isinstance(entry[name], int) or entry[name] < 0):
            raise UsageError(f"{file}: {name} is {entry[name]!r}; expected a number", hint)
    for exchange in entry.get("communicator", []):
        if not isinstance(exchange, dict) or set(exchange) != {"tp", "size_bytes", "late_bytes", "runs"}:
            raise UsageError(f"{file}: an entry of communicator cannot be read", hint)


def find(product: str, engine: str, lmdeploy: str) -> dict[str, Any] | None:
    """The newest entry for a GPU product, engine and LMDeploy version."""
    for entry in reversed(_entries(path())):
        if (entry["product"], entry["engine"], entry["lmdeploy"]) == (product, engine, lmdeploy):
            found: dict[str, Any] = entry
            return found
    return None


def store(entry: dict[str, Any]) -> Path:
    """Add an entry, in place of one for the same GPU, driver, engine and version; the file."""
    file = path()
    same = ("product", "driver", "engine", "lmdeploy")
    kept = [e for e in _entries(file) if any(e[key] != entry[key] for key in same)]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(file.name + ".part")
        part.write_text(json.dumps({"schema": SCHEMA, "hosts": [*kept, entry]}, indent=1) + "\n", encoding="utf-8")
        part.replace(file)
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}", "LMPLAN_CONFIG_HOME names another folder") from None
    _entries.cache_clear()
    return file


def reset() -> bool:
    """Remove the file; whether there was one."""
    file = path()
    _entries.cache_clear()
    try:
        file.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UsageError(f"cannot remove {file}: {error.strerror}") from None
    return True
