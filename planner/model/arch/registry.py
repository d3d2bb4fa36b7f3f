"""Which reader understands which architecture, and which architectures are known by name only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from planner.errors import not_planned
from planner.model.arch.chatglm import ARCHITECTURE as CHATGLM
from planner.model.arch.chatglm import read_chatglm
from planner.model.arch.common import read_architecture, read_dtype
from planner.model.arch.decoders import DECODERS, read_decoder
from planner.model.arch.deepseek import FP32_SCALES
from planner.model.arch.quantization import read_quantization
from planner.model.arch.served import refuse
from planner.model.arch.vision_language import VISION_LANGUAGE
from planner.model.dtypes import DType
from planner.model.fields import Fields
from planner.model.quantization import Quantization, QuantMethod
from planner.model.spec import ModelSpec, TextModel
from planner.model.vision import VisionTower

_TEXT: Final[Mapping[str, Callable[[Fields], TextModel]]] = {
    **dict.fromkeys(DECODERS, read_decoder),
    CHATGLM: read_chatglm,
    **{architecture: model.text for architecture, model in VISION_LANGUAGE.items()},
}
READERS: Final = tuple(
    architecture
    for architecture in _TEXT
    if architecture not in VISION_LANGUAGE or VISION_LANGUAGE[architecture].tower is not None
)
"""The architectures that are planned."""

KNOWN_LATER: Final = {
    "BaichuanForCausalLM": "Baichuan",
    "CogVLMForCausalLM": "CogVLM",
    "CohereForCausalLM": "Command R",
    "ChatGLMModel": "ChatGLM, whose class auto_map is to name",
    "DeepseekV4ForCausalLM": "DeepSeek-V4",
    "InternLMXComposer2ForCausalLM": "InternLM-XComposer2 and 2.5",
    "LlavaLlamaForCausalLM": "LLaVA",
    "MultiModalityCausalLM": "DeepSeek-VL",
    **{name: model.senses for name, model in VISION_LANGUAGE.items() if model.tower is None},
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
    architecture = read_architecture(fields, _TEXT)
    text = read_language_model(config)
    vision = _tower(fields, architecture, text)
    dtype = read_dtype(fields)
    return ModelSpec(
        name=name,
        architecture=architecture,
        dtype=dtype or DType.BF16,
        dtype_given=dtype is not None,
        text=text,
        vision=vision,
        quantization=_scaled(read_quantization(fields), text),
    )


def read_language_model(config: Mapping[str, Any]) -> TextModel:
    """The language model of a parsed config.json, whatever stands beside it.

    Raises:
        ConfigError: a key is missing, of the wrong type or out of bounds.
        UnsupportedModelError: the architecture has no reader.
    """
    fields = Fields(config)
    architecture = read_architecture(fields, _TEXT)
    reader = _TEXT.get(architecture)
    if reader is None:
        raise refuse(architecture, KNOWN_LATER.get(architecture, ""), READERS)
    return reader(fields)


def _tower(fields: Fields, architecture: str, text: TextModel) -> VisionTower | None:
    if architecture == "QWenLMHeadModel" and fields.has("visual"):
        raise not_planned("the vision tower of Qwen-VL (QWenLMHeadModel with `visual`)")
    if architecture == CHATGLM and fields.has("vision_config"):
        raise not_planned("the vision tower of GLM-4V (ChatGLMModel with `vision_config`)")
    model = VISION_LANGUAGE.get(architecture)
    if model is None:
        return None
    if model.tower is None:
        raise not_planned(f"the {model.senses} ({architecture})")
    return model.tower(fields, text)


def _scaled(quantization: Quantization | None, text: TextModel) -> Quantization | None:
    """The same with the type that the family's files have their scales in."""
    if quantization is None or quantization.method is not QuantMethod.FP8 or text.architecture not in FP32_SCALES:
        return quantization
    return quantization._replace(scale_dtype=DType.F32)
