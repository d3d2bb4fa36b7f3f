"""TurboMind's terms against what a trace of its allocations showed on an H200 (LMDeploy 0.18.0)."""

from __future__ import annotations

import pytest

from planner import estimate
from planner.engine.base import Deployment
from planner.engine.pick import pick_engine
from planner.engine.pytorch.blocks import PytorchEngine
from planner.engine.turbomind.blocks import TurbomindBlocks
from planner.engine.turbomind.slabs import Turbomind
from planner.footprint import MemoryEstimate, estimate_memory
from planner.hardware.gpu import find_gpu
from planner.lmdeploy import versions
from planner.lmdeploy.settings import Request, decide
from planner.model.arch import read_spec
from planner.model.source import resolve
from planner.units import GIB, MIB


def memory(model: str, gpu: str = "h200", **options: object) -> MemoryEstimate:
    return estimate(model, gpu, **options).memory  # type: ignore[arg-type]


def term_bytes(plan: MemoryEstimate, name: str) -> int:
    return next(term.size_bytes for term in plan.terms if term.name == name)


@pytest.mark.parametrize(("model", "table_mib"), [("qwen2.5-1.5b", 446), ("llama-3.1-8b", 1002)])
def test_loading_stages_the_embedding_and_the_head_twice(model: str, table_mib: int) -> None:
    staged = memory(model).staging.size_bytes
    assert 3 * table_mib * MIB <= staged <= 3 * table_mib * MIB + 10 * MIB


def test_both_tables_are_held_even_when_tied() -> None:
    plan = memory("qwen2.5-1.5b")
    assert term_bytes(plan, "weights") == plan.checkpoint_bytes + 151_936 * 1536 * 2


def test_packing_leaves_pages_behind_that_cost_kv_cache_and_not_footprint() -> None:
    plan = memory("internlm2_5-7b", weights="w4a16", free="24GiB", max_batch_size=128)
    assert plan.transient is not None
    # Two starts of four left 704 MiB behind, two 544: a race in the engine.
    assert (plan.transient.low_bytes, plan.transient.high_bytes) == (544 * MIB, 704 * MIB)
    assert plan.total_bytes == sum(term.size_bytes for term in plan.terms)
    # The GEMM workspace lies in pages that conversion left, so that the peak does not hold them twice.
    kept = term_bytes(plan, "gemm_workspace") - (60 + 2) * MIB
    assert plan.load_peak_bytes == plan.total_bytes + plan.transient.size_bytes - kept


def test_groups_of_128_become_groups_of_32_on_sm90() -> None:
    h200, a100 = memory("llama-3.1-8b", weights="w4a16"), memory("llama-3.1-8b", "a100-80g", weights="w4a16")
    packed_parameters = 32 * (4096 * (4096 + 2 * 1024) + 4096 * 4096 + 3 * 4096 * 14336)
    more = packed_parameters * 4 // 32 - packed_parameters * 4 // 128
    assert term_bytes(h200, "weights") - term_bytes(a100, "weights") == more


def test_the_tuner_takes_a_buffer_of_the_l2_cache() -> None:
    # 35 MiB behind the weights cost one or two pages, then 60 MiB of L2 and 2 MiB of random state.
    assert term_bytes(memory("llama-3.1-8b"), "gemm_workspace") in (94 * MIB, 126 * MIB)


def test_the_host_is_measured_on_an_h200_and_assumed_elsewhere() -> None:
    kinds = {
        gpu: {term.evidence.kind for term in memory("qwen2.5-1.5b", gpu).terms if term.name == "cuda_context"}
        for gpu in ("h200", "a100-80g", "rtx-4090")
    }
    assert kinds == {"h200": {"measured"}, "a100-80g": {"assumed"}, "rtx-4090": {"assumed"}}


def test_a_short_session_warms_up_less() -> None:
    long, short = memory("llama-3.1-8b"), memory("llama-3.1-8b", session_len=2048)
    assert term_bytes(short, "forward_buffers") < term_bytes(long, "forward_buffers") / 3


def test_what_cannot_be_loaded_says_so() -> None:
    plan = memory("llama-3.1-8b", free="17GiB")
    assert plan.outcome == "dies while loading"
    assert not plan.fits
    assert "short" in plan.reasons[0]


def test_a_gpu_that_holds_the_weights_and_no_block() -> None:
    plan = memory("qwen2.5-0.5b", free="4GiB", cache_max_entry_count=0.001)
    assert plan.outcome == "no room for the KV cache"


def test_a_ratio_too_large_for_the_warm_up() -> None:
    plan = memory("internlm2_5-7b", "a100-24g", cache_max_entry_count=0.97)
    assert plan.outcome == "dies while warming up"
    assert "--cache-max-entry-count" in plan.reasons[0]


@pytest.mark.parametrize(
    ("options", "engine"),
    [
        ({}, Turbomind),
        ({"lmdeploy": "0.15.0"}, Turbomind),
        ({"lmdeploy": "0.14.0"}, TurbomindBlocks),
        ({"lmdeploy": "0.5.3"}, TurbomindBlocks),
        ({"engine": "pytorch"}, PytorchEngine),
    ],
)
def test_the_engine_of_a_version(options: dict[str, object], engine: type) -> None:
    assert type(pick_engine(memory("llama-3.1-8b", **options).deployment)) is engine


def test_tensor_parallelism_adds_a_communicator_and_halves_the_blocks() -> None:
    one, two = memory("llama-3.1-8b"), memory("llama-3.1-8b", tp=2)
    added = {term.name for term in two.terms} - {term.name for term in one.terms}
    assert added == {"communicator", "exchange_buffer", "late_communicator"}
    assert two.kv_cache.block_bytes * 2 == one.kv_cache.block_bytes


def test_a_vision_tower_has_its_own_term_and_no_quantization() -> None:
    plain, packed = memory("internvl2-26b"), memory("internvl2-26b", weights="w4a16")
    assert term_bytes(plain, "vision_tower") == term_bytes(packed, "vision_tower") > 10 * GIB
    assert term_bytes(packed, "weights") < term_bytes(plain, "weights") / 2


def test_an_older_engine_shortens_the_session_to_what_the_blocks_hold() -> None:
    tight = memory("internlm2_5-7b", "a100-24g", lmdeploy="0.5.3", cache_max_entry_count=0.1)
    wide = memory("internlm2_5-7b", "a100-24g", lmdeploy="0.5.3", cache_max_entry_count=0.6)
    assert term_bytes(tight, "batch_buffers") < term_bytes(wide, "batch_buffers")


def bytes_of(name: str, model: str, gpu: str = "a100-80g", **options: object) -> int:
    return term_bytes(memory(model, gpu, **options), name)


def test_token_ids_are_kept_six_times_then_five_times_then_once() -> None:
    """4 B S each: LlamaBatch.cc at 0.5.3 and 0.10.2, generation.cc at 0.12.0."""
    lengths = {"max_batch_size": 256, "cache_max_entry_count": 0.5}
    for lmdeploy, name, copies in (("0.7.3", "batch_buffers", 6), ("0.10.2", "batch_buffers", 5)):
        long, short = (bytes_of(name, "llama-3.1-8b", lmdeploy=lmdeploy, session_len=s, **lengths) for s in (65536, 64))
        tables = 8 * 256 * 65536 // 64
        assert abs(long - short - (4 * copies * 256 * 65536 + tables)) <= 32 * MIB, lmdeploy
    long, short = (
        bytes_of("workspaces", "llama-3.1-8b", lmdeploy="0.12.0", session_len=s, **lengths) for s in (65536, 64)
    )
    assert abs(long - short - (4 * 256 * 65536 + 2 * 8 * 256 * 1024)) <= 32 * MIB


def test_ranks_talk_in_every_version() -> None:
    for lmdeploy in ("0.5.3", "0.10.2", "0.14.0"):
        one, two = (memory("llama-3.1-8b", "a100-80g", lmdeploy=lmdeploy, tp=tp) for tp in (1, 2))
        added = {term.name for term in two.terms} - {term.name for term in one.terms}
        assert added == {"communicator", "late_communicator"}, lmdeploy


def parts(model: str, gpu: str = "h200", tokens: int = 8192, context: int = 0, **options: object) -> dict[str, int]:
    engine = pick_engine(memory(model, gpu, **options).deployment)
    assert isinstance(engine, Turbomind)
    return dict(engine._forward_parts(tokens, context))


def test_ranks_keep_one_of_the_hidden_states_in_the_exchange_buffer() -> None:
    assert parts("llama-3.1-8b")["2 hidden states"] == 2 * 8192 * 4096 * 2
    assert parts("llama-3.1-8b", tp=2)["1 hidden state"] == 8192 * 4096 * 2


def test_the_last_chunk_of_a_long_prompt_flattens_all_keys_and_values() -> None:
    long = parts("llama-3.1-8b", context=131072)
    assert long["keys and values behind them"] == 2 * 8 * (131072 + 64) * 128 * 2
    plan = memory("llama-3.1-8b")
    grown = next(term for term in plan.terms if term.name == "forward_buffers")
    short = next(term for term in memory("llama-3.1-8b", session_len=8192).terms if term.name == "forward_buffers")
    assert grown.high_bytes > short.high_bytes


@pytest.mark.parametrize(
    ("model", "gpu", "options", "stored"),
    [
        ("llama-3.1-8b", "h200", {}, 2),
        ("llama-3.1-8b", "h200", {"lmdeploy": "0.16.0"}, 1),
        ("llama-3.1-8b", "a100-80g", {"lmdeploy": "0.16.0"}, 2),
        ("llama-3.1-8b", "h200", {"lmdeploy": "0.16.0", "dtype": "float16"}, 2),
        ("llama-3.1-8b", "h200", {"lmdeploy": "0.15.0", "weights": "fp8"}, 2),
        ("llama-3.1-8b", "a100-80g", {"lmdeploy": "0.15.0", "weights": "fp8"}, 1),
        ("llama-3.1-8b", "h200", {"lmdeploy": "0.10.2", "weights": "w4a16"}, 1),
    ],
)
def test_who_stores_gate_and_up_apart(model: str, gpu: str, options: dict[str, object], stored: int) -> None:
    assert parts(model, gpu, **options)["mlp behind them"] == stored * 8192 * 14336 * 2


def test_experts_lie_apart_where_cublas_multiplies_them() -> None:
    name = "attention or experts, whichever take more"
    assert parts("qwen3-30b-a3b", "b200")[name] > parts("qwen3-30b-a3b")[name]


@pytest.mark.parametrize("tp", [2, 8])
def test_scales_of_very_large_linears_leave_whole_pages(tp: int) -> None:
    plan = memory("llama-3.1-405b", "h200", weights="w4a16", tp=tp)
    assert plan.transient is not None
    assert 0 <= term_bytes(plan, "gemm_workspace") - (60 + 2) * MIB < plan.transient.high_bytes


def test_what_is_left_in_16_bits_is_not_packed() -> None:
    source = resolve("llama-3.1-8b")
    held = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
    for modules, left in (([], True), (["self_attn", "mlp"], False)):
        config = {**source.config, "quantization_config": {**held, "modules_to_not_convert": modules}}
        spec = read_spec(config, "held-out")
        gpu = find_gpu("h200")
        settings = decide(spec, gpu, versions.resolve("0.18.0"), Request())
        plan = estimate_memory(Deployment(spec, gpu, gpu.memory_total_bytes, settings))
        assert (plan.transient is not None) == left


def test_a_warm_up_longer_than_the_kv_cache_hangs_from_0_15() -> None:
    # Two starts on an H200 hung so: a cache of 5,376 tokens, and requests of 6,144, 8,192 and 8,256 to come.
    wishes = {"weights": "w4a16", "max_batch_size": 64, "free": "10.7GiB"}
    plan = memory("qwen1.5-7b-chat", **wishes)
    assert (plan.kv_cache.tokens, plan.outcome) == (5376, "hangs while warming up")
    assert "a warm-up request has 6,144" in plan.reasons[0] and "--session-len 5376" in plan.reasons[0]
    assert memory("qwen1.5-7b-chat", session_len=5376, **wishes).fits
    assert memory("qwen1.5-7b-chat", quant_policy=8, cache_max_entry_count=0.7, **wishes).fits
    # Before, the session was cut to what the cache holds; the PyTorch engine sends no requests.
    assert memory("qwen1.5-7b-chat", lmdeploy="0.14.0", **wishes).outcome != plan.outcome
    assert memory("qwen1.5-7b-chat", engine="pytorch", **{**wishes, "weights": "as-is", "free": "20GiB"}).fits


def test_the_gemm_workspace_came_before_the_kv_cache_up_to_0_17() -> None:
    names = {v: [term.name for term in memory("llama-3.1-8b", lmdeploy=v).terms] for v in ("0.17.0", "0.18.0")}
    assert names["0.17.0"].index("workspaces") < names["0.17.0"].index("kv_cache")
    assert "workspaces" not in names["0.18.0"]


@pytest.mark.parametrize(
    ("model", "gpu", "weights", "kind"),
    [
        ("llama-3.1-8b", "a100-80g", "as-is", None),
        ("llama-3.1-8b", "h200", "w4a16", "formula"),
        ("llama-3.1-8b", "a100-80g", "w4a16", "assumed"),
        ("llama-3.1-8b", "h200", "fp8", "formula"),
        ("llama-3.1-8b", "a100-80g", "fp8", "assumed"),
        ("llama-3.1-8b", "b200", "fp8", "assumed"),
        ("qwen3-30b-a3b", "h200", "as-is", "formula"),
        ("qwen3-30b-a3b", "a100-80g", "as-is", "assumed"),
        ("qwen3-30b-a3b", "b200", "as-is", None),
    ],
)
def test_what_converting_weights_leaves_by_gpu(model: str, gpu: str, weights: str, kind: str | None) -> None:
    left = memory(model, gpu, weights=weights).transient
    assert (left.evidence.kind if left else None) == kind
