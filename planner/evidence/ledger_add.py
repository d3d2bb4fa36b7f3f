"""`python -m planner.evidence.ledger_add LEDGER MEASUREMENT...`: put measurement files into a ledger, new or old.

A config that several runs share is kept once. A run that lmplan cannot plan again is refused, and so is one without
its model or settings, such as that of a server that ran already.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from planner.errors import LmplanError, UsageError
from planner.evidence.forms import LedgerForm, MeasurementForm, check, check_schema
from planner.evidence.ledger import MEASUREMENT_SCHEMA, SCHEMA, one_run, replay
from planner.files import reading
from planner.files.escape import shown
from planner.files.writing import write_text
from planner.model.fingerprint import config_sha256

_NOTE = "Starts of LMDeploy, one each; `lmplan measure` wrote them."


def add(ledger: dict[str, Any], measurement: dict[str, Any], where: str) -> str:
    """Add a run; its name.

    Raises:
        UsageError: it is no measurement, or lmplan cannot plan it again.
    """
    check_schema(measurement, MEASUREMENT_SCHEMA, f"{where} is no measurement", reading.MEASUREMENT.hint)
    check(MeasurementForm, measurement, where, reading.MEASUREMENT.hint)
    settings, config = measurement["settings"], measurement["model"].get("config")
    if not settings.get("engine") or not isinstance(config, dict) or "format" not in measurement["checkpoint"]:
        raise UsageError(f"{where} cannot be planned again: its model or its settings are not known")
    if not (measurement["host"].get("lmdeploy") or settings.get("lmdeploy")):
        raise UsageError(f"{where} cannot be planned again: LMDeploy's version is not known")
    run = one_run(measurement, {})
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
        ledger = (
            _ledger(path) if os.path.lexists(path) else {"schema": SCHEMA, "note": _NOTE, "configs": {}, "runs": []}
        )
        names = [add(ledger, reading.read_object(file, reading.MEASUREMENT), shown(file)) for file in files]
        write_text(path, json.dumps(ledger, indent=1) + "\n", force=True)
    except LmplanError as error:
        sys.stderr.write(f"{error.message}\n")
        return error.exit_code
    sys.stdout.write("".join(f"added {shown(name)}\n" for name in names))
    return 0


def _ledger(path: Path) -> dict[str, Any]:
    value = reading.read_object(path, reading.LEDGER)
    check_schema(value, SCHEMA, f"{shown(path)} is no ledger")
    check(LedgerForm, value, shown(path))
    return value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
