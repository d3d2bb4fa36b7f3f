"""Qwen3-Next and the language models of Qwen3.5: gated linear attention with a full layer now and then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from planner.errors import ConfigError
from planner.model.arch import defaults
from planner.model.arch.attention import read_gated_delta_net, read_heads
from planner.model.arch.common import named_layers
from planner.model.arch.family import Decoder
from planner.model.arch.mlp import checked, dense, either
from planner.model.fields import Fields
from planner.model.layers import (
    Attention,
    DenseMlp,
    ExpertStorage,
    GatedDeltaNet,
    GroupedQueryAttention,
    LayerGroup,
    Mlp,
    MoeMlp,
)
from planner.model.names import TensorNames
from planner.model.spec import PredictionLayers, TextModel

NEXT_NAMES: Final = TensorNames(delta_fused=True)
_STEM: Final = "model.language_model."
QWEN3_5_NAMES: Final = TensorNames(
    embedding=f"{_STEM}embed_tokens", final_norm=f"{_STEM}norm", layer=f"{_STEM}layers.{{layer}}."
)


def _hybrid(fields: Fields, num_layers: int) -> Sequence[Attention]:
    """Linear layers and full ones, by ``layer_types``, else every ``full_attention_interval``-th full."""
    bias = fields.boolean("attention_bias")
    full = read_heads(fields)._replace(qkv_bias=bias, output_bias=bias, qk_norm=True, output_gate=_is_gated(fields))
    linear = read_gated_delta_net(fields)
    types = named_layers(fields, "layer_types", num_layers, ("linear_attention", "full_attention"))
    if types:
        return tuple(full if kind == "full_attention" else linear for kind in types)
    interval = fields.integer("full_attention_interval")
    return tuple(linear if (layer + 1) % interval else full for layer in range(num_layers))


def _hybrid_with_wide_rates(fields: Fields, num_layers: int) -> Sequence[Attention]:
    """The same, as the published files of Qwen3.5 have them: of Qwen3.5-0.8B exactly A_log and the norm of 18 layers
    are in float32 (modelscope/ms-swift, pull request 9972). Those of Qwen3.6, which configs do not tell apart, are not.
    """
    layers = _hybrid(fields, num_layers)
    return tuple(layer._replace(wide_rates=True) if isinstance(layer, GatedDeltaNet) else layer for layer in layers)


def _is_gated(fields: Fields) -> bool:
    return fields.boolean("attn_output_gate", True)


def _experts(fields: Fields, num_layers: int) -> Sequence[Mlp]:
    return _sparse(fields, num_layers, ExpertStorage.SINGLE)


def _packed_experts(fields: Fields, num_layers: int) -> Sequence[Mlp]:
    return _sparse(fields, num_layers, ExpertStorage.PACKED)


def _sparse(fields: Fields, num_layers: int, storage: ExpertStorage) -> Sequence[Mlp]:
    dense_layers = set(fields.integers("mlp_only_layers"))
    step = fields.integer("decoder_sparse_step")
    is_sparse = [layer not in dense_layers and (layer + 1) % step == 0 for layer in range(num_layers)]
    return either(is_sparse, lambda: _moe(fields, storage), lambda: DenseMlp(fields.integer("intermediate_size")))


def _moe(fields: Fields, storage: ExpertStorage) -> MoeMlp:
    moe = MoeMlp(
        num_experts=fields.count("num_experts"),
        num_experts_per_tok=fields.count("num_experts_per_tok"),
        expert_intermediate_size=fields.integer("moe_intermediate_size"),
        shared_intermediate_size=fields.integer("shared_expert_intermediate_size"),
        shared_gate=True,
        storage=storage,
    )
    return checked(fields, moe)


def _shared_packs(fields: Fields, num_layers: int) -> Sequence[Mlp]:
    """Layer i takes the experts of pack i % num_blocks (`lmdeploy/pytorch/models/interns2_mobius.py`, 0.18.0)."""
    packs = fields.count("num_blocks")
    if packs > num_layers:
        raise ConfigError(
            f"config.json: {fields.key('num_blocks')} is {packs}; expected at most {num_layers}, the layers"
        )
    return (_moe(fields, ExpertStorage.PACKED)._replace(num_packs=packs),) * num_layers


def _with_own_experts(fields: Fields, text: TextModel) -> TextModel:
    """Layers for speculative decoding have experts of their own (`lmdeploy/pytorch/configurations/meta_moe.py`)."""
    text = _with_prediction(fields, text)
    if text.prediction is None:
        return text
    group = text.prediction.group
    moe = _moe(fields, ExpertStorage.PACKED)
    own = moe._replace(
        num_experts=fields.count("mtp_num_experts"),
        num_experts_per_tok=fields.count("mtp_num_experts_per_tok"),
    )
    return text._replace(prediction=text.prediction._replace(group=group._replace(mlp=checked(fields, own))))


def _with_prediction(fields: Fields, text: TextModel) -> TextModel:
    """`mtp_num_hidden_layers` layers as the full ones, behind ``mtp.``."""
    number = fields.optional_integer("mtp_num_hidden_layers", minimum=0) or 0
    if not number:
        return text
    full = next((group for group in text.layer_groups if isinstance(group.attention, GroupedQueryAttention)), None)
    if full is None:
        raise ConfigError(f"config.json: {fields.key('layer_types')} has no full layer; expected one to predict with")
    prediction = PredictionLayers(
        group=LayerGroup(tuple(range(number)), full.attention, full.mlp),
        layer="mtp.layers.{layer}.",
        beside="mtp.",
        linear="fc",
        norms=("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"),
    )
    return text._replace(prediction=prediction)


_QWEN3_5: Final = Decoder(
    QWEN3_5_NAMES, _hybrid_with_wide_rates, dense, defaults=defaults.QWEN3_5, finish=_with_prediction
)

_PACKS: Final = _QWEN3_5._replace(mlp=_shared_packs, defaults=defaults.MOBIUS, finish=_with_own_experts)

QWEN_NEXT: Final[dict[str, Decoder]] = {
    "Qwen3NextForCausalLM": Decoder(
        NEXT_NAMES, _hybrid, _experts, defaults=defaults.QWEN3_NEXT, finish=_with_prediction
    ),
    "Qwen3_5ForConditionalGeneration": _QWEN3_5,
    "Qwen3_5MoeForConditionalGeneration": _QWEN3_5._replace(mlp=_packed_experts),
    "MetaMoeForConditionalGeneration": _PACKS,
    "InternS2MobiusForConditionalGeneration": _PACKS,
}
"""Architecture -> what sets it apart; those with vision are of the language model under ``text_config``."""
