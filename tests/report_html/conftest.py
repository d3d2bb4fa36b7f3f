from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from planner.api.advice import advise
from planner.report.dossier import Dossier, gather

CASES: dict[str, dict[str, Any]] = {
    "serves": {"model": "internlm2_5-7b", "gpus": ("a10",), "context": 8192, "concurrency": 16},
    "gives": {"model": "internvl2-26b", "gpus": ("a100-24g",), "num_gpus": 1, "context": 4096, "lmdeploy": "0.5.3"},
    "nothing": {"model": "llama-3.1-405b", "gpus": ("l4", "a10")},
    "measured": {"model": "internlm2_5-7b", "gpus": ("h200", "a100-80g"), "concurrency": 64},
    "bare": {"model": "qwen3-8b", "gpus": ("24GiB",), "sm": 89},
}


@cache
def make(name: str) -> Dossier:
    wishes = dict(CASES[name])
    advice = advise(wishes.pop("model"), wishes.pop("gpus"), **wishes)
    return gather(advice, list(advice.decision.options))


@pytest.fixture(params=list(CASES))
def dossier(request: pytest.FixtureRequest) -> Dossier:
    return make(request.param)


@pytest.fixture
def serving() -> Dossier:
    return make("serves")


@pytest.fixture
def measured_plan() -> Dossier:
    return make("measured")


@pytest.fixture(autouse=True)
def _same_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1767225600")
