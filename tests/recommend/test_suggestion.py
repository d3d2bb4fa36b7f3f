"""What `lmplan estimate` suggests: the answer of `lmplan recommend`, and what the user gave kept where that helps."""

from __future__ import annotations

from typing import Any

import pytest

from planner import estimate
from planner.api.advice import Advice, advise
from planner.api.estimate import Plan
from planner.cli.main import run
from planner.engine.base import Deployment
from planner.footprint import MemoryEstimate, estimate_memory
from planner.lmdeploy.settings import Settings

MODELS = (
    "qwen2.5-1.5b",
    "internlm2_5-7b",
    "qwen3-14b",
    "llama-2-7b",
    "llama-3.1-70b",
    "internvl2-26b",
    "qwen3-30b-a3b",
)
GPUS = ("t4", "a10", "l4", "rtx-4090", "l40s", "a100-24g", "a100-80g", "h100")


def _settings(memory: MemoryEstimate | None) -> Settings | None:
    return memory.deployment.settings if memory else None


def _option(memory: MemoryEstimate) -> tuple[str, int, int]:
    s = memory.deployment.settings
    return s.weights, s.quant_policy, s.tp


def _best(plan: Plan) -> Settings:
    assert plan.recommendation.estimate is not None
    return plan.recommendation.estimate.deployment.settings


def _agree(plan: Plan, advice: Advice) -> None:
    chosen = advice.decision.chosen if advice.decision.serves else None
    mine = plan.recommendation.estimate
    if mine is plan.memory:  # confirmed: with the user's ratio and lengths
        assert chosen is not None
        assert _option(mine) == _option(chosen.memory)
    else:
        assert _settings(mine) == _settings(chosen.memory if chosen else None)


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("model", MODELS)
def test_it_never_disagrees_with_recommend(model: str, gpu: str) -> None:
    for lmdeploy in ("0.18.0", "0.10.2"):
        _agree(estimate(model, gpu, lmdeploy=lmdeploy), advise(model, (gpu,), lmdeploy=lmdeploy))


@pytest.mark.parametrize(
    ("model", "gpu", "extra"),
    [
        ("qwen3-14b", "l4", {}),  # once W4A16 by one and fp8 by the other
        ("internlm2_5-7b", "a10", {"context": 32768}),
        ("internvl3-2b", "t4", {"lmdeploy": "0.10.2"}),  # an image takes what full load would leave
        ("qwen3-8b", "h200", {"free": "12GiB", "engine": "pytorch"}),
        ("llama-3.1-8b", "a100-80g", {"free": "17GiB", "context": 2048}),
    ],
)
def test_nor_with_a_context_free_memory_or_an_engine(model: str, gpu: str, extra: dict[str, Any]) -> None:
    _agree(estimate(model, gpu, **extra), advise(model, (gpu,), **extra))


def test_a_model_too_large_for_one_gpu_of_a_server_takes_two() -> None:
    plan = estimate("llama-3.1-70b", "h100")
    best = _best(plan)
    assert (best.weights, best.quant_policy, best.tp) == ("as-is", 0, 2)
    why = plan.recommendation.why
    assert why[0].startswith("2 GPUs (--tp 2)")
    assert "one h100 would serve with 4-bit weights (W4A16 AWQ) and 16-bit KV cache" in why
    assert plan.command is not None and "--tp 2" in plan.command
    # One card by itself, a part of one, or one that was asked for: then the weights give.
    assert _best(estimate("llama-3.1-70b", "h100", tp=1)).weights == "w4a16"
    assert _best(estimate("internvl2-26b", "a100-40g-slice")).weights == "w4a16"
    assert _best(estimate("qwen2.5-14b", "rtx-4090")).tp == 1


def test_one_gpu_that_was_asked_for_stays_one_and_a_default_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["estimate", "--model", "llama-3.1-70b", "--gpu", "h100"]
    assert run(words) == 3
    assert "--tp 2" in capsys.readouterr().out
    assert run([*words, "--tp", "1"]) == 3
    out = capsys.readouterr().out
    assert "--tp 2" not in out and "4-bit weights" in out


def test_a_ratio_that_was_given_gives_way_before_gpus_and_quality() -> None:
    plan = estimate("internlm2_chat_1_8b", "a100-8g", lmdeploy="0.4.0", cache_max_entry_count=0.01)
    best = _best(plan)
    assert (best.weights, best.quant_policy, best.tp) == ("as-is", 0, 1)
    assert best.cache_max_entry_count > 0.3
    assert (
        f"--cache-max-entry-count {best.cache_max_entry_count:g} instead of the 0.01 given"
        in plan.recommendation.why[0]
    )


def test_what_was_left_open_changes_before_what_was_given() -> None:
    # 16-bit weights leave no room for the batch that was given: the weights change, the batch does not.
    best = _best(estimate("llama-2-7b", "t4", max_batch_size=128, max_prefill_token_num=8192))
    assert (best.weights, best.max_batch_size, best.max_prefill_token_num) == ("w4a16", 128, 8192)


def test_what_was_given_is_released_and_said_where_nothing_open_helps() -> None:
    # 7 billion parameters in 16 bits do not load on 8 GiB.
    plan = estimate("internlm2_5-7b", "a100-8g", weights="as-is", tp=1)
    best = _best(plan)
    assert (best.weights, best.tp) == ("w4a16", 1)
    assert "instead of the as-is given" in plan.recommendation.why[0]


def test_a_smaller_ratio_is_advised_only_where_one_serves() -> None:
    none = estimate("llama-2-7b", "t4")
    assert none.memory.outcome == "dies while warming up"
    assert "no ratio leaves enough" in none.memory.reasons[0]
    for hundredths in range(1, 100):
        assert not estimate("llama-2-7b", "t4", cache_max_entry_count=hundredths / 100).memory.fits
    some = estimate("internlm2_5-7b", "a100-24g", cache_max_entry_count=0.95)
    assert some.memory.outcome == "dies while warming up"
    words = some.memory.reasons[0].split("--cache-max-entry-count ")
    ratio = float(words[1].split()[0])
    deployment: Deployment = some.memory.deployment

    def fits(ratio: float) -> bool:
        return estimate("internlm2_5-7b", "a100-24g", cache_max_entry_count=round(ratio, 2)).memory.fits

    assert fits(ratio) and not fits(ratio + 0.01)
    assert estimate_memory(deployment) == some.memory


def test_growth_is_answered_with_the_largest_ratio_that_leaves_room_for_it() -> None:
    plan = estimate("llama-3.1-70b", "h100", tp=2)
    assert plan.verdict == "serves until full load" and not plan.fits
    (reason,) = plan.reasons
    assert "can grow" in reason
    ratio = float(reason.split("--cache-max-entry-count ")[1].split(",")[0])
    assert not estimate("llama-3.1-70b", "h100", tp=2, cache_max_entry_count=ratio).memory.short_of_growth
    above = round(ratio + 0.01, 2)
    assert estimate("llama-3.1-70b", "h100", tp=2, cache_max_entry_count=above).memory.short_of_growth


def test_4_bit_weights_are_made_before_the_folder_is_served() -> None:
    plan = estimate("qwen2.5-14b", "rtx-3090")
    why = plan.recommendation.why
    assert plan.command is not None and " ./Qwen2.5-14B-w4a16 " in plan.command
    assert why[1].startswith("first make ./Qwen2.5-14B-w4a16 from Qwen/Qwen2.5-14B with `lmplan quantize`")
    # Served as it is, nothing has to be made.
    assert not any("first make" in line for line in estimate("internlm2_5-7b", "a100-24g").recommendation.why)
