"""What the readers make of a config: kinds, windows, defaults, which class counts, and what is refused and why."""

from __future__ import annotations

import time
from typing import Any

import pytest

from planner.errors import ConfigError, UnsupportedModelError
from planner.model.arch.registry import read_language_model, read_spec
from planner.model.dtypes import DType
from planner.model.formats import store
from planner.model.inventory import inventory
from planner.model.layers import (
    GatedDeltaNet,
    GroupedQueryAttention,
    LatentAttention,
    LayerGroup,
    MoeMlp,
    routed_experts,
)
from planner.model.spec import ModelSpec, TextModel
from planner.model.tensors import UNLOADED_ROLES, Role, num_parameters
from tests.model.configs import config_of, spec_of, text_of


def windows(text: TextModel) -> dict[int, int]:
    """How many layers have which window."""
    found: dict[int, int] = {}
    for group in text.layer_groups:
        attention = group.attention
        assert isinstance(attention, GroupedQueryAttention)
        found[attention.window_tokens] = found.get(attention.window_tokens, 0) + len(group.layers)
    return found


@pytest.mark.parametrize(
    ("name", "by_layer", "session"),
    [
        ("mistral-7b-v0.1", {4096: 32}, 4096),
        ("mistral-7b-instruct-v0.2", {0: 32}, 0),
        ("llama-3.1-8b", {0: 32}, 0),
        ("qwen2.5-7b", {0: 28}, 0),
        ("gemma-2-9b", {4096: 21, 0: 21}, 4096),
        ("gemma-3-1b", {512: 22, 0: 4}, 512),
        ("gemma-3-4b", {1024: 29, 0: 5}, 0),
        ("gpt-oss-20b", {128: 12, 0: 12}, 0),
        ("phi-4-mini", {262144: 32}, 262144),
        ("phi-4", {0: 40}, 0),
        ("phi-3.5-moe", {131072: 32}, 131072),
    ],
)
def test_windows(name: str, by_layer: dict[int, int], session: int) -> None:
    text = text_of(name)
    assert windows(text) == by_layer
    assert text.window_tokens == session


def test_a_window_that_the_class_has_and_the_config_leaves_out() -> None:
    assert text_of("mistral-7b-v0.1", sliding_window="removed").window_tokens == 4096
    assert text_of("mistral-7b-v0.1", sliding_window=None).window_tokens == 0


def test_qwen2_windows_begin_behind_the_full_layers() -> None:
    text = text_of("qwen2.5-7b", use_sliding_window=True, sliding_window=1000, max_window_layers=20)
    assert windows(text) == {0: 20, 1000: 8}
    assert text.window_tokens == 1000


def test_a_query_rank_that_is_null_is_not_one_that_is_missing() -> None:
    ranks = []
    for value in (None, "removed", 64):
        attention = text_of("deepseek-v2-lite", q_lora_rank=value).layer_groups[0].attention
        assert isinstance(attention, LatentAttention)
        ranks.append(attention.q_lora_rank)
    assert ranks == [None, 1536, 64]


def groups_of(text: TextModel) -> list[LayerGroup]:
    return list(text.layer_groups)


def test_dense_layers_come_first() -> None:
    dense, sparse = groups_of(text_of("deepseek-v3-0324"))
    assert dense.layers == (0, 1, 2)
    assert sparse.layers == tuple(range(3, 61))
    moe = routed_experts(sparse.mlp)
    assert moe == MoeMlp(256, 8, 2048, shared_intermediate_size=2048, correction_bias=True)
    assert routed_experts(dense.mlp) is None


def test_qwen3_5_mixes_states_and_keys() -> None:
    text = text_of("qwen3.5-35b-a3b")
    linear, full = groups_of(text)
    assert isinstance(linear.attention, GatedDeltaNet)
    assert isinstance(full.attention, GroupedQueryAttention)
    assert (len(linear.layers), len(full.layers)) == (30, 10)
    assert full.attention.output_gate
    assert linear.attention.conv_width == 8192


def tower_elements(out_hidden_size: int) -> int:
    """Of the one tower that these three have, by Qwen3_5VisionModel (transformers 5.23): 27 layers of 1152 x 4304."""
    hidden, size, merged = 1152, 4304, 4 * 1152
    patch = hidden * 3 * 2 * 16 * 16 + hidden + 2304 * hidden
    attention = 3 * hidden * hidden + 3 * hidden + hidden * hidden + hidden
    layer = 4 * hidden + attention + 2 * hidden * size + size + hidden
    merger = 2 * hidden + merged * merged + merged + out_hidden_size * merged + out_hidden_size
    return patch + 27 * layer + merger


@pytest.mark.parametrize(
    ("name", "published", "prediction"),
    [
        ("qwen3.5-9b", 9_653_104_368, 243_290_624),
        ("qwen3.5-35b-a3b", 35_951_822_704, 844_640_768),
        ("qwen3.5-122b-a10b", 125_086_497_008, 2_523_679_232),
    ],
)
def test_qwen3_5_totals_but_for_the_tower(name: str, published: int, prediction: int) -> None:
    text = text_of(name)
    groups = inventory(ModelSpec(name, "", DType.BF16, text))
    assert num_parameters(groups) == published - tower_elements(text.hidden_size)
    assert num_parameters(tuple(group for group in groups if group.role in UNLOADED_ROLES)) == prediction


@pytest.mark.parametrize(("name", "num_wide"), [("qwen3.5-9b", 48), ("qwen3-coder-next", 0)])
def test_what_files_hold_in_32_bits(name: str, num_wide: int) -> None:
    groups = inventory(ModelSpec(name, "", DType.BF16, text_of(name)))
    wide = [group for group in groups if group.dtype is DType.F32]
    assert sum(group.num_tensors for group in wide) == num_wide
    assert {group.name.partition("linear_attn.")[2] for group in wide} <= {"A_log", "norm.weight"}


def test_experts_that_layers_share_are_in_the_file_once() -> None:
    """A made config: nobody has published one of Intern-S2-Mobius."""
    plain = config_of("qwen3.5-35b-a3b")
    section = {**plain["text_config"], "num_blocks": 4, "mtp_num_experts": 16, "mtp_num_experts_per_tok": 2}
    config = {**plain, "architectures": ["InternS2MobiusForConditionalGeneration"], "text_config": section}
    mobius = inventory(ModelSpec("mobius", "", DType.BF16, read_language_model(config)))
    names = {group.name: group for group in mobius}
    packed = names["model.language_model.meta_mlp.{layer}.experts.gate_up_proj"]
    assert (packed.layers, packed.shape) == ((0, 1, 2, 3), (256, 1024, 2048))
    assert names["model.language_model.meta_mlp.{layer}.gate.weight"].num_tensors == 4
    assert names["mtp.layers.{layer}.mlp.experts.down_proj"].shape == (16, 2048, 512)
    whole = inventory(ModelSpec("plain", "", DType.BF16, read_language_model(plain)))
    one_layer = 256 * (3 * 512 + 1) * 2048
    in_prediction = 240 * (3 * 512 + 1) * 2048
    assert num_parameters(whole) - num_parameters(mobius) == 36 * one_layer + in_prediction


@pytest.mark.parametrize(
    ("version", "text", "words"),
    [(2.6, "Qwen2ForCausalLM", ""), (2.5, "LlamaForCausalLM", ""), (4, "", "MiniCPM-V 4"), (None, "", "no version")],
)
def test_minicpm_v_by_version(version: float | None, text: str, words: str) -> None:
    config = config_of("minicpm-v-2_6", version=version)
    if words:
        with pytest.raises(UnsupportedModelError, match=words):
            read_language_model(config)
    else:
        model = read_language_model(config)
        assert (model.architecture, model.prefix) == (text, "llm.")


def test_deepseek_vl2_without_latent_attention() -> None:
    """deepseek-vl2-tiny, by the keys of its config.json that say what its layers are."""
    section = {
        "first_k_dense_replace": 1,
        "hidden_size": 1280,
        "intermediate_size": 6848,
        "kv_lora_rank": None,
        "max_position_embeddings": 4096,
        "moe_intermediate_size": 896,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "num_attention_heads": 10,
        "num_experts_per_tok": 6,
        "num_hidden_layers": 12,
        "num_key_value_heads": 10,
        "q_lora_rank": None,
        "topk_method": "greedy",
        "use_mla": False,
        "vocab_size": 129280,
    }
    config = {"model_type": "deepseek_vl_v2", "language_config": section, "torch_dtype": "bfloat16"}
    text = read_language_model(config)
    assert text.architecture == "DeepseekVLV2ForCausalLM"
    assert {type(group.attention) for group in text.layer_groups} == {GroupedQueryAttention}
    with pytest.raises(UnsupportedModelError, match="SigLIP tower of DeepSeek-VL2"):
        read_spec(config, "tiny")


def test_glm_5_2_shares_indexers() -> None:
    full = shared = 0
    for group in text_of("glm-5.2").layer_groups:
        attention = group.attention
        assert isinstance(attention, LatentAttention)
        if attention.shares_indexer:
            assert attention.indexer is None
            shared += len(group.layers)
        else:
            assert attention.indexer is not None
            full += len(group.layers)
    assert (full, shared) == (21, 57)


def test_auto_map_decides_before_architectures() -> None:
    assert spec_of("glm-4-9b").architecture == "ChatGLMForConditionalGeneration"
    # A class that nobody knows decides nothing.
    assert (
        spec_of("phi-4", auto_map={"AutoModelForCausalLM": "modeling_x.XForCausalLM"}).architecture == "Phi3ForCausalLM"
    )
    mapped = {"AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}
    assert spec_of("phi-4", architectures="removed", auto_map=mapped).architecture == "Phi3ForCausalLM"


def test_frequencies_lie_in_the_file_and_are_not_loaded() -> None:
    spec = spec_of("glm-4-9b")
    unloaded = [group for group in inventory(spec) if group.role in UNLOADED_ROLES]
    assert [(group.name, group.shape, group.role) for group in unloaded] == [
        ("transformer.rotary_pos_emb.inv_freq", (32,), Role.UNUSED)
    ]


@pytest.mark.parametrize(
    ("changes", "dtype", "given"),
    [
        ({"torch_dtype": "removed"}, DType.BF16, False),
        ({"torch_dtype": "removed", "dtype": "float16"}, DType.F16, True),
        ({"torch_dtype": "float32"}, DType.F32, True),
    ],
)
def test_dtype(changes: dict[str, Any], dtype: DType, given: bool) -> None:
    spec = spec_of("llama-3.1-8b", **changes)
    assert (spec.dtype, spec.dtype_given) == (dtype, given)


@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        (
            "DeepseekV4ForCausalLM",
            "lmplan does not plan .*DeepSeek-V4.* yet; LMDeploy 0.18.0 serves it with the PyTorch",
        ),
        ("CogVLMForCausalLM", "lmplan does not plan .* yet; LMDeploy 0.18.0 serves it with the PyTorch engine"),
        ("BaichuanForCausalLM", "0.18.0 does not serve .*; TurboMind did before 0.14.0"),
        ("Starcoder2ForCausalLM", "does not serve .*the PyTorch engine had it and dropped it"),
        ("Glm4vMoeForConditionalGeneration", "LMDeploy 0.18.0 does not serve Glm4vMoeForConditionalGeneration$"),
        ("GlmForCausalLM", "does not serve GlmForCausalLM$"),
    ],
)
def test_refusals_are_true(architecture: str, words: str) -> None:
    with pytest.raises(UnsupportedModelError, match=words):
        read_spec({"architectures": [architecture]}, "x")


@pytest.mark.parametrize(
    ("name", "changes", "key"),
    [
        ("deepseek-v3-0324", {"kv_lora_rank": "removed"}, "kv_lora_rank"),
        ("deepseek-v3-0324", {"moe_intermediate_size": "removed"}, "moe_intermediate_size"),
        ("deepseek-v3-0324", {"num_experts_per_tok": 257}, "num_experts_per_tok"),
        ("deepseek-v3.2-exp", {"index_topk": 0}, "index_topk"),
        ("glm-5.2", {"indexer_types": ["full"]}, "indexer_types"),
        ("glm-5.2", {"indexer_types": ["half"] * 78}, "indexer_types"),
        ("gpt-oss-20b", {"layer_types": ["sliding_attention"]}, "layer_types"),
        ("gpt-oss-20b", {"num_local_experts": "removed"}, "num_local_experts"),
        ("hy3-preview", {"num_shared_experts": -1}, "num_shared_experts"),
        ("glm-4-9b", {"padded_vocab_size": "removed"}, "padded_vocab_size"),
        ("qwen3-coder-next", {"linear_num_value_heads": 33}, "linear_num_value_heads"),
    ],
)
def test_what_cannot_be_right_is_named(name: str, changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        spec_of(name, **changes)


def test_all_tensors_of_671_billion_are_listed_in_less_than_a_second() -> None:
    config = config_of("deepseek-v3-0324")
    begun = time.process_time()
    spec = read_spec(config, "deepseek-v3")
    tensors = [tensor for group in store(inventory(spec), spec.quantization) for tensor in group.expand()]
    took = time.process_time() - begun
    assert len(tensors) > 90_000
    assert took < 1
