"""Gemma 1, 2 and 3: tied and scaled embeddings, norms behind each half of a layer, windows in some layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from planner.model.arch import defaults
from planner.model.arch.attention import read_heads, windowed
from planner.model.arch.family import Decoder
from planner.model.arch.mlp import dense
from planner.model.fields import Fields
from planner.model.layers import Attention, GroupedQueryAttention
from planner.model.names import TensorNames
from planner.model.spec import TextModel

_SANDWICH: Final = TensorNames(
    norms=(
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    )
)
_IN_VLM: Final = "language_model."


def _heads(fields: Fields) -> GroupedQueryAttention:
    bias = fields.boolean("attention_bias")
    return read_heads(fields)._replace(qkv_bias=bias, output_bias=bias)


def _plain(fields: Fields, num_layers: int) -> Sequence[Attention]:
    return (_heads(fields),) * num_layers


def _alternating(fields: Fields, num_layers: int) -> Sequence[Attention]:
    return windowed(fields, _heads(fields), num_layers, full_every=2)


def _mostly_windowed(fields: Fields, num_layers: int) -> Sequence[Attention]:
    attention = _heads(fields)._replace(qk_norm=True)
    return windowed(fields, attention, num_layers, full_every=fields.integer("sliding_window_pattern"))


def _all_blocks(fields: Fields, text: TextModel) -> TextModel:
    """With vision no session's blocks are freed (`lmdeploy/pytorch/configurations/gemma.py`, 0.18.0)."""
    return text._replace(window_tokens=0)


_GEMMA3: Final = Decoder(_SANDWICH, _mostly_windowed, dense, tied_by_default=True, defaults=defaults.GEMMA3)

GEMMA: Final[dict[str, Decoder]] = {
    "GemmaForCausalLM": Decoder(TensorNames(), _plain, dense, tied_by_default=True, defaults=defaults.GEMMA),
    "Gemma2ForCausalLM": Decoder(_SANDWICH, _alternating, dense, tied_by_default=True, defaults=defaults.GEMMA2),
    "Gemma3ForCausalLM": _GEMMA3,
    "Gemma3ForConditionalGeneration": _GEMMA3._replace(finish=_all_blocks),
}
"""Architecture -> what sets it apart; that with vision is of the language model under ``text_config``."""
