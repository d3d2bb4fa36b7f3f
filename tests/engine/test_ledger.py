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

LEDGER = [(path, run) for path in shipped_files() for run in read_runs(path)]
RUNS: list[Replayed] = accuracy.replays()
NAMES = [f"{index}: {one.run.name}" for index, one in enumerate(RUNS)]
FILES: list[dict[str, Any]] = [json.loads(path.read_text(encoding="utf-8")) for path in shipped_files()]
# What an estimate may miss of the total and of the KV budget (the blocks of the PyTorch engine).
BOUNDS = {
    ("turbomind", "16-bit"): (0.01, 0.01),
    ("turbomind", "fp8"): (0.01, 0.01),
    ("turbomind", "4-bit"): (0.02, 0.03),
    ("pytorch", "16-bit"): (0.03, 0.03),
    ("pytorch", "4-bit"): (0.03, 0.03),
}
NINE_IN_TEN = 0.005
TP_TOTAL = 0.015
LOAD_PEAK = 0.05
each_run = pytest.mark.parametrize("one", RUNS, ids=NAMES)


def _kind(one: Replayed) -> tuple[str, str]:
    deployment = one.memory.deployment
    return deployment.settings.engine, bands.weights_format(deployment)


def test_every_shipped_run_can_be_planned() -> None:
    assert len(RUNS) == len(LEDGER)
    assert {file["schema"] for file in FILES} == {SCHEMA}


@each_run
def test_the_verdict_is_right(one: Replayed) -> None:
    assert one.memory.outcome == one.run.outcome


@each_run
def test_total_and_kv_budget_are_what_was_measured(one: Replayed) -> None:
    total, kv = BOUNDS[_kind(one)]
    if one.run.settings.get("tp", 1) > 1:
        total = kv = TP_TOTAL
    assert abs(one.off_ratio or 0) <= total, f"total off by {one.off_ratio:+.2%}"
    assert abs(one.kv_off_ratio or 0) <= kv or _in_band(one), f"KV off by {one.kv_off_ratio:+.2%}"
    assert one.off_ratio is not None or one.run.outcome != Outcome.SERVES


def _in_band(one: Replayed) -> bool:
    """Whether a race in the engine explains the miss: the estimate's own band has what was measured."""
    measured = one.run.kv_budget_bytes
    term = next(term for term in one.memory.terms if term.name == "kv_cache")
    return measured is not None and term.low_bytes <= measured <= term.high_bytes


def test_only_one_run_needs_its_band() -> None:
    beyond = [one for one in RUNS if abs(one.kv_off_ratio or 0) > BOUNDS[_kind(one)][1]]
    assert [one.run.model for one in beyond] == ["qwen3-1.7b"]


def test_four_bit_weights_are_as_near_as_16_bit_ones_in_most_runs() -> None:
    four = [one for one in RUNS if _kind(one) == ("turbomind", "4-bit") and one.kv_off_ratio is not None]
    exact = [one for one in four if abs(one.kv_off_ratio or 0) <= 0.001]
    assert len(exact) > len(four) / 2


@each_run
def test_the_peak_of_loading_is_what_was_measured(one: Replayed) -> None:
    assert abs(one.peak_off_ratio or 0) <= LOAD_PEAK


@each_run
def test_blocks_are_those_of_the_engine(one: Replayed) -> None:
    kv, run = one.memory.kv_cache, one.run
    assert run.block_bytes in (None, kv.block_bytes)


@pytest.mark.parametrize("kind", [("turbomind", "16-bit"), ("turbomind", "fp8")])
def test_nine_runs_in_ten_are_within_half_a_percent(kind: tuple[str, str]) -> None:
    runs = [one for one in RUNS if _kind(one) == kind and one.run.settings.get("tp", 1) == 1]
    # Both kinds are one engine; a single fp8 run has no nine in ten of its own.
    runs += [one for one in RUNS if _kind(one) == ("turbomind", "16-bit") and kind[1] == "fp8"]
    for ratios in ([one.off_ratio for one in runs], [one.kv_off_ratio for one in runs]):
        known = [abs(ratio) for ratio in ratios if ratio is not None]
        assert sum(ratio <= NINE_IN_TEN for ratio in known) >= 0.9 * len(known)


@each_run
def test_what_was_seen_lies_in_the_band(one: Replayed) -> None:
    """The sum of the terms' bands; what conversions leave behind (4-bit, fp8, MoE) is a race beside it."""
    if one.run.used_bytes is None or one.memory.transient is not None or _kind(one)[1] == "fp8":
        return
    margin = PAGE_BYTES  # where the forward buffers just begin a page
    assert one.memory.low_bytes - margin <= one.run.used_bytes <= one.memory.high_bytes + margin


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


def test_the_ledger_holds_runs_of_every_kind() -> None:
    assert len(RUNS) >= 60
    assert len({one.run.model for one in RUNS}) >= 15
    assert {_kind(one) for one in RUNS} == set(BOUNDS)
    assert {one.run.settings.get("quant_policy", 0) for one in RUNS} == {0, 4, 8}
    assert {one.run.settings.get("tp", 1) for one in RUNS} == {1, 2}
    assert {one.run.outcome for one in RUNS} >= {Outcome.SERVES, "dies while loading", "dies while warming up"}
    assert min(one.run.free_before_bytes for one in RUNS) < 9 * 2**30 < 140 * 10**9
    assert max(one.run.free_before_bytes for one in RUNS) > 140 * 10**9
    assert sum(any(phase["name"] == "image" for phase in one.run.phases) for one in RUNS) >= 4
    for name in ("max_batch_size", "session_len", "max_prefill_token_num", "cache_max_entry_count"):
        assert len({one.run.settings.get(name) for one in RUNS}) >= 2, name


def test_the_shipped_bands_are_those_of_the_shipped_runs() -> None:
    """`python -m planner.evidence.accuracy --write` writes them anew."""
    assert (ROOT / "accuracy.json").read_text(encoding="utf-8") == accuracy.to_json(accuracy.group_runs(RUNS))


def test_arithmetic_by_hand_hides_in_the_total_and_shows_in_the_kv_budget() -> None:
    served = [one for one in RUNS if one.run.used_bytes and one.run.kv_budget_bytes]
    total = [abs(accuracy.rule_of_thumb(one).total_bytes / (one.run.used_bytes or 1) - 1) for one in served]
    kv = [abs(accuracy.rule_of_thumb(one).kv_bytes / (one.run.kv_budget_bytes or 1) - 1) for one in served]
    assert sum(total) / len(total) < 0.05 < 0.1 < sum(kv) / len(kv)
    assert any(accuracy.rule_of_thumb(one).fits for one in RUNS if one.run.outcome == "dies while loading")


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
    _, run = LEDGER[0]
    assert replay(replace(run, product="Another GPU")) is None
    assert replay(replace(run, config={})) is None


def test_totals_of_16_bit_runs_lie_in_the_bands_of_their_terms() -> None:
    for one in RUNS:
        memory, used = one.memory, one.run.used_bytes
        if (
            used
            and memory.deployment.settings.quantization is None
            and memory.deployment.settings.engine == "turbomind"
        ):
            assert memory.low_bytes <= used <= memory.high_bytes, one.run.model


def test_growth_under_load_lies_in_the_band() -> None:
    """What a process took on top once requests came, beside what the estimate says that it may."""
    grown = 0
    for one in RUNS:
        used = one.run.used_bytes
        if used is None or one.memory.transient is not None:
            continue
        growth = max((phase["used_bytes"][0] for phase in one.run.phases), default=used) - used
        terms = [term for term in one.memory.terms if term.name in GROWING_TERMS]
        allowed = sum(term.high_bytes - term.size_bytes for term in terms)
        assert growth <= allowed + PAGE_BYTES, f"{one.run.name}: grew by {growth}, allowed {allowed}"
        grown += growth > 0
    assert grown >= 20
