"""Weights as an engine holds them: fused, cut between ranks, quantized where the checkpoint is."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Final, NamedTuple

from planner.errors import UnsupportedModelError, not_planned
from planner.memory import attention, mlp
from planner.memory.linears import FusedLinear, LinearKind, LinearShape
from planner.memory.parallelism import Parallelism, Sharding
from planner.memory.pool import aligned
from planner.model.held_out import held_out_layers, without_routers
from planner.model.layers import LayerGroup
from planner.model.quantization import Quantization, QuantMethod
from planner.model.spec import TextModel
from planner.model.tensors import Role
from planner.model.vision import VisionTower

_HALF_BYTES: Final = 2


class AllocationKind(Enum):
    """What an allocation of weights is; `value` is its name for people."""

    EMBEDDING = "embedding"
    OUTPUT_HEAD = "output head"
    NORM = "norm"
    WEIGHT = "weight"
    SCALES = "scales"
    ZEROS = "zeros"
    BIAS = "bias"
    CLASS_TOKEN = "class token"
    POSITIONS = "position embedding"
    LAYER_SCALE = "layer scale"
    PARAMETERS = "parameters of attention"
    CORRECTION = "correction bias"
    POINTERS = "pointers to experts"


class Allocation(NamedTuple):
    """`num_allocations` times `size_bytes` on one rank's GPU; `linear` is the linear that they belong to."""

    kind: AllocationKind
    size_bytes: int
    num_allocations: int = 1
    linear: LinearKind | None = None

    @property
    def total_bytes(self) -> int:
        """Bytes asked for."""
        return self.size_bytes * self.num_allocations

    @property
    def aligned_bytes(self) -> int:
        """Bytes that they take inside a pool."""
        return aligned(self.size_bytes) * self.num_allocations

    @property
    def is_expert(self) -> bool:
        """Whether it belongs to routed experts."""
        return self.linear is not None and self.linear.is_expert


def of_linear(linear: LinearShape, kind: AllocationKind, size_bytes: int) -> Allocation:
    """An allocation of `size_bytes` for each of the linears."""
    return Allocation(kind, size_bytes, linear.num_linears, linear.kind)


def plain_linear(linear: LinearShape) -> Allocation:
    """A 16-bit linear."""
    return of_linear(linear, AllocationKind.WEIGHT, linear.num_weights * _HALF_BYTES)


def _bias(linear: LinearShape) -> Allocation:
    return of_linear(linear, AllocationKind.BIAS, linear.num_out * _HALF_BYTES)


# --- the language model ----------------------------------------------------------------------------------------------


def text_linears(
    text: TextModel,
    quantization: Quantization | None,
    sharding: Sharding,
    dequantized: frozenset[LinearKind] = frozenset(),
) -> Iterator[LinearShape]:
    """The decoder's linears on one rank, qkv and gate-up fused, in the order of loading.

    Where the checkpoint holds some layers out, a linear comes twice: as these layers have it, and as the others do. A
    fused linear stays in 16 bits where any of its parts does: TurboMind dequantizes the others
    (`lmdeploy/turbomind/builders/linear.py`, dequant_mixed, 0.18.0). `dequantized` are those of which an engine makes
    16-bit ones whatever the checkpoint has.
    """
    entries = _entries(text, quantization, sharding)
    for group, linear in _fused(text, sharding):
        takes = linear.kind not in dequantized and _is_replaced(linear, quantization)
        packed = group.layers if takes else ()
        if packed and entries:
            held = frozenset[int]().union(*_held_out(text, group, linear, entries))
            packed = tuple(layer for layer in packed if layer not in held)
        for quantized, count in ((False, len(group.layers) - len(packed)), (True, len(packed))):
            if count:
                yield LinearShape(
                    linear.kind, linear.num_in, linear.num_out, count, linear.bias, quantized, linear.num_experts
                )


def _is_replaced(linear: FusedLinear, quantization: Quantization | None) -> bool:
    """Whether the format is for such linears: mxfp4 is for experts alone (gpt-oss)."""
    if quantization is None or not linear.kind.is_quantizable:
        return False
    return linear.kind.is_expert or quantization.method is not QuantMethod.MXFP4


def check_fused(
    text: TextModel, quantization: Quantization | None, sharding: Sharding, dequantized: frozenset[LinearKind]
) -> None:
    """Refuse a checkpoint that holds out one part of a fused linear; `dequantized` are those of which an engine makes
    16-bit ones.

    Raises:
        UnsupportedModelError: such a linear, with the key.
    """
    entries = _entries(text, quantization, sharding)
    for group, linear in _fused(text, sharding) if entries else ():
        if linear.kind in dequantized or not _is_replaced(linear, quantization):
            continue
        held = _held_out(text, group, linear, entries)
        if any(layers != held[0] for layers in held):
            names = [name.format(expert="*") for name in linear.modules]
            raise UnsupportedModelError(
                f"modules_to_not_convert holds out a part of {', '.join(names)} and not all; LMDeploy makes one linear "
                "of them and needs one format",
                "Hold out all of them in a layer, or none",
            )


def _fused(text: TextModel, sharding: Sharding) -> Iterator[tuple[LayerGroup, FusedLinear]]:
    for group in text.layer_groups:
        for linear in attention.linears(group.attention, text, sharding):
            yield group, linear
        for linear in mlp.linears(group.mlp, text, sharding):
            yield group, linear


def _entries(text: TextModel, quantization: Quantization | None, sharding: Sharding) -> tuple[str, ...]:
    """What the checkpoint holds out besides routers."""
    if quantization is None or not quantization.unquantized:
        return ()
    fused = _fused(text, sharding)
    routers = [_module(text, linear.modules[0]) for _, linear in fused if linear.kind.role is Role.ROUTER]
    return without_routers(quantization.unquantized, routers)


def _held_out(
    text: TextModel, group: LayerGroup, linear: FusedLinear, entries: tuple[str, ...]
) -> list[frozenset[int]]:
    """The layers that hold out each part of a fused linear."""
    return [held_out_layers(_module(text, name), group.layers, entries) for name in linear.modules]


def _module(text: TextModel, name: str) -> str:
    return text.prefix + text.names.layer + name


def text_plain(text: TextModel, sharding: Sharding) -> Iterator[Allocation]:
    """What is never quantized on one rank: both vocabulary matrices (two copies even when tied), norms, biases."""
    if text.score:
        raise not_planned("a reward model's head")
    if text.head_bias:
        raise not_planned("a bias of the output head")
    hidden = text.hidden_size
    width = hidden // sharding.tp if sharding.embedding_sharded else hidden
    yield Allocation(AllocationKind.EMBEDDING, text.vocab_size * width * _HALF_BYTES)
    yield Allocation(AllocationKind.OUTPUT_HEAD, sharding.rank_head_rows(text.vocab_size) * hidden * _HALF_BYTES)
    parts = 2 if text.norm_bias else 1
    yield Allocation(AllocationKind.NORM, hidden * _HALF_BYTES, parts)
    for group in text.layer_groups:
        count = len(group.layers)
        yield Allocation(AllocationKind.NORM, hidden * _HALF_BYTES, parts * len(text.names.norms) * count)
        for norm_width, number in attention.norms(group.attention):
            yield Allocation(AllocationKind.NORM, norm_width * _HALF_BYTES, number * count)
        for elements in attention.parameters(group.attention, sharding.parallelism):
            yield Allocation(AllocationKind.PARAMETERS, elements * _HALF_BYTES, count)
        correction_bytes = mlp.correction_bytes(group.mlp)
        if correction_bytes:
            yield Allocation(AllocationKind.CORRECTION, correction_bytes, count)
    for linear in text_linears(text, None, sharding):
        if linear.bias:
            yield _bias(linear)


# --- the vision tower ------------------------------------------------------------------------------------------------


def vision_linears(tower: VisionTower, parallelism: Parallelism) -> Iterator[LinearShape]:
    """The vision tower's and projector's linears on one rank; attention stays whole where
    `tp` does not divide the heads.
    """
    hidden, layers, tp = tower.hidden_size, tower.num_layers, parallelism.tp
    attention_tp = tp if tower.num_heads % tp == 0 else 1
    size = tower.intermediate_size // tp
    yield LinearShape(LinearKind.PATCH_EMBEDDING, tower.num_channels * tower.patch_size**2, hidden, 1, True)
    yield LinearShape(LinearKind.VISION_QKV, hidden, 3 * hidden // attention_tp, layers, tower.qkv_bias)
    yield LinearShape(LinearKind.VISION_OUTPUT, hidden // attention_tp, hidden, layers, True)
    yield LinearShape(LinearKind.VISION_FC1, hidden, size, layers, True)
    yield LinearShape(LinearKind.VISION_FC2, size, hidden, layers, True)
    wide, out = hidden * tower.pixel_shuffle**2, tower.text_hidden_size
    yield LinearShape(LinearKind.PROJECTOR_FC1, wide, out // tp, 1, True)
    yield LinearShape(LinearKind.PROJECTOR_FC2, out // tp, out, 1, True)


def vision_plain(tower: VisionTower, parallelism: Parallelism) -> Iterator[Allocation]:
    """The rest of the vision tower: token, positions, norms, layer scales and biases."""
    layers, vector_bytes = tower.num_layers, tower.hidden_size * _HALF_BYTES
    yield Allocation(AllocationKind.CLASS_TOKEN, vector_bytes)
    yield Allocation(AllocationKind.POSITIONS, (tower.num_patches + 1) * vector_bytes)
    yield Allocation(AllocationKind.NORM, vector_bytes, layers * (2 if tower.rms_norm else 4))
    yield Allocation(AllocationKind.LAYER_SCALE, vector_bytes, 2 * layers)
    if tower.qk_norm:
        yield Allocation(AllocationKind.NORM, vector_bytes, 2 * layers)
    yield Allocation(AllocationKind.NORM, vector_bytes * tower.pixel_shuffle**2, 2)
    for linear in vision_linears(tower, parallelism):
        if linear.bias:
            yield _bias(linear)
