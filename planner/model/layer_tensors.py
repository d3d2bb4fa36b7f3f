"""The tensors of decoder layers, by kind of attention and MLP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from planner.kinds import assert_never
from planner.model.dtypes import DType
from planner.model.layers import (
    Attention,
    DenseMlp,
    ExpertStorage,
    GatedDeltaNet,
    GroupedQueryAttention,
    LatentAttention,
    Mlp,
    MoeMlp,
)
from planner.model.names import TensorNames
from planner.model.tensors import Role, TensorGroup


class Layers(NamedTuple):
    """Makes the tensors of decoder layers that are alike; names stand behind `stem`, which holds ``{layer}``.

    Without `layers` the tensors are of no layer.
    """

    stem: str
    layers: tuple[int, ...]
    dtype: DType

    def tensor(
        self, name: str, shape: tuple[int, ...], role: Role, *, dtype: DType | None = None, num_experts: int = 0
    ) -> TensorGroup:
        """A tensor by its whole name inside a layer."""
        return TensorGroup(f"{self.stem}{name}", shape, dtype or self.dtype, role, self.layers, num_experts)

    def norm(self, name: str, width: int, *, bias: bool = False) -> Iterator[TensorGroup]:
        """An RMSNorm, or with a bias a LayerNorm."""
        yield self.tensor(f"{name}.weight", (width,), Role.NORM)
        if bias:
            yield self.tensor(f"{name}.bias", (width,), Role.NORM)

    def linear(
        self, name: str, num_in: int, num_out: int, role: Role, *, bias: bool = False, num_experts: int = 0
    ) -> Iterator[TensorGroup]:
        """A linear [num_out, num_in]."""
        yield self.tensor(f"{name}.weight", (num_out, num_in), role, num_experts=num_experts)
        if bias:
            yield self.tensor(f"{name}.bias", (num_out,), role, num_experts=num_experts)

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


def attention_tensors(attention: Attention, names: TensorNames, hidden: int, layers: Layers) -> Iterator[TensorGroup]:
    """Those of attention, or of what stands in for it."""
    match attention:
        case GroupedQueryAttention():
            yield from _grouped_query(attention, names, hidden, layers)
        case LatentAttention():
            yield from _latent(attention, names, hidden, layers)
        case GatedDeltaNet():
            yield from _gated_delta_net(attention, names, hidden, layers)
        case _:
            assert_never(attention)


def _grouped_query(
    attention: GroupedQueryAttention, names: TensorNames, hidden: int, layers: Layers
) -> Iterator[TensorGroup]:
    widths = [attention.query_width, attention.kv_width, attention.kv_width]
    if names.qkv:
        widths = [sum(widths)]
    for name, num_out in zip(names.attention_inputs, widths, strict=True):
        yield from layers.linear(name, hidden, num_out, Role.ATTENTION, bias=attention.qkv_bias)
    heads_width = attention.num_heads * attention.head_dim
    yield from layers.linear(names.output, heads_width, hidden, Role.ATTENTION, bias=attention.output_bias)
    if attention.qk_norm:
        yield from layers.norm(names.q_norm, attention.head_dim)
        yield from layers.norm(names.k_norm, attention.head_dim)
    if attention.sinks:
        yield layers.tensor(names.sinks, (attention.num_heads,), Role.ATTENTION)


def _latent(attention: LatentAttention, names: TensorNames, hidden: int, layers: Layers) -> Iterator[TensorGroup]:
    role, bias, num_heads = Role.ATTENTION, attention.bias, attention.num_heads
    query_width = num_heads * attention.qk_head_dim
    rank = attention.q_lora_rank
    if rank is None:
        yield from layers.linear(names.query, hidden, query_width, role)
    else:
        yield from layers.linear(names.q_down, hidden, rank, role, bias=bias)
        yield from layers.norm(names.q_down_norm, rank)
        yield from layers.linear(names.q_up, rank, query_width, role)
    yield from layers.linear(names.kv_down, hidden, attention.latent_width, role, bias=bias)
    yield from layers.norm(names.kv_down_norm, attention.kv_lora_rank)
    kv_width = num_heads * (attention.qk_nope_head_dim + attention.v_head_dim)
    yield from layers.linear(names.kv_up, attention.kv_lora_rank, kv_width, role)
    yield from layers.linear(names.output, num_heads * attention.v_head_dim, hidden, role, bias=bias)
    indexer, stem = attention.indexer, names.indexer
    if indexer is not None:
        yield from layers.linear(f"{stem}wq_b", rank or hidden, indexer.num_heads * indexer.head_dim, role)
        yield from layers.linear(f"{stem}wk", hidden, indexer.head_dim, role)
        yield from layers.norm(f"{stem}k_norm", indexer.head_dim, bias=True)
        yield from layers.linear(f"{stem}weights_proj", hidden, indexer.num_heads, Role.INDEXER)


def _gated_delta_net(net: GatedDeltaNet, names: TensorNames, hidden: int, layers: Layers) -> Iterator[TensorGroup]:
    stem, heads = names.delta, net.num_value_heads
    if names.delta_fused:
        inputs = {"in_proj_qkvz": net.conv_width + net.value_width, "in_proj_ba": 2 * heads}
    else:
        inputs = {
            "in_proj_qkv": net.conv_width,
            "in_proj_z": net.value_width,
            "in_proj_b": heads,
            "in_proj_a": heads,
        }
    for name, num_out in inputs.items():
        yield from layers.linear(stem + name, hidden, num_out, Role.ATTENTION)
    yield layers.tensor(f"{stem}conv1d.weight", (net.conv_width, 1, net.conv_kernel_size), Role.RECURRENT)
    wide = DType.F32 if net.wide_rates else None
    yield layers.tensor(f"{stem}A_log", (heads,), Role.RECURRENT, dtype=wide)
    yield layers.tensor(f"{stem}dt_bias", (heads,), Role.RECURRENT)
    yield layers.tensor(f"{stem}norm.weight", (net.value_head_dim,), Role.NORM, dtype=wide)
    yield from layers.linear(f"{stem}out_proj", net.value_width, hidden, Role.ATTENTION)


def mlp_tensors(mlp: Mlp, names: TensorNames, hidden: int, layers: Layers) -> Iterator[TensorGroup]:
    """Those of an MLP; experts that layers share are left to `pack_tensors`."""
    match mlp:
        case DenseMlp():
            yield from _dense(mlp, names, hidden, layers)
        case MoeMlp():
            if not mlp.num_packs:
                yield from _router(mlp, names.router, names.correction_bias, hidden, layers)
                yield from _experts(mlp, names, hidden, layers)
            yield from _shared(mlp, names, hidden, layers)
        case _:
            assert_never(mlp)


def pack_tensors(moe: MoeMlp, names: TensorNames, hidden: int, packs: Layers) -> Iterator[TensorGroup]:
    """Router and experts of packs that layers share. Inside a pack they are named as inside an MLP."""

    def inside(name: str) -> str:
        return name.removeprefix("mlp.")

    inner = names._replace(
        expert=inside(names.expert),
        packed_gate_up=inside(names.packed_gate_up),
        packed_down=inside(names.packed_down),
    )
    yield from _router(moe, inside(names.router), inside(names.correction_bias), hidden, packs)
    yield from _experts(moe, inner, hidden, packs)


def _dense(mlp: DenseMlp, names: TensorNames, hidden: int, layers: Layers) -> Iterator[TensorGroup]:
    size = mlp.intermediate_size
    width = 2 * size if names.gate_up else size
    for name in names.dense_inputs:
        yield from layers.linear(name, hidden, width, Role.MLP, bias=mlp.bias)
    yield from layers.linear(names.down, size, hidden, Role.MLP, bias=mlp.bias)


def _router(moe: MoeMlp, name: str, correction: str, hidden: int, layers: Layers) -> Iterator[TensorGroup]:
    yield from layers.linear(name, hidden, moe.num_experts, Role.ROUTER, bias=moe.router_bias)
    if moe.correction_bias:
        yield layers.tensor(correction, (moe.num_experts,), Role.ROUTER, dtype=DType.F32)


def _experts(moe: MoeMlp, names: TensorNames, hidden: int, layers: Layers) -> Iterator[TensorGroup]:
    role, num_experts, size = Role.EXPERT, moe.num_experts, moe.expert_intermediate_size
    up, down = (2 * size, hidden), (hidden, size)
    match moe.storage:
        case ExpertStorage.SINGLE:
            yield from layers.gated(names.experts, hidden, size, role, bias=moe.expert_bias, num_experts=num_experts)
            return
        case ExpertStorage.PACKED:
            pass
        case ExpertStorage.PACKED_TRANSPOSED:
            up, down = up[::-1], down[::-1]
        case _:
            assert_never(moe.storage)
    yield layers.tensor(names.packed_gate_up, (num_experts, *up), role)
    yield layers.tensor(names.packed_down, (num_experts, *down), role)
    if moe.expert_bias:
        yield layers.tensor(f"{names.packed_gate_up}_bias", (num_experts, 2 * size), role)
        yield layers.tensor(f"{names.packed_down}_bias", (num_experts, hidden), role)


def _shared(moe: MoeMlp, names: TensorNames, hidden: int, layers: Layers) -> Iterator[TensorGroup]:
    if moe.shared_intermediate_size:
        yield from layers.gated(names.shared_experts, hidden, moe.shared_intermediate_size, Role.SHARED_EXPERT)
    if moe.shared_gate:
        yield from layers.linear(names.shared_gate, hidden, 1, Role.ROUTER)
