"""KV blocks: their bytes, and how TurboMind cuts a region into slabs of them."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final, NamedTuple

from planner.memory.attention import on_rank
from planner.memory.capacity import KvCache, StateObjects, StatesInRegion
from planner.memory.parallelism import Parallelism
from planner.memory.pool import PAGE_BYTES
from planner.model.layers import GatedDeltaNet
from planner.model.spec import TextModel
from planner.units import ceil_pow2

KV_BITS: Final = {0: 16, 4: 4, 8: 8}
"""quant_policy -> bits of a stored key or value (`lmdeploy/cli/utils.py`, quant_policy)."""
_HALF_BYTES: Final = 2
QUANT_PARAM_BYTES: Final = 4
"""A 16-bit scale and a 16-bit zero for each head of each token, for keys and for values
(`src/turbomind/kernels/attention/block.h:146-175`, v0.5.3 and v0.16.0)."""


def share_of(free_bytes: int, ratio: float) -> int:
    """`free_bytes` times the ratio as TurboMind does it: the ratio is a C++ float, the product a double.

    0.8 is 0.800000012 there (`src/turbomind/turbomind.cc`, CreateEngine, v0.16.0).
    """
    single: float = struct.unpack("<f", struct.pack("<f", ratio))[0]
    return int(free_bytes * single)


@lru_cache(maxsize=1024)  # a search asks for each ratio
def block_bytes(text: TextModel, quant_policy: int, block_tokens: int, parallelism: Parallelism) -> int:
    """Bytes of one block of `block_tokens` tokens on one rank, over all layers.

    layers x kv heads x 2 (keys and values) x tokens x (width x bits / 8 + 4 where quantized)
    """
    bits = KV_BITS[quant_policy]
    extra = 0 if bits == 16 else QUANT_PARAM_BYTES
    total = 0
    for group in text.layer_groups:
        rank = on_rank(group.attention, parallelism)
        for cached in (rank.keys, rank.values):
            per_head = cached.width * bits // 8 + extra
            total += len(group.layers) * cached.num_heads * block_tokens * per_head  # 0 heads: nothing is cached
    return total


@lru_cache(maxsize=1024)
def block_formula(text: TextModel, quant_policy: int, block_tokens: int, parallelism: Parallelism) -> str:
    """The block formula with its numbers, for reports."""
    bits = KV_BITS[quant_policy]
    quantized = f" + {QUANT_PARAM_BYTES} scale and zero" if bits != 16 else ""
    parts = []
    for group in text.layer_groups:
        rank = on_rank(group.attention, parallelism)
        # Keys and values are mostly alike: one part for both.
        each = [(rank.keys, " x 2")] if rank.keys == rank.values else [(rank.keys, ""), (rank.values, "")]
        each = [(cached, twice) for cached, twice in each if cached.width]
        parts += [
            f"{len(group.layers)} layers x {cached.num_heads} kv heads{twice} x {block_tokens} tokens x "
            f"({cached.width} x {bits}/8{quantized})"
            for cached, twice in each
        ]
    return " + ".join(parts)


class StateSize(NamedTuple):
    """Objects of one size that a sequence holds beside its tokens, and how many."""

    object_bytes: int
    per_sequence: int


@lru_cache(maxsize=1024)
def state_sizes(text: TextModel, parallelism: Parallelism) -> tuple[StateSize, ...]:
    """The states of a sequence on one rank as TurboMind keeps them: one object for the convolutions of all layers, and
    one a layer for the matrices, all 16-bit like the activations; empty for a model without linear attention.

    `src/turbomind/models/llama/GatedDeltaNetLayer.cc` after v0.16.0 and the log of 0.18.0. The config's
    ``mamba_ssm_dtype`` is not asked; the environment's LMDEPLOY_FP32_MAMBA_SSM_DTYPE, which is, is not planned.
    """
    convolutions, matrices, layers = 0, 0, 0
    for group in text.layer_groups:
        net = group.attention
        if isinstance(net, GatedDeltaNet):
            heads = net.num_value_heads // parallelism.tp
            layers += len(group.layers)
            convolutions += len(group.layers) * net.conv_width // parallelism.tp * net.conv_kernel_size * _HALF_BYTES
            matrices = heads * net.key_head_dim * net.value_head_dim * _HALF_BYTES  # alike in all layers, checked there
    return (StateSize(convolutions, 1), StateSize(matrices, layers)) if layers else ()


class SlabLayout(NamedTuple):
    """How blocks of one size share slabs: `slab_bytes` holds `blocks_per_slab` of them."""

    slab_bytes: int
    blocks_per_slab: int


def slab_layout(object_bytes: int, fill: float, max_bytes: int) -> SlabLayout:
    """The slab that TurboMind from 0.15 chooses for objects of `object_bytes`.

    It starts from the power of two that holds a page and an object, and doubles until `fill` of it is used or
    `max_bytes` is reached (`src/turbomind/memory/slab.h`, SlabAllocator, v0.16.0).
    """
    slab = ceil_pow2(max(PAGE_BYTES, object_bytes))
    while slab // object_bytes * object_bytes / slab < fill and slab < max_bytes:
        slab *= 2
    return SlabLayout(slab, slab // object_bytes)


def cut_into_slabs(
    budget_bytes: int,
    object_bytes: int,
    block_tokens: int,
    fill: float,
    max_bytes: int,
    formula: str,
    states: tuple[StateSize, ...] = (),
) -> KvCache:
    """Whole blocks in a region of `budget_bytes`, page by page and slab by slab; beside the states of one sequence
    where sequences have `states`.

    The region is the first allocation of its pool, whose start the driver aligns to a page, so no page is lost to
    alignment (seen on every run traced).
    """
    layout = slab_layout(object_bytes, fill, max_bytes)
    pages = budget_bytes // PAGE_BYTES
    slab_pages = layout.slab_bytes // PAGE_BYTES
    slabs = pages // slab_pages
    blocks = slabs * layout.blocks_per_slab
    notes = (f"slabs of {layout.slab_bytes} bytes with {layout.blocks_per_slab} blocks each, {slabs} slabs",)
    if not states:
        return KvCache(budget_bytes, block_tokens, object_bytes, blocks, blocks * block_tokens, formula, notes)
    shared = StatesInRegion(
        pages, layout.blocks_per_slab, slab_pages, tuple(_objects(state, fill, max_bytes) for state in states)
    )
    blocks = shared.blocks_beside(1)
    parts = " and ".join(f"{state.per_sequence} x {state.object_bytes}" for state in states)
    formula = f"{formula}; a running sequence holds {shared.sequence_bytes} bytes of state besides ({parts})"
    return KvCache(budget_bytes, block_tokens, object_bytes, blocks, blocks * block_tokens, formula, notes, shared)


def _objects(state: StateSize, fill: float, max_bytes: int) -> StateObjects:
    layout = slab_layout(state.object_bytes, fill, max_bytes)
    return StateObjects(state.object_bytes, layout.blocks_per_slab, layout.slab_bytes // PAGE_BYTES, state.per_sequence)
