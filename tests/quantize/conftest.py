"""A fake LMDeploy and a tiny recipe."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-c", "from planner.cli.main import main; main()"]
FAKE = Path(__file__).with_name("fake_lmdeploy.py")


@pytest.fixture
def fake(tmp_path, monkeypatch) -> Callable[..., None]:
    """Put a fake `lmdeploy` in place; call the fixture to say how it behaves."""
    path = tmp_path / "bin" / "lmdeploy"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("LMPLAN_LMDEPLOY", str(path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def behave(**behaviour: object) -> None:
        monkeypatch.setenv("FAKE_LMDEPLOY", json.dumps(behaviour))

    behave()
    return behave


@pytest.fixture
def lmplan(tmp_path):
    """Run lmplan in `tmp_path` as a user would."""

    def run(*words: str, **options) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            env=dict(os.environ),
            **options,
        )

    return run
