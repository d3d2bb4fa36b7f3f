"""What tests start is this checkout, whatever lmplan is installed beside it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import lmplan
import planner
import quantize
from tests.commands import LMPLAN

ROOT = Path(__file__).parents[1]


def test_this_process_tests_this_checkout() -> None:
    assert {Path(package.__file__).parents[1] for package in (lmplan, planner, quantize)} == {ROOT}


def test_a_process_started_anywhere_runs_this_checkout(tmp_path: Path) -> None:
    code = (
        "import json, lmplan, planner, quantize; print(json.dumps([m.__file__ for m in (lmplan, planner, quantize)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert {Path(file).parents[1] for file in json.loads(done.stdout)} == {ROOT}


def test_lmplan_as_a_process(tmp_path: Path) -> None:
    done = subprocess.run([*LMPLAN, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"lmplan, version {planner.__version__}\n"
