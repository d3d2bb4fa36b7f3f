"""Phi-3, 3.5 and 4, and Phi-3.5-MoE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from planner.model.arch import defaults
from planner.model.arch.attention import read_heads, windowed
from planner.model.arch.family import Decoder
from planner.model.arch.llama_like import MIXTRAL_NAMES
from planner.model.arch.mlp import checked, dense
from planner.model.fields import Fields
from planner.model.layers import Attention, Mlp, MoeMlp
from planner.model.names import TensorNames
from planner.model.spec import TextModel

_FUSED: Final = TensorNames(qkv="self_attn.qkv_proj", gate_up="mlp.gate_up_proj")


def _plain(fields: Fields, num_layers: int) -> Sequence[Attention]:
    return windowed(fields, read_heads(fields, kv_heads_required=False), num_layers)


def _biased(fields: Fields, num_layers: int) -> Sequence[Attention]:
    bias = fields.boolean("attention_bias")
    return windowed(fields, read_heads(fields)._replace(qkv_bias=bias, output_bias=bias), num_layers)


def _experts(fields: Fields, num_layers: int) -> Sequence[Mlp]:
    moe = MoeMlp(
        num_experts=fields.count("num_local_experts"),
        num_experts_per_tok=fields.count("num_experts_per_tok"),
        expert_intermediate_size=fields.integer("intermediate_size"),
    )
    return (checked(fields, moe),) * num_layers


def _with_head_bias(fields: Fields, text: TextModel) -> TextModel:
    return text._replace(head_bias=fields.boolean("lm_head_bias"))


PHI: Final[dict[str, Decoder]] = {
    "Phi3ForCausalLM": Decoder(_FUSED, _plain, dense),
    "PhiMoEForCausalLM": Decoder(
        MIXTRAL_NAMES, _biased, _experts, defaults=defaults.PHIMOE, norm_bias=True, finish=_with_head_bias
    ),
}
"""Architecture -> what sets it apart."""
