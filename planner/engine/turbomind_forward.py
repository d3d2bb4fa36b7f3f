"""Activations of one step, as TurboMind's executor lays them out in its pool (0.8 and newer).

A step takes its hidden states, then fused qkv and attention output, then the keys and values it attends to in one
piece, then the MLP's buffers. qkv and attention output are freed before the MLP's come, but only a buffer that fits
where they were takes their place: a larger one goes behind them, since their frees have not reached the GPU when the
host asks. The flattened keys and values are freed early enough for the MLP to take their place. Read off a trace of
LMDeploy 0.18.0 on an H200 and checked on 40 further runs; small models can come out lower.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from planner.memory.kv_cache import kv_heads_per_rank
from planner.model.spec import DenseMlp, LayerGroup, MoeMlp, TextModel
from planner.units import format_bytes

_HALF_BYTES = 2
_PREFETCH_TOKENS = 64
"""MAX_CTA_S: what the attention kernel may read beyond the keys (`unified_attention_layer.cc`, core_attention)."""
PadIntermediate = Callable[[int], int]
"""An MLP's intermediate size -> its padded size on one rank."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the executor.

    Attributes:
        tokens: new tokens.
        context_tokens: tokens that the sequences being prefilled have by the end of it, earlier chunks included.
        tp: ranks.
        hidden_states: how many the pool holds. Where ranks exchange theirs, one lies in the exchange buffer.
        fused_dense, fused_experts: the MLP applies its activation while it multiplies, so gate and up are never
            stored apart.
    """

    tokens: int
    context_tokens: int
    tp: int
    hidden_states: int
    fused_dense: bool
    fused_experts: bool


def step_parts(text: TextModel, step: Step, pad: PadIntermediate) -> list[tuple[str, int]]:
    """Name and bytes of each part of the layer group that takes most."""
    return max(
        (_group_parts(text, group, step, pad) for group in text.layer_groups),
        key=lambda parts: sum(size for _, size in parts),
    )


def step_bytes(parts: list[tuple[str, int]]) -> int:
    """Bytes of all parts."""
    return sum(size for _, size in parts)


def least_bytes(text: TextModel, step: Step, pad: PadIntermediate) -> int:
    """What the step takes where every free reaches the GPU in time, as with small models: the MLP lies where attention
    was.
    """
    return max(_least_bytes(text, group, step, pad) for group in text.layer_groups)


def formula(parts: list[tuple[str, int]]) -> str:
    """The parts in words and numbers."""
    return " + ".join(f"{what} {format_bytes(size)}" for what, size in parts)


def _attention_bytes(group: LayerGroup, step: Step) -> tuple[int, int]:
    """qkv and attention output; the flattened keys and values."""
    attention = group.attention
    heads = attention.num_heads // step.tp
    kv_heads = kv_heads_per_rank(attention.num_kv_heads, step.tp)
    width = (2 * heads + 2 * kv_heads) * attention.head_dim
    flattened = 2 * kv_heads * (step.context_tokens + _PREFETCH_TOKENS) * attention.head_dim * _HALF_BYTES
    return step.tokens * width * _HALF_BYTES, flattened


def _least_bytes(text: TextModel, group: LayerGroup, step: Step, pad: PadIntermediate) -> int:
    hidden = step.hidden_states * step.tokens * text.hidden_size * _HALF_BYTES
    return hidden + max(sum(_attention_bytes(group, step)), sum(_mlp_buffers(text, group.mlp, step, pad)))


def _group_parts(text: TextModel, group: LayerGroup, step: Step, pad: PadIntermediate) -> list[tuple[str, int]]:
    attention_bytes, flattened = _attention_bytes(group, step)
    behind = 0
    room = attention_bytes
    for size in _mlp_buffers(text, group.mlp, step, pad):
        if size <= room:
            room -= size
        else:
            behind += size
    last = ("mlp behind them", behind) if behind >= flattened else ("keys and values behind them", flattened)
    count = f"{step.hidden_states} hidden state{'s' if step.hidden_states != 1 else ''}"
    return [
        (count, step.hidden_states * step.tokens * text.hidden_size * _HALF_BYTES),
        ("qkv and attention output", attention_bytes),
        last,
        ("ids and logits", 4 * text.vocab_size),
    ]


def _mlp_buffers(text: TextModel, mlp: DenseMlp | MoeMlp, step: Step, pad: PadIntermediate) -> list[int]:
    """The MLP's buffers in the order in which they are taken."""
    stored = 1 if step.fused_dense else 2
    if isinstance(mlp, DenseMlp):
        return [step.tokens * pad(mlp.intermediate_size) * stored * _HALF_BYTES]
    rows = step.tokens * mlp.num_experts_per_tok
    inter = rows * pad(mlp.expert_intermediate_size) * (1 if step.fused_experts else 2) * _HALF_BYTES
    shared = 0
    if mlp.shared_intermediate_size:
        shared = step.tokens * pad(mlp.shared_intermediate_size) * stored * _HALF_BYTES
    return [max(inter, shared), rows * text.hidden_size * _HALF_BYTES]
