"""Every measured TurboMind run, planned on the CPU and compared with what the GPU showed."""

from __future__ import annotations

from typing import Any

import pytest

from planner.data import read_json
from planner.engine import versions
from planner.engine.base import Deployment
from planner.engine.settings import Wishes, decide
from planner.footprint import SERVES, MemoryEstimate, estimate_memory
from planner.gpu import find_gpu
from planner.memory.kv_cache import slab_layout
from planner.memory.pool import PAGE_BYTES
from planner.model.arch import read_spec
from planner.units import MIB

MEASURED = read_json("measurements/h200-lmdeploy-0.18.0-first.json")
RUNS: list[dict[str, Any]] = [run for run in MEASURED["runs"] if run["engine"] == "turbomind"]
# The engine logs MiB with two digits: half of the last one is doubt of the log and not of the plan.
LOG_DOUBT_BYTES = 0.005 * MIB
TOTAL, KV_BUDGET, PEAK = 0.005, 0.005, 0.05
# With tensor parallelism part of the communicator's memory comes during the warm-up; one such run was measured.
TP_TOTAL = 0.01
AWQ_TOTAL, AWQ_KV_BUDGET = 0.02, 0.03


def _name(run: dict[str, Any]) -> str:
    settings = "-".join(f"{key}{value}" for key, value in run["settings"].items())
    return f"{run['model']}-{run['checkpoint_format']}-{run['free_before_bytes']}-{settings}"


def _plan(run: dict[str, Any]) -> MemoryEstimate:
    spec = read_spec(MEASURED["configs"][run["model"]], run["model"])
    gpu = find_gpu("h200")
    assert gpu.product == run["gpu"]
    weights = "as-is" if run["checkpoint_format"] == "w16" else "w4a16"
    wishes = Wishes(engine=run["engine"], weights=weights, **run["settings"])
    settings = decide(spec, gpu, versions.resolve(run["lmdeploy"]), wishes)
    return estimate_memory(Deployment(spec, gpu, run["free_before_bytes"], settings))


@pytest.mark.parametrize("run", RUNS, ids=_name)
def test_a_measured_run_is_planned_as_it_went(run: dict[str, Any]) -> None:
    plan = _plan(run)
    awq = run["checkpoint_format"] != "w16"
    assert plan.verdict == SERVES == run["outcome"]
    assert plan.checkpoint_bytes == run["checkpoint_bytes"]
    assert plan.kv_cache.block_bytes == run["log_slab"]["object_bytes"]
    total = AWQ_TOTAL if awq else TP_TOTAL if run["settings"].get("tp", 1) > 1 else TOTAL
    assert plan.total_bytes == pytest.approx(run["used_after_load_bytes"], rel=total)
    logged_bytes = run["log_kv_budget_mib"] * MIB
    tolerance = (AWQ_KV_BUDGET if awq else KV_BUDGET) * logged_bytes + LOG_DOUBT_BYTES
    assert abs(plan.kv_cache.budget_bytes - logged_bytes) <= tolerance
    assert plan.load_peak_bytes == pytest.approx(run["peak_bytes"], rel=PEAK)


@pytest.mark.parametrize("run", RUNS, ids=_name)
def test_slabs_are_cut_as_the_engine_logged(run: dict[str, Any]) -> None:
    rules = versions.turbomind_rules(versions.resolve(run["lmdeploy"]).rules)
    layout = slab_layout(run["log_slab"]["object_bytes"], rules.slab_fill, rules.slab_max_bytes)
    assert (layout.slab_bytes, layout.blocks_per_slab) == (
        run["log_slab"]["slab_bytes"],
        run["log_slab"]["objects_per_slab"],
    )


@pytest.mark.parametrize("run", RUNS, ids=_name)
def test_what_was_seen_lies_in_the_band(run: dict[str, Any]) -> None:
    plan = _plan(run)
    # One run lies where the forward buffers just begin a page.
    assert plan.low_bytes - PAGE_BYTES <= run["used_after_load_bytes"]
    assert run["used_after_load_bytes"] + (run["growth_under_load_bytes"] or 0) <= plan.high_bytes


def test_the_file_holds_runs_of_every_kind() -> None:
    assert len(RUNS) >= 16
    assert {run["checkpoint_format"] for run in RUNS} == {"w16", "w4a16-g128"}
    assert {run["settings"].get("quant_policy", 0) for run in RUNS} == {0, 4, 8}
    assert {run["settings"].get("tp", 1) for run in RUNS} == {1, 2}
