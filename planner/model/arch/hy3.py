"""Hy3: a first dense layer, experts with a shared one and a correction of the router's choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from planner.model.arch.attention import read_heads
from planner.model.arch.defaults import HY3 as DEFAULTS
from planner.model.arch.family import Decoder
from planner.model.arch.mlp import checked, either, first_dense
from planner.model.fields import Fields
from planner.model.layers import Attention, DenseMlp, LayerGroup, Mlp, MoeMlp
from planner.model.names import TensorNames
from planner.model.spec import PredictionLayers, TextModel

# As the loader reads them (`lmdeploy/pytorch/models/hy3.py`, 0.18.0).
_NAMES: Final = TensorNames(
    router="mlp.router.gate", correction_bias="mlp.expert_bias", shared_expert="mlp.shared_mlp."
)


def _attention(fields: Fields, num_layers: int) -> Sequence[Attention]:
    bias = fields.boolean("attention_bias")
    return (read_heads(fields)._replace(qkv_bias=bias, output_bias=bias, qk_norm=True),) * num_layers


def _mlps(fields: Fields, num_layers: int) -> Sequence[Mlp]:
    return either(
        first_dense(fields, num_layers),
        lambda: _moe(fields),
        lambda: DenseMlp(fields.integer("intermediate_size")),
    )


def _moe(fields: Fields) -> MoeMlp:
    size = fields.integer("moe_intermediate_size")
    moe = MoeMlp(
        num_experts=fields.count("num_experts"),
        num_experts_per_tok=fields.count("num_experts_per_tok"),
        expert_intermediate_size=size,
        shared_intermediate_size=fields.integer("num_shared_experts", minimum=0) * size,
        correction_bias=True,
    )
    return checked(fields, moe)


def _with_prediction(fields: Fields, text: TextModel) -> TextModel:
    """Layers behind the last one, named as `lmdeploy/pytorch/models/hy3_mtp.py` (0.18.0) reads them."""
    number = fields.optional_integer("num_nextn_predict_layers", minimum=0) or 0
    if not number:
        return text
    first = text.num_layers
    last = next(group for group in text.layer_groups if first - 1 in group.layers)
    prediction = PredictionLayers(
        group=LayerGroup(tuple(range(first, first + number)), last.attention, last.mlp),
        layer=text.names.layer,
        beside=text.names.layer,
        linear="eh_proj",
        norms=("enorm", "hnorm", "final_layernorm"),
    )
    return text._replace(prediction=prediction)


HY3: Final[dict[str, Decoder]] = {
    "HYV3ForCausalLM": Decoder(_NAMES, _attention, _mlps, defaults=DEFAULTS, finish=_with_prediction),
}
"""Architecture -> what sets it apart."""
