"""The buffers that TurboMind keeps beside its KV region (0.15 and newer), each with its size and count.

Read off traces of LMDeploy 0.18.0 on an H200 and an H100; what each is for, in the source of 0.16.0
(`models/language_model.cc` and what it builds).
"""

from __future__ import annotations

from collections.abc import Iterable

from planner.memory.attention import widest
from planner.memory.parallelism import Parallelism
from planner.memory.terms import FORMULA, Term, exact
from planner.model.layers import is_recurrent, routed_experts
from planner.model.spec import TextModel
from planner.units import MIB, ceil_div, round_up

_HALF_BYTES = 2
_PHASES = 2
"""Buffers of a step are doubled while the engine runs asynchronously (`async_`, the default)."""


def batch_buffers(
    text: TextModel,
    parallelism: Parallelism,
    *,
    batch: int,
    session_tokens: int,
    step_tokens: int,
    block_tokens: int,
) -> Iterable[tuple[int, int]]:
    """Bytes and count of each buffer on one rank, for `batch` sequences of up to `session_tokens` tokens."""
    block_tables = batch * ceil_div(session_tokens, block_tokens) + 16
    yield batch, 3 + 2 + 2  # finished and autoregressive flags
    yield 4 * batch, 5 + 2 + 2 + 2 + 4 + 10 + 2 + 5  # lengths, offsets and sampling parameters
    yield 4 * step_tokens, _PHASES  # input ids
    yield 4 * (batch + 1), 2 * _PHASES
    yield 8 * block_tables, _PHASES
    heads, head_dim = widest(text, parallelism)
    yield 4096 * heads * head_dim * 4, 1  # split-k partial outputs of attention
    yield 4096 * heads * 8, 1
    yield 16384, 1
    yield 256 * batch, 2 * _PHASES  # bad words, stop words
    yield 128 * batch, _PHASES
    yield 4096 * batch, 2 * _PHASES  # log probabilities: 1024 values and 1024 ids
    yield 4 * batch * ceil_div(text.vocab_size, 32), _PHASES  # grammar bit mask
    yield 48 * batch, 1  # random states
    yield 4 * batch * session_tokens, 1  # token ids
    yield 8 * batch, 4
    yield step_tokens, 1  # token mask
    for group in text.layer_groups:
        experts = routed_experts(group.mlp)
        if experts is not None:
            yield 4 * experts.num_experts * step_tokens, 1  # which expert takes which token
            yield 4 * experts.num_experts_per_tok * step_tokens, 4  # expert ids, scales and their inverses
            yield 4 * (experts.num_experts + 1), 1
            yield 64 * experts.num_experts, 1
            break
    if text.mrope:
        yield 12 * step_tokens, _PHASES  # positions in three parts
        yield 4 * batch, 7
    linear_layers = sum(len(group.layers) for group in text.layer_groups if is_recurrent(group.attention))
    if linear_layers:
        yield 8 * batch * linear_layers, _PHASES  # pointers to the matrices of the states
        yield 8 * batch, _PHASES  # and to those of the convolutions
        yield 4, 1


def exchange_buffer(text: TextModel, step_tokens: int, batch: int, head_rows: int) -> Term:
    """What ranks exchange: hidden states of a step or logits of a batch (LanguageModel, symm_buf_)."""
    size_bytes = max(step_tokens * text.hidden_size, batch * head_rows) * _HALF_BYTES
    return exact(
        "exchange_buffer",
        round_up(size_bytes, 2 * MIB),
        f"max({step_tokens} x {text.hidden_size}, {batch} x vocabulary) x 2",
        "hidden states and logits exchanged by the ranks",
        FORMULA,
    )
