"""What a plan serves: the start, the session that was asked for, and full load."""

from __future__ import annotations

import pytest

from planner import estimate
from planner.cli.main import run
from planner.verdict import Outcome, Verdict


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_is_a_verdict(outcome: Outcome) -> None:
    assert Verdict(outcome.value).outcome is outcome


def test_three_verdicts_are_of_engines_that_serve() -> None:
    assert [v for v in Verdict if v.outcome is Outcome.SERVES] == [
        Verdict.SERVES,
        Verdict.UNTIL_FULL_LOAD,
        Verdict.NO_SESSION,
    ]


def test_full_load_has_a_verdict_and_an_exit_code_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["estimate", "--model", "qwen3-8b", "--gpu", "a100-24g"]
    assert run(words) == 8
    assert "Serves until full load: holds " in capsys.readouterr().out
    plan = estimate("qwen3-8b", "a100-24g")
    memory = plan.memory
    assert memory.total_bytes <= memory.deployment.free_bytes < memory.full_load_bytes
    # The ratio that the reason names is enough, and a hundredth more is not.
    ratio = float(plan.reasons[0].split("--cache-max-entry-count ")[1].split(",")[0])
    assert estimate("qwen3-8b", "a100-24g", cache_max_entry_count=ratio).verdict is Verdict.SERVES
    above = estimate("qwen3-8b", "a100-24g", cache_max_entry_count=round(ratio + 0.01, 2))
    assert above.verdict is Verdict.UNTIL_FULL_LOAD


def test_a_session_that_was_asked_for_has_to_fit_and_a_default_one_not(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "estimate",
        "--model",
        "internlm2_5-7b",
        "--gpu",
        "a100-24g",
        "--cache-max-entry-count",
        "0.1",
        "--lmdeploy",
        "0.14.0",
    ]
    held = estimate("internlm2_5-7b", "a100-24g", cache_max_entry_count=0.1, lmdeploy="0.14.0").memory.kv_cache.tokens
    assert held < 8192 < 32768  # the default context, and the model's longest
    assert run(words) == 0
    assert run([*words, "--context", "8192"]) == 3
    out = " ".join(capsys.readouterr().out.split())
    assert "No room for a session: holds " in out
    assert f"the KV cache holds {held:,} tokens of the 8,192 of a session" in out


def test_full_load_is_the_sum_of_what_grows() -> None:
    memory = estimate("internlm2_5-7b", "h200").memory
    growing = [t for t in memory.terms if t.name in ("forward_buffers", "cuda_graphs", "late_code")]
    grown = sum(term.high_bytes - term.size_bytes for term in growing)
    assert grown > 0 and memory.full_load_bytes == memory.total_bytes + grown
