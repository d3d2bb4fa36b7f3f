"""`lmplan sweep` in every form."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from planner.cli.main import run
from planner.data import ROOT
from planner.report.fleet_rows import MATRIX

Write = Callable[[str], Path]
Capture = pytest.CaptureFixture[str]
SCHEMA = json.loads((ROOT / "schemas" / "sweep-1.schema.json").read_text())


def test_the_table_says_what_runs_where_and_what_is_needed(write: Write, fleet_text: str, capsys: Capture) -> None:
    assert run(["sweep", str(write(fleet_text))]) == 0
    out = capsys.readouterr().out
    assert out.startswith("All 6 models run on ")
    assert "dgx 1" in out and "1." in out and "2." in out
    assert "machines" in out and "needed" in out


def test_json_follows_its_schema(write: Write, fleet_text: str, capsys: Capture) -> None:
    assert run(["sweep", str(write(fleet_text)), "--format", "json"]) == 0
    value = json.loads(capsys.readouterr().out)
    jsonschema.validate(value, SCHEMA)
    assert value["serves"]
    shared = next(gpu for gpu in value["gpus"] if len(gpu["processes"]) == 2)
    assert sum(process["grown_bytes"] for process in shared["processes"]) <= shared["free_bytes"]
    for gpu in value["gpus"]:
        for process in gpu["processes"]:
            assert shlex.split(process["command"])[:3] == ["lmdeploy", "serve", "api_server"]


def test_csv_has_a_row_for_each_workload_and_kind(write: Write, fleet_text: str, capsys: Capture) -> None:
    assert run(["sweep", str(write(fleet_text)), "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 4 * 2
    assert tuple(rows[0]) == MATRIX
    assert {row["serves"] for row in rows} <= {"True", "False"}


def test_one_page(write: Write, fleet_text: str, tmp_path: Path, capsys: Capture) -> None:
    target = tmp_path / "fleet.html"
    assert run(["sweep", str(write(fleet_text)), "-o", str(target)]) == 0
    page = target.read_text()
    assert page.startswith("<!doctype html>") and "default-src 'none'" in page
    assert page.count("<details>") == page.count("</details>") >= 5
    for name in ("chat", "vision", "small", "big"):
        assert name in page
    assert "http" not in page.replace('http-equiv="Content-Security-Policy"', "")


def test_a_model_without_a_gpu_exits_with_3(write: Write, fleet_text: str, capsys: Capture) -> None:
    text = fleet_text.replace("llama-3.1-70b", "llama-3.1-405b").replace("gpus_each: 8", "gpus_each: 2")
    assert run(["sweep", str(write(text))]) == 3
    out = capsys.readouterr().out
    assert out.startswith(("4 of 6 models fit", "5 of 6 models fit"))
    assert "No GPU for big: nearest on " in out
    assert run(["sweep", str(write(text)), "--format", "json"]) == 3
    jsonschema.validate(json.loads(capsys.readouterr().out), SCHEMA)


def test_a_bad_file_exits_with_2_and_all_lines(write: Write, capsys: Capture) -> None:
    assert run(["sweep", str(write("workloads:\n  - modl: x\nmachines:\n  - gpu: zzz\n"))]) == 2
    err = capsys.readouterr().err
    assert "fleet.yaml:2: unknown key 'modl'" in err
    assert "fleet.yaml:4: unknown GPU 'zzz'" in err
    assert run(["sweep", "missing.yaml"]) == 2


def test_the_schema_is_printed(capsys: Capture) -> None:
    assert run(["sweep", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == SCHEMA
