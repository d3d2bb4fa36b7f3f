"""gpt-oss: windows in every other layer, attention sinks, biases everywhere, packed experts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from planner.model.arch.attention import read_heads, windowed
from planner.model.arch.defaults import GPT_OSS as DEFAULTS
from planner.model.arch.family import Decoder
from planner.model.arch.mlp import checked
from planner.model.fields import Fields
from planner.model.layers import Attention, ExpertStorage, Mlp, MoeMlp
from planner.model.names import TensorNames
from planner.model.spec import TextModel


def _attention(fields: Fields, num_layers: int) -> Sequence[Attention]:
    bias = fields.boolean("attention_bias")
    attention = read_heads(fields)._replace(qkv_bias=bias, output_bias=bias, sinks=True)
    return windowed(fields, attention, num_layers, full_every=2)


def _experts(fields: Fields, num_layers: int) -> Sequence[Mlp]:
    moe = MoeMlp(
        num_experts=fields.count("num_local_experts"),
        num_experts_per_tok=fields.count("num_experts_per_tok"),
        expert_intermediate_size=fields.integer("intermediate_size"),
        router_bias=True,
        expert_bias=True,
        storage=ExpertStorage.PACKED_TRANSPOSED,
    )
    return (checked(fields, moe),) * num_layers


def _all_blocks(fields: Fields, text: TextModel) -> TextModel:
    """No session's blocks are freed: half of the layers look all the way back (`configurations/gpt_oss.py`, 0.18.0)."""
    return text._replace(window_tokens=0)


GPT_OSS: Final[dict[str, Decoder]] = {
    "GptOssForCausalLM": Decoder(
        TensorNames(router="mlp.router"), _attention, _experts, defaults=DEFAULTS, finish=_all_blocks
    ),
}
"""Architecture -> what sets it apart."""
