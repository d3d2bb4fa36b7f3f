"""How far an estimate is off, and which measured speeds count: the edges of what is compared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from planner.evidence import accuracy
from planner.evidence.ledger import LOG_DOUBT_BYTES, Replayed, shipped_files
from planner.evidence.throughput_fit import Sample, read_samples, usable
from tests.replays import replayed


@pytest.fixture(scope="module")
def served() -> Replayed:
    """A run that told its KV budget."""
    return next(one for one in replayed() if one.run.kv_budget_bytes and one.run.used_bytes)


def with_run(one: Replayed, **changes: Any) -> Replayed:
    return Replayed(replace(one.run, **changes), one.memory)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_rounding_of_the_engine_s_log_is_no_error_and_the_rest_has_its_sign(served: Replayed, sign: int) -> None:
    planned_bytes = served.memory.kv_cache.budget_bytes
    for difference, beyond in (
        (0, 0),
        (LOG_DOUBT_BYTES, 0),
        (LOG_DOUBT_BYTES + 1, 1),
        (10**6, 10**6 - LOG_DOUBT_BYTES),
    ):
        told_bytes = planned_bytes - sign * difference
        assert with_run(served, kv_budget_bytes=told_bytes).kv_off_ratio == sign * beyond / told_bytes


def test_an_engine_that_tells_blocks_is_compared_by_blocks(served: Replayed) -> None:
    blocks = served.memory.kv_cache.blocks
    assert with_run(served, kv_budget_bytes=None, blocks=blocks * 2).kv_off_ratio == -0.5
    assert with_run(served, kv_budget_bytes=None, blocks=None).kv_off_ratio is None


def test_a_peak_counts_where_it_lies_above_what_was_held_then(served: Replayed) -> None:
    peak_bytes = served.memory.load_peak_bytes
    assert with_run(served, used_bytes=peak_bytes - 1, load_peak_bytes=peak_bytes).peak_off_ratio == 0
    assert with_run(served, used_bytes=peak_bytes, load_peak_bytes=peak_bytes).peak_off_ratio is None
    assert with_run(served, used_bytes=None, load_peak_bytes=peak_bytes).peak_off_ratio is None


def test_nine_in_ten_are_counted_up() -> None:
    ratios = [number / 100 for number in range(1, 31)]
    assert [accuracy._nine_in_ten(ratios[:count]) for count in (0, 1, 9, 10, 11, 20, 30)] == [
        *(0.0, 0.01, 0.09, 0.09, 0.1, 0.18, 0.27)
    ]
    assert accuracy._nine_in_ten([0.3, 0.1, 0.2]) == 0.3


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [sample for path in shipped_files() for sample in read_samples(path)]


def test_batches_of_experts_count_where_the_weights_are_real(samples: list[Sample]) -> None:
    """With weights of zero every token chooses the same experts."""
    moe = [s for s in samples if s.work.num_experts and s.synthetic and s.phase == "decode" and s.work.tp == 1]
    assert {s.batch > 1 for s in moe} == {True, False}
    assert [usable(s) for s in moe] == [s.batch == 1 for s in moe]
    assert all(usable(replace(s, synthetic=False)) for s in moe)


def test_a_prompt_that_no_card_could_compute_so_fast_does_not_count(samples: list[Sample]) -> None:
    prefill = next(s for s in samples if s.phase == "prefill" and usable(s))
    fastest = prefill.context_tokens / prefill.compute_seconds
    assert usable(replace(prefill, tokens_per_s=fastest * 0.999))
    assert not usable(replace(prefill, tokens_per_s=fastest * 1.001))
