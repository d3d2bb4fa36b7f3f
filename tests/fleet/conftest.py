from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from planner.fleet.file import read_fleet
from planner.fleet.placement import Sweep, sweep

FLEET = """\
lmdeploy: 0.18.0
workloads:
  - name: chat
    model: internlm2_5-7b
    context: 8192
    concurrency: 16
    copies: 3
  - name: vision
    model: internvl2-8b
    context: 8192
    images: 1
    concurrency: 4
  - name: small
    model: qwen2.5-1.5b
    concurrency: 8
  - name: big
    model: llama-3.1-70b
    concurrency: 8
machines:
  - gpu: a10
    gpus_each: 4
    count: 1
  - name: dgx
    gpu: a100-80g
    gpus_each: 8
    count: 1
together:
  - machines: dgx
    start: [small, vision]
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def put(text: str) -> Path:
        path = tmp_path / "fleet.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return put


@pytest.fixture
def plan(write: Callable[[str], Path]) -> Callable[[str], Sweep]:
    return lambda text: sweep(read_fleet(write(text)))


@pytest.fixture
def fleet_text() -> str:
    return FLEET
