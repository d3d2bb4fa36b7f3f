"""Which measured runs stand behind a report's band, and which come nearest where there are none."""

from __future__ import annotations

from typing import Any

import pytest

from planner import estimate
from planner.engine.base import Deployment
from planner.evidence import bands
from planner.hardware.gpu import catalog
from planner.report import jsonform

SLICES = [gpu.name for gpu in catalog() if gpu.slice_of == "h200"]


def deployment(gpu: str = "h200", model: str = "qwen2.5-0.5b", **wishes: Any) -> Deployment:
    return estimate(model, gpu, **wishes).memory.deployment


def test_a_whole_card_is_measured() -> None:
    found = bands.find(deployment())
    assert found is not None
    assert (found.product, found.engine, found.format, found.tp) == ("NVIDIA H200", "turbomind", "16-bit", 1)


def test_only_runs_that_served_stand_behind_a_band() -> None:
    plan = estimate("qwen2.5-0.5b", "h200")
    found = bands.find(plan.memory.deployment)
    assert found is not None and found.served < found.runs
    assert jsonform.to_object(plan)["accuracy"]["runs"] == found.served


@pytest.mark.parametrize("gpu", SLICES)
def test_a_slice_of_a_measured_card_is_not_measured(gpu: str) -> None:
    found = deployment(gpu)
    assert found.gpu.product == deployment().gpu.product
    assert bands.find(found) is None
    assert bands.line(found).startswith("not measured on this GPU; ")


@pytest.mark.parametrize(
    ("changes", "nearest"),
    [
        ({"gpu": "a10"}, "16-bit weights under TurboMind on"),
        ({"gpu": "a10", "engine": "pytorch"}, "16-bit weights under the PyTorch engine on"),
        # The PyTorch engine with fp8 weights: the same engine with others, and not other engines with the same.
        ({"model": "qwen3-8b-fp8", "engine": "pytorch"}, "16-bit weights under the PyTorch engine on"),
        ({"gpu": "a10", "weights": "w4a16"}, "4-bit weights under TurboMind on"),
        ({"gpu": "a10", "tp": 2}, "16-bit weights under TurboMind with tp 2 on"),
        ({"weights": "w4a16", "tp": 2}, "4-bit weights under TurboMind on"),
    ],
    ids=str,
)
def test_the_nearest_runs_agree_in_engine_then_weights_then_card(changes: dict[str, Any], nearest: str) -> None:
    assert f"; {nearest} NVIDIA H200" in bands.line(deployment(**changes))
