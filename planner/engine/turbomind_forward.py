"""Activations of one step, as TurboMind's executor lays them out in its pool (0.15 and newer).

A step takes two hidden states, then fused qkv and attention output, then the MLP's buffers. qkv and attention output
are freed before the MLP's come, but only a buffer that fits where they were takes their place: a larger one goes behind
them, since their frees have not reached the GPU when the host asks. Read off a trace of LMDeploy 0.18.0 on an H200 and
checked on 40 further runs.
"""

from __future__ import annotations

from collections.abc import Callable

from planner.memory.kv_cache import kv_heads_per_rank
from planner.model.spec import DenseMlp, LayerGroup, MoeMlp, TextModel
from planner.units import format_bytes

_HALF_BYTES = 2
PadIntermediate = Callable[[int], int]
"""An MLP's intermediate size -> its padded size on one rank."""


def step_parts(text: TextModel, tokens: int, tp: int, pad: PadIntermediate, fused: bool) -> list[tuple[str, int]]:
    """Name and bytes of each part of the layer group that takes most, for a step of `tokens` tokens.

    `fused`: the MLP applies its activation while it multiplies, so gate and up are never stored apart.
    """
    return max(
        (_group_parts(text, group, tokens, tp, pad, fused) for group in text.layer_groups),
        key=lambda parts: sum(size for _, size in parts),
    )


def step_bytes(parts: list[tuple[str, int]]) -> int:
    """Bytes of all parts."""
    return sum(size for _, size in parts)


def formula(parts: list[tuple[str, int]]) -> str:
    """The parts in words and numbers."""
    return " + ".join(f"{what} {format_bytes(size)}" for what, size in parts)


def _group_parts(
    text: TextModel, group: LayerGroup, tokens: int, tp: int, pad: PadIntermediate, fused: bool
) -> list[tuple[str, int]]:
    attention = group.attention
    heads = attention.num_heads // tp
    kv_heads = kv_heads_per_rank(attention.num_kv_heads, tp)
    width = (2 * heads + 2 * kv_heads) * attention.head_dim
    attention_bytes = tokens * width * _HALF_BYTES
    behind = 0
    room = attention_bytes
    for size in _mlp_buffers(text, group.mlp, tokens, pad, fused):
        if size <= room:
            room -= size
        else:
            behind += size
    return [
        ("2 hidden states", 2 * tokens * text.hidden_size * _HALF_BYTES),
        ("qkv and attention output", attention_bytes),
        ("mlp behind them", behind),
        ("ids and logits", 4 * text.vocab_size),
    ]


def _mlp_buffers(text: TextModel, mlp: DenseMlp | MoeMlp, tokens: int, pad: PadIntermediate, fused: bool) -> list[int]:
    """The MLP's buffers in the order in which they are taken."""
    stored = 1 if fused else 2
    if isinstance(mlp, DenseMlp):
        return [tokens * pad(mlp.intermediate_size) * stored * _HALF_BYTES]
    rows = tokens * mlp.num_experts_per_tok
    inter = rows * pad(mlp.expert_intermediate_size) * _HALF_BYTES  # experts always fuse (traced)
    shared = tokens * pad(mlp.shared_intermediate_size) * stored * _HALF_BYTES if mlp.shared_intermediate_size else 0
    return [max(inter, shared), rows * text.hidden_size * _HALF_BYTES]
