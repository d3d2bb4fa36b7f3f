"""The tensor inventory of a checkpoint: every tensor with name, shape, dtype and role, from a ModelSpec.

Thousands of layers times experts differ only in their numbers, so the inventory is a list of groups; a group
knows its total at once and spells out its members when asked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from planner.kinds import assert_never
from planner.model.dtypes import DType
from planner.model.spec import (
    Attention,
    DenseMlp,
    GroupedQueryAttention,
    LayerGroup,
    Mlp,
    ModelSpec,
    MoeMlp,
    TextModel,
    VisionTower,
)


class Role(Enum):
    """What a tensor is for. Only the LINEAR roles are ever quantized."""

    EMBEDDING = "embedding"
    LM_HEAD = "lm_head"
    NORM = "norm"
    ATTENTION = "attention"
    MLP = "mlp"
    ROUTER = "router"
    EXPERT = "expert"
    SHARED_EXPERT = "shared_expert"
    VISION = "vision"
    PROJECTOR = "projector"
    OTHER = "other"


LINEAR_ROLES = frozenset({Role.ATTENTION, Role.MLP, Role.EXPERT, Role.SHARED_EXPERT})
VISION_ROLES = frozenset({Role.VISION, Role.PROJECTOR})


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a checkpoint; `shape` is in storage order, a linear being [out, in]."""

    name: str
    shape: tuple[int, ...]
    dtype: DType
    role: Role

    @property
    def num_elements(self) -> int:
        """Product of the shape."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes in a file."""
        return self.dtype.size_bytes(self.num_elements)


@dataclass(frozen=True, slots=True)
class TensorGroup:
    """Tensors alike in all but their numbers.

    `name` may hold ``{layer}`` and ``{expert}``; `layers` lists the layer indices (empty: not in a layer) and
    `num_experts` counts the experts (0: not an expert's).
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType
    role: Role
    layers: tuple[int, ...] = ()
    num_experts: int = 0

    @property
    def count(self) -> int:
        """Number of tensors in the group."""
        return max(len(self.layers), 1) * max(self.num_experts, 1)

    @property
    def num_elements(self) -> int:
        """Elements of all tensors together."""
        return math.prod(self.shape) * self.count

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors together."""
        return self.dtype.size_bytes(self.num_elements)

    def expand(self) -> Iterator[Tensor]:
        """The tensors, layer by layer and expert by expert."""
        for layer in self.layers or (None,):
            for expert in range(max(self.num_experts, 1)):
                name = self.name.replace("{expert}", str(expert))
                if layer is not None:
                    name = name.replace("{layer}", str(layer))
                yield Tensor(name, self.shape, self.dtype, self.role)


def inventory(spec: ModelSpec) -> tuple[TensorGroup, ...]:
    """All tensors of the 16-bit (or 32-bit) checkpoint of `spec`, before any quantization.

    Shapes are in storage order; dtypes are `spec.dtype`. What is quantized on disk is the business of
    `planner.model.formats.store`.
    """
    groups = list(_text(spec.text, spec.dtype))
    if spec.vision is not None:
        groups += _vision(spec.vision, spec.dtype)
    return tuple(groups)


def num_parameters(groups: tuple[TensorGroup, ...]) -> int:
    """Elements of all tensors of an inventory."""
    return sum(group.num_elements for group in groups)


def size_bytes(groups: tuple[TensorGroup, ...]) -> int:
    """Bytes of all tensors of an inventory: a checkpoint's file total without its headers."""
    return sum(group.size_bytes for group in groups)


def _text(text: TextModel, dtype: DType) -> Iterator[TensorGroup]:
    names, prefix = text.names, text.prefix
    table = (text.vocab_size, text.hidden_size)
    yield TensorGroup(f"{prefix}{names.embedding}.weight", table, dtype, Role.EMBEDDING)
    if not text.tie_word_embeddings:
        yield TensorGroup(f"{prefix}{names.lm_head}.weight", table, dtype, Role.LM_HEAD)
    norm = (text.hidden_size,)
    yield TensorGroup(f"{prefix}{names.final_norm}.weight", norm, dtype, Role.NORM)
    for group in text.layer_groups:
        yield from _layer_tensors(text, group, dtype)


@dataclass(frozen=True, slots=True)
class _Layers:
    """Makes the tensors of decoder layers that are alike; names are those inside a layer."""

    stem: str
    layers: tuple[int, ...]
    dtype: DType

    def norm(self, name: str, width: int) -> TensorGroup:
        return TensorGroup(f"{self.stem}{name}.weight", (width,), self.dtype, Role.NORM, self.layers)

    def linear(
        self, name: str, num_in: int, num_out: int, role: Role, *, bias: bool = False, num_experts: int = 0
    ) -> Iterator[TensorGroup]:
        where = (self.dtype, role, self.layers, num_experts)
        yield TensorGroup(f"{self.stem}{name}.weight", (num_out, num_in), *where)
        if bias:
            yield TensorGroup(f"{self.stem}{name}.bias", (num_out,), *where)

    def gated(
        self,
        names: tuple[str, str, str],
        hidden: int,
        size: int,
        role: Role,
        *,
        bias: bool = False,
        num_experts: int = 0,
    ) -> Iterator[TensorGroup]:
        """Gate, up and down of a gated MLP."""
        for name, num_in, num_out in zip(names, (hidden, hidden, size), (size, size, hidden), strict=True):
            yield from self.linear(name, num_in, num_out, role, bias=bias, num_experts=num_experts)


def _layer_tensors(text: TextModel, group: LayerGroup, dtype: DType) -> Iterator[TensorGroup]:
    layers = _Layers(text.prefix + text.names.layer, group.layers, dtype)
    for name in (text.names.input_norm, text.names.post_norm):
        yield layers.norm(name, text.hidden_size)
    yield from _attention(group.attention, text, layers)
    yield from _mlp(group.mlp, text, layers)


def _attention(attention: Attention, text: TextModel, layers: _Layers) -> Iterator[TensorGroup]:
    names, hidden, linear = text.names, text.hidden_size, layers.linear
    match attention:
        case GroupedQueryAttention():
            q_out = attention.num_heads * attention.head_dim
            kv_out = attention.num_kv_heads * attention.head_dim
            bias = attention.qkv_bias
            if names.qkv:
                yield from linear(names.qkv, hidden, q_out + 2 * kv_out, Role.ATTENTION, bias=bias)
            else:
                for name, num_out in ((names.query, q_out), (names.key, kv_out), (names.value, kv_out)):
                    yield from linear(name, hidden, num_out, Role.ATTENTION, bias=bias)
            yield from linear(names.output, q_out, hidden, Role.ATTENTION, bias=attention.output_bias)
            if attention.qk_norm:
                yield layers.norm(names.q_norm, attention.head_dim)
                yield layers.norm(names.k_norm, attention.head_dim)
        case _:
            assert_never(attention)


def _mlp(mlp: Mlp, text: TextModel, layers: _Layers) -> Iterator[TensorGroup]:
    names, hidden = text.names, text.hidden_size
    match mlp:
        case DenseMlp():
            yield from layers.gated(names.dense, hidden, mlp.intermediate_size, Role.MLP, bias=mlp.bias)
        case MoeMlp():
            yield from layers.linear(names.router, hidden, mlp.num_experts, Role.ROUTER)
            size, num_experts = mlp.expert_intermediate_size, mlp.num_experts
            yield from layers.gated(names.experts, hidden, size, Role.EXPERT, num_experts=num_experts)
            if mlp.shared_intermediate_size:
                size = mlp.shared_intermediate_size
                yield from layers.gated(names.shared_experts, hidden, size, Role.SHARED_EXPERT)
                yield from layers.linear(names.shared_gate, hidden, 1, Role.ROUTER)
        case _:
            assert_never(mlp)


def _vision(tower: VisionTower, dtype: DType) -> Iterator[TensorGroup]:
    names = tower.names
    hidden, size = tower.hidden_size, tower.intermediate_size
    layers = tuple(range(tower.num_layers))
    patch = tower.patch_size

    def tensor(name: str, *shape: int, role: Role = Role.VISION) -> TensorGroup:
        return TensorGroup(name, shape, dtype, role, layers if "{layer}" in name else ())

    yield tensor(names.embeddings + names.class_token, 1, 1, hidden)
    if tower.mask_token:
        yield tensor(names.embeddings + "mask_token", 1, 1, hidden)
    yield tensor(names.embeddings + names.position, 1, tower.num_patches + 1, hidden)
    yield tensor(f"{names.embeddings}{names.patch}.weight", hidden, tower.num_channels, patch, patch)
    yield tensor(f"{names.embeddings}{names.patch}.bias", hidden)

    for name in names.qkv:
        rows = 3 * hidden // len(names.qkv)
        yield tensor(f"{names.layer}{name}.weight", rows, hidden)
        if tower.qkv_bias:
            yield tensor(f"{names.layer}{name}.bias", rows)
    for name, num_out, num_in in (
        (names.output, hidden, hidden),
        ("mlp.fc1", size, hidden),
        ("mlp.fc2", hidden, size),
    ):
        yield tensor(f"{names.layer}{name}.weight", num_out, num_in)
        yield tensor(f"{names.layer}{name}.bias", num_out)
    attention_stem = names.output.rpartition(".")[0]
    if tower.qk_norm:
        for name in ("q_norm", "k_norm"):
            yield tensor(f"{names.layer}{attention_stem}.{name}.weight", hidden)
    for name in names.norms:
        yield tensor(f"{names.layer}{name}.weight", hidden)
        if not tower.rms_norm:
            yield tensor(f"{names.layer}{name}.bias", hidden)
    for name in names.scales:
        yield tensor(f"{names.layer}{name}", hidden)
    if tower.final_norm:
        yield tensor("vision_tower.layernorm.weight", hidden)
        yield tensor("vision_tower.layernorm.bias", hidden)

    norm, first, second = names.projector
    wide, out = hidden * tower.pixel_shuffle**2, tower.text_hidden_size
    yield tensor(f"{norm}.weight", wide, role=Role.PROJECTOR)
    yield tensor(f"{norm}.bias", wide, role=Role.PROJECTOR)
    yield tensor(f"{first}.weight", out, wide, role=Role.PROJECTOR)
    yield tensor(f"{first}.bias", out, role=Role.PROJECTOR)
    yield tensor(f"{second}.weight", out, out, role=Role.PROJECTOR)
    yield tensor(f"{second}.bias", out, role=Role.PROJECTOR)
