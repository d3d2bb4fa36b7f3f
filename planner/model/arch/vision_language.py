"""Models that see or hear: where their language model is in the config, and which tower stands beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from planner.errors import UnsupportedModelError
from planner.model.arch import internvl
from planner.model.arch.common import read_architecture
from planner.model.arch.decoders import DECODERS, read_decoder
from planner.model.arch.defaults import LLAMA_SIZES, MISTRAL_SIZES
from planner.model.fields import Fields
from planner.model.layers import ExpertStorage, LayerGroup, MoeMlp
from planner.model.spec import TextModel
from planner.model.vision import VisionTower

TextReader = Callable[[Fields], TextModel]
TowerReader = Callable[[Fields, TextModel], VisionTower]
Rename = Callable[[TextModel], TextModel]


class VisionLanguage(NamedTuple):
    """A model with a tower.

    Attributes:
        text: reads the language model from the whole config.
        senses: what the tower is, for messages.
        tower: reads it; None where it is not planned yet.
    """

    text: TextReader
    senses: str
    tower: TowerReader | None = None


_TYPES: Final = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
"""The class of a ``model_type``, for a language model that names a class of its repository or none."""


def _nested(fields: Fields, section: str) -> Fields:
    """The part of the config that is the language model's."""
    for name in section.split("."):
        fields = fields.section(name)
    return fields


def _flat(architecture: str) -> TextReader:
    """A reader of a language model at the top of the config; re-saved configs nest it as ``text_config``."""

    def read(fields: Fields) -> TextModel:
        nested = fields.section("text_config") if fields.has("text_config") else fields
        return _tied(fields, nested, read_decoder(nested, architecture=architecture))

    return read


def _text(section: str, architecture: str = "", prefix: str = "") -> TextReader:
    """A reader of the language model under `section`; without `architecture` the section says which it is."""

    def read(fields: Fields) -> TextModel:
        nested = _nested(fields, section)
        return _tied(fields, nested, read_decoder(nested, prefix, architecture or _class_of(nested)))

    return read


def _tied(fields: Fields, nested: Fields, text: TextModel) -> TextModel:
    """The model tied or not as the top says where its own section does not."""
    if nested.has("tie_word_embeddings") or not fields.has("tie_word_embeddings"):
        return text
    return text._replace(tie_word_embeddings=fields.boolean("tie_word_embeddings"))


def _class_of(fields: Fields) -> str:
    if fields.has("architectures"):
        named = read_architecture(fields, DECODERS)
        if named in DECODERS:
            return named
    if fields.has("model_type"):
        known = _TYPES.get(fields.text("model_type"))
        if known is not None:
            return known
    return fields.architecture()


def _under(stem: str) -> Rename:
    """Puts everything but the head behind `stem` in place of ``model.``."""

    def rename(text: TextModel) -> TextModel:
        names = text.names
        return text._replace(
            names=names._replace(
                embedding=names.embedding.replace("model.", stem, 1),
                final_norm=names.final_norm.replace("model.", stem, 1),
                layer=names.layer.replace("model.", stem, 1),
            ),
        )

    return rename


def _renamed(read: TextReader, rename: Rename) -> TextReader:
    return lambda fields: rename(read(fields))


_IN_MODEL: Final = _under("model.language_model.")
_IN_THINKER: Final = _under("thinker.model.")


def _packed(text: TextModel) -> TextModel:
    """Published 16-bit files of Qwen3-VL's experts hold a layer's in one tensor, inputs first."""
    return text._replace(layer_groups=tuple(_pack(group) for group in text.layer_groups))


def _pack(group: LayerGroup) -> LayerGroup:
    if not isinstance(group.mlp, MoeMlp):
        return group
    return group._replace(mlp=group.mlp._replace(storage=ExpertStorage.PACKED_TRANSPOSED))


_MINICPMV: Final = {"2.5": "LlamaForCausalLM", "2.6": "Qwen2ForCausalLM"}
"""The language model of each version that LMDeploy takes (`lmdeploy/vl/model/minicpmv.py`, 0.18.0)."""


def _minicpmv_text(fields: Fields) -> TextModel:
    if not fields.has("version"):
        raise UnsupportedModelError("LMDeploy does not serve a MiniCPM-V whose config.json has no version")
    version = f"{fields.number('version', minimum=0, maximum=100):g}"
    if version not in _MINICPMV:
        raise UnsupportedModelError(f"LMDeploy does not serve MiniCPM-V {version}; it takes {' and '.join(_MINICPMV)}")
    return read_decoder(fields, "llm.", _MINICPMV[version])


_KIMI: Final = VisionLanguage(_text("text_config", "DeepseekV3ForCausalLM", "language_model."), "MoonViT tower")


def _llava_text(fields: Fields) -> TextModel:
    """Llama's or Mistral's, of which the section may say only what differs from the class."""
    nested = fields.section("text_config")
    architecture = _class_of(nested)
    sizes = _SIZES.get(architecture, {})
    return _tied(fields, nested, read_decoder(nested.with_defaults(sizes), "language_model.", architecture))


_SIZES: Final = {"LlamaForCausalLM": LLAMA_SIZES, "MistralForCausalLM": MISTRAL_SIZES}
_PREVIEW: Final = VisionLanguage(
    _text("text_config", "Qwen3_5MoeForConditionalGeneration"), "towers of Intern-S2-Preview"
)
_MOBIUS: Final = VisionLanguage(
    _text("text_config", "InternS2MobiusForConditionalGeneration"), "towers of Intern-S2-Mobius"
)
_LLAVA: Final = VisionLanguage(_llava_text, "CLIP tower")

VISION_LANGUAGE: Final[Mapping[str, VisionLanguage]] = {
    "InternVLChatModel": VisionLanguage(
        _text("llm_config", prefix="language_model."), "InternViT tower", internvl.read_chat_tower
    ),
    "InternVLForConditionalGeneration": VisionLanguage(
        _text("text_config", prefix="language_model."), "InternViT tower", internvl.read_hf_tower
    ),
    "InternS1ForConditionalGeneration": VisionLanguage(
        _renamed(_text("text_config"), _IN_MODEL), "InternViT tower", internvl.read_interns1_tower
    ),
    "Qwen2VLForConditionalGeneration": VisionLanguage(_flat("Qwen2ForCausalLM"), "vision tower of Qwen2-VL"),
    "Qwen2_5_VLForConditionalGeneration": VisionLanguage(_flat("Qwen2ForCausalLM"), "vision tower of Qwen2.5-VL"),
    "Qwen3VLForConditionalGeneration": VisionLanguage(
        _renamed(_text("text_config", "Qwen3ForCausalLM"), _IN_MODEL), "vision tower of Qwen3-VL"
    ),
    "Qwen3VLMoeForConditionalGeneration": VisionLanguage(
        _renamed(_renamed(_text("text_config", "Qwen3MoeForCausalLM"), _IN_MODEL), _packed), "vision tower of Qwen3-VL"
    ),
    "Qwen3_5ForConditionalGeneration": VisionLanguage(
        _text("text_config", "Qwen3_5ForConditionalGeneration"), "vision tower of Qwen3.5"
    ),
    "Qwen3_5MoeForConditionalGeneration": VisionLanguage(
        _text("text_config", "Qwen3_5MoeForConditionalGeneration"), "vision tower of Qwen3.5"
    ),
    "InternS2PreviewForConditionalGeneration": _PREVIEW,
    "InternS1ProForConditionalGeneration": VisionLanguage(
        _renamed(_text("text_config", "Qwen3MoeForCausalLM"), _IN_MODEL),
        "towers of Intern-S1-Pro",
    ),
    "InternS1_1_ForConditionalGeneration": VisionLanguage(
        _renamed(_text("text_config", "Qwen3MoeForCausalLM"), _IN_MODEL), "towers of Intern-S1.1"
    ),
    "Qwen3OmniMoeForConditionalGeneration": VisionLanguage(
        _renamed(_text("thinker_config.text_config", "Qwen3MoeForCausalLM"), _IN_THINKER),
        "towers of Qwen3-Omni",
    ),
    "Glm4vForConditionalGeneration": VisionLanguage(
        _text("text_config", "Glm4vForConditionalGeneration"), "vision tower of GLM-4.1V"
    ),
    "Gemma3ForConditionalGeneration": VisionLanguage(
        _text("text_config", "Gemma3ForConditionalGeneration", "language_model."), "SigLIP tower"
    ),
    "Llama4ForConditionalGeneration": VisionLanguage(
        _text("text_config", "Llama4ForConditionalGeneration", "language_model."), "vision tower of Llama 4"
    ),
    "KimiK25ForConditionalGeneration": _KIMI,
    "Kimi_K25ForConditionalGeneration": _KIMI,
    "LlavaForConditionalGeneration": _LLAVA,
    "LlavaNextForConditionalGeneration": _LLAVA,
    "MiniCPMV": VisionLanguage(_minicpmv_text, "vision tower of MiniCPM-V"),
    "DeepseekVLV2ForCausalLM": VisionLanguage(
        _text("language_config", "DeepseekVLV2ForCausalLM", "language."), "SigLIP tower of DeepSeek-VL2"
    ),
    "MetaMoeForConditionalGeneration": VisionLanguage(
        _text("text_config", "MetaMoeForConditionalGeneration"), "vision tower of MetaMoE"
    ),
    "InternS2MobiusForConditionalGeneration": _MOBIUS,
    "InternS2MobiusForCausalLM": _MOBIUS,
    "InternS2PreviewForCausalLM": _PREVIEW,
    "Phi3VForCausalLM": VisionLanguage(_flat("Phi3ForCausalLM"), "CLIP tower"),
}
"""Architecture -> its parts. A tower that is not planned yet is refused by its name, the language model is read."""
