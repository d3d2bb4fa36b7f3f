"""Every family of language models, from one table a group of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from planner.errors import UnsupportedModelError
from planner.model.arch.common import read_architecture
from planner.model.arch.deepseek import DEEPSEEK
from planner.model.arch.family import Decoder, read_text
from planner.model.arch.gemma import GEMMA
from planner.model.arch.glm import GLM
from planner.model.arch.gpt_oss import GPT_OSS
from planner.model.arch.hy3 import HY3
from planner.model.arch.llama4 import LLAMA4
from planner.model.arch.llama_like import LLAMA_LIKE
from planner.model.arch.phi import PHI
from planner.model.arch.qwen_next import QWEN_NEXT
from planner.model.arch.reward import REWARD
from planner.model.fields import Fields
from planner.model.spec import TextModel

DECODERS: Final[Mapping[str, Decoder]] = {
    **LLAMA_LIKE,
    **DEEPSEEK,
    **QWEN_NEXT,
    **GPT_OSS,
    **GLM,
    **GEMMA,
    **PHI,
    **HY3,
    **LLAMA4,
    **REWARD,
}
"""Architecture -> what sets it apart. Those that see are here for their language model."""


def read_decoder(fields: Fields, prefix: str = "", architecture: str = "") -> TextModel:
    """Read the language model of `fields`, by default of the class that it names.

    Args:
        fields: the config, or the section of it that is the language model's.
        prefix: what stands before its tensor names in a VLM.
        architecture: one of `DECODERS`, where the config is not to be asked.

    Raises:
        ConfigError: a key is missing, of the wrong type or out of bounds.
        UnsupportedModelError: the architecture is none of `DECODERS`.
    """
    architecture = architecture or read_architecture(fields, DECODERS)
    decoder = DECODERS.get(architecture)
    if decoder is None:
        raise UnsupportedModelError(
            f"{fields.key('architectures')}: the language model {architecture} is not planned yet",
            "Supported: " + ", ".join(sorted(DECODERS)),
        )
    return read_text(fields, architecture, decoder, prefix)
