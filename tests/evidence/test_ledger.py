"""Every measured run that is shipped, planned on the CPU and compared with what the GPU showed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from planner.api.estimate import estimate
from planner.data import ROOT
from planner.evidence import accuracy, bands, ledger_add
from planner.evidence.ledger import SCHEMA, Replayed, read_runs, replay, shipped_files
from planner.footprint import GROWING_TERMS
from planner.lmdeploy import versions
from planner.memory.kv_cache import slab_layout
from planner.memory.pool import PAGE_BYTES
from planner.verdict import Outcome
from tests.replays import replayed

Runs = tuple[Replayed, ...]
FILES: list[dict[str, Any]] = [json.loads(path.read_text(encoding="utf-8")) for path in shipped_files()]
# What an estimate may miss of the total and of the KV budget (the blocks of the PyTorch engine).
BOUNDS = {
    ("turbomind", "16-bit"): (0.01, 0.01),
    ("turbomind", "fp8"): (0.01, 0.01),
    ("turbomind", "4-bit"): (0.02, 0.03),
    ("pytorch", "16-bit"): (0.03, 0.03),
    ("pytorch", "4-bit"): (0.03, 0.03),
}
TP_TOTAL = 0.015
LOAD_PEAK = 0.05
HALF_A_PERCENT = 0.005


@pytest.fixture(scope="module")
def runs() -> Runs:
    return replayed()


def _kind(one: Replayed) -> tuple[str, str]:
    deployment = one.memory.deployment
    return deployment.settings.engine, bands.weights_format(deployment)


def _tp(one: Replayed) -> int:
    return int(one.run.settings.get("tp", 1))


def _bounds(one: Replayed) -> tuple[float, float]:
    return BOUNDS[_kind(one)] if _tp(one) == 1 else (TP_TOTAL, TP_TOTAL)


def test_every_shipped_run_can_be_planned(runs: Runs) -> None:
    assert len(runs) == sum(len(file["runs"]) for file in FILES) >= 101
    assert {file["schema"] for file in FILES} == {SCHEMA}


def test_verdicts_are_right(runs: Runs) -> None:
    assert [one.run.name for one in runs if one.memory.outcome != one.run.outcome] == []


def test_totals_are_what_was_measured(runs: Runs) -> None:
    """A run that died has no total."""
    totals = [(one, one.off_ratio) for one in runs if one.off_ratio is not None]
    assert len(totals) == sum(one.run.outcome == Outcome.SERVES for one in runs) >= 90
    assert [f"{one.run.name}: {off:+.2%}" for one, off in totals if abs(off) > _bounds(one)[0]] == []


def test_kv_budgets_are_what_was_measured(runs: Runs) -> None:
    budgets = [(one, one.kv_off_ratio) for one in runs if one.kv_off_ratio is not None]
    assert len(budgets) >= 97
    beyond = [one for one, off in budgets if abs(off) > _bounds(one)[1]]
    # One run needs its band: a race in the engine decides what the conversion of its weights leaves behind.
    assert [one.run.model for one in beyond] == ["qwen3-1.7b"]
    kv = next(term for term in beyond[0].memory.terms if term.name == "kv_cache")
    assert kv.low_bytes <= (beyond[0].run.kv_budget_bytes or 0) <= kv.high_bytes


def test_four_bit_weights_are_as_near_as_16_bit_ones_in_most_runs(runs: Runs) -> None:
    four = [one.kv_off_ratio for one in runs if _kind(one) == ("turbomind", "4-bit") and one.kv_off_ratio is not None]
    assert len(four) >= 38
    assert sum(abs(off) <= 0.001 for off in four) > len(four) / 2


def test_peaks_of_loading_are_what_was_measured(runs: Runs) -> None:
    peaks = [(one, one.peak_off_ratio) for one in runs if one.peak_off_ratio is not None]
    assert len(peaks) >= 47
    assert [f"{one.run.name}: {off:+.2%}" for one, off in peaks if abs(off) > LOAD_PEAK] == []


def test_blocks_are_those_of_the_engine(runs: Runs) -> None:
    told = [one for one in runs if one.run.block_bytes is not None]
    assert len(told) >= 85
    assert [one.run.name for one in told if one.run.block_bytes != one.memory.kv_cache.block_bytes] == []


@pytest.mark.parametrize(("form", "least", "share"), [("16-bit", 39, 0.9), ("fp8", 4, 1.0)])
def test_nine_runs_in_ten_are_within_half_a_percent(form: str, least: int, share: float, runs: Runs) -> None:
    """Four runs with fp8 weights have no tenth to leave out."""
    alike = [one for one in runs if _kind(one) == ("turbomind", form) and _tp(one) == 1]
    for ratios in ([one.off_ratio for one in alike], [one.kv_off_ratio for one in alike]):
        known = [abs(ratio) for ratio in ratios if ratio is not None]
        assert len(known) >= least
        assert sum(ratio <= HALF_A_PERCENT for ratio in known) >= share * len(known)


def test_what_was_seen_lies_in_the_band(runs: Runs) -> None:
    """The sum of the terms' bands; what conversions leave behind (4-bit, fp8, MoE) is a race beside it."""
    margin = PAGE_BYTES  # where the forward buffers just begin a page
    plain = [
        (one, one.run.used_bytes)
        for one in runs
        if one.run.used_bytes is not None and one.memory.transient is None and _kind(one)[1] != "fp8"
    ]
    assert len(plain) >= 47
    assert [
        one.run.name
        for one, used in plain
        if not one.memory.low_bytes - margin <= used <= one.memory.high_bytes + margin
    ] == []


def test_slabs_are_cut_as_the_engine_logged() -> None:
    seen = 0
    for file in FILES:
        for run in file["runs"]:
            log = run["engine_log"]
            if "slab_bytes" not in log:
                continue
            rules = versions.turbomind_rules(versions.resolve(run["settings"]["lmdeploy"]).rules)
            layout = slab_layout(log["block_bytes"], rules.slab_fill, rules.slab_max_bytes)
            assert (layout.slab_bytes, layout.blocks_per_slab) == (log["slab_bytes"], log["blocks_per_slab"])
            seen += 1
    assert seen >= 50


def test_the_ledger_holds_runs_of_every_kind(runs: Runs) -> None:
    assert len(runs) >= 60
    assert len({one.run.model for one in runs}) >= 15
    assert {_kind(one) for one in runs} == set(BOUNDS)
    assert {one.run.settings.get("quant_policy", 0) for one in runs} == {0, 4, 8}
    assert {one.run.settings.get("tp", 1) for one in runs} == {1, 2}
    assert {one.run.outcome for one in runs} >= {Outcome.SERVES, "dies while loading", "dies while warming up"}
    assert min(one.run.free_before_bytes for one in runs) < 9 * 2**30 < 140 * 10**9
    assert max(one.run.free_before_bytes for one in runs) > 140 * 10**9
    assert sum(any(phase["name"] == "image" for phase in one.run.phases) for one in runs) >= 4
    for name in ("max_batch_size", "session_len", "max_prefill_token_num", "cache_max_entry_count"):
        assert len({one.run.settings.get(name) for one in runs}) >= 2, name


def test_the_shipped_bands_are_those_of_the_shipped_runs(runs: Runs) -> None:
    """`python -m planner.evidence.accuracy --write` writes them anew."""
    assert (ROOT / "accuracy.json").read_text(encoding="utf-8") == accuracy.to_json(accuracy.group_runs(runs))


def test_arithmetic_by_hand_hides_in_the_total_and_shows_in_the_kv_budget(runs: Runs) -> None:
    served = [one for one in runs if one.run.used_bytes and one.run.kv_budget_bytes]
    total = [abs(accuracy.rule_of_thumb(one).total_bytes / (one.run.used_bytes or 1) - 1) for one in served]
    kv = [abs(accuracy.rule_of_thumb(one).kv_bytes / (one.run.kv_budget_bytes or 1) - 1) for one in served]
    assert sum(total) / len(total) < 0.05 < 0.1 < sum(kv) / len(kv)
    assert any(accuracy.rule_of_thumb(one).fits for one in runs if one.run.outcome == "dies while loading")


def test_a_band_is_the_largest_miss_rounded_up() -> None:
    assert [bands.band_percent(ratio) for ratio in (0.0, 0.00401, 0.005, 0.0251)] == ["0.1%", "0.5%", "0.5%", "2.6%"]


@pytest.mark.parametrize(
    ("gpu", "wishes", "said"),
    [
        ("h200", {}, "within 0.5% of the total and 0.6% of the KV budget in "),
        ("h100", {}, "within 0.1% of the total and 0.2% of the KV budget in 1 run"),
        ("b200", {}, "not measured on this GPU; 16-bit weights under TurboMind on NVIDIA H200 (LMDeploy 0.18.0) came "),
        ("h200", {"lmdeploy": "0.17.0"}, "not measured with LMDeploy 0.17.0; "),
        ("h200", {"tp": 4}, "not measured with tp 4; 16-bit weights under TurboMind with tp 2 "),
        ("h200", {"engine": "pytorch"}, " of the block count in "),
        ("a100-24g", {"tp": 2, "lmdeploy": "0.5.3"}, "not measured on this GPU, with LMDeploy 0.5.3; "),
    ],
)
def test_a_report_says_what_was_measured_and_what_was_not(gpu: str, wishes: dict[str, Any], said: str) -> None:
    deployment = estimate("llama-3.1-8b", gpu, **wishes).memory.deployment
    assert said in bands.line(deployment)
    assert (bands.find(deployment) is None) == bands.line(deployment).startswith("not measured")


def test_measurements_are_added_to_a_ledger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = []
    for index, file in enumerate(FILES):
        run = json.loads(json.dumps(file["runs"][index]))
        run["model"]["config"] = file["configs"][run["model"]["config"]]
        files.append(tmp_path / f"{index}.json")
        files[-1].write_text(json.dumps({"schema": "lmplan.measurement/1", **run}))
    other = json.loads(files[0].read_text())
    other["model"]["config"]["max_position_embeddings"] = 4096
    (tmp_path / "other.json").write_text(json.dumps(other))
    ledger = tmp_path / "ledger.json"
    assert ledger_add.main([str(ledger), str(files[0]), str(files[1])]) == 0
    assert ledger_add.main([str(ledger), str(files[0]), str(tmp_path / "other.json")]) == 0
    assert capsys.readouterr().out.count("added ") == 4
    runs = list(read_runs(ledger))
    assert runs[0] == runs[2] == next(read_runs(shipped_files()[0]))
    assert len(json.loads(ledger.read_text())["configs"]) == 3
    for changes in ({"schema": "another"}, {"host": {"product": "Another GPU"}}, {"settings": {}}):
        (tmp_path / "other.json").write_text(json.dumps({**other, **changes}))
        assert ledger_add.main([str(ledger), str(tmp_path / "other.json")]) == 2
        assert len(list(read_runs(ledger))) == 4
    for words in ([], [str(ledger)], [str(ledger), "nothing.json"], ["pyproject.toml", str(files[0])]):
        assert ledger_add.main(words) == 2


def test_a_run_of_an_unknown_gpu_is_not_planned() -> None:
    run = next(read_runs(shipped_files()[0]))
    assert replay(replace(run, product="Another GPU")) is None
    assert replay(replace(run, config={})) is None


def test_totals_of_16_bit_runs_lie_in_the_bands_of_their_terms(runs: Runs) -> None:
    served = [
        (one.memory, used) for one in runs if _kind(one) == ("turbomind", "16-bit") and (used := one.run.used_bytes)
    ]
    assert len(served) >= 41
    assert [m.deployment.spec.name for m, used in served if not m.low_bytes <= used <= m.high_bytes] == []


def test_growth_under_load_lies_in_the_band(runs: Runs) -> None:
    """What a process took on top once requests came, beside what the estimate says that it may."""
    grown = 0
    served = [(one, used) for one in runs if (used := one.run.used_bytes) and one.memory.transient is None]
    for one, used in served:
        growth = max((phase["used_bytes"][0] for phase in one.run.phases), default=used) - used
        terms = [term for term in one.memory.terms if term.name in GROWING_TERMS]
        allowed = sum(term.high_bytes - term.size_bytes for term in terms)
        assert growth <= allowed + PAGE_BYTES, f"{one.run.name}: grew by {growth}, allowed {allowed}"
        grown += growth > 0
    assert grown >= 20
