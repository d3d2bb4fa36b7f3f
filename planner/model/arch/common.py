"""Keys that every family shares."""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from planner.errors import ConfigError
from planner.model.dtypes import FLOAT_DTYPES, DType
from planner.model.fields import Fields

NESTED: Final = ("text_config", "llm_config", "language_config", "thinker_config")
"""Sections in which LMDeploy looks for what the top does not have."""
# In this order LMDeploy looks for the maximum length and takes the smallest
# (`lmdeploy/utils.py`, `_get_and_verify_max_len`, 0.18.0).
_LENGTH_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
_MAX_LENGTH_TOKENS = 2**28
_FLAGS = (("bf16", DType.BF16), ("fp16", DType.F16), ("fp32", DType.F32))


_CLASS_OF_TYPE: Final = {"deepseek_vl_v2": "DeepseekVLV2ForCausalLM"}
"""Where published configs name no class (`lmdeploy/pytorch/models/patch.py`, 0.18.0)."""


def read_architecture(fields: Fields, known: Container[str]) -> str:
    """The class that LMDeploy serves: the one that ``auto_map`` names where it is `known`, else the first of
    ``architectures`` (`lmdeploy/pytorch/models/patch.py`, _get_model_class, 0.18.0).

    Raises:
        ConfigError: neither is there.
    """
    if fields.has("auto_map"):
        mapped = fields.section("auto_map").value("AutoModelForCausalLM")
        if isinstance(mapped, str):
            name = mapped.rpartition(".")[2]
            if name in known or not fields.texts("architectures"):
                return name
    kind = fields.value("model_type")
    if not fields.has("architectures") and isinstance(kind, str) and kind in _CLASS_OF_TYPE:
        return _CLASS_OF_TYPE[kind]
    return fields.architecture()


def read_dtype(fields: Fields) -> DType | None:
    """The checkpoint's float type: ``torch_dtype`` (now ``dtype``), at the top or in the language model; None where the
    config does not say it.
    """
    sections = [fields, *(fields.section(name) for name in NESTED if fields.has(name))]
    thinker = sections[-1]
    if thinker.has("text_config"):
        sections.append(thinker.section("text_config"))
    for section in sections:
        for key in ("torch_dtype", "dtype"):
            if section.has(key):
                return FLOAT_DTYPES[section.choice(key, tuple(FLOAT_DTYPES))]
    # Qwen's first generation says it with flags, all false for "what the GPU has"; its files are bfloat16.
    if all(fields.has(flag) for flag, _ in _FLAGS):
        return next((dtype for flag, dtype in _FLAGS if fields.boolean(flag)), DType.BF16)
    return None


def read_max_length_tokens(fields: Fields) -> int:
    """The model's longest session in tokens, as LMDeploy derives its default ``session_len``."""
    lengths = [fields.integer(key, maximum=_MAX_LENGTH_TOKENS) for key in _LENGTH_KEYS if fields.has(key)]
    if not lengths:
        raise ConfigError(
            f"config.json: {fields.key('max_position_embeddings')} is missing; expected the longest sequence in tokens"
        )
    return min(lengths)


def named_layers(fields: Fields, key: str, num_layers: int, known: tuple[str, ...]) -> tuple[str, ...]:
    """A list with one of `known` for each layer; empty where the config has none.

    Raises:
        ConfigError: another word, or not so many.
    """
    types = fields.texts(key)
    if not types:
        return ()
    other = next((kind for kind in types if kind not in known), None)
    if other is not None:
        raise ConfigError(f"config.json: {fields.key(key)} holds {other[:40]!r}; expected {', '.join(known)}")
    if len(types) != num_layers:
        raise ConfigError(
            f"config.json: {fields.key(key)} has {len(types)} entries; expected one for each of the {num_layers} layers"
        )
    return types
