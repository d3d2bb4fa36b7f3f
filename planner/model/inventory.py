"""The tensor inventory of a checkpoint: every tensor with name, shape, dtype and role, from a ModelSpec."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from planner.model.dtypes import DType
from planner.model.layer_tensors import Layers, attention_tensors, mlp_tensors, pack_tensors
from planner.model.layers import LayerGroup, MoeMlp
from planner.model.spec import ModelSpec, PredictionLayers, TextModel
from planner.model.tensors import LINEAR_ROLES, Role, TensorGroup
from planner.model.vision_tensors import vision_tensors


def inventory(spec: ModelSpec) -> tuple[TensorGroup, ...]:
    """All tensors of the 16-bit (or 32-bit) checkpoint of `spec`, before any quantization.

    Shapes are in storage order; dtypes are `spec.dtype` but for the few that every file of a kind keeps in 32 bits.
    What is quantized on disk is the business of `planner.model.formats.store`.
    """
    groups = list(text_tensors(spec.text, spec.dtype))
    if spec.vision is not None:
        groups += vision_tensors(spec.vision, spec.dtype)
    return tuple(groups)


def text_tensors(text: TextModel, dtype: DType) -> Iterator[TensorGroup]:
    """Those of the language model."""
    names, prefix = text.names, text.prefix
    table = (text.vocab_size, text.hidden_size)
    yield TensorGroup(f"{prefix}{names.embedding}.weight", table, dtype, Role.EMBEDDING)
    yield from _head(text, dtype)
    yield from Layers(prefix, (), dtype).norm(names.final_norm, text.hidden_size, bias=text.norm_bias)
    for group in text.layer_groups:
        yield from _layer(text, group, dtype, names.layer)
    yield from _packs(text, dtype)
    if text.prediction is not None:
        yield from _prediction(text, text.prediction, dtype)
    yield from text.unloaded


def _head(text: TextModel, dtype: DType) -> Iterator[TensorGroup]:
    head, hidden = Layers(text.prefix, (), dtype), text.hidden_size
    if text.score:
        for linear in text.score:
            yield from head.linear(linear.name, hidden, linear.num_out, Role.LM_HEAD, bias=linear.bias)
        return
    matrix, *bias = head.linear(text.names.lm_head, hidden, text.vocab_size, Role.LM_HEAD, bias=text.head_bias)
    if not text.tie_word_embeddings:
        yield matrix
    yield from bias


def _layer(text: TextModel, group: LayerGroup, dtype: DType, stem: str) -> Iterator[TensorGroup]:
    layers = Layers(text.prefix + stem, group.layers, dtype)
    for name in text.names.norms:
        yield from layers.norm(name, text.hidden_size, bias=text.norm_bias)
    yield from attention_tensors(group.attention, text.names, text.hidden_size, layers)
    yield from mlp_tensors(group.mlp, text.names, text.hidden_size, layers)


def _packs(text: TextModel, dtype: DType) -> Iterator[TensorGroup]:
    """Routers and experts that layers share, once for all of them."""
    shared = {group.mlp for group in text.layer_groups if isinstance(group.mlp, MoeMlp) and group.mlp.num_packs}
    for moe in sorted(shared, key=lambda moe: moe.num_packs):
        packs = Layers(text.prefix + text.names.packs_stem, tuple(range(moe.num_packs)), dtype)
        yield from pack_tensors(moe, text.names, text.hidden_size, packs)


def _prediction(text: TextModel, prediction: PredictionLayers, dtype: DType) -> Iterator[TensorGroup]:
    hidden, role = text.hidden_size, Role.PREDICTION
    layers = prediction.group.layers if "{layer}" in prediction.beside else ()
    beside = Layers(text.prefix + prediction.beside, layers, dtype)
    parts = chain(
        beside.linear(prediction.linear, 2 * hidden, hidden, role),
        *(beside.norm(name, hidden, bias=text.norm_bias) for name in prediction.norms),
        *(beside.linear(name, hidden, text.vocab_size, role) for name in prediction.tables),
    )
    for group in parts:
        yield group._replace(role=role)
    for group in _layer(text, prediction.group, dtype, prediction.layer):
        yield group._replace(role=Role.PREDICTION_LINEAR if group.role in LINEAR_ROLES else role)
