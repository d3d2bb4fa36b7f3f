"""Measure what only this host can tell: start LMDeploy on small empty models, and see what no formula explains."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from planner.engine import calibration
from planner.errors import ChildFailedError
from quantize.measurement import Measurement
from quantize.measuring import measure_plan, plan_here

_MODELS = ("qwen2.5-0.5b", "llama-3.2-1b", "qwen3-1.7b")
"""Small models of three families: their weights load in seconds and their estimates were never off by a page."""
_RATIO = 0.2


def calibrate(
    device: int, engine: str, lmdeploy: str | None, python: str, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Measure, store and return the host's entry.

    Raises:
        EnvironmentProblem: no GPU, no driver library, no LMDeploy.
        ChildFailedError: a model did not start.
    """
    runs = []
    for model in _MODELS:
        tell(model)
        wishes = {"engine": engine, "lmdeploy": lmdeploy, "cache_max_entry_count": _RATIO, "max_batch_size": 64}
        plan = plan_here(model, wishes, device, None)
        with tempfile.TemporaryDirectory(prefix="lmplan-calibrate-") as scratch:
            measurement = measure_plan(plan, Path(scratch), device=device, python=python)
        if measurement.outcome != "serves":
            raise ChildFailedError(f"{model} did not start: {measurement.error}")
        runs.append((plan, measurement))
    context = [_used(m, "context") for _, m in runs]
    # What the totals hold beyond everything that the formulas explain is the code of the engine and of torch.
    code = [
        plan_code + _used(m, "loaded") - plan.total_bytes
        for plan, m in runs
        for plan_code in [_term(plan.memory.terms, "kernel_code") + _term(plan.memory.terms, "cuda_context")]
    ]
    middle = statistics.median(context)
    kernel = [value - middle for value in code]
    first = runs[0][1]
    entry = {
        "product": first.host["product"],
        "driver": first.host["driver"],
        "lmdeploy": runs[0][0].memory.deployment.settings.lmdeploy.version,
        "engine": engine,
        "compute_capability": first.host["compute_capability"],
        "cuda_context_bytes": int(middle),
        "kernel_code_bytes": int(statistics.median(kernel)),
        "kernel_code_spread_bytes": int((max(kernel) - min(kernel)) / 2),
        "late_code_bytes": _late(runs[0][0].memory.terms),
        "first_request_bytes": int(statistics.median(_used(m, "short_request") - _used(m, "loaded") for _, m in runs)),
        "runs": len(runs),
    }
    calibration.store(entry)
    return entry


def _used(measurement: Measurement, phase: str) -> int:
    found = measurement.phase(phase)
    if found is None:
        raise ChildFailedError(f"the run of {measurement.model['name']} ended before {phase.replace('_', ' ')}")
    return found.used_bytes[0]


def _term(terms: Any, name: str) -> int:
    return next((int(term.size_bytes) for term in terms if term.name == name), 0)


def _late(terms: Any) -> int:
    return _term(terms, "late_code")
