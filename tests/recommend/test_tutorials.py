"""The questions that the tutorials for LMDeploy ask, and the answers."""

from __future__ import annotations

import pytest

from planner import estimate
from planner.api.advice import Advice, advise
from planner.memory.kv_cache import block_bytes
from planner.memory.parallelism import Parallelism
from planner.model.arch import read_spec
from planner.model.source import resolve
from planner.units import GIB


def _settings(advice: Advice) -> tuple[str, int, int]:
    chosen = advice.decision.chosen
    assert chosen is not None
    option = chosen.candidate.option
    return option.weights, option.quant_policy, option.tp


@pytest.mark.parametrize("version", ["0.5.3", "0.18.0"])
def test_internlm2_5_on_a_24_gb_slice_with_one_long_session_needs_nothing_quantized(version: str) -> None:
    advice = advise("internlm2_5-7b", ("a100-24g",), context=32768, concurrency=1, lmdeploy=version)
    assert advice.decision.serves
    assert _settings(advice) == ("as-is", 0, 1)
    # A little below the habitual 0.8: growth under load needs the rest.
    assert advice.decision.chosen is not None
    assert 0.7 <= advice.decision.chosen.candidate.settings.cache_max_entry_count < 0.8


@pytest.mark.parametrize("version", ["0.5.3", "0.18.0"])
def test_four_long_sessions_need_4_bit_weights_there(version: str) -> None:
    advice = advise("internlm2_5-7b", ("a100-24g",), context=32768, concurrency=4, lmdeploy=version)
    assert advice.decision.serves
    assert _settings(advice) == ("w4a16", 0, 1)
    lacks = {(w.option.weights, w.option.quant_policy, w.option.tp): w.lack for w in advice.decision.options}
    assert "short at load" in lacks["as-is", 0, 1]
    assert "short at load" in lacks["as-is", 8, 1]


def test_internvl2_26b_with_0_5_3_does_not_see_an_image_on_24_gb() -> None:
    """In the tutorial the server starts, W4A16 and ratio 0.1 with 4-bit KV, and dies at the first image."""
    as_there = estimate(
        "internvl2-26b",
        "a100-24g",
        lmdeploy="0.5.3",
        weights="w4a16",
        cache_max_entry_count=0.1,
        quant_policy=4,
        context=2048,
    )
    assert as_there.memory.outcome == "serves"
    advice = advise("internvl2-26b", ("a100-24g",), num_gpus=1, context=4096, images=1, lmdeploy="0.5.3")
    assert not advice.decision.serves
    row = next(w for w in advice.decision.options if (w.option.weights, w.option.quant_policy) == ("w4a16", 4))
    assert row.candidate is not None
    assert "short at load" in row.lack
    # Not for want of memory for the weights: they load. Activations of the image take more than what is missing.
    assert row.candidate.image_bytes > row.candidate.short_bytes / 2
    assert advice.decision.relaxation is not None


def test_internvl2_26b_with_0_18_does_not_even_load_on_24_gb() -> None:
    advice = advise("internvl2-26b", ("a100-24g",), num_gpus=1, context=4096, images=1, lmdeploy="0.18.0")
    assert not advice.decision.serves
    assert all("short while loading" in w.lack for w in advice.decision.options)
    assert advice.decision.relaxation is not None
    assert (advice.decision.relaxation.wish, advice.decision.relaxation.possible) == ("--gpus", "2")


def test_internvl2_26b_on_40_gb_serves_images_with_both_and_keeps_more_free_with_0_5_3() -> None:
    # The tutorial's 40 GB are half of an 80 GB card: there is no second one to take.
    old = advise("internvl2-26b", ("a100-40g-slice",), context=4096, images=1, lmdeploy="0.5.3").decision.chosen
    new = advise("internvl2-26b", ("a100-40g-slice",), context=4096, images=1, lmdeploy="0.18.0").decision.chosen
    assert old is not None and new is not None
    for chosen in (old, new):
        assert (chosen.candidate.option.weights, chosen.candidate.option.quant_policy, chosen.candidate.option.tp) == (
            "w4a16",
            0,
            1,
        )
    # PyTorch's tower takes its activations from what the cache leaves; the engine's own has them at start.
    assert old.candidate.image_bytes > GIB
    assert new.candidate.image_bytes == 0
    assert old.candidate.settings.cache_max_entry_count < new.candidate.settings.cache_max_entry_count


def test_internvl3_8b_in_fp16_on_a_v100_takes_a_ratio_far_above_the_0_2_that_was_set() -> None:
    advice = advise("internvl3-8b", ("v100-32g",), context=8192, concurrency=8, images=1)
    chosen = advice.decision.chosen
    assert chosen is not None and advice.decision.serves
    assert chosen.candidate.option.loss == 0 and chosen.candidate.option.tp == 1
    settings = chosen.candidate.settings
    assert settings.dtype.config_name == "float16"
    assert 0.85 <= settings.cache_max_entry_count <= 0.95
    by_hand = estimate("internvl3-8b", "v100-32g", cache_max_entry_count=0.2, context=8192)
    assert by_hand.verdict == "serves"
    # 8 GB booked for gradients and optimizer states that serving does not have: most of the card lay idle.
    assert by_hand.memory.max_sequences(8192) * 4 < chosen.candidate.users
    assert by_hand.memory.deployment.free_bytes - by_hand.total_bytes > 10 * GIB


@pytest.mark.parametrize(
    ("model", "quant_policy", "gib"),
    [
        ("llama-7b", 0, (8, 32, 128)),
        ("llama-2-70b", 0, (5, 20, 80)),
        ("llama-7b", 8, (4, 16, 64)),
        ("llama-2-70b", 8, (2.5, 10, 40)),
    ],
)
def test_the_kv_tables_of_llama(model: str, quant_policy: int, gib: tuple[float, ...]) -> None:
    """Eight sequences of 2k, 8k and 32k tokens; the tables leave scales and zeros out, 4 of 132 bytes a head."""
    text = read_spec(resolve(model).config, model).text
    block = block_bytes(text, quant_policy, 64, Parallelism())
    scales = 132 / 128 if quant_policy else 1
    for tokens, expected in zip((2048, 8192, 32768), gib, strict=True):
        assert block * (8 * tokens // 64) == pytest.approx(expected * scales * GIB, rel=1e-12)


@pytest.mark.parametrize(
    ("model", "weights", "gigabytes"),
    [
        ("llama-7b", "as-is", 14),
        ("llama-2-70b", "as-is", 140),
        ("llama-7b", "w4a16", 3.5),
        ("llama-2-70b", "w4a16", 35),
    ],
)
def test_the_weights_of_those_tables(model: str, weights: str, gigabytes: float) -> None:
    """4-bit by the tables is a quarter; embeddings, head, scales and zeros make it 5 to 16% more."""
    plan = estimate(model, "h200", weights=weights, tp=2)
    share = plan.checkpoint_bytes / 1e9 / gigabytes
    assert 0.95 <= share <= 1.0 if weights == "as-is" else 1.0 < share <= 1.16


def test_a_70b_needs_more_than_the_slip_of_14_gb() -> None:
    advice = advise("llama-2-70b", ("a100-80g",), context=2048, concurrency=8)
    chosen = advice.decision.chosen
    assert chosen is not None
    # As it is it takes two cards, and the server has eight; one card holds it only in 4 bits.
    assert chosen.candidate.option.weights == "as-is" and chosen.candidate.option.tp == 2
    one = advise("llama-2-70b", ("a100-80g",), num_gpus=1, context=2048, concurrency=8).decision.chosen
    assert one is not None and one.candidate.option.weights == "w4a16"
    exact = advise("llama-2-70b", ("a100-80g",), context=2048, concurrency=8, keep_quality=True).decision.chosen
    assert exact is not None
    assert exact.candidate.option.tp in (2, 4)
