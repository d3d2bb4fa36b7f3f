"""The tensor inventory of a checkpoint: every tensor with name, shape, dtype and role, from a ModelSpec.

Thousands of layers times experts differ only in their numbers, so the inventory is a list of groups; a group
knows its total at once and spells out its members when asked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from planner.model.dtypes import DType
from planner.model.spec import (
    DenseMlp,
    GroupedQueryAttention,
    LayerGroup,
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
        yield from _layers(text, group, dtype)


def _layers(text: TextModel, group: LayerGroup, dtype: DType) -> Iterator[TensorGroup]:
    names, hidden = text.names, text.hidden_size
    stem = text.prefix + names.layer

    def linear(
        name: str, num_in: int, num_out: int, role: Role, bias: bool = False, num_experts: int = 0
    ) -> Iterator[TensorGroup]:
        where = (group.layers, num_experts)
        yield TensorGroup(f"{stem}{name}.weight", (num_out, num_in), dtype, role, *where)
        if bias:
            yield TensorGroup(f"{stem}{name}.bias", (num_out,), dtype, role, *where)

    for name in (names.input_norm, names.post_norm):
        yield TensorGroup(f"{stem}{name}.weight", (hidden,), dtype, Role.NORM, group.layers)

    attention = group.attention
    assert isinstance(attention, GroupedQueryAttention)
    q_out = attention.num_heads * attention.head_dim
    kv_out = attention.num_kv_heads * attention.head_dim
    if names.qkv:
        yield from linear(names.qkv, hidden, q_out + 2 * kv_out, Role.ATTENTION, attention.qkv_bias)
    else:
        for name, num_out in ((names.query, q_out), (names.key, kv_out), (names.value, kv_out)):
            yield from linear(name, hidden, num_out, Role.ATTENTION, attention.qkv_bias)
    yield from linear(names.output, q_out, hidden, Role.ATTENTION, attention.output_bias)
    if attention.qk_norm:
        for name in (names.q_norm, names.k_norm):
            yield TensorGroup(f"{stem}{name}.weight", (attention.head_dim,), dtype, Role.NORM, group.layers)

    mlp = group.mlp
    if isinstance(mlp, DenseMlp):
        size = mlp.intermediate_size
        for name, num_in, num_out in (
            (names.gate, hidden, size),
            (names.up, hidden, size),
            (names.down, size, hidden),
        ):
            yield from linear(name, num_in, num_out, Role.MLP, mlp.bias)
        return
    assert isinstance(mlp, MoeMlp)
    yield from linear(names.router, hidden, mlp.num_experts, Role.ROUTER)
    for stem_in_layer, size, num_experts, role in (
        (names.expert, mlp.expert_intermediate_size, mlp.num_experts, Role.EXPERT),
        (names.shared_expert, mlp.shared_intermediate_size, 0, Role.SHARED_EXPERT),
    ):
        if not size:
            continue
        for name, num_in, num_out in (
            (names.expert_gate, hidden, size),
            (names.expert_up, hidden, size),
            (names.expert_down, size, hidden),
        ):
            yield from linear(stem_in_layer + name, num_in, num_out, role, False, num_experts)
    if mlp.shared_intermediate_size:
        yield from linear(names.shared_gate, hidden, 1, Role.ROUTER)


@dataclass(frozen=True, slots=True)
class _VisionNames:
    """The two ways in which InternVL checkpoints name their tower."""

    embeddings: str
    class_token: str
    position: str
    patch: str
    layer: str
    qkv: tuple[str, ...]
    output: str
    norms: tuple[str, str]
    scales: tuple[str, str]
    projector: tuple[str, str, str]


_VISION_NAMES = {
    "chat": _VisionNames(
        embeddings="vision_model.embeddings.",
        class_token="class_embedding",
        position="position_embedding",
        patch="patch_embedding",
        layer="vision_model.encoder.layers.{layer}.",
        qkv=("attn.qkv",),
        output="attn.proj",
        norms=("norm1", "norm2"),
        scales=("ls1", "ls2"),
        projector=("mlp1.0", "mlp1.1", "mlp1.3"),
    ),
    "hf": _VisionNames(
        embeddings="vision_tower.embeddings.",
        class_token="cls_token",
        position="position_embeddings",
        patch="patch_embeddings.projection",
        layer="vision_tower.encoder.layer.{layer}.",
        qkv=("attention.q_proj", "attention.k_proj", "attention.v_proj"),
        output="attention.projection_layer",
        norms=("layernorm_before", "layernorm_after"),
        scales=("lambda_1", "lambda_2"),
        projector=(
            "multi_modal_projector.layer_norm",
            "multi_modal_projector.linear_1",
            "multi_modal_projector.linear_2",
        ),
    ),
}


def _vision(tower: VisionTower, dtype: DType) -> Iterator[TensorGroup]:
    names = _VISION_NAMES[tower.form]
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
