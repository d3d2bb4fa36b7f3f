"""MLPs on one rank, by kind: their linears. A new MLP kind is a case in each `match` below."""

from __future__ import annotations

from collections.abc import Iterator

from planner.errors import not_planned
from planner.kinds import assert_never
from planner.memory.linears import FusedLinear, LinearKind
from planner.memory.parallelism import Sharding
from planner.model.layers import DenseMlp, ExpertStorage, Mlp, MoeMlp, routed_experts
from planner.model.spec import TextModel


def linears(mlp: Mlp, text: TextModel, sharding: Sharding) -> Iterator[FusedLinear]:
    """Its linears on one rank, in the order of loading."""
    names, hidden = text.names, text.hidden_size
    match mlp:
        case DenseMlp():
            size = sharding.intermediate(mlp.intermediate_size)
            yield FusedLinear(LinearKind.GATE_UP, names.dense_inputs, hidden, 2 * size, mlp.bias)
            yield FusedLinear(LinearKind.DOWN, (names.down,), size, hidden, mlp.bias)
        case MoeMlp():
            if mlp.num_packs:
                raise not_planned("experts that layers share")
            yield FusedLinear(LinearKind.ROUTER, (names.router,), hidden, mlp.num_experts, mlp.router_bias)
            size, number = sharding.intermediate(mlp.expert_intermediate_size), mlp.num_experts
            gate_up, down = _modules(mlp, text)
            bias = mlp.expert_bias
            yield FusedLinear(LinearKind.EXPERT_GATE_UP, gate_up, hidden, 2 * size, bias, number)
            yield FusedLinear(LinearKind.EXPERT_DOWN, down, size, hidden, bias, number)
            if mlp.shared_intermediate_size:
                size = sharding.intermediate(mlp.shared_intermediate_size)
                yield FusedLinear(LinearKind.SHARED_GATE_UP, names.shared_experts[:2], hidden, 2 * size)
                yield FusedLinear(LinearKind.SHARED_DOWN, names.shared_experts[2:], size, hidden)
            if mlp.shared_gate:
                yield FusedLinear(LinearKind.SHARED_GATE, (names.shared_gate,), hidden, 1)
        case _:
            assert_never(mlp)


def correction_bytes(mlp: Mlp) -> int:
    """Bytes of the router's correction in one layer, whole on every rank and in 32 bits; 0 where it has none."""
    experts = routed_experts(mlp)
    return 4 * experts.num_experts if experts is not None and experts.correction_bias else 0


def _modules(mlp: MoeMlp, text: TextModel) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The checkpoint's names of gate and up, and of down."""
    names = text.names
    match mlp.storage:
        case ExpertStorage.SINGLE:
            return names.experts[:2], names.experts[2:]
        case ExpertStorage.PACKED | ExpertStorage.PACKED_TRANSPOSED:
            return (names.packed_gate_up,), (names.packed_down,)
        case _:
            assert_never(mlp.storage)


def widest_intermediate(mlp: Mlp) -> int:
    """The intermediate size, over all ranks, that a token's activations are widest with."""
    match mlp:
        case DenseMlp():
            return mlp.intermediate_size
        case MoeMlp():
            return mlp.expert_intermediate_size
        case _:
            assert_never(mlp)
