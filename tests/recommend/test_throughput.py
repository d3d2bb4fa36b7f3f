"""The roofline: published figures, its own laws, and what a fit gets back out of made-up measurements."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.advise.throughput import (
    COMPUTE,
    MEMORY,
    Band,
    Efficiency,
    Speed,
    Work,
    assumed_efficiency,
    find_efficiency,
    peak_flops_per_s,
    speed_of,
    turn_batch,
    work_of,
)
from planner.data import ROOT
from planner.engine.base import Deployment
from planner.engine.pick import pick_engine
from planner.evidence.ledger import shipped_files
from planner.evidence.throughput_fit import Sample, entry, fit, measured_part, read_samples, usable
from planner.hardware.gpu import find_gpu
from planner.lmdeploy import versions
from planner.lmdeploy.settings import Request, decide
from planner.model.arch import read_spec
from planner.model.source import resolve
from tests.examples import examples

LINE = "# --- below: `python -m planner.evidence.throughput_fit`, made from planner/data/measurements ---\n"
MODELS = ("qwen2.5-1.5b", "internlm2_5-7b", "llama-3.1-70b", "qwen3-30b-a3b", "mixtral-8x7b")


@cache
def deployed(
    model: str, gpu: str, weights: str = "as-is", quant_policy: int = 0, tp: int = 1
) -> tuple[Deployment, Work]:
    spec = read_spec(resolve(model).config, model)
    card = find_gpu(gpu)
    wishes = Request(weights=weights, quant_policy=quant_policy, tp=tp)
    deployment = Deployment(spec, card, card.memory_total_bytes, decide(spec, card, versions.resolve(None), wishes))
    engine = pick_engine(deployment)
    kv = engine.kv_cache(card.memory_total_bytes)
    return deployment, work_of(deployment, engine, kv.block_bytes / kv.block_tokens)


def speed(
    model: str, gpu: str, users: int, context: int, weights: str = "as-is", policy: int = 0, tp: int = 1
) -> Speed:
    found = speed_of(*deployed(model, gpu, weights, policy, tp), users, context)
    assert found is not None
    return found


def test_an_a100_turns_near_a_batch_of_150_in_16_bit_and_of_40_in_4_bit() -> None:
    """312 TFLOP/s over 2.04 TB/s is 153 operations a byte, and a 16-bit parameter is two bytes and two operations."""
    card = find_gpu("a100-80g")
    for weights, expected in (("as-is", 153), ("w4a16", 41)):
        _, work = deployed("llama-3.1-70b", "a100-80g", weights)
        turn = turn_batch(work, card.memory_bandwidth_bytes_per_s, card.peak_fp16_flops_per_s)
        assert turn == pytest.approx(expected, rel=0.08)


def test_4_bit_weights_are_read_in_a_quarter_of_the_time_and_a_bit() -> None:
    whole, quarter = deployed("llama-3.1-70b", "a100-80g")[1], deployed("llama-3.1-70b", "a100-80g", "w4a16")[1]
    # Scales and zeros, and the head that stays 16-bit, make it more than a quarter.
    assert 0.25 < quarter.dense_bytes / whole.dense_bytes < 0.30
    ratio = speed("llama-3.1-70b", "a100-80g", 1, 512, "w4a16").user_tokens_per_s.value
    ratio /= speed("llama-3.1-70b", "a100-80g", 1, 512).user_tokens_per_s.value
    # 2.4 times was published for a 7B, whose launches weigh more.
    assert 2.4 < ratio < 4


def test_work_is_two_operations_a_parameter() -> None:
    _, work = deployed("llama-3.1-70b", "a100-80g")
    # 70.55 B parameters less the embedding, 128256 x 8192.
    assert work.linear_flops == pytest.approx(2 * (70.554e9 - 128256 * 8192), rel=1e-3)
    assert work.kv_bytes_per_token == 327_680


def test_a_mixture_reads_the_experts_that_a_batch_touches() -> None:
    _, work = deployed("qwen3-30b-a3b", "h200")
    assert work.experts_touched_ratio(1) == pytest.approx(8 / 128)
    assert work.experts_touched_ratio(16) == pytest.approx(1 - (1 - 8 / 128) ** 16)
    assert work.experts_touched_ratio(10_000) == pytest.approx(1)
    # 3.3 B of 30.5 B parameters are active.
    assert work.linear_flops == pytest.approx(2 * 3.04e9, rel=0.05)
    assert deployed("internlm2_5-7b", "h200")[1].experts_touched_ratio(9) == 0


def test_tensor_parallelism_halves_the_work_of_a_gpu() -> None:
    one, two = deployed("llama-3.1-70b", "a100-80g")[1], deployed("llama-3.1-70b", "a100-80g", tp=2)[1]
    assert two.dense_bytes == pytest.approx(one.dense_bytes / 2, rel=0.01)
    assert two.linear_flops == pytest.approx(one.linear_flops / 2, rel=0.01)
    assert two.kv_bytes_per_token == one.kv_bytes_per_token / 2


def test_what_it_is_bound_by() -> None:
    assert speed("internlm2_5-7b", "a100-80g", 1, 1024).bound == MEMORY
    assert speed("internlm2_5-7b", "a100-80g", 2000, 16).bound == COMPUTE
    # Long contexts read the cache: more users do not turn the step to compute.
    assert speed("llama-2-13b", "a100-80g", 2000, 32768).bound == MEMORY


def test_fp8_multiplies_in_fp8_where_the_gpu_does() -> None:
    native, _ = deployed("qwen3-8b", "h100", "fp8")
    widened, _ = deployed("qwen3-8b", "l4", "fp8")
    assert peak_flops_per_s(native) == native.gpu.peak_fp8_flops_per_s
    assert peak_flops_per_s(widened) == widened.gpu.peak_bf16_flops_per_s


def test_unknown_rates_give_no_speed() -> None:
    deployment, work = deployed("qwen3-8b", "h100")
    bare = deployment._replace(gpu=find_gpu("24GiB", 90))
    assert speed_of(bare, work, 1, 512) is None


@settings(deadline=None, max_examples=examples(60))
@given(
    st.sampled_from(MODELS),
    st.sampled_from(["a100-80g", "h200", "l40s"]),
    st.integers(min_value=1, max_value=500),
    st.integers(min_value=16, max_value=30_000),
)
def test_laws_of_the_roofline(model: str, gpu: str, users: int, context: int) -> None:
    here = speed(model, gpu, users, context)
    for band in (here.decode_tokens_per_s, here.first_token_seconds, here.prefill_tokens_per_s, here.step_seconds):
        assert 0 < band.low <= band.value <= band.high
    assert here.decode_tokens_per_s.value == pytest.approx(users * here.user_tokens_per_s.value)
    more, longer = speed(model, gpu, users + 1, context), speed(model, gpu, users, context + 64)
    # More users: each waits longer, all together get no less. Longer sessions: nobody gets more.
    assert more.step_seconds.value >= here.step_seconds.value
    assert more.decode_tokens_per_s.value >= here.decode_tokens_per_s.value * 0.999
    assert longer.user_tokens_per_s.value <= here.user_tokens_per_s.value
    assert longer.first_token_seconds.value >= here.first_token_seconds.value
    quantized = speed(model, gpu, users, context, "as-is", 8)
    assert quantized.user_tokens_per_s.value >= here.user_tokens_per_s.value


def _point(value: float) -> Band:
    return Band(value, value, value)


TRUE = Efficiency(
    bandwidth=_point(0.7),
    compute=_point(0.55),
    layer_seconds=_point(2e-5),
    expert_layer_seconds=_point(1e-5),
    step_seconds=_point(3e-4),
    request_seconds=_point(0.02),
    exchange_seconds=_point(0),
    evidence="made up",
)
DENSE = ("qwen2.5-0.5b", "qwen2.5-1.5b", "llama-3.2-3b", "internlm2_5-7b", "qwen2.5-14b", "llama-3.1-70b")


def _sample(model: str, phase: str, batch: int, context: int) -> Sample:
    deployment, work = deployed(model, "h200")
    found = speed_of(deployment, work, batch, context, TRUE)
    assert found is not None
    if phase == "decode":
        return Sample(model, deployment, work, phase, batch, context, found.decode_tokens_per_s.value)
    alone = found.first_token_seconds.value - found.step_seconds.value
    return Sample(model, deployment, work, phase, 1, context, context / alone)


def test_a_fit_finds_what_the_measurements_were_made_with() -> None:
    samples = [_sample(m, "decode", b, 64) for m in (*DENSE, "qwen3-30b-a3b", "mixtral-8x7b") for b in (1, 16)]
    samples += [_sample(m, "prefill", 1, 8000) for m in DENSE]
    # Two runs that went astray do not bend it.
    samples += [replace(samples[3], tokens_per_s=samples[3].tokens_per_s / 3), replace(samples[8], tokens_per_s=9.0)]
    found = fit(samples)
    assert found.bandwidth.value == pytest.approx(0.7, rel=0.01)
    assert found.layer_seconds.value == pytest.approx(2e-5, rel=0.02)
    assert found.expert_layer_seconds.value == pytest.approx(1e-5, rel=0.02)
    assert found.step_seconds.value == pytest.approx(3e-4, rel=0.02)
    assert found.compute.value == pytest.approx(0.55, rel=0.02)
    assert found.request_seconds.value == pytest.approx(0.02, rel=0.05)
    assert found.evidence == f"measured ({len(samples)} speeds)"
    text = entry(samples, found, "0.18.0")
    assert 'format = "16-bit"' in text and 'product = "NVIDIA H200"' in text


def test_a_format_with_few_speeds_leans_on_the_16_bit_one() -> None:
    base = fit([_sample(m, "decode", b, 64) for m in DENSE for b in (1, 16)])
    few = [_sample("qwen3-8b", "decode", 1, 64)]
    found = fit([replace(few[0], tokens_per_s=few[0].tokens_per_s / 2)], base)
    assert found.bandwidth.value < base.bandwidth.value / 2
    assert found.layer_seconds.value == base.layer_seconds.value


def test_speeds_that_say_nothing_are_left_out() -> None:
    good = _sample("qwen3-30b-a3b", "decode", 16, 64)
    assert usable(good)
    # Weights of zero: every token chooses the same experts.
    assert not usable(replace(good, synthetic=True))
    refused = _sample("qwen3-8b", "prefill", 1, 8000)
    assert usable(refused)
    assert not usable(replace(refused, tokens_per_s=2e6))


def test_a_fit_without_measurements_is_the_assumption() -> None:
    assert fit([]) == assumed_efficiency()


def test_measurement_files_are_read(tmp_path: Path) -> None:
    ledger = next(file for file in map(_read, shipped_files()) if any(run["speed"] for run in file["runs"]))
    run = next(run for run in ledger["runs"] if any(p["name"] == "decode" for p in run["phases"]))
    run["phases"] = [
        {"name": "loaded", "used_bytes": [1], "peak_bytes": [1], "facts": {}},
        {"name": "long_prefill", "used_bytes": [1], "peak_bytes": [1], "facts": {"tokens": 8000, "seconds": 0.4}},
        {
            "name": "decode",
            "used_bytes": [1],
            "peak_bytes": [1],
            "facts": {"batch": 16, "tokens": 1024, "seconds": 0.5},
        },
    ]
    run["settings"]["quant_policy"] = 8
    path = tmp_path / "ledger.json"
    path.write_text(json.dumps({**ledger, "runs": [run]}))
    prefill, decode = read_samples(path)
    assert (prefill.phase, prefill.context_tokens, prefill.tokens_per_s) == ("prefill", 8000, 20_000)
    assert (decode.batch, decode.context_tokens, decode.tokens_per_s) == (16, 64, 2048)
    assert decode.deployment.settings.quant_policy == 8
    run["host"]["product"] = "unknown"
    path.write_text(json.dumps({**ledger, "runs": [run]}))
    assert list(read_samples(path)) == []


def _read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def test_slices_do_not_take_what_whole_cards_measured() -> None:
    whole, _ = deployed("qwen3-8b", "h200")
    part = whole._replace(gpu=whole.gpu._replace(slice_of="h200"))
    assert find_efficiency(whole).evidence.startswith("measured (")
    assert find_efficiency(part).evidence.startswith("assumed as measured on another GPU (")
    assert find_efficiency(deployed("qwen3-8b", "h100")[0]).evidence.startswith("assumed as measured on another GPU (")
    assert find_efficiency(deployed("qwen3-8b", "a100-80g")[0]) == assumed_efficiency()


def test_the_shipped_efficiencies_are_those_of_the_shipped_measurements() -> None:
    """`LMPLAN_WRITE_GOLDEN=1` writes them anew."""
    path = ROOT / "throughput.toml"
    head, line, tail = path.read_text(encoding="utf-8").partition(LINE)
    fresh = f"{head}{line}\n{measured_part()}"
    if os.environ.get("LMPLAN_WRITE_GOLDEN") == "1":
        path.write_text(fresh, encoding="utf-8")
        tail = f"\n{measured_part()}"
    assert line and tail == f"\n{measured_part()}"


def test_decoding_is_within_a_quarter_of_what_was_measured() -> None:
    """docs/recommend.md prints both sides."""
    rows = []
    for path in shipped_files():
        for sample in read_samples(path):
            if sample.phase == "decode" and usable(sample):
                found = speed_of(sample.deployment, sample.work, sample.batch, sample.context_tokens)
                assert found is not None
                rows.append((sample, found.decode_tokens_per_s))
    turbomind = [(s, b) for s, b in rows if s.deployment.settings.engine == "turbomind"]
    near = [s for s, b in turbomind if abs(b.value / s.tokens_per_s - 1) <= 0.25]
    inside = [s for s, b in turbomind if b.low <= s.tokens_per_s <= b.high]
    assert len({(s.name) for s in near}) >= 6
    assert len(near) >= 0.85 * len(turbomind)
    assert len(inside) >= 0.8 * len(turbomind)
