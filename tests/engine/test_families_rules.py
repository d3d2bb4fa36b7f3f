"""What TurboMind takes of further families, by version, GPU and ranks."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from planner.data import ROOT
from planner.engine.base import Deployment
from planner.engine.pick import pick_engine
from planner.engine.turbomind.slabs import Turbomind
from planner.errors import LmplanError, UnsupportedModelError, UsageError
from planner.footprint import MemoryEstimate, estimate_memory
from planner.hardware.gpu import find_gpu
from planner.lmdeploy import versions
from planner.lmdeploy.settings import Request, decide
from planner.memory.linears import LinearKind
from planner.memory.weights import AllocationKind
from planner.model.arch import read_spec
from planner.model.inventory import inventory
from planner.model.layers import DenseMlp, GatedDeltaNet, LayerGroup
from planner.model.quantization import Quantization, QuantMethod
from planner.model.source import resolve
from planner.model.spec import ModelSpec
from planner.model.tensors import size_bytes
from planner.report import wording
from tests.engine.family_specs import (
    MXFP4,
    compressed,
    glm_4_7_flash,
    gpt_oss_20b,
    qwen2_5_vl_7b_text,
    qwen3_5_9b,
    qwen3_5_35b_a3b,
    qwen3_8b,
)


def deployed(spec: ModelSpec, gpu: str = "h200", lmdeploy: str = "0.18.0", **wishes: object) -> Deployment:
    card = find_gpu(gpu)
    settings = decide(spec, card, versions.resolve(lmdeploy), Request(**{"engine": "turbomind", **wishes}))  # type: ignore[arg-type]  # words of a request
    return Deployment(spec, card, card.memory_total_bytes, settings)


def memory(spec: ModelSpec, gpu: str = "h200", lmdeploy: str = "0.18.0", **wishes: object) -> MemoryEstimate:
    return estimate_memory(deployed(spec, gpu, lmdeploy, **wishes))


def engine_of(spec: ModelSpec, **wishes: object) -> Turbomind:
    engine = pick_engine(deployed(spec, **wishes))  # type: ignore[arg-type]  # words of a request
    assert isinstance(engine, Turbomind)
    return engine


def four_bits(method: QuantMethod, group_size: int) -> Quantization:
    return Quantization(method, 4, group_size)


@pytest.mark.parametrize(
    ("method", "group_size", "lmdeploy", "served"),
    [
        (QuantMethod.AWQ, 128, "0.18.0", True),
        (QuantMethod.AWQ, 32, "0.18.0", False),
        (QuantMethod.AWQ, 64, "0.18.0", False),
        (QuantMethod.GPTQ, 128, "0.18.0", True),
        (QuantMethod.GPTQ, 32, "0.15.0", False),
        (QuantMethod.COMPRESSED_TENSORS, 128, "0.18.0", True),
        (QuantMethod.COMPRESSED_TENSORS, 32, "0.18.0", True),
        (QuantMethod.COMPRESSED_TENSORS, 64, "0.18.0", False),
        (QuantMethod.COMPRESSED_TENSORS, 32, "0.12.3", True),
        (QuantMethod.COMPRESSED_TENSORS, 32, "0.12.2", False),
        (QuantMethod.COMPRESSED_TENSORS, 128, "0.12.0", True),
    ],
)
def test_groups_that_each_format_and_version_takes(
    method: QuantMethod, group_size: int, lmdeploy: str, served: bool
) -> None:
    spec = qwen3_8b(four_bits(method, group_size))
    if served:
        assert memory(spec, lmdeploy=lmdeploy).outcome == "serves"
        return
    with pytest.raises(UnsupportedModelError, match=rf"groups of {group_size} is not served; .* takes .*128"):
        deployed(spec, lmdeploy=lmdeploy)


@pytest.mark.parametrize(("block", "words"), [(64, "groups of 64"), (0, "one scale a linear")])
def test_fp8_in_other_than_blocks_of_128(block: int, words: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"fp8 with {words} is not served; .* takes 128"):
        deployed(qwen3_8b(Quantization(QuantMethod.FP8, 8, block)))


@pytest.mark.parametrize(("gpu", "lmdeploy", "served"), [("t4", "0.18.0", True), ("v100-32g", "0.18.0", True)])
def test_mxfp4_on_older_cards(gpu: str, lmdeploy: str, served: bool) -> None:
    deployed(gpt_oss_20b(MXFP4), gpu, lmdeploy)


def test_smooth_quant_is_not_served() -> None:
    with pytest.raises(UnsupportedModelError, match=r"TurboMind of LMDeploy 0\.18\.0 does not serve smooth_quant"):
        deployed(qwen3_8b(Quantization(QuantMethod.SMOOTH_QUANT, 8, 0)))


def test_groups_of_32_and_128_are_one_on_9_0_and_not_elsewhere() -> None:
    def bits(group_size: int, gpu: str) -> int:
        return sum(a.total_bytes for a in engine_of(qwen3_8b(compressed(group_size)), gpu=gpu).text_allocations())

    assert bits(32, "h100") == bits(128, "h100")
    assert bits(32, "a100-80g") == bits(32, "h100") > bits(128, "a100-80g")


@pytest.mark.parametrize(
    ("spec", "lmdeploy", "what"),
    [
        (glm_4_7_flash(), "0.14.0", "latent attention under TurboMind of LMDeploy 0.14.0"),
        (qwen3_5_9b(), "0.13.0", "gated linear attention under TurboMind of LMDeploy 0.13.0"),
        (gpt_oss_20b(), "0.12.0", "attention sinks under TurboMind of LMDeploy 0.12.0"),
    ],
)
def test_what_is_planned_for_slabs_alone(spec: ModelSpec, lmdeploy: str, what: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"lmplan does not plan {what} yet"):
        deployed(spec, lmdeploy=lmdeploy)


@pytest.mark.parametrize("spec", [glm_4_7_flash(), qwen3_5_9b(), qwen3_5_35b_a3b(), gpt_oss_20b()])
def test_the_pytorch_engine_plans_none_of_them(spec: ModelSpec) -> None:
    with pytest.raises(LmplanError):
        deployed(spec, engine="pytorch")


@pytest.mark.parametrize("lmdeploy", ["0.15.0", "0.16.0", "0.17.0"])
@pytest.mark.parametrize("spec", [glm_4_7_flash(), qwen3_5_9b(), gpt_oss_20b(MXFP4)])
def test_earlier_slabs_plan_them(spec: ModelSpec, lmdeploy: str) -> None:
    plan = memory(spec, lmdeploy=lmdeploy)
    assert plan.outcome == "serves"


def test_folding_needs_plain_weights() -> None:
    everything = glm_4_7_flash()._replace(quantization=four_bits(QuantMethod.AWQ, 128))
    with pytest.raises(UnsupportedModelError, match="TurboMind folds the keys and values of latent attention"):
        memory(everything)
    held = everything._replace(quantization=four_bits(QuantMethod.AWQ, 128)._replace(unquantized=("self_attn",)))
    plan = memory(held)
    assert plan.outcome == "serves" and plan.transient is not None


def test_heads_of_another_width_have_no_kernels() -> None:
    spec = glm_4_7_flash()
    groups = tuple(
        group._replace(attention=group.attention._replace(kv_lora_rank=256))  # type: ignore[type-var]  # latent here
        for group in spec.text.layer_groups
    )
    with pytest.raises(UnsupportedModelError, match="no attention kernels for head_dim 320"):
        deployed(spec._replace(text=spec.text._replace(layer_groups=groups)))


def with_delta(net: GatedDeltaNet) -> ModelSpec:
    spec = qwen3_5_9b()
    linear, full = spec.text.layer_groups
    groups = (linear._replace(attention=net), full)
    return spec._replace(text=spec.text._replace(layer_groups=groups))


@pytest.mark.parametrize(
    ("net", "tp", "words"),
    [
        (GatedDeltaNet(16, 32, 64, 64, 4), 1, "heads of 64 and 64; TurboMind takes 128"),
        (GatedDeltaNet(16, 24, 128, 128, 4), 1, "24 value heads, no multiple of its 16 key heads"),
        (GatedDeltaNet(2, 32, 128, 128, 4), 4, "--tp 4 does not divide the 2 key heads of linear attention"),
    ],
)
def test_linear_attention_as_the_engine_asserts_it(net: GatedDeltaNet, tp: int, words: str) -> None:
    with pytest.raises((UnsupportedModelError, UsageError), match=words):
        deployed(with_delta(net), tp=tp)


@pytest.mark.parametrize("spec", [glm_4_7_flash(), qwen3_5_9b(), gpt_oss_20b(MXFP4)])
def test_ranks_share_weights_and_states(spec: ModelSpec) -> None:
    one, two = (engine_of(spec, tp=tp) for tp in (1, 2))
    assert one.weights.text_bytes / 2 < two.weights.text_bytes < 0.6 * one.weights.text_bytes
    caches = [engine.kv_cache(40 * 2**30) for engine in (one, two)]
    states = [kv.states.sequence_bytes if kv.states else 0 for kv in caches]
    assert states[0] == 2 * states[1]


def test_the_latent_of_the_queries_is_whole_on_every_rank() -> None:
    shapes = {each.kind: (each.num_in, each.num_out) for each in engine_of(glm_4_7_flash(), tp=4).weights.linears}
    assert shapes[LinearKind.QUERY_DOWN] == (2048, 768)
    assert shapes[LinearKind.KV_DOWN] == (2048, 576)
    assert shapes[LinearKind.QUERY_UP] == (768, 5 * 576)


def test_torch_keeps_its_segment_on_the_first_rank_alone() -> None:
    deployment = deployed(glm_4_7_flash(), tp=2)
    names = [[term.name for term in pick_engine(deployment, rank).before_kv()] for rank in (0, 1)]
    assert ["torch_kept" in each for each in names] == [True, False]


def test_the_warm_up_runs_the_first_layer_and_load_all_of_them() -> None:
    spec = qwen3_5_9b()
    linear, full = spec.text.layer_groups
    plan, turned = memory(spec), memory(spec._replace(text=spec.text._replace(layer_groups=(full, linear))))
    assert plan.terms == turned.terms  # whichever group comes first
    first_full = (full._replace(layers=(0,)), linear._replace(layers=(*range(1, 32),)))
    other = memory(spec._replace(text=spec.text._replace(layer_groups=first_full)))
    sizes = [next(t.size_bytes for t in each.terms if t.name == "forward_buffers") for each in (plan, other)]
    assert sizes[0] < sizes[1]


def test_experts_with_biases_store_gate_and_up() -> None:
    engine = engine_of(gpt_oss_20b(MXFP4))
    rows = 8192 * 4
    parts = dict(engine._forward_parts(8192, 0))
    assert parts["attention or experts, whichever take more"] == 8192 * 32 * 4 + rows * 2880 * 2 + rows * 2 * 2880 * 2


def test_positions_in_three_parts_take_buffers() -> None:
    spec = qwen2_5_vl_7b_text()
    plain = spec._replace(text=spec.text._replace(mrope=False))
    with_parts, without = (engine_of(each, max_batch_size=128)._batch_buffer_bytes() for each in (spec, plain))
    assert with_parts - without == 2 * 99_840 + 7 * 512


def test_dense_layers_of_a_mixture_are_one_more_group() -> None:
    spec = glm_4_7_flash()
    dense = (LayerGroup(tuple(range(47)), spec.text.layer_groups[0].attention, DenseMlp(10240)),)
    all_dense = spec._replace(text=spec.text._replace(layer_groups=dense))
    assert "conversion_leftover" not in {term.name for term in memory(all_dense).terms}
    assert memory(all_dense).transient is None


def test_a_report_says_what_a_running_sequence_holds_besides() -> None:
    lines = [wording.beside_tokens(SimpleNamespace(memory=memory(spec))) for spec in (qwen3_5_9b(), gpt_oss_20b())]  # type: ignore[arg-type]  # all that it asks of a plan
    assert lines == [["A running sequence holds 25.5 MiB of state besides."], []]


@pytest.mark.parametrize(
    ("spec", "grown_bytes"),
    [
        (qwen3_5_9b(), -24 * 2 * (32 + 128)),  # A_log and a norm, which the file has in 32 bits
        (qwen3_5_35b_a3b(), -30 * 2 * (32 + 128)),
        (gpt_oss_20b(), 24 * 32 * (2 * 2880 + 2880) * 2),  # biases of experts, held twice
        (
            glm_4_7_flash(),
            47 * 2 * (768 * 20 * (576 - 256) + 20 * (576 - 256) * 2048 - 512 * 20 * (192 + 256)),
        ),  # folded
    ],
)
def test_one_gpu_holds_the_checkpoint_and_what_the_engine_adds(spec: ModelSpec, grown_bytes: int) -> None:
    allocations = list(engine_of(spec).text_allocations())
    pointers = sum(a.total_bytes for a in allocations if a.kind is AllocationKind.POINTERS)
    assert sum(a.total_bytes for a in allocations) - pointers == size_bytes(inventory(spec)) + grown_bytes


@pytest.mark.parametrize("spec", [glm_4_7_flash(), qwen3_5_9b()])
def test_the_schema_knows_every_term(spec: ModelSpec) -> None:
    schema = json.loads((ROOT / "schemas/estimate-1.schema.json").read_text(encoding="utf-8"))
    assert {term.name for term in memory(spec).terms} <= set(schema["$defs"]["term"]["properties"]["name"]["enum"])


def test_what_lmdeploy_refuses_goes_before_what_is_not_planned() -> None:
    experts = qwen3_5_35b_a3b()._replace(quantization=four_bits(QuantMethod.AWQ, 128))
    for spec, words in ((experts, "does not serve AWQ experts"), (gpt_oss_20b(MXFP4), "does not serve MXFP4")):
        with pytest.raises(UnsupportedModelError, match=words):
            deployed(spec, engine="pytorch")
    deepseek = read_spec(resolve("deepseek-v2-lite").config, "deepseek-v2-lite")
    with pytest.raises(UnsupportedModelError, match="does not plan latent attention under TurboMind of LMDeploy 0"):
        deployed(deepseek, lmdeploy="0.10.2")  # served there, with other kernels
