"""Tensors of a checkpoint, in groups.

Thousands of layers times experts differ only in their numbers, so an inventory is a list of groups; a group knows its
total at once and spells out its members when asked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from planner.model.dtypes import DType


class Role(Enum):
    """What a tensor is for. Only the LINEAR roles are ever quantized, and no engine loads the UNLOADED ones.

    RECURRENT is what linear attention has besides linears and norms, INDEXER the part of a sparse indexer that stays as
    it is. PREDICTION and PREDICTION_LINEAR belong to layers for speculative decoding.
    """

    EMBEDDING = "embedding"
    LM_HEAD = "lm_head"
    NORM = "norm"
    ATTENTION = "attention"
    MLP = "mlp"
    ROUTER = "router"
    EXPERT = "expert"
    SHARED_EXPERT = "shared_expert"
    RECURRENT = "recurrent"
    INDEXER = "indexer"
    PREDICTION = "prediction"
    PREDICTION_LINEAR = "prediction_linear"
    UNUSED = "unused"
    VISION = "vision"
    PROJECTOR = "projector"
    OTHER = "other"


LINEAR_ROLES = frozenset({Role.ATTENTION, Role.MLP, Role.EXPERT, Role.SHARED_EXPERT, Role.PREDICTION_LINEAR})
UNLOADED_ROLES = frozenset({Role.PREDICTION, Role.PREDICTION_LINEAR, Role.UNUSED})
VISION_ROLES = frozenset({Role.VISION, Role.PROJECTOR})


class Tensor(NamedTuple):
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


class TensorGroup(NamedTuple):
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
    def num_tensors(self) -> int:
        """Number of tensors in the group."""
        return max(len(self.layers), 1) * max(self.num_experts, 1)

    @property
    def num_elements(self) -> int:
        """Elements of all tensors together."""
        return math.prod(self.shape) * self.num_tensors

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


def num_parameters(groups: tuple[TensorGroup, ...]) -> int:
    """Elements of all tensors of an inventory."""
    return sum(group.num_elements for group in groups)


def size_bytes(groups: tuple[TensorGroup, ...]) -> int:
    """Bytes of all tensors of an inventory: a checkpoint's file total without its headers."""
    return sum(group.size_bytes for group in groups)
