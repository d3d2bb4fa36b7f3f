"""Decoder-only families that differ in names, biases and norms: a table line each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from planner.errors import ConfigError
from planner.model.arch.attention import Biases, read_heads, windowed
from planner.model.arch.defaults import MISTRAL, NO_WINDOW
from planner.model.arch.family import AttentionReader, Decoder, MlpReader, session_window_tokens
from planner.model.arch.mlp import checked, either
from planner.model.fields import Fields
from planner.model.layers import DenseMlp, GroupedQueryAttention, Mlp, MoeMlp
from planner.model.names import TensorNames

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
MIXTRAL_NAMES: Final = TensorNames(
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


BiasReader = Callable[[Fields], Biases]


def _no_bias(fields: Fields) -> Biases:
    return Biases()


def _llama_bias(fields: Fields) -> Biases:
    # transformers' LlamaConfig documents False for both where a config leaves them out.
    attention = fields.boolean("attention_bias", False)
    return Biases(attention, attention, fields.boolean("mlp_bias", False))


def _qwen2_bias(fields: Fields) -> Biases:
    # Qwen2Attention builds q, k and v with a bias whatever the config says.
    return Biases(qkv=True)


def _qwen2_moe_bias(fields: Fields) -> Biases:
    return Biases(qkv=fields.boolean("qkv_bias", True))


def _qwen3_bias(fields: Fields) -> Biases:
    attention = fields.boolean("attention_bias", False)
    return Biases(attention, attention)


def _internlm_bias(fields: Fields) -> Biases:
    bias = fields.boolean("bias")
    return Biases(bias, bias)


def _internlm2_bias(fields: Fields) -> Biases:
    # No published InternLM2 has a bias, and configs trimmed for serving leave the key out.
    bias = fields.boolean("bias", False)
    return Biases(bias, bias, bias)


def _internlm3_bias(fields: Fields) -> Biases:
    other = fields.boolean("bias")
    return Biases(fields.boolean("qkv_bias"), other, other)


def _qwen1_bias(fields: Fields) -> Biases:
    # `no_bias` speaks of the other linears; c_attn always has one (modeling_qwen.py).
    other = not fields.boolean("no_bias")
    return Biases(True, other, other)


def _mixtral_moe(fields: Fields) -> MoeMlp:
    return MoeMlp(
        num_experts=fields.count("num_local_experts"),
        num_experts_per_tok=fields.count("num_experts_per_tok"),
        expert_intermediate_size=fields.integer("intermediate_size"),
    )


def _qwen2_moe(fields: Fields) -> MoeMlp:
    return MoeMlp(
        num_experts=fields.count("num_experts"),
        num_experts_per_tok=fields.count("num_experts_per_tok"),
        expert_intermediate_size=fields.integer("moe_intermediate_size"),
        shared_intermediate_size=fields.integer("shared_expert_intermediate_size"),
        shared_gate=True,
    )


def _qwen3_moe(fields: Fields) -> MoeMlp:
    # transformers 5 saves the count under the name that Mixtral gave it.
    newer = fields.has("num_local_experts") and not fields.has("num_experts")
    return MoeMlp(
        num_experts=fields.count("num_local_experts" if newer else "num_experts"),
        num_experts_per_tok=fields.count("num_experts_per_tok"),
        expert_intermediate_size=fields.integer("moe_intermediate_size"),
    )


def _grouped(
    biases: BiasReader, *, qk_norm: bool = False, kv_heads_required: bool = True, window_from: str = ""
) -> AttentionReader:
    """The same attention in every layer, but for a window from the layer `window_from` on, a key's value."""

    def read(fields: Fields, num_layers: int) -> tuple[GroupedQueryAttention, ...]:
        bias = biases(fields)
        attention = read_heads(fields, kv_heads_required=kv_heads_required)._replace(
            qkv_bias=bias.qkv,
            output_bias=bias.output,
            qk_norm=qk_norm,
        )
        window = session_window_tokens(fields)
        if not window:
            return (attention,) * num_layers
        first = fields.integer(window_from, minimum=0) if window_from and not fields.has("layer_types") else 0
        windows = windowed(fields, attention, num_layers)
        return tuple(attention if layer < first else short for layer, short in enumerate(windows))

    return read


def _dense(biases: BiasReader, *, fused: bool = False) -> MlpReader:
    """The same gated MLP in every layer; `fused`: ``intermediate_size`` counts gate and up together."""

    def read(fields: Fields, num_layers: int) -> tuple[Mlp, ...]:
        return (_dense_mlp(fields, biases(fields).mlp, fused=fused),) * num_layers

    return read


def _dense_mlp(fields: Fields, bias: bool, *, fused: bool = False) -> DenseMlp:
    size = fields.integer("intermediate_size")
    if fused:
        if size % 2:
            raise ConfigError(f"config.json: {fields.key('intermediate_size')} is {size}; expected an even number")
        size //= 2
    return DenseMlp(size, bias)


def _experts(moe: Callable[[Fields], MoeMlp]) -> MlpReader:
    def read(fields: Fields, num_layers: int) -> tuple[Mlp, ...]:
        # Qwen's MoE families may keep some layers dense (Qwen2MoeDecoderLayer): a layer is sparse unless it is listed
        # in mlp_only_layers or skipped by decoder_sparse_step. Mixtral has neither key.
        dense_layers = set(fields.integers("mlp_only_layers"))
        step = fields.optional_integer("decoder_sparse_step") or 1
        is_sparse = [layer not in dense_layers and (layer + 1) % step == 0 for layer in range(num_layers)]
        return either(is_sparse, lambda: checked(fields, moe(fields)), lambda: _dense_mlp(fields, bias=False))

    return read


def _family(
    names: TensorNames,
    biases: BiasReader,
    *,
    moe: Callable[[Fields], MoeMlp] | None = None,
    kv_heads_required: bool = True,
    qk_norm: bool = False,
    fused: bool = False,
    window_from: str = "",
    defaults: Mapping[str, Any] | None = None,
) -> Decoder:
    attention = _grouped(biases, qk_norm=qk_norm, kv_heads_required=kv_heads_required, window_from=window_from)
    mlp = _experts(moe) if moe else _dense(biases, fused=fused)
    return Decoder(names, attention, mlp, defaults=defaults or {})


_QWEN3: Final = _family(
    _LLAMA_NAMES, _qwen3_bias, qk_norm=True, window_from="max_window_layers", defaults={**NO_WINDOW, "head_dim": 128}
)
_QWEN3_MOE: Final = _family(_LLAMA_NAMES, _qwen3_bias, qk_norm=True, moe=_qwen3_moe, defaults=NO_WINDOW)

LLAMA_LIKE: Final[dict[str, Decoder]] = {
    "LlamaForCausalLM": _family(_LLAMA_NAMES, _llama_bias, kv_heads_required=False),
    "MistralForCausalLM": _family(_LLAMA_NAMES, _no_bias, defaults=MISTRAL),
    "Qwen2ForCausalLM": _family(_LLAMA_NAMES, _qwen2_bias, window_from="max_window_layers", defaults=NO_WINDOW),
    "Qwen3ForCausalLM": _QWEN3,
    # modeling_sdar.py: Qwen3 under another name, decoded block by block.
    "SDARForCausalLM": _QWEN3,
    "InternLMForCausalLM": _family(_LLAMA_NAMES, _internlm_bias, kv_heads_required=False),
    "InternLM2ForCausalLM": _family(_INTERNLM2_NAMES, _internlm2_bias),
    "InternLM3ForCausalLM": _family(_LLAMA_NAMES, _internlm3_bias),
    # modeling_qwen.py, QWenMLP: w1 and w2 are half of intermediate_size each.
    "QWenLMHeadModel": _family(_QWEN1_NAMES, _qwen1_bias, kv_heads_required=False, fused=True),
    "MixtralForCausalLM": _family(MIXTRAL_NAMES, _no_bias, moe=_mixtral_moe),
    "Qwen2MoeForCausalLM": _family(_LLAMA_NAMES, _qwen2_moe_bias, moe=_qwen2_moe, defaults=NO_WINDOW),
    "Qwen3MoeForCausalLM": _QWEN3_MOE,
    "SDARMoeForCausalLM": _QWEN3_MOE,
}
"""Architecture -> what sets it apart."""
