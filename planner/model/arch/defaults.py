"""What config classes assume where a published config.json leaves a key out.

The classes are those of transformers 5.23 unless said otherwise. LMDeploy reads a config through them
(`lmdeploy/hf_configs`, 0.18.0), so what they assume is what it serves; a test compares the two. Sizes are here only
where published configs lean on them: elsewhere a missing size is a slip.
"""

from __future__ import annotations

from typing import Any, Final

NO_WINDOW: Final[dict[str, Any]] = {"use_sliding_window": False}
"""Qwen2Config, Qwen3Config and their MoE forms."""
MISTRAL: Final[dict[str, Any]] = {"sliding_window": 4096}
"""MistralConfig."""
_DEEPSEEK: Final[dict[str, Any]] = {"attention_bias": False, "moe_layer_freq": 1, "n_shared_experts": None}
"""What the classes of DeepSeek's repositories share (configuration_deepseek.py of V2 and V3)."""
DEEPSEEK_MOE: Final[dict[str, Any]] = {**_DEEPSEEK, "first_k_dense_replace": 0}
"""DeepseekConfig of deepseek-moe-16b (configuration_deepseek.py)."""
DEEPSEEK_V2: Final[dict[str, Any]] = {
    **_DEEPSEEK,
    "q_lora_rank": 1536,
    "first_k_dense_replace": 0,
    "topk_method": "gready",
    "num_nextn_predict_layers": 0,
}
"""DeepseekV2Config; the method's name is spelled so in configuration_deepseek.py."""
DEEPSEEK_VL2: Final[dict[str, Any]] = {
    **DEEPSEEK_V2,
    "use_mla": True,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "num_hidden_layers": 30,
    "num_attention_heads": 32,
}
"""DeepseekV2Config of DeepSeek-VL2 (configuration_deepseek.py there), which its ``language_config`` leans on."""
DEEPSEEK_V3: Final[dict[str, Any]] = {
    **_DEEPSEEK,
    "q_lora_rank": 1536,
    "first_k_dense_replace": 3,
    "topk_method": "noaux_tc",
    "num_nextn_predict_layers": 1,
}
"""DeepseekV3Config."""
DEEPSEEK_V32: Final[dict[str, Any]] = {**DEEPSEEK_V3, "index_n_heads": 64, "index_head_dim": 128, "index_topk": 2048}
"""DeepseekV32Config."""
GLM4_MOE_LITE: Final[dict[str, Any]] = {**DEEPSEEK_V3, "q_lora_rank": 768, "first_k_dense_replace": 1}
"""Glm4MoeLiteConfig: its ``mlp_layer_types`` are what ``first_k_dense_replace`` 1 makes of them."""
GLM_MOE_DSA: Final[dict[str, Any]] = {**DEEPSEEK_V32, "q_lora_rank": 2048, "index_n_heads": 32}
"""GlmMoeDsaConfig."""
MINICPM3: Final[dict[str, Any]] = {"attention_bias": False, "v_head_dim": 64, "tie_word_embeddings": True}
"""MiniCPM3Config."""
QWEN3_NEXT: Final[dict[str, Any]] = {
    "attention_bias": False,
    "decoder_sparse_step": 1,
    "full_attention_interval": 4,
    "use_sliding_window": False,
}
"""Qwen3NextConfig."""
QWEN3_5: Final[dict[str, Any]] = {**QWEN3_NEXT, "head_dim": 256}
"""Qwen3_5TextConfig and Qwen3_5MoeTextConfig, which have no dense layers among those with experts."""
MOBIUS: Final[dict[str, Any]] = {**QWEN3_5, "num_blocks": 4}
"""InternS2Mobius and MetaMoE, as LMDeploy reads them (`lmdeploy/pytorch/models/interns2_mobius.py`, 0.18.0)."""
GPT_OSS: Final[dict[str, Any]] = {
    "attention_bias": True,
    "head_dim": 64,
    "sliding_window": 128,
}
"""GptOssConfig."""
GLM4: Final[dict[str, Any]] = {"attention_bias": True, "head_dim": 128}
"""Glm4Config."""
GLM4V_TEXT: Final[dict[str, Any]] = {"attention_bias": True}
"""Glm4vTextConfig has no such key: Glm4vTextAttention builds q, k and v with a bias."""
GLM4_MOE: Final[dict[str, Any]] = {
    **DEEPSEEK_V3,
    "first_k_dense_replace": 1,
    "use_qk_norm": False,
}
"""Glm4MoeConfig."""
GEMMA: Final[dict[str, Any]] = {"attention_bias": False, "head_dim": 256}
"""GemmaConfig."""
GEMMA2: Final[dict[str, Any]] = {**GEMMA, "sliding_window": 4096}
"""Gemma2Config."""
GEMMA3: Final[dict[str, Any]] = {
    **GEMMA2,
    "sliding_window_pattern": 6,
    "vocab_size": 262208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 131072,
}
"""Gemma3TextConfig, with the sizes that gemma-3-4b-it leaves out."""
PHIMOE: Final[dict[str, Any]] = {"attention_bias": False, "lm_head_bias": False}
"""PhimoeConfig."""
HY3: Final[dict[str, Any]] = {
    "attention_bias": False,
    "first_k_dense_replace": 1,
    "head_dim": 128,
    "moe_layer_freq": 1,
    "num_shared_experts": 1,
}
"""HYV3Config, whose ``mlp_layer_types`` are what ``first_k_dense_replace`` 1 makes of them."""
LLAMA4: Final[dict[str, Any]] = {"attention_bias": False, "head_dim": 128, "interleave_moe_layer_step": 1}
"""Llama4TextConfig."""
LLAMA_SIZES: Final[dict[str, Any]] = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}
"""LlamaConfig, whose sizes LLaVA's ``text_config`` leaves out."""
MISTRAL_SIZES: Final[dict[str, Any]] = {
    **MISTRAL,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 32000,
    "max_position_embeddings": 131072,
}
"""MistralConfig, as LLaVA-1.6's ``text_config`` leans on it."""
