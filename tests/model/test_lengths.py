"""Keys that families spell in several ways: the longest session and the float type."""

from __future__ import annotations

from typing import Any

import pytest

from planner.errors import ConfigError
from planner.model.arch import read_spec
from planner.model.arch.common import read_dtype, read_max_length_tokens
from planner.model.dtypes import DType
from planner.model.fields import Fields
from planner.model.source import resolve


def test_the_smallest_of_several_lengths_counts() -> None:
    config = resolve("qwen-7b-chat").config
    assert (config["max_position_embeddings"], config["seq_length"]) == (32768, 8192)
    assert read_spec(config, "qwen-7b-chat").text.max_position_embeddings == 8192
    assert read_max_length_tokens(Fields({"max_seq_len": 9, "seq_length": 7, "n_positions": 8})) == 7


def test_a_length_that_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match=r"llm_config\.max_position_embeddings is missing"):
        read_max_length_tokens(Fields({}, "llm_config"))


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ({"torch_dtype": "float16"}, DType.F16),
        ({"dtype": "bfloat16"}, DType.BF16),
        ({"torch_dtype": "float16", "text_config": {"torch_dtype": "bfloat16"}}, DType.F16),
        ({"llm_config": {"torch_dtype": "float32"}}, DType.F32),
        ({"bf16": True, "fp16": False, "fp32": False}, DType.BF16),
        ({"bf16": False, "fp16": True, "fp32": False}, DType.F16),
        # modeling_qwen.py: none of them set is what the GPU has, and the published files are bfloat16.
        ({"bf16": False, "fp16": False, "fp32": False}, DType.BF16),
    ],
)
def test_the_float_type_under_each_of_its_names(values: dict[str, Any], dtype: DType) -> None:
    assert read_dtype(Fields(values)) is dtype


def test_a_float_type_that_the_config_does_not_say_is_none_of_it() -> None:
    assert read_dtype(Fields({"bf16": True, "fp16": False})) is None
