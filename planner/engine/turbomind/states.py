"""The pool that TurboMind has for gated linear attention besides that of a step: the delta rule's workspace.

One allocation a step of prompts, read off traces of LMDeploy 0.18.0 on an H100 (Qwen3.5-9B and 35B-A3B, every warm-up
length): for each value head 132 bytes a token, and two matrices of 128 x 128 in 32 bits a segment. A step is cut into
segments of 256 tokens up to 768, of 512 up to 3,072, and of 1,024 beyond; other lengths were not traced.
"""

from __future__ import annotations

from planner.memory.parallelism import Parallelism
from planner.memory.pool import reserved
from planner.memory.terms import Evidence, Term
from planner.model.layers import GatedDeltaNet
from planner.model.spec import TextModel
from planner.units import ceil_div, format_bytes

_TOKEN_BYTES = 132
_MATRICES = 2
_WORD_BYTES = 4
_SEGMENT_TOKENS = {768: 256, 3072: 512}
_LONG_SEGMENT_TOKENS = 1024
_DESCRIPTORS_BYTES = 3071
"""2,687 to 3,071 behind them."""


def workspace_bytes(text: TextModel, parallelism: Parallelism, tokens: int) -> int:
    """The workspace of a step of `tokens` tokens on one rank; 0 without gated linear attention."""
    nets = {group.attention for group in text.layer_groups if isinstance(group.attention, GatedDeltaNet)}
    segment = next((each for limit, each in _SEGMENT_TOKENS.items() if tokens <= limit), _LONG_SEGMENT_TOKENS)
    return max((_net_bytes(net, parallelism, tokens, ceil_div(tokens, segment)) for net in nets), default=0)


def _net_bytes(net: GatedDeltaNet, parallelism: Parallelism, tokens: int, segments: int) -> int:
    heads = net.num_value_heads // parallelism.tp
    matrices = _MATRICES * heads * net.key_head_dim * net.value_head_dim * _WORD_BYTES
    return heads * tokens * _TOKEN_BYTES + segments * matrices + _DESCRIPTORS_BYTES


def delta_buffers(text: TextModel, parallelism: Parallelism, tokens: int, most_tokens: int, evidence: Evidence) -> Term:
    """The pool after a warm-up of `tokens` tokens. Under load two steps of up to `most_tokens` are there at once."""
    size_bytes = workspace_bytes(text, parallelism, tokens)
    size = reserved(size_bytes)
    return Term(
        "delta_buffers",
        size,
        size,
        max(size, reserved(2 * workspace_bytes(text, parallelism, most_tokens))),
        evidence,
        f"workspace of {tokens} tokens {format_bytes(size_bytes)}, in pages of 32 MiB",
        "gated linear attention's workspace",
    )
