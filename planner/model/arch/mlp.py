"""Readers of MLPs: keys of a config.json to one kind a layer."""

from __future__ import annotations

from collections.abc import Callable

from planner.errors import ConfigError
from planner.model.arch.common import named_layers
from planner.model.fields import Fields
from planner.model.layers import DenseMlp, Mlp, MoeMlp


def dense(fields: Fields, num_layers: int) -> tuple[Mlp, ...]:
    """The same gated MLP without biases in every layer."""
    return (DenseMlp(fields.integer("intermediate_size")),) * num_layers


def checked(fields: Fields, moe: MoeMlp) -> MoeMlp:
    """The same, unless a token is to meet more experts than there are."""
    if moe.num_experts_per_tok > moe.num_experts:
        raise ConfigError(
            f"config.json: {fields.key('num_experts_per_tok')} is {moe.num_experts_per_tok}; "
            f"expected at most the {moe.num_experts} experts there are"
        )
    return moe


def either(is_sparse: list[bool], sparse: Callable[[], Mlp], dense_mlp: Callable[[], Mlp]) -> tuple[Mlp, ...]:
    """Experts in some layers and a dense MLP in the others; keys of what no layer has are not asked for."""
    experts = sparse() if any(is_sparse) else None
    plain = dense_mlp() if not all(is_sparse) else None
    chosen = [experts if yes else plain for yes in is_sparse]
    return tuple(mlp for mlp in chosen if mlp is not None)


def first_dense(fields: Fields, num_layers: int) -> list[bool]:
    """Which layers have experts where the first ones are dense: ``mlp_layer_types``, else ``first_k_dense_replace`` and
    every ``moe_layer_freq``-th from there (DeepseekV2DecoderLayer, modeling_deepseek.py).
    """
    types = named_layers(fields, "mlp_layer_types", num_layers, ("dense", "sparse"))
    if types:
        return [kind == "sparse" for kind in types]
    first = fields.integer("first_k_dense_replace", minimum=0)
    every = fields.integer("moe_layer_freq")
    return [layer >= first and layer % every == 0 for layer in range(num_layers)]
