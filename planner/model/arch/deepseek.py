"""DeepSeek MoE, V2, V3 and V3.2, and the families built like them: Kimi-K2, GLM-4.7-Flash, GLM-5, MiniCPM3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from planner.model.arch import defaults
from planner.model.arch.attention import read_heads, read_indexer, read_latent
from planner.model.arch.common import named_layers
from planner.model.arch.family import Decoder
from planner.model.arch.mlp import checked, dense, either, first_dense
from planner.model.fields import Fields
from planner.model.layers import Attention, DenseMlp, LatentAttention, LayerGroup, Mlp, MoeMlp
from planner.model.names import TensorNames
from planner.model.spec import PredictionLayers, TextModel

FP32_SCALES: Final = frozenset({"DeepseekV3ForCausalLM", "DeepseekV32ForCausalLM"})
"""Whose published fp8 files have 32-bit scales (README_WEIGHTS.md of DeepSeek-V3)."""
NAMES: Final = TensorNames(shared_expert="mlp.shared_experts.")


def _grouped_query(fields: Fields, num_layers: int) -> Sequence[Attention]:
    attention = read_heads(fields, kv_heads_required=False)
    bias = fields.boolean("attention_bias")
    return (attention._replace(qkv_bias=bias, output_bias=bias),) * num_layers


def _latent(fields: Fields, num_layers: int) -> Sequence[Attention]:
    return (read_latent(fields),) * num_layers


def _latent_or_not(fields: Fields, num_layers: int) -> Sequence[Attention]:
    return _latent(fields, num_layers) if fields.boolean("use_mla") else _grouped_query(fields, num_layers)


def _expanded(fields: Fields, num_layers: int) -> Sequence[Attention]:
    return (read_latent(fields, expanded=True),) * num_layers


def _indexed(fields: Fields, num_layers: int) -> Sequence[Attention]:
    """Every layer has an indexer but for those that ``indexer_types`` calls shared."""
    full = read_latent(fields, indexer=read_indexer(fields))
    shared = full._replace(indexer=None, shares_indexer=True)
    types = named_layers(fields, "indexer_types", num_layers, ("full", "shared"))
    if not types:
        return (full,) * num_layers
    return tuple(shared if kind == "shared" else full for kind in types)


def moe_layers(fields: Fields, num_layers: int) -> Sequence[Mlp]:
    """Dense layers first, then experts with shared ones."""
    if not fields.has("n_routed_experts"):
        return dense(fields, num_layers)
    return either(
        first_dense(fields, num_layers),
        lambda: _moe(fields),
        lambda: DenseMlp(fields.integer("intermediate_size")),
    )


def _moe(fields: Fields) -> MoeMlp:
    size = fields.integer("moe_intermediate_size")
    num_shared = fields.optional_integer("n_shared_experts", minimum=0) or 0
    corrected = fields.has("topk_method") and fields.text("topk_method") == "noaux_tc"
    moe = MoeMlp(
        num_experts=fields.count("n_routed_experts"),
        num_experts_per_tok=fields.count("num_experts_per_tok"),
        expert_intermediate_size=size,
        shared_intermediate_size=num_shared * size,
        correction_bias=corrected,
    )
    return checked(fields, moe)


def with_prediction(fields: Fields, text: TextModel, *, with_tables: bool = True) -> TextModel:
    """The model with its `num_nextn_predict_layers` behind the last layer, made as that is."""
    number = fields.optional_integer("num_nextn_predict_layers", minimum=0) or 0
    if not number:
        return text
    first = text.num_layers
    last = next(group for group in text.layer_groups if first - 1 in group.layers)
    attention = last.attention
    if isinstance(attention, LatentAttention) and attention.shares_indexer:
        attention = next(group.attention for group in text.layer_groups if 0 in group.layers)
    layers = tuple(range(first, first + number))
    prediction = PredictionLayers(
        group=LayerGroup(layers, attention, last.mlp),
        layer=text.names.layer,
        beside=text.names.layer,
        linear="eh_proj",
        norms=("enorm", "hnorm", "shared_head.norm"),
        tables=("embed_tokens", "shared_head.head") if with_tables else (),
    )
    return text._replace(prediction=prediction)


def _without_tables(fields: Fields, text: TextModel) -> TextModel:
    return with_prediction(fields, text, with_tables=False)


_V3: Final = Decoder(NAMES, _latent, moe_layers, defaults=defaults.DEEPSEEK_V3, finish=with_prediction)

DEEPSEEK: Final[dict[str, Decoder]] = {
    "DeepseekForCausalLM": Decoder(NAMES, _grouped_query, moe_layers, defaults=defaults.DEEPSEEK_MOE),
    "DeepseekV2ForCausalLM": Decoder(NAMES, _latent, moe_layers, defaults=defaults.DEEPSEEK_V2),
    "DeepseekVLV2ForCausalLM": Decoder(NAMES, _latent_or_not, moe_layers, defaults=defaults.DEEPSEEK_VL2),
    "DeepseekV3ForCausalLM": _V3,
    "Glm4MoeLiteForCausalLM": _V3._replace(defaults=defaults.GLM4_MOE_LITE),
    "DeepseekV32ForCausalLM": _V3._replace(attention=_indexed, defaults=defaults.DEEPSEEK_V32),
    # Published files of GLM-5 hold no copies of the vocabulary's tables in that layer.
    "GlmMoeDsaForCausalLM": _V3._replace(attention=_indexed, defaults=defaults.GLM_MOE_DSA, finish=_without_tables),
    "MiniCPM3ForCausalLM": Decoder(TensorNames(), _expanded, dense, tied_by_default=True, defaults=defaults.MINICPM3),
}
"""Architecture -> what sets it apart."""
