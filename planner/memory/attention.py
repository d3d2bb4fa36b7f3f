"""Attention on one rank, by kind: linears, norms, what a token leaves in the KV cache and in a step's buffers.

A new attention kind is a case in each `match` below; engines know attention by `RankAttention` alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from planner.errors import not_planned
from planner.kinds import assert_never
from planner.memory.linears import FusedLinear, LinearKind
from planner.memory.parallelism import Parallelism, Sharding
from planner.model.layers import Attention, GatedDeltaNet, GroupedQueryAttention, LatentAttention
from planner.model.spec import TextModel

_HALF_BYTES = 2
_GATES = 2
"""Gated linear attention has two numbers a value head and token, decay and beta, in 32 bits."""


class Cached(NamedTuple):
    """What a token leaves in the KV cache of one rank and layer: keys, or values, of `num_heads` x `width` elements."""

    num_heads: int
    width: int


_NOTHING = Cached(0, 0)


class RankAttention(NamedTuple):
    """Attention of one layer on one rank. Widths are 16-bit elements a token.

    Attributes:
        num_heads, head_dim: query heads, and the width of one as attention kernels compute it; 0 where none runs.
        qkv_width: of the fused projection.
        output_width: of what goes into the output projection.
        keys, values: what stays in the KV cache. Latent attention has one latent a token for both, counted as keys.
        scratch_width: of what a step holds besides: queries on their way up, or the convolution's output and gates.
    """

    num_heads: int
    head_dim: int
    qkv_width: int
    output_width: int
    keys: Cached
    values: Cached
    scratch_width: int = 0

    @property
    def cached_width(self) -> int:
        """Elements that a token leaves in the KV cache."""
        return self.keys.num_heads * self.keys.width + self.values.num_heads * self.values.width


def on_rank(attention: Attention, parallelism: Parallelism) -> RankAttention:
    """What one rank computes and keeps of it."""
    match attention:
        case GroupedQueryAttention():
            heads = parallelism.heads(attention.num_heads)
            cached = Cached(parallelism.kv_heads(attention.num_kv_heads), attention.head_dim)
            output_width = heads * attention.head_dim
            query_width = attention.query_width // parallelism.tp
            qkv_width = query_width + 2 * cached.num_heads * cached.width
            return RankAttention(heads, attention.head_dim, qkv_width, output_width, cached, cached)
        case LatentAttention():
            if attention.expanded or attention.indexer is not None:
                raise not_planned("latent attention with an indexer, or with keys and values of every head")
            heads, width = parallelism.heads(attention.num_heads), attention.latent_width
            queries = heads * width
            latent = Cached(1, width)  # whole on every rank
            scratch = attention.q_lora_rank or 0
            return RankAttention(heads, width, queries + width, queries, latent, _NOTHING, scratch)
        case GatedDeltaNet():
            value_heads, values = attention.num_value_heads // parallelism.tp, attention.value_width // parallelism.tp
            channels = attention.conv_width // parallelism.tp
            scratch = channels + _GATES * value_heads * 2
            return RankAttention(0, 0, channels + values + _GATES * value_heads, values, _NOTHING, _NOTHING, scratch)
        case _:
            assert_never(attention)


def linears(attention: Attention, text: TextModel, sharding: Sharding) -> Iterator[FusedLinear]:
    """Its linears on one rank, in the order of loading."""
    names, hidden, rank = text.names, text.hidden_size, on_rank(attention, sharding.parallelism)
    match attention:
        case GroupedQueryAttention():
            yield FusedLinear(LinearKind.QKV, names.attention_inputs, hidden, rank.qkv_width, attention.qkv_bias)
            output = (names.output,)
            yield FusedLinear(LinearKind.OUTPUT, output, rank.output_width, hidden, attention.output_bias)
        case LatentAttention():
            if not sharding.latent_folded:
                raise not_planned("latent attention whose keys and values have a projection of their own")
            yield from _folded(attention, text, rank)
        case GatedDeltaNet():
            stem = names.delta
            parts = "qkvz ba" if names.delta_fused else "qkv z b a"
            modules = tuple(f"{stem}in_proj_{part}" for part in parts.split())
            yield FusedLinear(LinearKind.DELTA_INPUT, modules, hidden, rank.qkv_width)
            yield FusedLinear(LinearKind.OUTPUT, (f"{stem}out_proj",), rank.output_width, hidden)
        case _:
            assert_never(attention)


def _folded(attention: LatentAttention, text: TextModel, rank: RankAttention) -> Iterator[FusedLinear]:
    """Keys and values multiplied into the queries before them and the output behind them, which is padded with zeros
    from the rank of the latent to its width (`lmdeploy/turbomind/builders/mla.py`, fold_kv_b and pad_wo_input, 0.18.0).
    """
    names, hidden, width = text.names, text.hidden_size, rank.num_heads * rank.head_dim
    if attention.q_lora_rank is None or attention.bias:
        raise not_planned("latent attention without a latent of its queries, or with biases, under TurboMind")
    yield FusedLinear(LinearKind.QUERY_DOWN, (names.q_down,), hidden, attention.q_lora_rank)
    yield FusedLinear(LinearKind.QUERY_UP, (names.q_up, names.kv_up), attention.q_lora_rank, width)
    yield FusedLinear(LinearKind.KV_DOWN, (names.kv_down,), hidden, attention.latent_width)
    yield FusedLinear(LinearKind.OUTPUT, (names.output, names.kv_up), width, hidden)


def norms(attention: Attention) -> Iterator[tuple[int, int]]:
    """Width and number of its norms in one layer, whole on every rank."""
    match attention:
        case GroupedQueryAttention():
            if attention.qk_norm:
                yield attention.head_dim, 2
        case LatentAttention():
            if attention.q_lora_rank is not None:
                yield attention.q_lora_rank, 1
            yield attention.kv_lora_rank, 1
        case GatedDeltaNet():
            yield attention.value_head_dim, 1
        case _:
            assert_never(attention)


def parameters(attention: Attention, parallelism: Parallelism) -> Iterator[int]:
    """16-bit elements of each tensor in one layer that is neither a linear nor a norm, on one rank."""
    match attention:
        case GroupedQueryAttention():
            if attention.sinks:
                yield parallelism.heads(attention.num_heads)
        case LatentAttention():
            pass
        case GatedDeltaNet():
            heads = attention.num_value_heads // parallelism.tp
            yield from (heads, heads)  # A_log, dt_bias
            yield attention.conv_width // parallelism.tp * attention.conv_kernel_size
        case _:
            assert_never(attention)


def widest(text: TextModel, parallelism: Parallelism) -> tuple[int, int]:
    """The most query heads and the widest head of any layer on one rank: kernels' buffers are sized by these."""
    ranks = [on_rank(group.attention, parallelism) for group in text.layer_groups]
    return max(rank.num_heads for rank in ranks), max(rank.head_dim for rank in ranks)
