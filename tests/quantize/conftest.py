"""A fake LMDeploy and a tiny recipe."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from quantize.checkpoint import synthetic
from tests.commands import Lmplan

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
    # What it makes has nothing to do with the model.
    monkeypatch.setenv("LMPLAN_RECIPE_CHECK__QUALITY", "none")

    def behave(**behaviour: object) -> None:
        monkeypatch.setenv("FAKE_LMDEPLOY", json.dumps(behaviour))

    behave()
    return behave


@pytest.fixture(autouse=True)
def few_values(monkeypatch):
    """Draw a prime number of values that takes no seconds, where the test does not ask for others."""
    monkeypatch.setattr(synthetic, "_POOL_VALUES", 1009)


@pytest.fixture
def lmplan(lmplan_here: Lmplan) -> Lmplan:
    """Run lmplan in `tmp_path`, in this process; what it starts is a process of its own."""
    return lmplan_here
