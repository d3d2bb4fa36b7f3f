"""KV blocks against published and logged numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.memory.capacity import KvCache
from planner.memory.kv_cache import (
    KV_BITS,
    SlabLayout,
    block_bytes,
    block_formula,
    cut_into_slabs,
    share_of,
    slab_layout,
)
from planner.memory.parallelism import Parallelism
from planner.memory.pool import PAGE_BYTES
from planner.model import catalog
from planner.model.arch import read_spec
from planner.model.spec import TextModel
from planner.units import GIB, MIB

FILL, MAX_SLAB_BYTES = 0.95, GIB
BLOCK_TOKENS = 64


def text_of(name: str) -> TextModel:
    entry = catalog.load(name)
    assert entry is not None
    return read_spec(entry.config, name).text


@pytest.mark.parametrize(
    ("name", "bytes_per_token"),
    [
        ("llama-3.1-70b", 327_680),
        ("llama-3.1-8b", 131_072),
        ("llama-2-7b", 524_288),  # 1 GiB for 2048 tokens
        ("qwen2.5-7b", 57_344),
        ("mixtral-8x7b", 131_072),
    ],
)
def test_bytes_of_a_token_at_16_bits(name: str, bytes_per_token: int) -> None:
    assert block_bytes(text_of(name), 0, 1, Parallelism(1)) == bytes_per_token


@pytest.mark.parametrize(
    ("name", "quant_policy", "object_bytes", "slab_bytes", "per_slab"),
    [
        ("internlm2_5-7b", 0, 8_388_608, 32 * MIB, 4),
        ("internlm2_5-7b", 8, 4_325_376, 64 * MIB, 15),
        ("internlm2_5-7b", 4, 2_228_224, 32 * MIB, 15),
        ("qwen2.5-1.5b", 0, 1_835_008, 32 * MIB, 18),
        ("qwen2.5-7b", 0, 3_670_016, 32 * MIB, 9),
        ("qwen3-8b", 0, 9_437_184, 64 * MIB, 7),
        ("qwen3-30b-a3b", 0, 6_291_456, 128 * MIB, 21),
    ],
)
def test_blocks_and_slabs_that_the_engine_logs(
    name: str, quant_policy: int, object_bytes: int, slab_bytes: int, per_slab: int
) -> None:
    assert block_bytes(text_of(name), quant_policy, BLOCK_TOKENS, Parallelism(1)) == object_bytes
    layout = slab_layout(object_bytes, FILL, MAX_SLAB_BYTES)
    assert (layout.slab_bytes, layout.blocks_per_slab) == (slab_bytes, per_slab)


@pytest.mark.parametrize(("quant_policy", "per_head"), [(0, 512), (8, 264), (4, 136)])
def test_scales_and_zeros_count(quant_policy: int, per_head: int) -> None:
    """Keys and values of one head, layer and token at head_dim 128."""
    assert block_bytes(text_of("internlm2_5-7b"), quant_policy, 1, Parallelism(1)) == 32 * 8 * per_head


def test_a_rank_holds_its_share_of_heads_and_repeats_them_when_there_are_too_few() -> None:
    text = text_of("qwen2.5-1.5b")  # 2 key-value heads
    whole = block_bytes(text, 0, BLOCK_TOKENS, Parallelism(1))
    assert block_bytes(text, 0, BLOCK_TOKENS, Parallelism(2)) == whole // 2
    assert block_bytes(text, 0, BLOCK_TOKENS, Parallelism(4)) == whole // 2


@pytest.mark.parametrize("quant_policy", KV_BITS)
def test_the_formula_says_what_was_computed(quant_policy: int) -> None:
    text = text_of("internlm2_5-7b")
    formula = block_formula(text, quant_policy, BLOCK_TOKENS, Parallelism(2)).replace(" x ", "*")
    for word in (" layers", " kv heads", " tokens", " scale and zero"):
        formula = formula.replace(word, "")
    assert eval(formula) == block_bytes(text, quant_policy, BLOCK_TOKENS, Parallelism(2))


def test_the_ratio_is_a_float_of_32_bits() -> None:
    assert share_of(10**10, 0.8) == 8_000_000_119
    assert share_of(10**10, 0.5) == 5 * 10**9
    assert share_of(0, 0.8) == 0


def test_whole_slabs_only() -> None:
    kv = cut_into_slabs(64 * MIB * 10 + 63 * MIB, 4_325_376, BLOCK_TOKENS, FILL, MAX_SLAB_BYTES, "")
    assert (kv.blocks, kv.tokens) == (150, 150 * BLOCK_TOKENS)
    assert cut_into_slabs(63 * MIB, 4_325_376, BLOCK_TOKENS, FILL, MAX_SLAB_BYTES, "").blocks == 0


@given(st.integers(min_value=1, max_value=2 * GIB))
def test_a_slab_holds_an_object_and_is_a_power_of_two_of_pages(object_bytes: int) -> None:
    layout = slab_layout(object_bytes, FILL, MAX_SLAB_BYTES)
    pages, rest = divmod(layout.slab_bytes, PAGE_BYTES)
    assert rest == 0
    assert pages & (pages - 1) == 0
    assert layout.blocks_per_slab == layout.slab_bytes // object_bytes >= 1
    well_filled = layout.blocks_per_slab * object_bytes >= FILL * layout.slab_bytes
    assert well_filled or layout.slab_bytes >= MAX_SLAB_BYTES


def test_slabs_end_at_the_limit_however_badly_they_are_filled() -> None:
    # 600 MiB fill 1 GiB to 59% and 2 GiB to 88%, which only a higher limit reaches.
    assert slab_layout(600 * MIB, FILL, GIB) == SlabLayout(GIB, 1)
    assert slab_layout(600 * MIB, FILL, 2 * GIB) == SlabLayout(2 * GIB, 3)
    assert slab_layout(2 * GIB, FILL, GIB) == SlabLayout(2 * GIB, 1)


def test_bytes_and_room_follow_from_the_blocks_of_a_sequence() -> None:
    kv = KvCache(0, 64, 1000, 100, 6400, "")
    assert [kv.sequence_blocks(n) for n in (0, 63, 64, 127, 128)] == [1, 1, 2, 2, 3]
    assert [kv.sequence_bytes(n) for n in (63, 64)] == [1000, 2000]
    assert [kv.room_for(n) for n in (63, 64, 6399, 6400)] == [100, 50, 1, 0]
    assert kv.token_bytes == 1000 / 64


def test_a_sequence_also_holds_the_token_being_made() -> None:
    kv = KvCache(0, 64, 0, 100, 6400, "")
    assert kv.max_sequences(63, 1000) == 100
    assert kv.max_sequences(64, 1000) == 50
    assert kv.max_sequences(63, 8) == 8
    assert kv.max_sequences(6400, 8) == 0
