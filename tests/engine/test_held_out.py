"""Checkpoint and engine agree on what stays in 16 bits, to the byte."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.engine.base import Deployment
from planner.engine.pick import pick_engine
from planner.errors import UnsupportedModelError
from planner.footprint import MemoryEstimate, estimate_memory
from planner.hardware.gpu import find_gpu
from planner.lmdeploy import versions
from planner.lmdeploy.settings import Request, decide
from planner.memory.linears import LinearKind
from planner.memory.weights import AllocationKind
from planner.model.arch import read_spec
from planner.model.dtypes import FLOAT_DTYPES
from planner.model.formats import store
from planner.model.inventory import inventory
from planner.model.source import resolve
from planner.model.spec import ModelSpec
from planner.model.tensors import LINEAR_ROLES
from tests.examples import examples

AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}


def spec_of(model: str, method: dict[str, Any], entries: Iterable[str]) -> ModelSpec:
    section = {**method, "modules_to_not_convert": list(entries)}
    return read_spec({**resolve(model).config, "quantization_config": section}, model)


def deployed(spec: ModelSpec, engine: str | None = None, tp: int = 1) -> Deployment:
    gpu = find_gpu("h200")
    chosen = decide(spec, gpu, versions.resolve("0.18.0"), Request(engine=engine, tp=tp))
    return Deployment(spec, gpu, gpu.memory_total_bytes, chosen)


def weights_bytes(plan: MemoryEstimate) -> int:
    return next(term.size_bytes for term in plan.terms if term.name == "weights")


def test_the_router_of_mixtral_as_autoawq_writes_it() -> None:
    plan = estimate_memory(deployed(spec_of("mixtral-8x7b", AWQ, ["gate"])))
    assert plan.checkpoint_bytes == 24_653_602_816  # 22.96 GiB
    # 27.52 GiB: scales and zeros of the linears for every 32 inputs, in 16 bits both; four tables of pointers a layer.
    assert weights_bytes(plan) == 29_551_501_312 + 32 * 4 * 8 * 16
    assert plan == estimate_memory(plan.deployment)
    assert weights_bytes(plan) == weights_bytes(estimate_memory(deployed(spec_of("mixtral-8x7b", AWQ, []))))


def test_mlps_in_16_bits_under_the_pytorch_engine() -> None:
    plan = estimate_memory(deployed(spec_of("llama-3.1-8b", AWQ, ["mlp"]), "pytorch"))
    assert weights_bytes(plan) == plan.checkpoint_bytes == 14_073_470_976  # 13.11 GiB
    whole = estimate_memory(deployed(spec_of("llama-3.1-8b", AWQ, []), "pytorch"))
    copies = [next(t.size_bytes for t in p.terms if t.name == "packed_copy") for p in (plan, whole)]
    assert copies[0] < copies[1]


@pytest.mark.parametrize("engine", ["turbomind", "pytorch"])
def test_one_layer_in_16_bits(engine: str) -> None:
    layer = 4096 * (4096 + 2 * 1024) + 4096 * 4096
    # Scale and zero of 16 bits for every 32 inputs, or a scale of 16 and a zero of 4 bits for every 128.
    params_bytes = layer // 32 * 4 if engine == "turbomind" else layer // 128 * 5 // 2
    sizes = [
        weights_bytes(estimate_memory(deployed(spec_of("llama-3.1-8b", AWQ, entries), engine)))
        for entries in ([], ["model.layers.0.self_attn"])
    ]
    assert sizes[1] - sizes[0] == 2 * layer - (layer // 2 + params_bytes)


# What engines fuse is held out together. Parts of experts have no name that a layer's number could stand before.
QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
DENSE = (("mlp.gate_proj", "mlp.up_proj"), ("mlp.down_proj",))
SHARED = tuple(f"mlp.shared_expert.{name}" for name in ("gate_proj", "up_proj"))
PARTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "llama-3.1-8b": (QKV, ("self_attn.o_proj",), *DENSE),
    "internlm2_5-7b": (("attention.wqkv",), ("attention.wo",), ("feed_forward",)),
    "mixtral-8x7b": (QKV, ("self_attn.o_proj",), (".w1", ".w3"), (".w2",), ("block_sparse_moe.gate",)),
    "qwen3-30b-a3b": (("self_attn",), ("mlp.experts",), ("mlp.gate",)),
    "qwen2-57b-a14b": (("self_attn",), ("mlp.experts",), SHARED, ("mlp.shared_expert_gate",)),
}
ROUTERS = {"block_sparse_moe.gate", "mlp.gate", "mlp.shared_expert_gate"}
SERVED = [
    *((model, "turbomind", method) for model in PARTS for method in (AWQ, GPTQ, FP8)),
    ("llama-3.1-8b", "pytorch", AWQ),
    *((model, "pytorch", FP8) for model in PARTS if model != "internlm2_5-7b"),
]
PACKED_BITS = {"awq": 4, "gptq": 4, "fp8": 8}


@given(st.sampled_from(SERVED), st.data())
@settings(max_examples=examples(100), deadline=None)
def test_held_out_linears_have_16_bits_in_the_checkpoint_and_in_the_engine(
    served: tuple[str, str, dict[str, Any]], data: st.DataObject
) -> None:
    model, engine_name, method = served
    chosen = data.draw(st.sets(st.sampled_from(PARTS[model])))
    layer = data.draw(st.sampled_from(["", "layers.2.", "layers.1."]))
    names = {name for names in chosen for name in names}
    entries = [name if name[0] == "." else layer + name for name in names]
    spec = spec_of(model, method, entries)
    stored = store(inventory(spec), spec.quantization)
    linears = [g for g in inventory(spec) if g.role in LINEAR_ROLES and len(g.shape) == 2]
    plain = sum(
        g.num_elements
        for g in stored
        if g.role in LINEAR_ROLES and g.name.endswith(".weight") and g.dtype in FLOAT_DTYPES.values()
    )
    assert bool(plain) == bool(names - ROUTERS)
    engine = pick_engine(deployed(spec, engine_name))
    held = sum(
        a.total_bytes
        for a in engine.text_allocations()
        if a.kind is AllocationKind.WEIGHT and a.linear is not None and a.linear.is_quantizable
    )
    packed = sum(g.num_elements for g in linears) - plain
    assert held == 2 * plain + packed * PACKED_BITS[method["quant_method"]] // 8


@pytest.mark.parametrize(
    ("engine", "method", "entry"),
    [
        ("turbomind", AWQ, "gate_proj"),
        ("turbomind", FP8, "model.layers.3.mlp.up_proj"),
        ("turbomind", GPTQ, "q_proj"),
        ("pytorch", AWQ, "q_proj"),
        ("pytorch", FP8, "gate"),
    ],
)
def test_a_part_of_what_is_fused_is_refused(engine: str, method: dict[str, Any], entry: str) -> None:
    with pytest.raises(UnsupportedModelError, match="modules_to_not_convert"):
        estimate_memory(deployed(spec_of("llama-3.1-8b", method, [entry]), engine))


def test_turbomind_dequantizes_the_rest_of_qkv() -> None:
    engine = pick_engine(deployed(spec_of("llama-3.1-8b", AWQ, ["q_proj"])))
    qkv = [a for a in engine.text_allocations() if a.linear is LinearKind.QKV]
    assert [(a.kind, a.total_bytes) for a in qkv] == [(AllocationKind.WEIGHT, 32 * 4096 * 6144 * 2)]
