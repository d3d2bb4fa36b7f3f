"""Keys that every family shares."""

from __future__ import annotations

from planner.errors import ConfigError
from planner.model.dtypes import FLOAT_DTYPES, DType
from planner.model.fields import Fields

_NESTED = ("text_config", "llm_config")
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


def read_dtype(fields: Fields) -> DType:
    """The checkpoint's float type: ``torch_dtype`` (now ``dtype``), at the top or in the language model."""
    sections = [fields, *(fields.section(name) for name in _NESTED if fields.has(name))]
    for section in sections:
        for key in ("torch_dtype", "dtype"):
            if section.has(key):
                return FLOAT_DTYPES[section.choice(key, tuple(FLOAT_DTYPES))]
    # Qwen's first generation says it with flags, all false for "what the GPU has"; its files are bfloat16.
    if all(fields.has(flag) for flag, _ in _FLAGS):
        return next((dtype for flag, dtype in _FLAGS if fields.boolean(flag)), DType.BF16)
    raise ConfigError(f"config.json: torch_dtype is missing; expected one of {', '.join(FLOAT_DTYPES)}")


def read_max_length_tokens(fields: Fields) -> int:
    """The model's longest session in tokens, as LMDeploy derives its default ``session_len``."""
    lengths = [fields.integer(key, maximum=_MAX_LENGTH_TOKENS) for key in _LENGTH_KEYS if fields.has(key)]
    if not lengths:
        raise ConfigError(
            f"config.json: {fields.key('max_position_embeddings')} is missing; expected the longest sequence in tokens"
        )
    return min(lengths)
