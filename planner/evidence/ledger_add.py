"""`python -m planner.evidence.ledger_add LEDGER MEASUREMENT...`: put measurement files into a ledger, new or old.

A config that several runs share is kept once. A run that lmplan cannot plan again is refused, and so is one without
its model or settings, such as that of a server that ran already.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from planner.errors import LmplanError, UsageError
from planner.evidence.ledger import MEASUREMENT_SCHEMA, SCHEMA, one_run, replay
from planner.model.fingerprint import config_sha256

_NOTE = "Starts of LMDeploy, one each; `lmplan measure` wrote them."


def add(ledger: dict[str, Any], measurement: dict[str, Any], where: str) -> str:
    """Add a run; its name.

    Raises:
        UsageError: it is no measurement, or lmplan cannot plan it again.
    """
    if measurement.get("schema") != MEASUREMENT_SCHEMA:
        raise UsageError(f"{where} is no measurement: its schema is {measurement.get('schema')!r}")
    try:
        run = one_run(measurement, {})
    except (KeyError, TypeError) as error:
        raise UsageError(f"{where} cannot be planned again: {error} is missing") from None
    if "engine" not in run.settings:
        raise UsageError(f"{where} cannot be planned again: its settings are not known")
    if replay(run) is None:
        raise UsageError(f"{where} cannot be planned again: lmplan does not know its GPU or its model")
    key = _key(ledger["configs"], run.model, run.config)
    ledger["configs"][key] = run.config
    value = {name: part for name, part in measurement.items() if name != "schema"}
    ledger["runs"].append({**value, "model": {"name": run.model, "config": key}})
    return run.name


def _key(configs: dict[str, Any], name: str, config: dict[str, Any]) -> str:
    """The name, and a few digits of the config's sum where another config has that name."""
    if configs.get(name, config) == config:
        return name
    return f"{name}-{config_sha256(config)[:8]}"


def main(words: Sequence[str]) -> int:
    """Add the files; each run's name is printed."""
    if len(words) < 2:
        sys.stderr.write("usage: python -m planner.evidence.ledger_add LEDGER MEASUREMENT...\n")
        return 2
    path, *files = map(Path, words)
    try:
        ledger = _read(path) if path.exists() else {"schema": SCHEMA, "note": _NOTE, "configs": {}, "runs": []}
        if ledger.get("schema") != SCHEMA:
            raise UsageError(f"{path} is no ledger: its schema is {ledger.get('schema')!r}")
        names = [add(ledger, _read(file), str(file)) for file in files]
    except LmplanError as error:
        sys.stderr.write(f"{error.message}\n")
        return error.exit_code
    path.write_text(json.dumps(ledger, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write("".join(f"added {name}\n" for name in names))
    return 0


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path} is no JSON object")
    return value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
