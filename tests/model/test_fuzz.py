"""Configs that went wrong somewhere: each is planned, or refused in one line that names a key."""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from planner.errors import ConfigError, LmplanError
from planner.model import catalog
from planner.model.arch.registry import READERS, read_spec
from planner.model.formats import choose, store
from planner.model.inventory import inventory
from planner.model.quantization import QuantMethod
from planner.model.tensors import num_parameters, size_bytes
from tests.examples import examples

ONE_OF_EACH = (
    "llama-3.1-8b",
    "mistral-7b-v0.1",
    "qwen2.5-7b",
    "qwen3-0.6b",
    "qwen3-8b-fp8",
    "qwen3-30b-a3b",
    "qwen2-57b-a14b",
    "mixtral-8x7b",
    "internlm-20b",
    "internlm2_5-7b",
    "qwen-7b-chat",
    "internvl2-26b",
    "internvl3-1b",
    "internvl3-8b-hf",
    "deepseek-v3-0324",
    "glm-5.2",
    "glm-4.5",
    "glm-4-9b",
    "glm-4-9b-0414",
    "qwen3-coder-next",
    "gpt-oss-20b",
    "gemma-3-1b",
    "phi-4-mini",
    "phi-3.5-moe",
    "minicpm3-4b",
    "hy3-preview",
    "intern-s1",
)
REFUSED = (
    "qwen3.5-35b-a3b",
    "llama-4-maverick",
    "kimi-k2.5",
    "gemma-3-4b",
    "glm-4.1v-9b-thinking",
    "qwen2.5-vl-3b",
    "deepseek-v2-lite",
)
"""Refused once the language model is read: a tower that is not planned, a side that groups of 128 do not divide."""
EXTRA = {
    # Keys that only some configs have, so that every reader meets them.
    "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True},
    "mlp_only_layers": [0, 1],
    "decoder_sparse_step": 2,
    "head_dim": 128,
    "attention_bias": True,
    "seq_length": 2048,
}
# 4000 digits: Python's json reads no more than 4300.
NUMBERS = [0, 1, -1, 2, 3, 7, 127, 128, 4096, 2**14, 2**14 + 1, 2**24, 2**24 + 1, 2**31, 2**63, 10**4000, -(10**4000)]
ODD = st.one_of(
    st.sampled_from([*NUMBERS, *map(float, NUMBERS[:12])]),
    st.sampled_from([None, True, False, "", "x", "4096", "bfloat16", "float8", "rms_norm", "gptq", "fp8", "\n", "\0"]),
    st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e308, 0.5, 1 / 3]),
    st.sampled_from(
        [
            [],
            {},
            [[]],
            [{}],
            {"a": {"b": [1]}},
            [0] * 3,
            [448, 448],
            [448, 0],
            ["a"],
            ["\n"],
            ["x" * 9999],
            [None],
            [2**70],
        ]
    ),
    st.sampled_from([[name] for name in READERS]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=12,
    ),
)


def base(name: str) -> dict[str, Any]:
    entry = catalog.load(name)
    assert entry is not None
    return entry.config


def places(config: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Every object of a config with each of its keys."""
    found = [(config, key) for key in config]
    for value in config.values():
        if isinstance(value, dict):
            found += places(value)
    return found


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    config = copy.deepcopy(base(draw(st.sampled_from((*ONE_OF_EACH, *REFUSED)))))
    for key in draw(st.lists(st.sampled_from(sorted(EXTRA)), max_size=2)):
        config[key] = copy.deepcopy(EXTRA[key])
    for _ in range(draw(st.integers(1, 4))):
        all_places = places(config)
        if not all_places:
            break
        holder, key = draw(st.sampled_from(all_places))
        if draw(st.booleans()):
            holder[key] = copy.deepcopy(draw(ODD))
        else:
            del holder[key]
    return config


def plan(config: dict[str, Any]) -> None:
    """All that is computed of a config before an engine has its say."""
    spec = read_spec(config, "fuzzed")
    groups = inventory(spec)
    assert num_parameters(groups) > 0
    assert size_bytes(store(groups, spec.quantization)) > 0
    if spec.quantization is None or spec.quantization.method in (QuantMethod.AWQ, QuantMethod.GPTQ):
        assert size_bytes(store(groups, choose(spec, "w4a16"))) > 0
    assert spec.text.num_layers > 0
    assert spec.text.max_position_embeddings > 0
    if spec.vision is not None:
        assert spec.vision.max_image_tokens > 0


KEYS = {key for name in (*ONE_OF_EACH, *REFUSED) for _, key in places(base(name))} | {
    *EXTRA,
    "torch_dtype",
    "weight_block_size",
    "desc_act",
    "modules_to_not_convert",
}


def check(config: dict[str, Any]) -> None:
    try:
        plan(config)
    except LmplanError as error:
        for line in (error.message, error.hint):
            assert "\n" not in line
            assert len(line) < 700
        assert error.exit_code in (2, 4)
        if isinstance(error, ConfigError):
            assert error.message.startswith("config.json: ")
            assert any(key in error.message for key in KEYS), error.message


def test_the_unmutated_configs_are_planned() -> None:
    for name in ONE_OF_EACH:
        config = base(name)
        plan(config if "dtype" in str(config) else {**config, "torch_dtype": "bfloat16"})


# A second is a hundred times what one takes: only a loop over an unchecked number gets there.
@settings(max_examples=examples(1500), deadline=timedelta(seconds=5), suppress_health_check=[HealthCheck.too_slow])
@given(mutated())
def test_a_mutated_config(config: dict[str, Any]) -> None:
    check(config)


@settings(max_examples=examples(300), deadline=timedelta(seconds=5))
@given(st.sampled_from(ONE_OF_EACH), st.data())
def test_one_wrong_value_at_a_time(name: str, data: st.DataObject) -> None:
    config = copy.deepcopy(base(name))
    holder, key = data.draw(st.sampled_from(places(config)))
    holder[key] = data.draw(ODD)
    check(config)


@settings(max_examples=examples(300))
@given(st.dictionaries(st.sampled_from(["architectures", "hidden_size", "vision_config", "text_config"]), ODD))
def test_hardly_a_config(config: dict[str, Any]) -> None:
    check(config)
