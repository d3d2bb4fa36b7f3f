"""What was calibrated on this machine stays out of the tests, and what they start is this checkout."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

# Before any test module is imported: some plan while they are.
os.environ["LMPLAN_CONFIG_HOME"] = str(Path(__file__).parent / "no-calibration")
_PATHS = (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))
os.environ["PYTHONPATH"] = os.pathsep.join(path for path in _PATHS if path)


@pytest.fixture
def lmplan_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run lmplan in this process, in `tmp_path`; an exception that gets out of it fails the test."""
    from planner.cli.main import run

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(tmp_path)
        capsys.readouterr()
        code = run(list(words))
        said = capsys.readouterr()
        return subprocess.CompletedProcess(words, code, said.out, said.err)

    return call
