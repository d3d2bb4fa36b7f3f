"""GLM-4-0414, the language model of GLM-4.1V, and GLM-4.5 to 4.7."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from planner.model.arch import defaults
from planner.model.arch.attention import read_heads
from planner.model.arch.deepseek import NAMES as DEEPSEEK_NAMES
from planner.model.arch.deepseek import moe_layers, with_prediction
from planner.model.arch.family import Decoder
from planner.model.arch.mlp import dense
from planner.model.fields import Fields
from planner.model.layers import Attention
from planner.model.names import TensorNames

_NORMS: Final = (
    "input_layernorm",
    "post_self_attn_layernorm",
    "post_attention_layernorm",
    "post_mlp_layernorm",
)
_NAMES: Final = TensorNames(norms=_NORMS, gate_up="mlp.gate_up_proj")
_STEM: Final = "model.language_model."
_VL_NAMES: Final = _NAMES._replace(
    embedding=f"{_STEM}embed_tokens",
    final_norm=f"{_STEM}norm",
    layer=f"{_STEM}layers.{{layer}}.",
)


def _biased(fields: Fields, num_layers: int) -> Sequence[Attention]:
    return (read_heads(fields)._replace(qkv_bias=fields.boolean("attention_bias")),) * num_layers


def _normed(fields: Fields, num_layers: int) -> Sequence[Attention]:
    heads = read_heads(fields)._replace(qk_norm=fields.boolean("use_qk_norm"))
    return (heads._replace(qkv_bias=fields.boolean("attention_bias")),) * num_layers


GLM: Final[dict[str, Decoder]] = {
    "Glm4ForCausalLM": Decoder(_NAMES, _biased, dense, defaults=defaults.GLM4),
    "Glm4MoeForCausalLM": Decoder(
        DEEPSEEK_NAMES, _normed, moe_layers, defaults=defaults.GLM4_MOE, finish=with_prediction
    ),
    "Glm4vForConditionalGeneration": Decoder(_VL_NAMES, _biased, dense, defaults=defaults.GLM4V_TEXT),
}
"""Architecture -> what sets it apart; that of GLM-4.1V is of the language model under ``text_config``."""
