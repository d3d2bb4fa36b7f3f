"""The language model of Llama 4: packed experts with a shared one, in every layer or in every other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from planner.model.arch.attention import read_heads
from planner.model.arch.defaults import LLAMA4 as DEFAULTS
from planner.model.arch.family import Decoder
from planner.model.arch.mlp import checked, either
from planner.model.fields import Fields
from planner.model.layers import Attention, DenseMlp, ExpertStorage, Mlp, MoeMlp
from planner.model.names import TensorNames

_NAMES: Final = TensorNames(
    gate="feed_forward.gate_proj",
    up="feed_forward.up_proj",
    down="feed_forward.down_proj",
    router="feed_forward.router",
    packed_gate_up="feed_forward.experts.gate_up_proj",
    packed_down="feed_forward.experts.down_proj",
    shared_expert="feed_forward.shared_expert.",
)


def _attention(fields: Fields, num_layers: int) -> Sequence[Attention]:
    # The norms of queries and keys (use_qk_norm) have no weights (Llama4TextL2Norm), and layers that look at a chunk
    # keep as much as those that look at all (`lmdeploy/pytorch/configurations/llama4.py`, 0.18.0).
    bias = fields.boolean("attention_bias")
    return (read_heads(fields)._replace(qkv_bias=bias, output_bias=bias),) * num_layers


def _mlps(fields: Fields, num_layers: int) -> Sequence[Mlp]:
    listed = fields.integers("moe_layers")
    step = fields.integer("interleave_moe_layer_step")
    sparse = set(listed) if listed else set(range(step - 1, num_layers, step))
    return either(
        [layer in sparse for layer in range(num_layers)],
        lambda: _moe(fields),
        lambda: DenseMlp(fields.integer("intermediate_size_mlp")),
    )


def _moe(fields: Fields) -> MoeMlp:
    size = fields.integer("intermediate_size")
    moe = MoeMlp(
        num_experts=fields.count("num_local_experts"),
        num_experts_per_tok=fields.count("num_experts_per_tok"),
        expert_intermediate_size=size,
        shared_intermediate_size=size,
        storage=ExpertStorage.PACKED_TRANSPOSED,
    )
    return checked(fields, moe)


LLAMA4: Final[dict[str, Decoder]] = {
    "Llama4ForConditionalGeneration": Decoder(_NAMES, _attention, _mlps, defaults=DEFAULTS),
}
"""Architecture -> what sets it apart, of the language model under ``text_config``."""
