"""Weights as an engine holds them: fused, cut by tensor parallelism, in the engine's own formats."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from planner.memory.pool import aligned
from planner.model.spec import (
    DenseMlp,
    GroupedQueryAttention,
    MoeMlp,
    Quantization,
    TextModel,
    VisionTower,
)
from planner.units import ceil_div, round_up

_HALF_BYTES: Final = 2


@dataclass(frozen=True, slots=True)
class Allocation:
    """`count` equal allocations of `size_bytes` each on one GPU."""

    what: str
    size_bytes: int
    count: int = 1

    @property
    def total_bytes(self) -> int:
        """Bytes asked for."""
        return self.size_bytes * self.count

    @property
    def aligned_bytes(self) -> int:
        """Bytes that they take inside a pool."""
        return aligned(self.size_bytes) * self.count


@dataclass(frozen=True, slots=True)
class LinearShape:
    """A fused linear on one rank: `num_in` x `num_out`; `quantized` when the format applies to it."""

    what: str
    num_in: int
    num_out: int
    count: int
    bias: bool = False
    quantized: bool = False


@dataclass(frozen=True, slots=True)
class Sharding:
    """How one version splits weights over `tp` ranks.

    Attributes:
        embedding_sharded, lm_head_sharded: whether the vocabulary matrices are cut or whole on every rank.
        vocab_multiple: the head's rows are padded to a multiple of this times tp (only when cut).
        intermediate_multiple: an MLP's intermediate size is padded to a multiple of this times tp; 1 for no padding.
    """

    tp: int
    embedding_sharded: bool
    lm_head_sharded: bool
    vocab_multiple: int
    intermediate_multiple: int


def text_linears(text: TextModel, quantization: Quantization | None, sharding: Sharding) -> Iterator[LinearShape]:
    """The decoder's linears on one rank, qkv and gate-up fused, in the order of loading."""
    hidden, tp = text.hidden_size, sharding.tp
    for group in text.layer_groups:
        count = len(group.layers)
        attention = group.attention
        assert isinstance(attention, GroupedQueryAttention)
        q_heads = attention.num_heads // tp
        kv_heads = ceil_div(attention.num_kv_heads, tp)
        qkv = (q_heads + 2 * kv_heads) * attention.head_dim
        packed = quantization is not None
        yield LinearShape("qkv", hidden, qkv, count, attention.qkv_bias, packed)
        yield LinearShape("output", q_heads * attention.head_dim, hidden, count, attention.output_bias, packed)
        mlp = group.mlp
        if isinstance(mlp, DenseMlp):
            size = pad_intermediate(mlp.intermediate_size, sharding) // tp
            yield LinearShape("gate and up", hidden, 2 * size, count, mlp.bias, packed)
            yield LinearShape("down", size, hidden, count, mlp.bias, packed)
            continue
        assert isinstance(mlp, MoeMlp)
        yield LinearShape("router", hidden, mlp.num_experts, count)
        size = pad_intermediate(mlp.expert_intermediate_size, sharding) // tp
        experts = count * mlp.num_experts
        yield LinearShape("expert gate and up", hidden, 2 * size, experts, False, packed)
        yield LinearShape("expert down", size, hidden, experts, False, packed)
        if mlp.shared_intermediate_size:
            size = pad_intermediate(mlp.shared_intermediate_size, sharding) // tp
            yield LinearShape("shared gate and up", hidden, 2 * size, count, False, packed)
            yield LinearShape("shared down", size, hidden, count, False, packed)
            yield LinearShape("shared gate", hidden, 1, count)


def pad_intermediate(size: int, sharding: Sharding) -> int:
    """An MLP's intermediate size after padding, over all ranks."""
    if sharding.intermediate_multiple == 1:
        return size
    return round_up(size, sharding.intermediate_multiple * sharding.tp)


def head_rows(text: TextModel, sharding: Sharding) -> int:
    """Rows of the output matrix after padding, over all ranks."""
    if sharding.tp == 1 or not sharding.lm_head_sharded:
        return text.vocab_size
    return round_up(text.vocab_size, sharding.vocab_multiple * sharding.tp)


def text_plain(text: TextModel, sharding: Sharding) -> Iterator[Allocation]:
    """What stays 16-bit on one rank: both vocabulary matrices (two copies even when tied), norms, biases."""
    hidden = text.hidden_size
    width = hidden // sharding.tp if sharding.embedding_sharded else hidden
    yield Allocation("embedding", text.vocab_size * width * _HALF_BYTES)
    rows = head_rows(text, sharding)
    rows = rows // sharding.tp if sharding.lm_head_sharded else rows
    yield Allocation("output head", rows * hidden * _HALF_BYTES)
    yield Allocation("final norm", hidden * _HALF_BYTES)
    for group in text.layer_groups:
        count = len(group.layers)
        yield Allocation("norms", hidden * _HALF_BYTES, 2 * count)
        if group.attention.qk_norm:
            yield Allocation("q and k norms", group.attention.head_dim * _HALF_BYTES, 2 * count)
    for linear in text_linears(text, None, sharding):
        if linear.bias:
            yield Allocation(f"{linear.what} bias", linear.num_out * _HALF_BYTES, linear.count)


def vision_linears(tower: VisionTower, tp: int) -> Iterator[LinearShape]:
    """The vision tower's and projector's linears on one rank; attention stays whole where
    `tp` does not divide the heads.
    """
    hidden, layers = tower.hidden_size, tower.num_layers
    attention_tp = tp if tower.num_heads % tp == 0 else 1
    yield LinearShape("patch embedding", tower.num_channels * tower.patch_size**2, hidden, 1, True)
    yield LinearShape("vision qkv", hidden, 3 * hidden // attention_tp, layers, tower.qkv_bias)
    yield LinearShape("vision output", hidden // attention_tp, hidden, layers, True)
    yield LinearShape("vision fc1", hidden, tower.intermediate_size // tp, layers, True)
    yield LinearShape("vision fc2", tower.intermediate_size // tp, hidden, layers, True)
    wide, out = hidden * tower.pixel_shuffle**2, tower.text_hidden_size
    yield LinearShape("projector 1", wide, out // tp, 1, True)
    yield LinearShape("projector 2", out // tp, out, 1, True)


def vision_plain(tower: VisionTower, tp: int) -> Iterator[Allocation]:
    """The rest of the vision tower: token, positions, norms, layer scales and biases."""
    hidden, layers = tower.hidden_size, tower.num_layers
    yield Allocation("class token", hidden * _HALF_BYTES)
    yield Allocation("position embedding", (tower.num_patches + 1) * hidden * _HALF_BYTES)
    yield Allocation("vision norms", hidden * _HALF_BYTES, layers * (2 if tower.rms_norm else 4))
    yield Allocation("layer scales", hidden * _HALF_BYTES, 2 * layers)
    if tower.qk_norm:
        yield Allocation("vision q and k norms", hidden * _HALF_BYTES, 2 * layers)
    yield Allocation("projector norm", hidden * tower.pixel_shuffle**2 * _HALF_BYTES, 2)
    for linear in vision_linears(tower, tp):
        if linear.bias:
            yield Allocation(f"{linear.what} bias", linear.num_out * _HALF_BYTES, linear.count)


def plain_linear(linear: LinearShape) -> Allocation:
    """A 16-bit linear."""
    return Allocation(linear.what, linear.num_in * linear.num_out * _HALF_BYTES, linear.count)
