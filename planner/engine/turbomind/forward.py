"""Activations of one step, as TurboMind's executor lays them out in its pool (0.8 and newer).

A step takes its hidden states, then fused qkv and attention output, then the keys and values it attends to in one
piece, then the MLP's buffers. qkv and attention output are freed before the MLP's come, but only a buffer that fits
where they were takes their place: a larger one goes behind them, since their frees have not reached the GPU when the
host asks. The flattened keys and values are freed early enough for the MLP to take their place. Small models can come
out lower.

The warm-up runs the first layer alone (`tune_layer_num`, `models/llama/llama_params.h`, 0.16.0); layers of another make
follow with the first prompt.

Experts are another matter while warming up: the engine then draws their ids on the host (`moe_ffn_layer.cc`,
SampleUniform, 0.16.0), the GPU passes everything in the meantime, and the experts' buffers lie where attention was.

Native fp8 linears (compute capability 9.0) quantize what goes into them, and the fused activation writes 8 bits.

Read off traces of LMDeploy 0.18.0 on an H200 (20 models) and an H100 (8) and checked on further runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from planner.kinds import assert_never
from planner.memory.attention import on_rank
from planner.memory.linears import LinearKind
from planner.memory.parallelism import Parallelism
from planner.model.layers import (
    Attention,
    DenseMlp,
    GatedDeltaNet,
    GroupedQueryAttention,
    LatentAttention,
    LayerGroup,
    Mlp,
    MoeMlp,
    routed_experts,
)
from planner.model.spec import TextModel
from planner.units import ceil_div, format_bytes

_HALF_BYTES = 2
_PREFETCH_TOKENS = 64
"""MAX_CTA_S: what the attention kernel may read beyond the keys (`unified_attention_layer.cc`, core_attention)."""
_FP8_GROUP = 128
"""Values of an fp8 activation that share a 32-bit scale (`linear_weight.cc`, DeriveActivationFormats, 0.16.0)."""
PadIntermediate = Callable[[int], int]
"""An MLP's intermediate size -> its padded size on one rank."""


class Step(NamedTuple):
    """A step of the executor.

    Attributes:
        tokens: new tokens.
        context_tokens: tokens that the sequences being prefilled have by the end of it, earlier chunks included.
        parallelism: the ranks.
        hidden_states: how many the pool holds. Where ranks exchange theirs, one lies in the exchange buffer.
        fused_dense, fused_experts: the MLP applies its activation while it multiplies, so gate and up are never
            stored apart.
        fp8: the kinds of linears that take 8-bit inputs, which a fused MLP writes for its last.
        warming_up: the first layer runs alone, and experts are drawn on the host.
    """

    tokens: int
    context_tokens: int
    parallelism: Parallelism
    hidden_states: int
    fused_dense: bool
    fused_experts: bool
    fp8: frozenset[LinearKind] = frozenset()
    warming_up: bool = False


def step_parts(text: TextModel, step: Step, pad: PadIntermediate) -> list[tuple[str, int]]:
    """Name and bytes of each part of the layer group that takes most."""
    return max(
        (_group_parts(text, group, step, pad) for group in _groups(text, step)),
        key=lambda parts: sum(size for _, size in parts),
    )


def step_bytes(parts: list[tuple[str, int]]) -> int:
    """Bytes of all parts."""
    return sum(size for _, size in parts)


def least_bytes(text: TextModel, step: Step, pad: PadIntermediate) -> int:
    """What the step takes where every free reaches the GPU in time, as with small models: the MLP lies where attention
    was.
    """
    return max(_least_bytes(text, group, step, pad) for group in _groups(text, step))


def formula(parts: list[tuple[str, int]]) -> str:
    """The parts in words and numbers."""
    return " + ".join(f"{what} {format_bytes(size)}" for what, size in parts)


def _groups(text: TextModel, step: Step) -> tuple[LayerGroup, ...]:
    """Those whose layers run."""
    if not step.warming_up:
        return text.layer_groups
    return (min(text.layer_groups, key=lambda group: min(group.layers)),)


def _attention_bytes(group: LayerGroup, step: Step) -> tuple[int, int]:
    """qkv and attention output, with what else attention holds; the flattened keys and values."""
    rank = on_rank(group.attention, step.parallelism)
    width = rank.qkv_width + rank.output_width + rank.scratch_width
    flattened = rank.cached_width * (step.context_tokens + _PREFETCH_TOKENS) * _HALF_BYTES
    return step.tokens * width * _HALF_BYTES, flattened


def _fp8_bytes(rows: int, width: int) -> int:
    """An 8-bit activation and its scales."""
    return rows * (width + 4 * ceil_div(width, _FP8_GROUP))


def _input_bytes(text: TextModel, group: LayerGroup, step: Step) -> tuple[int, int]:
    """What goes into qkv and into the output projection, quantized; nothing where linears take 16 bits."""
    widths = {
        _input_kind(group.attention): text.hidden_size,
        LinearKind.OUTPUT: on_rank(group.attention, step.parallelism).output_width,
    }
    for_qkv, for_output = (_fp8_bytes(step.tokens, w) if kind in step.fp8 else 0 for kind, w in widths.items())
    return for_qkv, for_output


def _input_kind(attention: Attention) -> LinearKind:
    """The first of its linears."""
    match attention:
        case GroupedQueryAttention():
            return LinearKind.QKV
        case LatentAttention():
            return LinearKind.QUERY_DOWN
        case GatedDeltaNet():
            return LinearKind.DELTA_INPUT
        case _:
            assert_never(attention)


def _hidden_bytes(text: TextModel, step: Step) -> int:
    return step.hidden_states * step.tokens * text.hidden_size * _HALF_BYTES


def _least_bytes(text: TextModel, group: LayerGroup, step: Step, pad: PadIntermediate) -> int:
    attention_bytes, flattened = _attention_bytes(group, step)
    for_qkv, for_output = _input_bytes(text, group, step)
    behind = max(0 if size <= for_qkv else size for size in (flattened, for_output))
    mlp = sum(_mlp_buffers(text, group.mlp, step, pad))
    return _hidden_bytes(text, step) + for_qkv + max(attention_bytes + behind, mlp)


def _group_parts(text: TextModel, group: LayerGroup, step: Step, pad: PadIntermediate) -> list[tuple[str, int]]:
    count = f"{step.hidden_states} hidden state{'s' if step.hidden_states != 1 else ''}"
    hidden = (count, _hidden_bytes(text, step))
    ids = ("ids and logits", 4 * text.vocab_size)
    if step.warming_up and routed_experts(group.mlp) is not None:
        least = _least_bytes(text, group, step, pad)
        return [hidden, ("attention or experts, whichever take more", least - hidden[1]), ids]
    attention_bytes, flattened = _attention_bytes(group, step)
    for_qkv, for_output = _input_bytes(text, group, step)
    room, behind = attention_bytes, 0
    for size in _mlp_buffers(text, group.mlp, step, pad):
        if size <= room:
            room -= size
        else:
            behind += size
    # What goes into qkv in 8 bits is gone by then, and what fits takes its place.
    tails = [
        ("mlp behind them", behind),
        ("keys and values behind them", 0 if flattened <= for_qkv else flattened),
        ("input of the output projection behind them", 0 if for_output <= for_qkv else for_output),
    ]
    parts = [
        hidden,
        ("8-bit input", for_qkv),
        ("qkv and attention output", attention_bytes),
        max(tails, key=lambda tail: tail[1]),
        ids,
    ]
    return [part for part in parts if part[1]]


def _mlp_buffers(text: TextModel, mlp: Mlp, step: Step, pad: PadIntermediate) -> list[int]:
    """The MLP's buffers in the order in which they are taken."""
    match mlp:
        case DenseMlp():
            fp8 = LinearKind.DOWN in step.fp8
            return [_activation_bytes(step.tokens, pad(mlp.intermediate_size), step.fused_dense, fp8)]
        case MoeMlp():
            rows = step.tokens * mlp.num_experts_per_tok
            # Experts with biases (gpt-oss) have an activation of their own, which is never fused (traced).
            fused = step.fused_experts and not mlp.expert_bias
            fp8 = LinearKind.EXPERT_DOWN in step.fp8
            routed = _activation_bytes(rows, pad(mlp.expert_intermediate_size), fused, fp8)
            shared = 0
            if mlp.shared_intermediate_size:
                fp8 = LinearKind.SHARED_DOWN in step.fp8
                shared = _activation_bytes(step.tokens, pad(mlp.shared_intermediate_size), step.fused_dense, fp8)
            scores = 4 * step.tokens * mlp.num_experts
            return [scores, rows * text.hidden_size * _HALF_BYTES, max(routed, shared)]
        case _:
            assert_never(mlp)


def _activation_bytes(rows: int, width: int, fused: bool, fp8: bool) -> int:
    """What gate and up leave: their product where it is applied while they multiply, else both."""
    if fused and fp8:
        return _fp8_bytes(rows, width)
    return rows * width * (1 if fused else 2) * _HALF_BYTES
