"""The inventory against transformers itself: every tensor by name and shape, on the meta device.

transformers has no class for InternLM, InternLM2, InternLM3 and InternVLChatModel, whose code lives in their
repositories. Their tensors are those of Llama, Qwen2 and InternVL's Hugging Face form under other names, so these
classes are their oracle too; the renaming is written out below.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from planner.model import catalog
from planner.model.arch.registry import READERS, read_spec
from planner.model.catalog import CatalogEntry
from planner.model.inventory import inventory

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.oracle

Shapes = dict[str, tuple[int, ...]]

NATIVE = {
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "MixtralForCausalLM",
    "Qwen2MoeForCausalLM",
    "Qwen3MoeForCausalLM",
    "InternVLForConditionalGeneration",
}

_SHARED = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "max_position_embeddings": 128,
    "num_attention_heads": 6,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "vocab_size": 101,
}
_LLAMA = {**_SHARED, "architectures": ["LlamaForCausalLM"], "model_type": "llama"}
_MISTRAL = {**_SHARED, "architectures": ["MistralForCausalLM"], "model_type": "mistral"}
_QWEN2 = {**_SHARED, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
_QWEN3 = {**_SHARED, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 12}
_MIXTRAL = {
    **_SHARED,
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "num_local_experts": 5,
    "num_experts_per_tok": 2,
}
_QWEN2_MOE = {
    **_SHARED,
    "architectures": ["Qwen2MoeForCausalLM"],
    "model_type": "qwen2_moe",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40,
}
_QWEN3_MOE = {
    **_SHARED,
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "head_dim": 12,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
}
_VISION = {
    "model_type": "internvl_vision",
    "hidden_size": 32,
    "intermediate_size": 72,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "image_size": [56, 56],
    "patch_size": [14, 14],
    "attention_bias": True,
    "norm_type": "layer_norm",
    "use_qk_norm": False,
    "use_mean_pooling": True,
    "use_mask_token": False,
}
_INTERNVL = {
    "architectures": ["InternVLForConditionalGeneration"],
    "model_type": "internvl",
    "downsample_ratio": 0.5,
    "torch_dtype": "float32",
    "text_config": _QWEN2,
    "vision_config": _VISION,
}
MADE: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "llama-tied": {**_LLAMA, "tie_word_embeddings": True},
    "llama-biases": {**_LLAMA, "attention_bias": True, "mlp_bias": True},
    "llama-head-dim": {**_LLAMA, "head_dim": 10},
    "llama-mha": {key: value for key, value in _LLAMA.items() if key != "num_key_value_heads"},
    "llama-one-kv-head": {**_LLAMA, "num_key_value_heads": 1},
    "mistral": _MISTRAL,
    "mistral-head-dim": {**_MISTRAL, "head_dim": 20},
    "qwen2": _QWEN2,
    "qwen2-tied": {**_QWEN2, "tie_word_embeddings": True},
    "qwen3": _QWEN3,
    "qwen3-bias-tied": {**_QWEN3, "attention_bias": True, "tie_word_embeddings": True},
    "mixtral": _MIXTRAL,
    "mixtral-head-dim": {**_MIXTRAL, "head_dim": 10},
    "qwen2-moe": _QWEN2_MOE,
    "qwen2-moe-no-bias": {**_QWEN2_MOE, "qkv_bias": False},
    "qwen2-moe-some-dense": {**_QWEN2_MOE, "decoder_sparse_step": 2},
    "qwen2-moe-listed-dense": {**_QWEN2_MOE, "mlp_only_layers": [0, 2]},
    "qwen3-moe": _QWEN3_MOE,
    "qwen3-moe-bias": {**_QWEN3_MOE, "attention_bias": True},
    "qwen3-moe-some-dense": {**_QWEN3_MOE, "decoder_sparse_step": 2, "mlp_only_layers": [1]},
    "internvl": _INTERNVL,
    "internvl-6b-like": {
        **_INTERNVL,
        "vision_config": {**_VISION, "attention_bias": False, "norm_type": "rms_norm", "use_qk_norm": True},
    },
    "internvl-all-options": {
        **_INTERNVL,
        "text_config": _QWEN3,
        "vision_config": {**_VISION, "use_mean_pooling": False, "use_mask_token": True},
    },
}


def ours(config: dict[str, Any]) -> Shapes:
    groups = inventory(read_spec(config, "oracle"))
    tensors = [tensor for group in groups for tensor in group.expand()]
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    assert len(shapes) == len(tensors), "two tensors of one name"
    return shapes


def theirs(config: dict[str, Any]) -> Shapes:
    """What transformers builds, under the names of published checkpoints."""
    left_out = ("model_type", "quantization_config", "attn_implementation")
    known = {key: value for key, value in config.items() if key not in left_out}
    has_vision = "vision_config" in config
    if has_vision:
        # transformers 5 asks the outer config whether the head is tied and takes yes where it does not say; the
        # language model's own flag is the published one, and the published files hold a head of their own.
        known["tie_word_embeddings"] = config["text_config"].get("tie_word_embeddings", False)
    built = transformers.AutoConfig.for_model(config["model_type"], **known)
    auto = transformers.AutoModelForImageTextToText if has_vision else transformers.AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(built)
    # Parameters and not state_dict: a tied head is the embedding and no tensor of its own.
    return dict(_published(config["model_type"], {name: tuple(p.shape) for name, p in model.named_parameters()}))


_FUSED_EXPERTS = re.compile(r"(?P<layer>.*\.)mlp\.experts\.(?P<which>gate_up_proj|down_proj)")
_INTERNVL_RENAMED = (
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
)


def _published(model_type: str, shapes: Shapes) -> Iterator[tuple[str, tuple[int, ...]]]:
    """What transformers 5 stores in other names or pieces than published checkpoints, undone.

    Experts are one tensor a layer, gate and up on top of each other; Mixtral's block is called mlp; InternVL's
    parts lie under ``model.`` and its head beside it. Earlier releases have the published names.
    """
    mixtral = model_type == "mixtral"
    for name, shape in shapes.items():
        fused = _FUSED_EXPERTS.fullmatch(name)
        if fused:
            block = "block_sparse_moe" if mixtral else "mlp"
            gate, up, down = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
            num_experts, rows, columns = shape
            for expert in range(num_experts):
                stem = f"{fused['layer']}{block}.experts.{expert}."
                if fused["which"] == "down_proj":
                    yield f"{stem}{down}.weight", (rows, columns)
                else:
                    yield f"{stem}{gate}.weight", (rows // 2, columns)
                    yield f"{stem}{up}.weight", (rows // 2, columns)
            continue
        if mixtral:
            name = name.replace(".mlp.gate.", ".block_sparse_moe.gate.")
        if model_type == "internvl":
            for theirs_start, start in _INTERNVL_RENAMED:
                if name.startswith(theirs_start):
                    name = start + name.removeprefix(theirs_start)
                    break
        yield name, shape


def entries(architectures: set[str]) -> list[CatalogEntry]:
    return [
        entry
        for entry in catalog.entries()
        if entry.config["architectures"][0] in architectures and "visual" not in entry.config
    ]


@pytest.mark.parametrize("name", MADE)
def test_made_configs(name: str) -> None:
    assert ours(MADE[name]) == theirs(MADE[name])


PUBLISHED = entries(NATIVE)


@pytest.mark.parametrize("entry", PUBLISHED, ids=[entry.name for entry in PUBLISHED])
def test_published_configs(entry: CatalogEntry) -> None:
    config = entry.config
    assert ours(config) == theirs(config)


def test_every_family_has_an_oracle() -> None:
    assert {config["architectures"][0] for config in MADE.values()} == NATIVE
    assert {entry.config["architectures"][0] for entry in PUBLISHED} == NATIVE
    # Others in test_oracle_families.py; the rest have neither: their published totals alone hold them.
    others = set(LLAMA_LIKE) | {"InternVLChatModel", "QWenLMHeadModel"}
    assert others <= set(READERS)


# The remote-code families below: what Llama calls a tensor, and what they do.
_INTERNLM2_RENAMED = (
    ("model.embed_tokens.", "model.tok_embeddings."),
    ("lm_head.", "output."),
    (".self_attn.qkv_proj.", ".attention.wqkv."),
    (".self_attn.o_proj.", ".attention.wo."),
    (".input_layernorm.", ".attention_norm."),
    (".post_attention_layernorm.", ".ffn_norm."),
    (".mlp.gate_proj.", ".feed_forward.w1."),
    (".mlp.up_proj.", ".feed_forward.w3."),
    (".mlp.down_proj.", ".feed_forward.w2."),
)
_CHAT_RENAMED = (
    ("embeddings.cls_token", "embeddings.class_embedding"),
    ("embeddings.position_embeddings", "embeddings.position_embedding"),
    ("embeddings.patch_embeddings.projection.", "embeddings.patch_embedding."),
    ("encoder.layer.", "encoder.layers."),
    (".attention.qkv_proj.", ".attn.qkv."),
    (".attention.projection_layer.", ".attn.proj."),
    (".attention.q_norm.", ".attn.q_norm."),
    (".attention.k_norm.", ".attn.k_norm."),
    (".layernorm_before.", ".norm1."),
    (".layernorm_after.", ".norm2."),
    (".lambda_1", ".ls1"),
    (".lambda_2", ".ls2"),
)
LLAMA_LIKE: dict[str, tuple[tuple[str, str], ...]] = {
    "InternLMForCausalLM": (),
    "InternLM2ForCausalLM": _INTERNLM2_RENAMED,
    "InternLM3ForCausalLM": (),
}


def renamed(shapes: Shapes, names: tuple[tuple[str, str], ...]) -> Shapes:
    """`shapes` under other names, queries, keys and values in one tensor where the new names have one."""
    if any("qkv_proj" in old for old, _ in names):
        shapes = dict(_fused_qkv(shapes))
    result: Shapes = {}
    for name, shape in shapes.items():
        for old, new in names:
            name = name.replace(old, new)
        result[name] = shape
    return result


def _fused_qkv(shapes: Shapes) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, shape in shapes.items():
        if ".q_proj." in name:
            parts = [shapes[name.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"]
            yield name.replace(".q_proj.", ".qkv_proj."), (sum(part[0] for part in parts), *shape[1:])
        elif ".k_proj." not in name and ".v_proj." not in name:
            yield name, shape


def language_model(config: dict[str, Any]) -> Shapes:
    """transformers' tensors of a language model, of a remote-code family as well."""
    architecture = config["architectures"][0]
    if architecture not in LLAMA_LIKE:
        return theirs(config)
    # InternLM's `bias` is on all four attention linears, as Llama's attention_bias; InternLM3 has qkv_bias besides.
    assert config.get("qkv_bias", config["bias"]) == config["bias"]
    kept = {key: value for key, value in config.items() if key not in ("auto_map", "rope_scaling")}
    return renamed(theirs({**kept, "model_type": "llama", "attention_bias": config["bias"]}), LLAMA_LIKE[architecture])


REMOTE = entries(set(LLAMA_LIKE))


@pytest.mark.parametrize("entry", REMOTE, ids=[entry.name for entry in REMOTE])
def test_internlm_is_llama_under_other_names(entry: CatalogEntry) -> None:
    config = entry.config
    assert ours(config) == language_model(config)


CHAT = entries({"InternVLChatModel"})


@pytest.mark.parametrize("entry", CHAT, ids=[entry.name for entry in CHAT])
def test_internvl_chat_is_the_hugging_face_form_under_other_names(entry: CatalogEntry) -> None:
    config, vision = entry.config, entry.config["vision_config"]
    tower = transformers.InternVLVisionConfig(
        **{key: vision[key] for key in ("hidden_size", "intermediate_size", "num_attention_heads")},
        **{key: [vision[key], vision[key]] for key in ("image_size", "patch_size")},
        num_hidden_layers=vision["num_hidden_layers"],
        attention_bias=vision["qkv_bias"],
        norm_type=vision["norm_type"],
        use_qk_norm=vision["qk_normalization"],
    )
    with torch.device("meta"):
        model = transformers.InternVLVisionModel(tower)
    parameters = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    expected = {f"vision_model.{name}": shape for name, shape in renamed(parameters, _CHAT_RENAMED).items()}

    text = config["llm_config"]
    expected |= {f"language_model.{name}": shape for name, shape in language_model(text).items()}

    wide, hidden = vision["hidden_size"] * round(1 / config["downsample_ratio"]) ** 2, text["hidden_size"]
    # The projector: InternVLMultiModalProjector's layer norm and two linears, as a list.
    expected |= {"mlp1.0.weight": (wide,), "mlp1.0.bias": (wide,)}
    expected |= {"mlp1.1.weight": (hidden, wide), "mlp1.1.bias": (hidden,)}
    expected |= {"mlp1.3.weight": (hidden, hidden), "mlp1.3.bias": (hidden,)}
    assert ours(config) == expected
