"""MLPs on one rank, by kind: their linears. A new MLP kind is a case in each `match` below."""

from __future__ import annotations

from collections.abc import Iterator

from planner.kinds import assert_never
from planner.memory.linears import FusedLinear, LinearKind
from planner.memory.parallelism import Sharding
from planner.model.spec import DenseMlp, Mlp, MoeMlp, TextModel


def linears(mlp: Mlp, text: TextModel, sharding: Sharding) -> Iterator[FusedLinear]:
    """Its linears on one rank, in the order of loading."""
    names, hidden = text.names, text.hidden_size
    match mlp:
        case DenseMlp():
            size = sharding.intermediate(mlp.intermediate_size)
            yield FusedLinear(LinearKind.GATE_UP, names.dense[:2], hidden, 2 * size, mlp.bias)
            yield FusedLinear(LinearKind.DOWN, names.dense[2:], size, hidden, mlp.bias)
        case MoeMlp():
            yield FusedLinear(LinearKind.ROUTER, (names.router,), hidden, mlp.num_experts)
            size, number = sharding.intermediate(mlp.expert_intermediate_size), mlp.num_experts
            yield FusedLinear(LinearKind.EXPERT_GATE_UP, names.experts[:2], hidden, 2 * size, num_experts=number)
            yield FusedLinear(LinearKind.EXPERT_DOWN, names.experts[2:], size, hidden, num_experts=number)
            if mlp.shared_intermediate_size:
                size = sharding.intermediate(mlp.shared_intermediate_size)
                yield FusedLinear(LinearKind.SHARED_GATE_UP, names.shared_experts[:2], hidden, 2 * size)
                yield FusedLinear(LinearKind.SHARED_DOWN, names.shared_experts[2:], size, hidden)
                yield FusedLinear(LinearKind.SHARED_GATE, (names.shared_gate,), hidden, 1)
        case _:
            assert_never(mlp)


def widest_intermediate(mlp: Mlp) -> int:
    """The intermediate size, over all ranks, that a token's activations are widest with."""
    match mlp:
        case DenseMlp():
            return mlp.intermediate_size
        case MoeMlp():
            return mlp.expert_intermediate_size
        case _:
            assert_never(mlp)
