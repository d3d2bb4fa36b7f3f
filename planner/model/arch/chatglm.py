"""ChatGLM2, ChatGLM3 and GLM-4-9B: a config with keys of its own (configuration_chatglm.py)."""

from __future__ import annotations

from typing import Final

from planner.model.arch.common import read_max_length_tokens
from planner.model.arch.family import group
from planner.model.dtypes import DType
from planner.model.fields import Fields
from planner.model.layers import DenseMlp, GroupedQueryAttention
from planner.model.names import TensorNames
from planner.model.spec import TextModel
from planner.model.tensors import Role, TensorGroup

ARCHITECTURE: Final = "ChatGLMForConditionalGeneration"
_NAMES: Final = TensorNames(
    embedding="transformer.embedding.word_embeddings",
    final_norm="transformer.encoder.final_layernorm",
    lm_head="transformer.output_layer",
    layer="transformer.encoder.layers.{layer}.",
    qkv="self_attention.query_key_value",
    output="self_attention.dense",
    gate_up="mlp.dense_h_to_4h",
    down="mlp.dense_4h_to_h",
)
_FREQUENCIES: Final = "transformer.rotary_pos_emb.inv_freq"


def read_chatglm(fields: Fields) -> TextModel:
    """Read a ChatGLM config.

    Raises:
        ConfigError: a key is missing, of the wrong type or out of bounds.
    """
    # ChatGLMConfig's own defaults for the flags that configs leave out: no grouped heads, no biases.
    num_heads, num_layers = fields.count("num_attention_heads"), fields.count("num_layers")
    grouped = fields.boolean("multi_query_attention", False)
    head_dim = fields.integer("kv_channels", maximum=2**12)
    other = fields.boolean("add_bias_linear", False)
    attention = GroupedQueryAttention(
        num_heads=num_heads,
        num_kv_heads=fields.count("multi_query_group_num") if grouped else num_heads,
        head_dim=head_dim,
        qkv_bias=fields.boolean("add_qkv_bias", False) or other,
        output_bias=other,
    )
    mlp = DenseMlp(fields.integer("ffn_hidden_size"), bias=other)
    # Half of a head is rotated, in pairs; the file holds a frequency for each.
    frequencies = TensorGroup(_FREQUENCIES, (head_dim // 4,), DType.F32, Role.UNUSED)
    return TextModel(
        architecture=ARCHITECTURE,
        hidden_size=fields.integer("hidden_size"),
        vocab_size=fields.integer("padded_vocab_size"),
        layer_groups=group((attention,) * num_layers, (mlp,) * num_layers),
        tie_word_embeddings=fields.boolean("tie_word_embeddings", False),
        max_position_embeddings=read_max_length_tokens(fields),
        names=_NAMES,
        unloaded=(frequencies,),
    )
