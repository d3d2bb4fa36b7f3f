"""What `lmplan calibrate` found on this host, in the user's configuration folder.

A plan never dies of this file: an entry that does not make sense is named and left out, and the shipped figures stand
in. Nothing that would be left out can be stored.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from planner.errors import CheckFailedError, EnvironmentProblem, LmplanError, UsageError
from planner.files import reading
from planner.files.escape import shown
from planner.files.writing import locked, write_state

SCHEMA: Final = "lmplan.hosts/1"
_TEXTS: Final = ("product", "driver", "lmdeploy", "engine")
_BYTES: Final = (
    "cuda_context_bytes",
    "kernel_code_bytes",
    "kernel_code_spread_bytes",
    "late_code_bytes",
    "first_request_bytes",
)
_COUNTS: Final = ("compute_capability", "runs")
_EXCHANGE: Final = ("tp", "size_bytes", "late_bytes", "runs")
"""Of an entry of "communicator", which an entry made with --tp has besides."""
_MAX_BYTES: Final = 2**42
"""4 TiB: more than any GPU has."""
_MAX_COUNT: Final = 10**6
_IDENTITY: Final = ("product", "driver", "engine", "lmdeploy")
"""One entry is kept for each of these."""

_INSTEAD: Final = "the shipped figures stand in (`lmplan calibrate --reset` removes the file)"


class Hosts(NamedTuple):
    """What the file holds: the entries that can be used, and what was left out and why.

    `foreign` is a file that is none of lmplan's, or a newer lmplan's: it is not written over.
    """

    entries: tuple[dict[str, Any], ...] = ()
    problems: tuple[str, ...] = ()
    foreign: bool = False


def path() -> Path:
    """The file: hosts.json in LMPLAN_CONFIG_HOME, else in lmplan/ of XDG_CONFIG_HOME or ~/.config."""
    return _file(os.environ.get("LMPLAN_CONFIG_HOME"), os.environ.get("XDG_CONFIG_HOME"), os.environ.get("HOME"))


@cache
def _file(own: str | None, base: str | None, home: str | None) -> Path:
    """Spelled out once for each set of variables: a sweep asks for every candidate."""
    if own:
        return Path(own) / "hosts.json"
    if base:
        return Path(base) / "lmplan" / "hosts.json"
    try:
        folder = Path(home) if home else Path.home()
    except RuntimeError:  # no HOME, and a user without an entry in the password file
        folder = Path("/nonexistent")
    return folder / ".config" / "lmplan" / "hosts.json"


@cache
def _read(file: Path) -> Hosts:
    if not os.path.lexists(file):
        return Hosts()
    try:
        value = reading.read_object(file, reading.HOSTS)
    except LmplanError as error:
        return Hosts(problems=(error.message,), foreign=True)
    entries = value.get("hosts")
    if value.get("schema") != SCHEMA or not isinstance(entries, list):
        return Hosts(problems=(f"{shown(file)} is not of the schema {SCHEMA}",), foreign=True)
    good, problems = [], []
    for number, entry in enumerate(entries, 1):
        wrong = next(_wrong(entry), "")
        if wrong:
            problems.append(f"{shown(file)}: entry {number}: {wrong}")
        else:
            good.append(entry)
    return Hosts(tuple(good), tuple(problems))


def _wrong(entry: Any) -> Iterator[str]:
    """What is wrong with an entry."""
    if not isinstance(entry, dict):
        yield "it is not an object"
        return
    for name in (*_TEXTS, *_BYTES, *_COUNTS):
        if name not in entry:
            yield f"{name} is missing"
            return
    for name in _TEXTS:
        text = entry[name]
        if not isinstance(text, str) or not 0 < len(text) <= 200 or not text.isprintable():
            yield f"{name} is {_short(text)}; expected a name"
    yield from _wrong_numbers(entry, (*_BYTES, *_COUNTS))
    if entry["kernel_code_spread_bytes"] > entry["kernel_code_bytes"]:
        yield (
            f"kernel_code_spread_bytes is {entry['kernel_code_spread_bytes']}, "
            f"more than the {entry['kernel_code_bytes']} of kernel_code_bytes: the runs contradict each other"
        )
    exchanges = entry.get("communicator", [])
    if not isinstance(exchanges, list):
        yield "communicator is not a list"
        return
    for exchange in exchanges:
        if not isinstance(exchange, dict) or set(exchange) != set(_EXCHANGE):
            yield f"an entry of communicator has other keys than {', '.join(_EXCHANGE)}"
            return
        yield from _wrong_numbers(exchange, _EXCHANGE)


def _wrong_numbers(holder: Mapping[str, Any], names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        most, number = _MAX_BYTES if name.endswith("_bytes") else _MAX_COUNT, holder[name]
        if type(number) is not int or not 0 <= number <= most:
            yield f"{name} is {_short(number)}; expected a whole number from 0 to {most}"


def _short(value: Any) -> str:
    return shown(repr(value)[:60])


def problems() -> tuple[str, ...]:
    """What of the file was left out, for reports; empty where all is well."""
    return tuple(f"{problem}; {_INSTEAD}" for problem in _read(path()).problems)


def find(product: str, engine: str, lmdeploy: str) -> dict[str, Any] | None:
    """The newest entry for a GPU product, engine and LMDeploy version."""
    for entry in reversed(_read(path()).entries):
        if (entry["product"], entry["engine"], entry["lmdeploy"]) == (product, engine, lmdeploy):
            found: dict[str, Any] = entry
            return found
    return None


def store(entry: dict[str, Any]) -> Path:
    """Add an entry, in place of one for the same GPU, driver, engine and version; the file.

    Raises:
        CheckFailedError: plans could not use it, so nothing is stored.
        UsageError: the file is none that lmplan may write over.
        EnvironmentProblem: the file cannot be written.
    """
    wrong = next(_wrong(entry), "")
    if wrong:
        raise CheckFailedError(f"what was measured makes no sense: {wrong}", "Nothing was stored; measure again")
    file = path()
    try:
        with locked(file):
            _read.cache_clear()
            hosts = _read(file)
            if not hosts.foreign:
                kept = [e for e in hosts.entries if any(e[key] != entry[key] for key in _IDENTITY)]
                write_state(file, json.dumps({"schema": SCHEMA, "hosts": [*kept, entry]}, indent=1) + "\n")
    except (EnvironmentProblem, UsageError) as error:  # to a writer, a path that cannot be is bad usage
        raise EnvironmentProblem(error.message, error.hint or "LMPLAN_CONFIG_HOME names another folder") from None
    finally:
        _read.cache_clear()
    if hosts.foreign:
        raise UsageError(hosts.problems[0], reading.HOSTS.hint)
    return file


def reset() -> bool:
    """Remove the file; whether there was one.

    Raises:
        EnvironmentProblem: it cannot be removed.
    """
    file = path()
    _read.cache_clear()
    try:
        file.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise EnvironmentProblem(f"cannot remove {shown(file)}: {error.strerror}") from None
    return True
