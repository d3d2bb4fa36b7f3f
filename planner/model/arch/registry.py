"""Which reader understands which architecture, and which architectures are known by name only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from planner.errors import UnsupportedModelError, perhaps
from planner.model.arch.common import read_dtype
from planner.model.arch.decoder import DECODERS, read_decoder
from planner.model.arch.internvl import read_internvl_chat, read_internvl_hf
from planner.model.arch.quantization import read_quantization
from planner.model.fields import Fields
from planner.model.spec import ModelSpec, TextModel
from planner.model.vision import VisionTower

Parts = tuple[TextModel, VisionTower | None]
Reader = Callable[[Fields], Parts]


def _decoder_only(fields: Fields) -> Parts:
    return read_decoder(fields), None


READERS: Final[Mapping[str, Reader]] = {
    **dict.fromkeys(DECODERS, _decoder_only),
    "InternVLChatModel": read_internvl_chat,
    "InternVLForConditionalGeneration": read_internvl_hf,
}
"""Architecture (the first entry of ``architectures``) -> reader."""

KNOWN_LATER: Final = {
    "BaichuanForCausalLM": "Baichuan",
    "ChatGLMModel": "ChatGLM, GLM-4 and GLM-4V",
    "CohereForCausalLM": "Command R",
    "DeepseekForCausalLM": "DeepSeek MoE",
    "DeepseekV2ForCausalLM": "DeepSeek-V2 (latent attention)",
    "DeepseekV3ForCausalLM": "DeepSeek-V3 (latent attention)",
    "Gemma2ForCausalLM": "Gemma 2",
    "Gemma3ForCausalLM": "Gemma 3",
    "Gemma3ForConditionalGeneration": "Gemma 3 with vision",
    "Glm4MoeForCausalLM": "GLM-4.5 MoE",
    "GptOssForCausalLM": "gpt-oss",
    "InternLMXComposer2ForCausalLM": "InternLM-XComposer2 and 2.5",
    "InternS1ForConditionalGeneration": "Intern-S1",
    "LlavaForConditionalGeneration": "LLaVA",
    "LlavaLlamaForCausalLM": "LLaVA",
    "MiniCPMV": "MiniCPM-V",
    "MultiModalityCausalLM": "DeepSeek-VL",
    "Phi3ForCausalLM": "Phi-3",
    "Qwen2VLForConditionalGeneration": "Qwen2-VL",
    "Qwen2_5_VLForConditionalGeneration": "Qwen2.5-VL",
    "Qwen3VLForConditionalGeneration": "Qwen3-VL",
    "Qwen3_5ForConditionalGeneration": "Qwen3.5 (linear attention)",
    "Qwen3_5MoeForConditionalGeneration": "Qwen3.5 MoE (linear attention)",
}
"""Architectures that are recognised and not planned yet: refused by name rather than guessed."""


def read_spec(config: Mapping[str, Any], name: str) -> ModelSpec:
    """Read a parsed config.json.

    Args:
        config: the JSON object.
        name: what to call the model in messages and reports.

    Raises:
        ConfigError: a key is missing, of the wrong type or out of bounds.
        UnsupportedModelError: the architecture has no reader.
    """
    fields = Fields(config)
    architecture = fields.architecture()
    reader = READERS.get(architecture)
    if reader is None:
        raise _unsupported(architecture)
    text, vision = reader(fields)
    if architecture == "QWenLMHeadModel" and config.get("visual") is not None:
        raise UnsupportedModelError(
            "Qwen-VL (QWenLMHeadModel with `visual`) is known by name but not planned yet",
            "Supported: " + ", ".join(sorted(READERS)),
        )
    return ModelSpec(
        name=name,
        architecture=architecture,
        dtype=read_dtype(fields),
        text=text,
        vision=vision,
        quantization=read_quantization(fields),
    )


def _unsupported(architecture: str) -> UnsupportedModelError:
    supported = "Supported: " + ", ".join(sorted(READERS))
    later = KNOWN_LATER.get(architecture)
    if later:
        return UnsupportedModelError(f"{architecture} ({later}) is known by name but not planned yet", supported)
    close = perhaps(architecture, READERS)
    return UnsupportedModelError(
        f"lmplan does not know the architecture {architecture}",
        f"{close}. {supported}" if close else supported,
    )
