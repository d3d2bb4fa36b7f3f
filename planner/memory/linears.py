"""Linears as engines fuse and cut them: their kinds, and what the rest of lmplan asks of a kind."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from planner.model.tensors import LINEAR_ROLES, Role


class Part(Enum):
    """Which part of a layer a linear is; `value` is its turn when TurboMind packs a layer (traced)."""

    OTHER = 0
    QKV = 1
    OUTPUT = 2
    DOWN = 3
    GATE_UP = 4


class LinearKind(Enum):
    """A linear of an engine: its name for people, what it is for, and which part of a layer."""

    QKV = "qkv", Role.ATTENTION, Part.QKV
    OUTPUT = "output", Role.ATTENTION, Part.OUTPUT
    QUERY_DOWN = "queries down", Role.ATTENTION, Part.OTHER
    QUERY_UP = "queries up", Role.ATTENTION, Part.OTHER
    KV_DOWN = "keys and values down", Role.ATTENTION, Part.OTHER
    DELTA_INPUT = "linear attention's input", Role.ATTENTION, Part.QKV
    GATE_UP = "gate and up", Role.MLP, Part.GATE_UP
    DOWN = "down", Role.MLP, Part.DOWN
    ROUTER = "router", Role.ROUTER, Part.OTHER
    EXPERT_GATE_UP = "expert gate and up", Role.EXPERT, Part.GATE_UP
    EXPERT_DOWN = "expert down", Role.EXPERT, Part.DOWN
    SHARED_GATE_UP = "shared gate and up", Role.SHARED_EXPERT, Part.GATE_UP
    SHARED_DOWN = "shared down", Role.SHARED_EXPERT, Part.DOWN
    SHARED_GATE = "shared gate", Role.ROUTER, Part.OTHER
    PATCH_EMBEDDING = "patch embedding", Role.VISION, Part.OTHER
    VISION_QKV = "vision qkv", Role.VISION, Part.OTHER
    VISION_OUTPUT = "vision output", Role.VISION, Part.OTHER
    VISION_FC1 = "vision fc1", Role.VISION, Part.OTHER
    VISION_FC2 = "vision fc2", Role.VISION, Part.OTHER
    PROJECTOR_FC1 = "projector 1", Role.PROJECTOR, Part.OTHER
    PROJECTOR_FC2 = "projector 2", Role.PROJECTOR, Part.OTHER

    def __init__(self, label: str, role: Role, part: Part) -> None:
        self.label = label
        self.role = role
        self.part = part

    @property
    def is_expert(self) -> bool:
        """Whether it belongs to a routed expert, of which a token meets some."""
        return self.role is Role.EXPERT

    @property
    def is_quantizable(self) -> bool:
        """Whether a quantized checkpoint replaces it."""
        return self.role in LINEAR_ROLES


class FusedLinear(NamedTuple):
    """A linear of one layer on one rank, `num_in` x `num_out`.

    `modules` are the checkpoint's names, inside a layer, of what is fused in it; a layer has it `num_experts` times.
    """

    kind: LinearKind
    modules: tuple[str, ...]
    num_in: int
    num_out: int
    bias: bool = False
    num_experts: int = 1


class LinearShape(NamedTuple):
    """Linears of `num_layers` layers on one rank, each `num_in` x `num_out` and `num_experts` times in a layer.

    `quantized` when they are in the checkpoint's format and not in 16 bits.
    """

    kind: LinearKind
    num_in: int
    num_out: int
    num_layers: int
    bias: bool = False
    quantized: bool = False
    num_experts: int = 1

    @property
    def num_linears(self) -> int:
        """How many there are."""
        return self.num_layers * self.num_experts

    @property
    def num_weights(self) -> int:
        """Weights of one."""
        return self.num_in * self.num_out
