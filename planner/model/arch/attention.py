"""Readers of attention: keys of a config.json to one kind a layer."""

from __future__ import annotations

from typing import NamedTuple

from planner.errors import ConfigError
from planner.model.arch.common import named_layers
from planner.model.fields import Fields
from planner.model.layers import GatedDeltaNet, GroupedQueryAttention, Indexer, LatentAttention

_MAX_HEAD_DIM = 2**12


class Biases(NamedTuple):
    """Which linears carry a bias."""

    qkv: bool = False
    output: bool = False
    mlp: bool = False


def read_heads(fields: Fields, *, kv_heads_required: bool = True) -> GroupedQueryAttention:
    """Heads and their size, without biases, norms and windows.

    Families from before grouped-query attention leave ``num_key_value_heads`` out, and their class then takes the
    number of heads. ``head_dim`` is the hidden size over the heads where neither the config nor the class has it.
    """
    num_heads = fields.count("num_attention_heads")
    if kv_heads_required or fields.has("num_key_value_heads"):
        num_kv_heads = fields.count("num_key_value_heads")
    else:
        num_kv_heads = num_heads
    if num_heads % num_kv_heads:
        raise ConfigError(
            f"config.json: {fields.key('num_key_value_heads')} is {num_kv_heads}; "
            f"expected a divisor of the {num_heads} attention heads"
        )
    head_dim = fields.optional_integer("head_dim", maximum=_MAX_HEAD_DIM)
    if head_dim is None:
        hidden_size = fields.integer("hidden_size")
        if hidden_size % num_heads:
            raise ConfigError(
                f"config.json: {fields.key('head_dim')} is missing and {num_heads} heads do not divide "
                f"hidden_size {hidden_size}; expected head_dim"
            )
        head_dim = hidden_size // num_heads
    return GroupedQueryAttention(num_heads, num_kv_heads, head_dim)


def windowed(
    fields: Fields, attention: GroupedQueryAttention, num_layers: int, full_every: int = 0
) -> tuple[GroupedQueryAttention, ...]:
    """The attention of each layer: those that ``layer_types`` calls sliding have the config's window.

    Without that list every `full_every`-th layer is full; 0: all layers have the window.
    """
    window = fields.optional_integer("sliding_window", minimum=0) or 0
    types = named_layers(fields, "layer_types", num_layers, ("sliding_attention", "full_attention"))
    if types:
        sliding = [kind == "sliding_attention" for kind in types]
    else:
        sliding = [not full_every or (layer + 1) % full_every != 0 for layer in range(num_layers)]
    short = attention._replace(window_tokens=window)
    return tuple(short if is_sliding else attention for is_sliding in sliding)


def read_latent(fields: Fields, *, indexer: Indexer | None = None, expanded: bool = False) -> LatentAttention:
    """Latent attention: ``q_lora_rank`` null is one plain linear for the queries."""
    return LatentAttention(
        num_heads=fields.count("num_attention_heads"),
        q_lora_rank=fields.optional_integer("q_lora_rank"),
        kv_lora_rank=fields.integer("kv_lora_rank"),
        qk_nope_head_dim=fields.integer("qk_nope_head_dim", maximum=_MAX_HEAD_DIM),
        qk_rope_head_dim=fields.integer("qk_rope_head_dim", maximum=_MAX_HEAD_DIM),
        v_head_dim=fields.integer("v_head_dim", maximum=_MAX_HEAD_DIM),
        bias=fields.boolean("attention_bias", False),
        indexer=indexer,
        expanded=expanded,
    )


def read_indexer(fields: Fields) -> Indexer:
    """The indexer of sparse latent attention."""
    return Indexer(
        num_heads=fields.count("index_n_heads"),
        head_dim=fields.integer("index_head_dim", maximum=_MAX_HEAD_DIM),
        topk=fields.integer("index_topk"),
    )


def read_gated_delta_net(fields: Fields) -> GatedDeltaNet:
    """Gated linear attention."""
    net = GatedDeltaNet(
        num_key_heads=fields.count("linear_num_key_heads"),
        num_value_heads=fields.count("linear_num_value_heads"),
        key_head_dim=fields.integer("linear_key_head_dim", maximum=_MAX_HEAD_DIM),
        value_head_dim=fields.integer("linear_value_head_dim", maximum=_MAX_HEAD_DIM),
        conv_kernel_size=fields.integer("linear_conv_kernel_dim", maximum=2**8),
    )
    if net.num_value_heads % net.num_key_heads:
        raise ConfigError(
            f"config.json: {fields.key('linear_num_value_heads')} is {net.num_value_heads}; expected a multiple of "
            f"the {net.num_key_heads} key heads"
        )
    return net
