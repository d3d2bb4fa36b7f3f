"""What lmplan advises, and the command it prints."""

from __future__ import annotations

import shlex

import pytest
from packaging.version import Version

from planner import estimate
from planner.api.estimate import Plan
from planner.lmdeploy import versions

CASES = [
    ("internlm2_5-7b", "a100-24g", {}),
    ("internlm2_5-7b", "a100-24g", {"lmdeploy": "0.5.3"}),
    ("llama-3.1-8b", "rtx-4090", {"context": 32768}),
    ("qwen2.5-7b", "rtx-2080-ti", {}),
    ("internvl3-8b", "v100-32g", {}),
    ("internvl2-26b", "a100-24g", {"lmdeploy": "0.5.3"}),
    ("qwen3-30b-a3b", "l40s", {}),
    ("qwen2.5-72b", "h200", {}),
    ("llama-3.1-70b", "a100-80g", {"tp": 2, "quant_policy": 8}),
    ("qwen3-8b", "l4", {"weights": "w4a16", "session_len": 16384, "max_batch_size": 16}),
    ("mistral-7b-v0.1", "a10", {}),
]


def _name(case: object) -> str:
    return str(case)


@pytest.mark.parametrize("case", CASES, ids=_name)
def test_a_recommendation_serves_when_it_is_planned_again(case: tuple[str, str, dict[str, object]]) -> None:
    model, gpu, options = case
    plan = estimate(model, gpu, **options)  # type: ignore[arg-type]
    assert plan.recommendation.why
    best = plan.recommendation.estimate
    if best is None:
        assert plan.command is None
        return
    chosen = best.deployment.settings
    again = estimate(
        model,
        gpu,
        lmdeploy=chosen.lmdeploy.version,
        context=plan.context_tokens,
        engine=chosen.engine,
        weights=chosen.weights,
        quant_policy=chosen.quant_policy,
        cache_max_entry_count=chosen.cache_max_entry_count,
        tp=chosen.tp,
        session_len=chosen.session_len,
        max_batch_size=chosen.max_batch_size,
        max_prefill_token_num=chosen.max_prefill_token_num,
    )
    assert again.verdict == "serves"
    assert again.memory.terms == best.terms
    assert again.memory.kv_cache == best.kv_cache
    assert again.memory.max_sequences(plan.context_tokens) >= 1
    assert not again.memory.short_of_growth


@pytest.mark.parametrize("case", CASES, ids=_name)
def test_a_command_has_only_options_that_its_version_knows(case: tuple[str, str, dict[str, object]]) -> None:
    model, gpu, options = case
    plan = estimate(model, gpu, **options)  # type: ignore[arg-type]
    if plan.command is None:
        return
    words = shlex.split(plan.command)
    assert words[:3] == ["lmdeploy", "serve", "api_server"]
    version = versions.resolve(str(options.get("lmdeploy", "0.18.0"))).rules
    for word in words:
        if word.startswith("--"):
            assert versions.has_option(word, version), f"{word} is not an option of LMDeploy {version}"


def test_what_serves_is_confirmed_and_not_replaced() -> None:
    plan = estimate("llama-3.1-8b", "h200")
    assert plan.recommendation.estimate == plan.memory
    assert plan.recommendation.why[0].startswith("serves as asked")


def test_16_bits_that_do_not_fit_become_w4a16() -> None:
    plan = estimate("qwen2.5-14b", "rtx-3090")  # which does not multiply fp8
    best = plan.recommendation.estimate
    assert not plan.fits
    assert best is not None
    assert (best.deployment.settings.weights, best.deployment.settings.tp) == ("w4a16", 1)
    assert "W4A16" in plan.recommendation.why[0]
    assert plan.command is not None
    assert "-w4a16 " in plan.command
    assert "--model-format awq" in plan.command


def test_a_coarser_cache_that_was_asked_for_is_kept() -> None:
    best = estimate("llama-3.1-70b", "a100-80g", quant_policy=8).recommendation.estimate
    assert best is not None
    assert best.deployment.settings.quant_policy in (8, 4)


def test_nothing_serves() -> None:
    plan = estimate("llama-3.1-405b", "t4")
    assert plan.recommendation.estimate is None
    assert plan.command is None
    assert "nothing that LMDeploy offers" in plan.recommendation.why[0]


def test_the_ratio_for_a_vision_model_on_a_v100_is_not_guessed() -> None:
    """A tutorial books gradients for inference and sets 0.2; what fits is more."""
    plan: Plan = estimate("internvl3-8b", "v100-32g")
    best = plan.recommendation.estimate
    assert best is not None
    assert best.deployment.settings.cache_max_entry_count > 0.5
    assert best.deployment.settings.dtype.config_name == "float16"


def test_remote_code_is_said_only_where_the_option_exists() -> None:
    assert Version("0.5.3") < Version("0.13.0")
    old, new = estimate("internlm2_5-7b", "a100-80g", lmdeploy="0.5.3"), estimate("internlm2_5-7b", "a100-80g")
    assert old.command is not None
    assert new.command is not None
    assert "--trust-remote-code" not in old.command
    assert "--trust-remote-code" in new.command
    llama = estimate("llama-3.1-8b", "a100-80g").command
    assert llama is not None
    assert "--trust-remote-code" not in llama
