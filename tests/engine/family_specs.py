"""Models of further families by their published shapes, made by hand: what their readers will give."""

from __future__ import annotations

from planner.model.dtypes import DType
from planner.model.layers import (
    Attention,
    DenseMlp,
    ExpertStorage,
    GatedDeltaNet,
    GroupedQueryAttention,
    LatentAttention,
    LayerGroup,
    Mlp,
    MoeMlp,
)
from planner.model.names import TensorNames
from planner.model.quantization import Quantization, QuantMethod
from planner.model.spec import ModelSpec, TextModel

DELTA_NET = GatedDeltaNet(16, 32, 128, 128, 4, wide_rates=True)
_NESTED = "model.language_model."


def _spec(
    architecture: str,
    hidden_size: int,
    vocab_size: int,
    groups: tuple[LayerGroup, ...],
    names: TensorNames,
    *,
    mrope: bool = False,
    quantization: Quantization | None = None,
) -> ModelSpec:
    text = TextModel(architecture, hidden_size, vocab_size, groups, False, 131072, names, mrope=mrope)
    return ModelSpec(architecture, architecture, DType.BF16, text, quantization=quantization)


def glm_4_7_flash() -> ModelSpec:
    attention = LatentAttention(20, 768, 512, 192, 64, 256)
    sparse = MoeMlp(64, 4, 1536, 1536, correction_bias=True)
    groups = (LayerGroup((0,), attention, DenseMlp(10240)), LayerGroup(tuple(range(1, 47)), attention, sparse))
    names = TensorNames(shared_expert="mlp.shared_experts.")
    return _spec("Glm4MoeLiteForCausalLM", 2048, 154880, groups, names)


def _every_fourth(num_layers: int, attention: Attention, mlp: Mlp) -> tuple[LayerGroup, ...]:
    """Full attention in every fourth layer, gated linear attention in the others."""
    full = tuple(range(3, num_layers, 4))
    linear = tuple(layer for layer in range(num_layers) if layer not in full)
    return LayerGroup(linear, DELTA_NET, mlp), LayerGroup(full, attention, mlp)


def _qwen3_5_names() -> TensorNames:
    return TensorNames(
        embedding=f"{_NESTED}embed_tokens", final_norm=f"{_NESTED}norm", layer=f"{_NESTED}layers.{{layer}}."
    )


def qwen3_5_9b(quantization: Quantization | None = None) -> ModelSpec:
    attention = GroupedQueryAttention(16, 4, 256, qk_norm=True, output_gate=True)
    return _spec(
        "Qwen3_5ForConditionalGeneration",
        4096,
        248320,
        _every_fourth(32, attention, DenseMlp(12288)),
        _qwen3_5_names(),
        mrope=True,
        quantization=quantization,
    )


def qwen3_5_35b_a3b(num_layers: int = 40) -> ModelSpec:
    attention = GroupedQueryAttention(16, 2, 256, qk_norm=True, output_gate=True)
    mlp = MoeMlp(256, 8, 512, 512, shared_gate=True, storage=ExpertStorage.PACKED)
    groups = _every_fourth(num_layers, attention, mlp)
    return _spec("Qwen3_5MoeForConditionalGeneration", 2048, 248320, groups, _qwen3_5_names(), mrope=True)


def gpt_oss_20b(quantization: Quantization | None = None) -> ModelSpec:
    def attention(window_tokens: int) -> GroupedQueryAttention:
        return GroupedQueryAttention(64, 8, 64, True, True, window_tokens=window_tokens, sinks=True)

    storage = ExpertStorage.PACKED_TRANSPOSED
    mlp = MoeMlp(32, 4, 2880, router_bias=True, expert_bias=True, storage=storage)
    groups = (
        LayerGroup(tuple(range(0, 24, 2)), attention(128), mlp),
        LayerGroup(tuple(range(1, 24, 2)), attention(0), mlp),
    )
    return _spec("GptOssForCausalLM", 2880, 201088, groups, TensorNames(router="mlp.router"), quantization=quantization)


def qwen2_5_vl_7b_text() -> ModelSpec:
    attention = GroupedQueryAttention(28, 4, 128, qkv_bias=True)
    groups = (LayerGroup(tuple(range(28)), attention, DenseMlp(18944)),)
    return _spec("Qwen2_5_VLForConditionalGeneration", 3584, 152064, groups, TensorNames(), mrope=True)


def qwen3_8b(quantization: Quantization) -> ModelSpec:
    attention = GroupedQueryAttention(32, 8, 128, qk_norm=True)
    groups = (LayerGroup(tuple(range(36)), attention, DenseMlp(12288)),)
    return _spec("Qwen3ForCausalLM", 4096, 151936, groups, TensorNames(), quantization=quantization)


MXFP4 = Quantization(QuantMethod.MXFP4, 4, 32, ("model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"))
QWEN3_5_FP8 = Quantization(QuantMethod.FP8, 8, 128, ("in_proj_a", "in_proj_b"))


def compressed(group_size: int) -> Quantization:
    return Quantization(QuantMethod.COMPRESSED_TENSORS, 4, group_size, ("lm_head",))


TRACED = {
    "glm-4.7-flash": glm_4_7_flash(),
    "qwen3.5-9b": qwen3_5_9b(),
    "gpt-oss-20b": gpt_oss_20b(MXFP4),
    "qwen3.5-35b-a3b-20l": qwen3_5_35b_a3b(20),
    "qwen2.5-vl-7b": qwen2_5_vl_7b_text(),
    "qwen3-8b-ct128": qwen3_8b(compressed(128)),
    "qwen3-8b-ct32": qwen3_8b(compressed(32)),
    "qwen3.5-9b-fp8": qwen3_5_9b(QWEN3_5_FP8),
}
