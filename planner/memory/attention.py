"""Attention on one rank, by kind: linears, norms, what a token leaves in the KV cache and in a step's buffers.

A new attention kind is a case in each `match` below; engines know attention by `RankAttention` alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from planner.errors import not_planned
from planner.kinds import assert_never
from planner.memory.linears import FusedLinear, LinearKind
from planner.memory.parallelism import Parallelism
from planner.model.layers import Attention, GatedDeltaNet, GroupedQueryAttention, LatentAttention
from planner.model.spec import TextModel


class Cached(NamedTuple):
    """What a token leaves in the KV cache of one rank and layer: keys, or values, of `num_heads` x `width` elements."""

    num_heads: int
    width: int


class RankAttention(NamedTuple):
    """Attention of one layer on one rank. Widths are elements a token.

    Attributes:
        num_heads, head_dim: query heads, and the width of one as attention kernels compute it.
        qkv_width: of the fused projection.
        output_width: of what goes into the output projection.
        keys, values: what stays in the KV cache.
    """

    num_heads: int
    head_dim: int
    qkv_width: int
    output_width: int
    keys: Cached
    values: Cached

    @property
    def cached_width(self) -> int:
        """Elements that a token leaves in the KV cache."""
        return self.keys.num_heads * self.keys.width + self.values.num_heads * self.values.width


def on_rank(attention: Attention, parallelism: Parallelism) -> RankAttention:
    """What one rank computes and keeps of it."""
    match attention:
        case GroupedQueryAttention():
            _check(attention)
            heads = parallelism.heads(attention.num_heads)
            cached = Cached(parallelism.kv_heads(attention.num_kv_heads), attention.head_dim)
            output_width = heads * attention.head_dim
            qkv_width = output_width + 2 * cached.num_heads * cached.width
            return RankAttention(heads, attention.head_dim, qkv_width, output_width, cached, cached)
        case LatentAttention():
            raise not_planned("latent attention")
        case GatedDeltaNet():
            raise not_planned("gated linear attention")
        case _:
            assert_never(attention)


def _check(attention: GroupedQueryAttention) -> None:
    if attention.sinks:
        raise not_planned("attention sinks")
    if attention.output_gate:
        raise not_planned("a gate on the output of attention")


def linears(attention: Attention, text: TextModel, parallelism: Parallelism) -> Iterator[FusedLinear]:
    """Its linears on one rank, in the order of loading."""
    names, rank = text.names, on_rank(attention, parallelism)
    match attention:
        case GroupedQueryAttention():
            yield FusedLinear(
                LinearKind.QKV, names.attention_inputs, text.hidden_size, rank.qkv_width, attention.qkv_bias
            )
            output = (names.output,)
            yield FusedLinear(LinearKind.OUTPUT, output, rank.output_width, text.hidden_size, attention.output_bias)
        case LatentAttention():
            raise not_planned("latent attention")
        case GatedDeltaNet():
            raise not_planned("gated linear attention")
        case _:
            assert_never(attention)


def norms(attention: Attention) -> Iterator[tuple[int, int]]:
    """Width and number of its norms in one layer, whole on every rank."""
    match attention:
        case GroupedQueryAttention():
            if attention.qk_norm:
                yield attention.head_dim, 2
        case LatentAttention():
            raise not_planned("latent attention")
        case GatedDeltaNet():
            raise not_planned("gated linear attention")
        case _:
            assert_never(attention)


def widest(text: TextModel, parallelism: Parallelism) -> tuple[int, int]:
    """The most query heads and the widest head of any layer on one rank: kernels' buffers are sized by these."""
    ranks = [on_rank(group.attention, parallelism) for group in text.layer_groups]
    return max(rank.num_heads for rank in ranks), max(rank.head_dim for rank in ranks)
