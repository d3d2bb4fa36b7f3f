"""TurboMind's plans of further families against traces of every allocation on an H100 (LMDeploy 0.18.0)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from planner.data import ROOT, read_toml
from planner.engine.base import Deployment
from planner.engine.pick import pick_engine
from planner.engine.turbomind import forward
from planner.engine.turbomind.folding import is_folded, kept_segment_bytes
from planner.engine.turbomind.slabs import Turbomind
from planner.engine.turbomind.states import workspace_bytes
from planner.engine.turbomind.warmup import _TOKENS as WARM_UP_TOKENS
from planner.evidence.ledger import one_run
from planner.footprint import GROWING_TERMS, MemoryEstimate, estimate_memory
from planner.hardware.gpu import find_gpu
from planner.lmdeploy import versions
from planner.lmdeploy.settings import Request, decide
from planner.memory.kv_cache import slab_layout
from planner.memory.linears import LinearKind
from planner.memory.pool import PAGE_BYTES, aligned, reserved
from planner.memory.weights import AllocationKind
from planner.model.arch.quantization import read_quantization
from planner.model.arch.registry import read_language_model
from planner.model.fields import Fields
from planner.model.layers import LatentAttention
from tests.engine.family_specs import TRACED

TRACED_FILE = json.loads(
    (Path(__file__).parents[1] / "data/h100-lmdeploy-0.18.0-traces.json").read_text(encoding="utf-8")
)
LEDGER = json.loads((ROOT / "measurements/h100-lmdeploy-0.18.0.json").read_text(encoding="utf-8"))
RUNS: dict[str, dict[str, Any]] = {
    run["model"]["name"]: {**run, "trace": TRACED_FILE["traces"][run["model"]["name"]]}
    for run in (*LEDGER["runs"], *TRACED_FILE["runs"])
}
CONFIGS = {**LEDGER["configs"], **TRACED_FILE["configs"]}
TOTAL, KV, STAGING = 0.005, 0.01, 0.005
TOKENS = 8192
_KEPT_BYTES = 512
"""Eight bytes lie in the pool of a step for good."""
each_case = pytest.mark.parametrize("name", RUNS)


def engine_of(name: str) -> Turbomind:
    """The engine of a case. The tower's bytes are those traced, until its kind is planned."""
    spec, run = TRACED[name], RUNS[name]
    gpu = find_gpu("h100")
    asked = {key: value for key, value in run["settings"].items() if key != "lmdeploy"}
    settings = decide(spec, gpu, versions.resolve("0.18.0"), Request(**asked))
    engine = pick_engine(Deployment(spec, gpu, run["free_before_bytes"], settings))
    assert isinstance(engine, Turbomind)
    text_bytes = sum(allocation.aligned_bytes for allocation in engine.text_allocations())
    engine.weights.__dict__["pool_used_bytes"] = text_bytes + run["trace"]["tower_aligned_bytes"]
    return engine


def memory_of(name: str) -> MemoryEstimate:
    return estimate_memory(engine_of(name).deployment)


def term_bytes(plan: MemoryEstimate, name: str) -> int:
    return next((term.size_bytes for term in plan.terms if term.name == name), 0)


def test_every_case_has_a_model() -> None:
    assert set(RUNS) == set(TRACED) == set(TRACED_FILE["traces"]) and len(RUNS) == 8


@each_case
def test_the_config_is_read_as_the_model_made_by_hand(name: str) -> None:
    config, spec = CONFIGS[name], TRACED[name]
    text = read_language_model(config)
    keys = ("hidden_size", "vocab_size", "layer_groups", "tie_word_embeddings", "names", "prefix", "mrope")
    assert [getattr(text, key) for key in keys] == [getattr(spec.text, key) for key in keys]
    read = read_quantization(Fields(config))
    if spec.quantization is None or read is None:
        assert spec.quantization is read
    else:
        methods = [(each.method, each.bits, each.group_size) for each in (spec.quantization, read)]
        assert methods[0] == methods[1]


def packed_saves_bytes(engine: Turbomind) -> int:
    """What packing makes of scales and zeros on 9.0: 2.5 bytes a group in place of two of 2."""
    scales = [a for a in engine.text_allocations() if a.kind is AllocationKind.SCALES]
    if not any(a.kind is AllocationKind.ZEROS for a in engine.text_allocations()):
        return 0
    return sum((2 * aligned(a.size_bytes) - aligned(a.size_bytes * 5 // 4)) * a.num_allocations for a in scales)


@each_case
def test_weights_to_the_byte(name: str) -> None:
    engine = engine_of(name)
    held = sum(allocation.aligned_bytes for allocation in engine.text_allocations())
    assert held - packed_saves_bytes(engine) == RUNS[name]["trace"]["text_aligned_bytes"]


@each_case
def test_pages_when_free_memory_is_read(name: str) -> None:
    engine, traced = engine_of(name), RUNS[name]["trace"]["pages_at_kv"]
    left = engine.transient()
    pages = reserved(engine.weights.pool_used_bytes) // PAGE_BYTES
    if name == "gpt-oss-20b":  # one page more than replayed, which the band has
        assert left is not None and pages + left.high_bytes // PAGE_BYTES == traced
    else:
        assert pages + (left.size_bytes if left else 0) // PAGE_BYTES == traced


@each_case
def test_the_region_and_its_objects(name: str) -> None:
    engine, run = engine_of(name), RUNS[name]
    log = run["engine_log"]
    kv = engine.kv_cache(log["free_bytes"])
    assert kv.budget_bytes == log["kv_budget_bytes"]
    sizes = [kv.block_bytes] + [each.object_bytes for each in (kv.states.objects if kv.states else ())]
    rules = engine.rules
    layouts = [slab_layout(size, rules.slab_fill, rules.slab_max_bytes) for size in sizes]
    assert [
        {"slab_bytes": layout.slab_bytes, "object_bytes": size, "objects": layout.blocks_per_slab}
        for size, layout in zip(sizes, layouts, strict=True)
    ] == run["trace"]["slabs"]


def test_blocks_of_one_latent_for_keys_and_values() -> None:
    kv = engine_of("glm-4.7-flash").kv_cache(RUNS["glm-4.7-flash"]["engine_log"]["free_bytes"])
    assert (kv.block_bytes, kv.blocks, kv.tokens) == (47 * 64 * 576 * 2, 4997, 319808)


@each_case
def test_buffers_beside_the_region_to_the_byte(name: str) -> None:
    assert engine_of(name)._batch_buffer_bytes() == RUNS[name]["trace"]["batch_buffers_bytes"]


@each_case
def test_the_pool_of_a_step(name: str) -> None:
    plan, engine, trace = memory_of(name), engine_of(name), RUNS[name]["trace"]
    assert term_bytes(plan, "forward_buffers") == trace["forward_pages"] * PAGE_BYTES
    least = forward.least_bytes(engine.text, engine._step(TOKENS, 0), engine._padded)
    attention = engine.text.layer_groups[0].attention
    # The latent of the queries is gone before keys and values are laid out; its place is not taken.
    gone = TOKENS * (attention.q_lora_rank or 0) * 2 if isinstance(attention, LatentAttention) else 0
    assert least - gone + _KEPT_BYTES == trace["forward_live_bytes"]


@each_case
def test_the_pool_of_gated_linear_attention(name: str) -> None:
    plan, engine, trace = memory_of(name), engine_of(name), RUNS[name]["trace"]
    assert term_bytes(plan, "delta_buffers") == trace.get("delta_pages", 0) * PAGE_BYTES
    for tokens, seen in zip(WARM_UP_TOKENS, trace.get("delta_bytes", []), strict=False):
        assert 0 <= workspace_bytes(engine.text, engine.parallelism, tokens) - seen <= 384, tokens
    assert len(trace.get("delta_bytes", WARM_UP_TOKENS)) == len(WARM_UP_TOKENS)


@each_case
def test_staging(name: str) -> None:
    engine = engine_of(name)
    staged = engine.load_staging().size_bytes + kept_segment_bytes(engine.text)
    traced = RUNS[name]["trace"]["staging_bytes"]
    assert abs(staged / traced - 1) <= STAGING
    if engine.quantization is None:
        assert staged == traced


@each_case
def test_total_and_budget(name: str) -> None:
    plan, run = memory_of(name), one_run(RUNS[name], CONFIGS)
    assert plan.outcome == run.outcome == "serves"
    assert run.used_bytes is not None and run.kv_budget_bytes is not None
    assert abs(plan.total_bytes / run.used_bytes - 1) <= TOTAL
    assert abs(plan.kv_cache.budget_bytes / run.kv_budget_bytes - 1) <= KV
    most = max(phase["used_bytes"][0] for phase in run.phases)
    grown = [term for term in plan.terms if term.name in GROWING_TERMS]
    assert most - run.used_bytes <= sum(term.high_bytes - term.size_bytes for term in grown) + PAGE_BYTES


@each_case
def test_what_is_free_is_off_by_this_hosts_kernels_alone(name: str) -> None:
    """The eight starts had 448,790,528 bytes of kernels, `lmplan calibrate` measured less on another host."""
    plan = memory_of(name)
    kernels = next(term for term in plan.terms if term.name == "kernel_code").size_bytes
    off = plan.free_at_kv_bytes - RUNS[name]["engine_log"]["free_bytes"] - (448_790_528 - kernels)
    assert off == (PAGE_BYTES if name == "gpt-oss-20b" else 0)


def test_torch_keeps_a_handle_and_a_segment_of_what_was_folded() -> None:
    terms = {name: term_bytes(memory_of(name), "torch_kept") for name in RUNS}
    assert terms.pop("glm-4.7-flash") == 67_108_864 + 635_437_056
    assert set(terms.values()) == {0}
    grown = [phase["used_bytes"][0] for phase in RUNS["glm-4.7-flash"]["phases"]]
    modules = read_toml("host.toml")["modules"]
    assert grown[2] - grown[1] == modules["latent_first_request_bytes"] + 10_485_760
    assert [name for name, spec in TRACED.items() if is_folded(spec.text)] == ["glm-4.7-flash"]


def linears(name: str) -> dict[LinearKind, tuple[int, int, bool]]:
    return {each.kind: (each.num_in, each.num_out, each.quantized) for each in engine_of(name).weights.linears}


def test_keys_and_values_are_folded_and_the_output_padded() -> None:
    shapes = linears("glm-4.7-flash")
    assert shapes[LinearKind.QUERY_UP] == (768, 20 * 576, False)
    assert shapes[LinearKind.OUTPUT] == (20 * 576, 2048, False)
    assert shapes[LinearKind.KV_DOWN] == (2048, 576, False)


def test_fp8_leaves_heads_of_256_and_mixed_inputs_in_16_bits() -> None:
    quantized = {kind: held for kind, (_, _, held) in linears("qwen3.5-9b-fp8").items()}
    assert quantized == {
        LinearKind.DELTA_INPUT: False,
        LinearKind.QKV: False,
        LinearKind.OUTPUT: True,
        LinearKind.GATE_UP: True,
        LinearKind.DOWN: True,
    }


def test_biases_of_experts_are_held_twice_and_pointers_for_weights_and_scales() -> None:
    allocations = list(engine_of("gpt-oss-20b").text_allocations())
    biases = [a for a in allocations if a.kind is AllocationKind.BIAS and a.is_expert]
    assert sorted((a.size_bytes, a.num_allocations) for a in biases) == [
        (5760, 12 * 32),
        (5760, 12 * 32),
        (11520, 12 * 32),
        (11520, 12 * 32),
        (184320, 12),
        (184320, 12),
        (368640, 12),
        (368640, 12),
    ]
    pointers = [a for a in allocations if a.kind is AllocationKind.POINTERS]
    assert {a.size_bytes for a in pointers} == {512} and sum(a.num_allocations for a in pointers) == 4 * 24
