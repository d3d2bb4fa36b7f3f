"""Language models of further families against transformers itself: every tensor by name and shape, on the meta device.

transformers 5 keeps a layer's experts in two tensors where most published files have three an expert, and has names of
its own for some; both are undone here. What transformers does not build (layers for speculative decoding, frequencies
that a file holds) is left out of the comparison and proved by published totals.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from planner.model import catalog
from planner.model.arch import defaults
from planner.model.arch.registry import read_language_model
from planner.model.catalog import CatalogEntry
from planner.model.dtypes import DType
from planner.model.inventory import text_tensors
from planner.model.tensors import UNLOADED_ROLES

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.oracle

Shapes = dict[str, tuple[int, ...]]
Names = tuple[tuple[str, str], ...]


class Family(NamedTuple):
    """How transformers builds the language model of an architecture.

    Attributes:
        model_type: of the language model's config class.
        renamed: parts of names, theirs and the published ones.
        packed: whether the file keeps a layer's experts in two tensors, as transformers does.
        expert: gate, up and down of an expert.
        section: where the language model's config is.
    """

    model_type: str
    renamed: Names = ()
    packed: bool = False
    expert: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
    section: str = ""


_VL: Names = (("model.", "model.language_model."),)
_IN_VLM: Names = (("model.", "language_model.model."), ("lm_head.", "language_model.lm_head."))
FAMILIES = {
    "Qwen3NextForCausalLM": Family("qwen3_next"),
    "Qwen3_5ForConditionalGeneration": Family("qwen3_5_text", _VL, section="text_config"),
    "Qwen3_5MoeForConditionalGeneration": Family("qwen3_5_moe_text", _VL, packed=True, section="text_config"),
    "GptOssForCausalLM": Family("gpt_oss", packed=True),
    "DeepseekV2ForCausalLM": Family("deepseek_v2"),
    "DeepseekV3ForCausalLM": Family("deepseek_v3"),
    "DeepseekV32ForCausalLM": Family("deepseek_v32"),
    "Glm4MoeLiteForCausalLM": Family("glm4_moe_lite"),
    "GlmMoeDsaForCausalLM": Family("glm_moe_dsa"),
    "Glm4ForCausalLM": Family("glm4"),
    "Glm4MoeForCausalLM": Family("glm4_moe"),
    "GemmaForCausalLM": Family("gemma"),
    "Gemma2ForCausalLM": Family("gemma2"),
    "Gemma3ForCausalLM": Family("gemma3_text"),
    "Gemma3ForConditionalGeneration": Family("gemma3_text", _IN_VLM, section="text_config"),
    "Phi3ForCausalLM": Family("phi3"),
    "PhiMoEForCausalLM": Family(
        "phimoe",
        ((".mlp.router.", ".block_sparse_moe.gate."), (".mlp.", ".block_sparse_moe.")),
        expert=("w1", "w3", "w2"),
    ),
    "MiniCPM3ForCausalLM": Family("minicpm3"),
    "HYV3ForCausalLM": Family(
        "hy_v3",
        (
            (".mlp.gate.weight", ".mlp.router.gate.weight"),
            (".mlp.e_score_correction_bias", ".mlp.expert_bias"),
            (".mlp.shared_experts.", ".mlp.shared_mlp."),
        ),
    ),
    "Llama4ForConditionalGeneration": Family("llama4_text", _IN_VLM, packed=True, section="text_config"),
}

_SMALL = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 101,
    "max_position_embeddings": 128,
    "torch_dtype": "bfloat16",
    "pad_token_id": 0,
}
_DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 6,
    "linear_conv_kernel_dim": 3,
    "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
_QWEN_MOE = {**_EXPERTS, "num_experts": 5, "shared_expert_intermediate_size": 40}
_LATENT = {
    "kv_lora_rank": 16,
    "q_lora_rank": 20,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 4,
    "v_head_dim": 10,
    "num_key_value_heads": 6,
}
_DEEPSEEK = {**_LATENT, **_EXPERTS, "n_routed_experts": 4, "n_shared_experts": 2, "n_group": 1, "topk_group": 1}
_DEEPSEEK_2 = {**_DEEPSEEK, "first_k_dense_replace": 1}
_INDEXED = {**_DEEPSEEK, "index_n_heads": 3, "index_head_dim": 8, "index_topk": 16}
_DENSE_FIRST = {"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]}
MADE: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3-next": ("Qwen3NextForCausalLM", {**_DELTA, **_QWEN_MOE}),
    "qwen3-next-interval": (
        "Qwen3NextForCausalLM",
        {**{k: v for k, v in _DELTA.items() if k != "layer_types"}, **_QWEN_MOE, "full_attention_interval": 2},
    ),
    "qwen3-next-some-dense": ("Qwen3NextForCausalLM", {**_DELTA, **_QWEN_MOE, "mlp_only_layers": [1]}),
    "qwen3.5": ("Qwen3_5ForConditionalGeneration", _DELTA),
    "qwen3.5-tied": ("Qwen3_5ForConditionalGeneration", {**_DELTA, "tie_word_embeddings": True}),
    "qwen3.5-moe": ("Qwen3_5MoeForConditionalGeneration", {**_DELTA, **_QWEN_MOE}),
    "gpt-oss": ("GptOssForCausalLM", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "gpt-oss-no-bias": (
        "GptOssForCausalLM",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "attention_bias": False},
    ),
    "deepseek-v2": ("DeepseekV2ForCausalLM", {**_DEEPSEEK_2, "topk_method": "greedy"}),
    "deepseek-v2-plain-query": (
        "DeepseekV2ForCausalLM",
        {**_DEEPSEEK_2, "topk_method": "greedy", "q_lora_rank": None},
    ),
    "deepseek-v3": ("DeepseekV3ForCausalLM", _DEEPSEEK_2),
    "deepseek-v3-bias": ("DeepseekV3ForCausalLM", {**_DEEPSEEK_2, "attention_bias": True}),
    "deepseek-v3.2": ("DeepseekV32ForCausalLM", {**_INDEXED, "first_k_dense_replace": 1, **_DENSE_FIRST}),
    "glm-4.7-flash": ("Glm4MoeLiteForCausalLM", {**_DEEPSEEK, **_DENSE_FIRST, "head_dim": None}),
    "glm-5": ("GlmMoeDsaForCausalLM", {**_INDEXED, **_DENSE_FIRST}),
    "glm-5-shared-indexers": (
        "GlmMoeDsaForCausalLM",
        {**_INDEXED, **_DENSE_FIRST, "indexer_types": ["full", "shared", "full", "shared"]},
    ),
    "glm-4": ("Glm4ForCausalLM", {"attention_bias": True}),
    "glm-4-no-bias": ("Glm4ForCausalLM", {"attention_bias": False}),
    "glm-4.5": (
        "Glm4MoeForCausalLM",
        {**_EXPERTS, "n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 2, "attention_bias": True},
    ),
    "glm-4.5-qk-norm": (
        "Glm4MoeForCausalLM",
        {**_EXPERTS, "n_routed_experts": 4, "n_shared_experts": 2, "first_k_dense_replace": 1, "use_qk_norm": True},
    ),
    "gemma": ("GemmaForCausalLM", {}),
    "gemma-untied": ("GemmaForCausalLM", {"tie_word_embeddings": False}),
    "gemma-2": ("Gemma2ForCausalLM", {}),
    "gemma-3": ("Gemma3ForCausalLM", {}),
    "gemma-3-with-vision": ("Gemma3ForConditionalGeneration", {}),
    "phi-3": ("Phi3ForCausalLM", {"head_dim": None}),
    "phi-3-tied": ("Phi3ForCausalLM", {"head_dim": None, "tie_word_embeddings": True}),
    "phi-moe": ("PhiMoEForCausalLM", {"head_dim": None, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "phi-moe-biases": (
        "PhiMoEForCausalLM",
        {
            "head_dim": None,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "attention_bias": True,
            "lm_head_bias": True,
        },
    ),
    "minicpm3": ("MiniCPM3ForCausalLM", _LATENT),
    "minicpm3-untied": ("MiniCPM3ForCausalLM", {**_LATENT, "tie_word_embeddings": False}),
    "hy3": ("HYV3ForCausalLM", {**_EXPERTS, "num_experts": 4, **_DENSE_FIRST}),
    "llama4": (
        "Llama4ForConditionalGeneration",
        {"num_local_experts": 4, "num_experts_per_tok": 1, "intermediate_size_mlp": 56},
    ),
    "llama4-some-dense": (
        "Llama4ForConditionalGeneration",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "intermediate_size_mlp": 56,
            "interleave_moe_layer_step": 2,
        },
    ),
}


def whole(architecture: str, text: dict[str, Any]) -> dict[str, Any]:
    """A config of the architecture around that of its language model."""
    section = FAMILIES[architecture].section
    inner = {section: text} if section else text
    return {"architectures": [architecture], "torch_dtype": "bfloat16", **inner}


def ours(config: dict[str, Any]) -> Shapes:
    text = read_language_model(config)
    groups = [group for group in text_tensors(text, DType.BF16) if group.role not in UNLOADED_ROLES]
    tensors = [tensor for group in groups for tensor in group.expand()]
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    assert len(shapes) == len(tensors), "two tensors of one name"
    return shapes


def theirs(config: dict[str, Any]) -> Shapes:
    """What transformers builds of the language model, under the names of published checkpoints."""
    family = FAMILIES[config["architectures"][0]]
    text = dict(config[family.section] if family.section else config)
    if "tie_word_embeddings" not in text and "tie_word_embeddings" in config:
        text["tie_word_embeddings"] = config["tie_word_embeddings"]
    left_out = ("model_type", "quantization_config", "attn_implementation", "auto_map", "rope_scaling", "architectures")
    known = {key: value for key, value in text.items() if key not in left_out}
    built = transformers.AutoConfig.for_model(family.model_type, **known)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(built)
    tensors = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    # The correction of the router's choice is no parameter, and the file holds it.
    tensors |= {name: tuple(b.shape) for name, b in model.named_buffers() if name.endswith("correction_bias")}
    return dict(_published(family, tensors))


_PACKED = re.compile(r"(?P<stem>.*\.experts\.)(?P<which>gate_up_proj|down_proj)")


def _published(family: Family, shapes: Shapes) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, shape in shapes.items():
        packed = None if family.packed else _PACKED.fullmatch(name)
        if packed is None:
            yield _renamed(name, family.renamed), shape
            continue
        num_experts, rows, columns = shape
        gate, up, down = family.expert
        for expert in range(num_experts):
            stem = _renamed(f"{packed['stem']}{expert}.", family.renamed)
            if packed["which"] == "down_proj":
                yield f"{stem}{down}.weight", (rows, columns)
            else:
                yield f"{stem}{gate}.weight", (rows // 2, columns)
                yield f"{stem}{up}.weight", (rows // 2, columns)


def _renamed(name: str, names: Names) -> str:
    for old, new in names:
        if old in name:
            return name.replace(old, new, 1)
    return name


@pytest.mark.parametrize("name", MADE)
def test_made_configs(name: str) -> None:
    architecture, differences = MADE[name]
    made = {**_SMALL, **differences}
    config = whole(architecture, {key: value for key, value in made.items() if key != "head_dim" or value})
    assert ours(config) == theirs(config)


PUBLISHED = [entry for entry in catalog.entries() if entry.config["architectures"][0] in FAMILIES]


@pytest.mark.parametrize("entry", PUBLISHED, ids=[entry.name for entry in PUBLISHED])
def test_published_configs(entry: CatalogEntry) -> None:
    assert ours(entry.config) == theirs(entry.config)


def test_every_family_is_made() -> None:
    assert {architecture for architecture, _ in MADE.values()} == set(FAMILIES)


CLASSES = {
    "qwen2": defaults.NO_WINDOW,
    "qwen3": defaults.NO_WINDOW,
    "qwen3_moe": defaults.NO_WINDOW,
    "mistral": {**defaults.MISTRAL, **defaults.MISTRAL_SIZES},
    "llama": defaults.LLAMA_SIZES,
    "deepseek_v32": {key: defaults.DEEPSEEK_V32[key] for key in ("index_n_heads", "index_head_dim", "index_topk")},
    "deepseek_v2": {key: defaults.DEEPSEEK_V2[key] for key in ("q_lora_rank", "first_k_dense_replace")},
    "deepseek_v3": {key: defaults.DEEPSEEK_V3[key] for key in ("q_lora_rank", "first_k_dense_replace")},
    "glm4_moe_lite": {"q_lora_rank": defaults.GLM4_MOE_LITE["q_lora_rank"]},
    "glm_moe_dsa": {
        key: defaults.GLM_MOE_DSA[key] for key in ("q_lora_rank", "index_n_heads", "first_k_dense_replace")
    },
    "minicpm3": defaults.MINICPM3,
    "qwen3_next": {"attention_bias": False, "decoder_sparse_step": 1},
    "qwen3_5_text": {"attention_bias": False, "head_dim": 256},
    "qwen3_5_moe_text": {"attention_bias": False, "head_dim": 256},
    "gpt_oss": defaults.GPT_OSS,
    "glm4": defaults.GLM4,
    "glm4_moe": {key: defaults.GLM4_MOE[key] for key in ("attention_bias", "first_k_dense_replace", "use_qk_norm")},
    "gemma": defaults.GEMMA,
    "gemma2": defaults.GEMMA2,
    "gemma3_text": {k: v for k, v in defaults.GEMMA3.items() if k != "sliding_window_pattern"},
    "phimoe": defaults.PHIMOE,
    "hy_v3": {key: defaults.HY3[key] for key in ("attention_bias", "head_dim", "num_shared_experts")},
    "llama4_text": defaults.LLAMA4,
}


@pytest.mark.parametrize("model_type", CLASSES)
def test_defaults_are_those_of_the_class(model_type: str) -> None:
    config = transformers.AutoConfig.for_model(model_type)
    for key, value in CLASSES[model_type].items():
        assert getattr(config, key) == value, key


@pytest.mark.parametrize(
    ("model_type", "layers"),
    [("glm4_moe_lite", 1), ("glm_moe_dsa", 3), ("deepseek_v32", 3), ("hy_v3", 1)],
)
def test_first_layers_are_dense_by_default(model_type: str, layers: int) -> None:
    types = transformers.AutoConfig.for_model(model_type).mlp_layer_types
    assert types == ["dense"] * layers + ["sparse"] * (len(types) - layers)


@pytest.mark.parametrize(
    ("model_type", "every"), [("gpt_oss", 2), ("gemma2", 2), ("gemma3_text", 6), ("qwen3_next", 4)]
)
def test_full_layers_by_default(model_type: str, every: int) -> None:
    types = transformers.AutoConfig.for_model(model_type).layer_types
    assert [kind == "full_attention" for kind in types] == [(layer + 1) % every == 0 for layer in range(len(types))]
