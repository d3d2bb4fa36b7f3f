"""Measure what only this host can tell: start LMDeploy on small sparse models, and see what no formula explains."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from planner.api.estimate import Plan
from planner.errors import ChildFailedError, UsageError
from planner.hardware import calibration
from planner.kinds import EngineName
from planner.memory.terms import Term
from planner.verdict import Outcome
from quantize.measure.measurement import Measurement
from quantize.measure.plan import measure_plan, plan_here

MODELS = ("qwen2.5-0.5b", "llama-3.2-1b", "qwen3-1.7b")
"""Small models of three families: their weights load in seconds and their estimates were never off by a page."""
_EXCHANGING_MODEL = "qwen3-1.7b"
"""LMDeploy 0.18.0 dies on Llama-3.2-1B with tp 2 (one start, on two H200s)."""
_RATIO = 0.2
_MORE_RATIO = 0.6
"""Where the share above holds fewer tokens than a request of the warm-up."""
_BATCH = 64


def calibrate(
    device: int,
    engine: str,
    lmdeploy: str | None,
    python: str,
    tell: Callable[[str], None],
    tp: int = 1,
    *,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Measure, store and return the host's entry; with `tp` also what NCCL holds among so many GPUs.

    `trust_remote_code` as for `measure_plan`; the sparse models that are started bring no code.

    Raises:
        UsageError: `tp` with the PyTorch engine, which does not say how much it found free.
        EnvironmentProblem: no GPU, no driver library, no LMDeploy.
        ChildFailedError: a model did not start.
    """
    if tp > 1 and engine != EngineName.TURBOMIND:
        raise UsageError("--tp is calibrated with TurboMind only", "The PyTorch engine does not say what it found free")
    wishes = {
        "engine": engine,
        "lmdeploy": lmdeploy,
        "cache_max_entry_count": _RATIO,
        "max_batch_size": _BATCH,
    }
    start = partial(_run, device=device, python=python, tell=tell, trust_remote_code=trust_remote_code)
    runs = [start(model, wishes) for model in MODELS]
    plan, first = runs[0]
    context = statistics.median(_used(measurement, "context") for _, measurement in runs)
    kernel = [_code_bytes(plan, measurement) - context for plan, measurement in runs]
    entry = {
        "product": first.host["product"],
        "driver": first.host["driver"],
        "lmdeploy": plan.memory.deployment.settings.lmdeploy.version,
        "engine": engine,
        "compute_capability": first.host["compute_capability"],
        "cuda_context_bytes": int(context),
        "kernel_code_bytes": max(int(statistics.median(kernel)), 0),
        "kernel_code_spread_bytes": int((max(kernel) - min(kernel)) / 2),
        "late_code_bytes": _term(plan.memory.terms, "late_code"),
        "first_request_bytes": max(int(statistics.median(_first_request(m) for _, m in runs)), 0),
        "runs": len(runs),
    }
    if tp > 1:
        code = int(context) + int(entry["kernel_code_bytes"])
        exchanging = start(_EXCHANGING_MODEL, {**wishes, "tp": tp}, load_only=True)
        entry["communicator"] = [_communicator(*exchanging, code, tp)]
    calibration.store(entry)
    return entry


def _run(
    model: str,
    wishes: dict[str, Any],
    *,
    device: int,
    python: str,
    tell: Callable[[str], None],
    trust_remote_code: bool,
    load_only: bool = False,
) -> tuple[Plan, Measurement]:
    tell(f"{model}, tp {wishes['tp']}" if "tp" in wishes else model)
    plan = plan_here(model, wishes, device, None)
    if plan.memory.outcome is Outcome.HANGS_STARTING:  # a small card, whose share holds no long request
        plan = plan_here(model, {**wishes, "cache_max_entry_count": _MORE_RATIO}, device, None)
    with tempfile.TemporaryDirectory(prefix="lmplan-calibrate-") as scratch:
        measurement = measure_plan(
            plan,
            Path(scratch),
            device=device,
            python=python,
            load_only=load_only,
            trust_remote_code=trust_remote_code,
        )
    if not measurement.complete or measurement.outcome != "serves":
        got = measurement.phases[-1].name.replace("_", " ") if measurement.phases else "starting Python"
        raise ChildFailedError(f"{model} ended after {got}: {measurement.error}", "Nothing was stored")
    if measurement.note:
        tell(f"warning: {measurement.note}")
    return plan, measurement


def _code_bytes(plan: Plan, measurement: Measurement) -> int:
    """Context and code: what the total holds beyond everything that the formulas explain."""
    terms = plan.memory.terms
    host = _term(terms, "cuda_context") + _term(terms, "kernel_code")
    return host + _used(measurement, "loaded") - plan.total_bytes


def _first_request(measurement: Measurement) -> int:
    return _used(measurement, "short_request") - _used(measurement, "loaded")


def _communicator(plan: Plan, measurement: Measurement, code_bytes: int, tp: int) -> dict[str, int]:
    """What NCCL held when the KV cache was sized, and what it took until the engine served."""
    memory = plan.memory
    free = measurement.engine_log.get("free_bytes")
    if free is None:
        raise ChildFailedError("LMDeploy did not say what it found free", "Nothing was stored")
    budget = memory.kv_cache.budget_bytes
    planned = {name: _term(memory.terms, name) for name in ("communicator", "late_communicator")}
    host = _term(memory.terms, "cuda_context") + _term(memory.terms, "kernel_code")
    before = plan.memory.deployment.free_bytes - memory.free_at_kv_bytes - planned["communicator"] - host + code_bytes
    size = measurement.free_before_bytes - free - before
    others = plan.total_bytes - budget - sum(planned.values()) - host + code_bytes
    late = _used(measurement, "loaded") - int(measurement.engine_log["kv_budget_bytes"]) - others - size
    return {"tp": tp, "size_bytes": max(size, 0), "late_bytes": max(late, 0), "runs": 1}


def _used(measurement: Measurement, phase: str) -> int:
    found = measurement.phase(phase)
    if found is None:
        raise ChildFailedError(f"the run of {measurement.model['name']} ended before {phase.replace('_', ' ')}")
    return found.used_bytes[0]


def _term(terms: Iterable[Term], name: str) -> int:
    return next((term.size_bytes for term in terms if term.name == name), 0)
