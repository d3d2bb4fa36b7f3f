"""Decoder-only families that differ in names, biases and norms: a table line each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from planner.errors import ConfigError, UnsupportedModelError
from planner.model.arch.common import read_max_length_tokens
from planner.model.fields import Fields
from planner.model.layers import DenseMlp, GroupedQueryAttention, LayerGroup, Mlp, MoeMlp
from planner.model.names import TensorNames
from planner.model.spec import TextModel

_LLAMA_NAMES: Final = TensorNames()
_INTERNLM2_NAMES: Final = TensorNames(
    embedding="model.tok_embeddings",
    lm_head="output",
    qkv="attention.wqkv",
    output="attention.wo",
    norms=("attention_norm", "ffn_norm"),
    gate="feed_forward.w1",
    up="feed_forward.w3",
    down="feed_forward.w2",
)
_MIXTRAL_NAMES: Final = TensorNames(
    router="block_sparse_moe.gate",
    expert="block_sparse_moe.experts.{expert}.",
    expert_gate="w1",
    expert_up="w3",
    expert_down="w2",
)
_QWEN1_NAMES: Final = TensorNames(
    embedding="transformer.wte",
    final_norm="transformer.ln_f",
    layer="transformer.h.{layer}.",
    qkv="attn.c_attn",
    output="attn.c_proj",
    norms=("ln_1", "ln_2"),
    gate="mlp.w2",
    up="mlp.w1",
    down="mlp.c_proj",
)


class _Biases(NamedTuple):
    """Which linears carry a bias."""

    qkv: bool = False
    output: bool = False
    mlp: bool = False


def _no_bias(fields: Fields) -> _Biases:
    return _Biases()


def _llama_bias(fields: Fields) -> _Biases:
    # transformers' LlamaConfig documents False for both where a config leaves them out.
    attention = fields.boolean("attention_bias", False)
    return _Biases(attention, attention, fields.boolean("mlp_bias", False))


def _qwen2_bias(fields: Fields) -> _Biases:
    # Qwen2Attention builds q, k and v with a bias whatever the config says.
    return _Biases(qkv=True)


def _qwen2_moe_bias(fields: Fields) -> _Biases:
    return _Biases(qkv=fields.boolean("qkv_bias", True))


def _qwen3_bias(fields: Fields) -> _Biases:
    attention = fields.boolean("attention_bias", False)
    return _Biases(attention, attention)


def _internlm_bias(fields: Fields) -> _Biases:
    bias = fields.boolean("bias")
    return _Biases(bias, bias)


def _internlm2_bias(fields: Fields) -> _Biases:
    # No published InternLM2 has a bias, and configs trimmed for serving leave the key out.
    bias = fields.boolean("bias", False)
    return _Biases(bias, bias, bias)


def _internlm3_bias(fields: Fields) -> _Biases:
    other = fields.boolean("bias")
    return _Biases(fields.boolean("qkv_bias"), other, other)


def _qwen1_bias(fields: Fields) -> _Biases:
    # `no_bias` speaks of the other linears; c_attn always has one (modeling_qwen.py).
    other = not fields.boolean("no_bias")
    return _Biases(True, other, other)


class Decoder(NamedTuple):
    """What sets a decoder family apart.

    Attributes:
        moe: reads the MoE part, or None for a dense family.
        tied_by_default: ``tie_word_embeddings`` where the config leaves it out, by the family's config class;
            None where it must be there.
        head_dim: ``head_dim`` where the config leaves it out, by the family's config class; None where the class
            divides the hidden size by the heads.
        kv_heads_required: whether ``num_key_value_heads`` must be there. Families from before grouped-query
            attention leave it out, and their class then takes the number of heads.
        fused_intermediate: whether ``intermediate_size`` counts gate and up together.
    """

    names: TensorNames
    bias: Callable[[Fields], _Biases]
    qk_norm: bool = False
    moe: Callable[[Fields], MoeMlp] | None = None
    tied_by_default: bool | None = False
    kv_heads_required: bool = True
    head_dim: int | None = None
    fused_intermediate: bool = False


def _mixtral_moe(fields: Fields) -> MoeMlp:
    return _checked_moe(
        fields,
        MoeMlp(
            num_experts=fields.count("num_local_experts"),
            num_experts_per_tok=fields.count("num_experts_per_tok"),
            expert_intermediate_size=fields.integer("intermediate_size"),
        ),
    )


def _qwen2_moe(fields: Fields) -> MoeMlp:
    return _checked_moe(
        fields,
        MoeMlp(
            num_experts=fields.count("num_experts"),
            num_experts_per_tok=fields.count("num_experts_per_tok"),
            expert_intermediate_size=fields.integer("moe_intermediate_size"),
            shared_intermediate_size=fields.integer("shared_expert_intermediate_size"),
            shared_gate=True,
        ),
    )


def _qwen3_moe(fields: Fields) -> MoeMlp:
    # transformers 5 saves the count under the name that Mixtral gave it.
    newer = fields.has("num_local_experts") and not fields.has("num_experts")
    return _checked_moe(
        fields,
        MoeMlp(
            num_experts=fields.count("num_local_experts" if newer else "num_experts"),
            num_experts_per_tok=fields.count("num_experts_per_tok"),
            expert_intermediate_size=fields.integer("moe_intermediate_size"),
        ),
    )


def _checked_moe(fields: Fields, moe: MoeMlp) -> MoeMlp:
    if moe.num_experts_per_tok > moe.num_experts:
        raise ConfigError(
            f"config.json: {fields.key('num_experts_per_tok')} is {moe.num_experts_per_tok}; "
            f"expected at most the {moe.num_experts} experts there are"
        )
    return moe


DECODERS: Final[dict[str, Decoder]] = {
    "LlamaForCausalLM": Decoder(_LLAMA_NAMES, _llama_bias, kv_heads_required=False),
    "MistralForCausalLM": Decoder(_LLAMA_NAMES, _no_bias),
    "Qwen2ForCausalLM": Decoder(_LLAMA_NAMES, _qwen2_bias),
    "Qwen3ForCausalLM": Decoder(_LLAMA_NAMES, _qwen3_bias, qk_norm=True, head_dim=128),
    "InternLMForCausalLM": Decoder(_LLAMA_NAMES, _internlm_bias, kv_heads_required=False),
    "InternLM2ForCausalLM": Decoder(_INTERNLM2_NAMES, _internlm2_bias),
    "InternLM3ForCausalLM": Decoder(_LLAMA_NAMES, _internlm3_bias),
    # modeling_qwen.py, QWenMLP: w1 and w2 are half of intermediate_size each.
    "QWenLMHeadModel": Decoder(_QWEN1_NAMES, _qwen1_bias, kv_heads_required=False, fused_intermediate=True),
    "MixtralForCausalLM": Decoder(_MIXTRAL_NAMES, _no_bias, moe=_mixtral_moe),
    "Qwen2MoeForCausalLM": Decoder(_LLAMA_NAMES, _qwen2_moe_bias, moe=_qwen2_moe),
    "Qwen3MoeForCausalLM": Decoder(_LLAMA_NAMES, _qwen3_bias, qk_norm=True, moe=_qwen3_moe),
}
"""Architecture -> what sets it apart."""


def read_decoder(fields: Fields, prefix: str = "") -> TextModel:
    """Read the language model of `fields`; `prefix` stands before its tensor names in a VLM.

    Raises:
        ConfigError: a key is missing, of the wrong type or out of bounds.
        UnsupportedModelError: the architecture is none of `DECODERS`.
    """
    architecture = fields.architecture()
    decoder = DECODERS.get(architecture)
    if decoder is None:
        raise UnsupportedModelError(
            f"{fields.key('architectures')}: the language model {architecture} is not planned yet",
            "Supported: " + ", ".join(sorted(DECODERS)),
        )
    hidden_size = fields.integer("hidden_size")
    biases = decoder.bias(fields)
    return TextModel(
        architecture=architecture,
        hidden_size=hidden_size,
        vocab_size=fields.integer("vocab_size"),
        layer_groups=_layer_groups(fields, decoder, _attention(fields, decoder, hidden_size, biases), biases),
        tie_word_embeddings=fields.boolean("tie_word_embeddings", decoder.tied_by_default),
        max_position_embeddings=read_max_length_tokens(fields),
        names=decoder.names,
        prefix=prefix,
    )


def _attention(fields: Fields, decoder: Decoder, hidden_size: int, biases: _Biases) -> GroupedQueryAttention:
    num_heads = fields.count("num_attention_heads")
    if decoder.kv_heads_required or fields.has("num_key_value_heads"):
        num_kv_heads = fields.count("num_key_value_heads")
    else:
        num_kv_heads = num_heads
    if num_heads % num_kv_heads:
        raise ConfigError(
            f"config.json: {fields.key('num_key_value_heads')} is {num_kv_heads}; "
            f"expected a divisor of the {num_heads} attention heads"
        )
    head_dim = fields.optional_integer("head_dim", maximum=2**12) or decoder.head_dim
    if head_dim is None:
        if hidden_size % num_heads:
            raise ConfigError(
                f"config.json: {fields.key('head_dim')} is missing and {num_heads} heads do not divide "
                f"hidden_size {hidden_size}; expected head_dim"
            )
        head_dim = hidden_size // num_heads
    return GroupedQueryAttention(num_heads, num_kv_heads, head_dim, biases.qkv, biases.output, decoder.qk_norm)


def _layer_groups(
    fields: Fields, decoder: Decoder, attention: GroupedQueryAttention, biases: _Biases
) -> tuple[LayerGroup, ...]:
    num_layers = fields.count("num_hidden_layers")
    every = tuple(range(num_layers))
    if decoder.moe is None:
        return (LayerGroup(every, attention, _dense(fields, decoder, biases)),)
    # Qwen's MoE families may keep some layers dense (Qwen2MoeDecoderLayer): a layer is sparse unless it is listed in
    # mlp_only_layers or skipped by decoder_sparse_step. Mixtral has neither key.
    dense_layers = set(fields.integers("mlp_only_layers"))
    step = fields.optional_integer("decoder_sparse_step") or 1
    is_sparse = [i not in dense_layers and (i + 1) % step == 0 for i in every]
    sparse = tuple(i for i in every if is_sparse[i])
    dense = tuple(i for i in every if not is_sparse[i])
    groups: list[tuple[tuple[int, ...], Mlp]] = []
    if sparse:
        groups.append((sparse, decoder.moe(fields)))
    if dense:
        groups.append((dense, _dense(fields, decoder, biases)))
    return tuple(LayerGroup(layers, attention, mlp) for layers, mlp in groups)


def _dense(fields: Fields, decoder: Decoder, biases: _Biases) -> DenseMlp:
    size = fields.integer("intermediate_size")
    if decoder.fused_intermediate:
        if size % 2:
            raise ConfigError(f"config.json: {fields.key('intermediate_size')} is {size}; expected an even number")
        size //= 2
    return DenseMlp(size, biases.mlp)
