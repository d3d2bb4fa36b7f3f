"""States of sequences beside their tokens: their objects, and what room they leave."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.memory.capacity import KvCache, StateObjects, StatesInRegion
from planner.memory.kv_cache import StateSize, block_bytes, block_formula, cut_into_slabs, state_sizes
from planner.memory.parallelism import Parallelism
from planner.memory.pool import PAGE_BYTES
from planner.units import GIB, MIB
from tests.engine.family_specs import glm_4_7_flash, gpt_oss_20b, qwen3_5_9b, qwen3_5_35b_a3b

QWEN, FILL = qwen3_5_9b().text, 0.95
WHOLE = Parallelism(1)


def cache(budget_bytes: int, states: tuple[StateSize, ...]) -> KvCache:
    return cut_into_slabs(budget_bytes, 2 * MIB, 64, FILL, GIB, "", states)


def test_one_object_for_the_convolutions_and_one_a_layer_for_the_matrices() -> None:
    assert state_sizes(QWEN, WHOLE) == (StateSize(24 * 8192 * 4 * 2, 1), StateSize(32 * 128 * 128 * 2, 24))
    assert state_sizes(QWEN, Parallelism(2)) == (StateSize(24 * 4096 * 4 * 2, 1), StateSize(16 * 128 * 128 * 2, 24))
    assert state_sizes(qwen3_5_35b_a3b().text, WHOLE)[1] == StateSize(1 * MIB, 30)
    assert state_sizes(gpt_oss_20b().text, WHOLE) == state_sizes(glm_4_7_flash().text, WHOLE) == ()


def test_only_full_layers_have_blocks() -> None:
    assert block_bytes(QWEN, 0, 1, WHOLE) == 32_768  # of 32 layers 8
    assert block_bytes(QWEN, 0, 1, Parallelism(8)) == 8 * 1 * 2 * 256 * 2  # 4 heads for 8 ranks: repeated
    formula = block_formula(QWEN, 0, 64, WHOLE)
    assert formula == "8 layers x 4 kv heads x 2 x 64 tokens x (256 x 16/8)"


@pytest.mark.parametrize("tp", [1, 4])
def test_a_latent_is_whole_on_every_rank_and_one_for_keys_and_values(tp: int) -> None:
    text = glm_4_7_flash().text
    assert block_bytes(text, 0, 1, Parallelism(tp)) == 54_144
    assert block_bytes(text, 8, 1, Parallelism(tp)) == 47 * (576 + 4)


def test_a_window_saves_nothing() -> None:
    assert block_bytes(gpt_oss_20b().text, 0, 1, WHOLE) == 49_152


def test_a_sequence_has_its_state_and_its_blocks() -> None:
    kv = cache(10 * GIB, state_sizes(QWEN, WHOLE))
    assert kv.sequence_bytes(6399) == 100 * 2 * MIB + 26_738_688
    # 320 pages: one of convolutions and one of matrices for a sequence, 16 blocks in each of the rest.
    assert (kv.blocks, kv.tokens) == (318 * 16, 318 * 16 * 64)
    assert "26738688 bytes of state" in kv.formula
    assert cache(2 * PAGE_BYTES, state_sizes(QWEN, WHOLE)).blocks == 0
    assert cache(3 * PAGE_BYTES, state_sizes(QWEN, WHOLE)).blocks == 16


def test_short_sequences_are_held_up_by_their_states() -> None:
    kv = cache(10 * GIB, state_sizes(QWEN, WHOLE))
    # Of n sequences: n / 21 pages of convolutions, 24 n / 32 of matrices, n / 16 of blocks.
    assert kv.room_for(63) == 370
    assert kv.room_for(8191) == 36
    assert cache(10 * GIB, ()).room_for(63) == 5120


objects = st.builds(StateObjects, st.just(1), st.integers(1, 40), st.sampled_from([1, 2, 4]), st.integers(1, 40))


@given(
    st.integers(0, 400), st.integers(1, 20), st.sampled_from([1, 2]), st.lists(objects, min_size=1, max_size=3),
    st.integers(0, 2000),
)  # fmt: skip
def test_room_is_what_counting_one_by_one_finds(
    pages: int, per_slab: int, slab_pages: int, each: list[StateObjects], tokens: int
) -> None:
    states = StatesInRegion(pages, per_slab, slab_pages, tuple(each))
    blocks = states.blocks_beside(1)
    kv = KvCache(0, 64, 1, blocks, blocks * 64, "", (), states)
    sequences = 0
    while True:
        more = sequences + 1
        taken = sum(-(-more * one.per_sequence // one.per_slab) * one.slab_pages for one in each)
        taken += -(-more * kv.sequence_blocks(tokens) // per_slab) * slab_pages
        if taken > pages:
            break
        sequences = more
    assert kv.room_for(tokens) == sequences
    assert kv.max_sequences(tokens, 3) == min(3, sequences)
