"""Defaults filled in, and what LMDeploy would refuse refused."""

from __future__ import annotations

from typing import Any

import pytest

from planner.errors import LmplanError, UnsupportedModelError, UsageError
from planner.hardware.gpu import find_gpu
from planner.lmdeploy import versions
from planner.lmdeploy.settings import Request, Settings, decide
from planner.model import catalog
from planner.model.arch import read_spec
from planner.model.dtypes import DType


def settings(
    model: str = "llama-3.1-8b", gpu: str = "a100-80g", lmdeploy: str | None = None, **wishes: Any
) -> Settings:
    entry = catalog.load(model)
    assert entry is not None
    return decide(read_spec(entry.config, model), find_gpu(gpu), versions.resolve(lmdeploy), Request(**wishes))


def test_defaults_are_those_of_the_version_and_the_gpu() -> None:
    new, old = settings(), settings(lmdeploy="0.5.3")
    assert (new.engine, new.cache_max_entry_count, new.max_prefill_token_num) == ("turbomind", 0.8, 8192)
    assert (new.max_batch_size, old.max_batch_size) == (384, 128)
    assert (new.session_len, old.session_len) == (131_072, 131_080)
    assert new.dtype is DType.BF16


@pytest.mark.parametrize(
    ("gpu", "options", "dtype"),
    [
        ("v100-32g", {}, DType.F16),
        ("t4", {"dtype": "bfloat16"}, DType.F16),
        ("a100-80g", {"dtype": "float16"}, DType.F16),
        ("a100-80g", {"lmdeploy": "0.5.3", "weights": "w4a16"}, DType.F16),
        ("a100-80g", {"engine": "pytorch", "weights": "w4a16"}, DType.F16),
    ],
)
def test_the_type_of_the_activations(gpu: str, options: dict[str, Any], dtype: DType) -> None:
    chosen = settings(gpu=gpu, **options)
    assert chosen.dtype is dtype
    if options.get("dtype") != "float16":
        assert any("fp16" in note for note in chosen.notes)


def test_a_family_that_turbomind_dropped_falls_back_to_pytorch_and_says_so() -> None:
    chosen = settings("mistral-7b-v0.1")
    assert chosen.engine == "pytorch"
    assert any("falls back" in note for note in chosen.notes)


@pytest.mark.parametrize(
    ("wishes", "error", "message"),
    [
        ({"cache_max_entry_count": 1.0}, UsageError, "between 0 and 1"),
        ({"cache_max_entry_count": float("nan")}, UsageError, "between 0 and 1"),
        ({"quant_policy": 2}, UsageError, "expected one of 0, 4, 8"),
        ({"tp": 0}, UsageError, "--tp is 0"),
        ({"tp": 3}, UsageError, "does not divide the hidden size"),
        ({"tp": 64}, UsageError, "does not divide the 32 attention heads"),
        ({"engine": "vllm"}, UsageError, "expected one of turbomind, pytorch"),
        ({"dtype": "float64"}, UsageError, "expected auto, float16 or bfloat16"),
        ({"max_batch_size": 0}, UsageError, "--max-batch-size is 0"),
        ({"session_len": 2**40}, UsageError, "--session-len is"),
        ({"lmdeploy": "0.5.3", "tp": 16}, UsageError, "does not repeat them"),
    ],
)
def test_what_cannot_be_used_as_given(wishes: dict[str, Any], error: type[LmplanError], message: str) -> None:
    with pytest.raises(error, match=message):
        settings(**wishes)


@pytest.mark.parametrize(
    ("model", "gpu", "wishes", "message"),
    [
        ("qwen2.5-0.5b", "a100-80g", {"lmdeploy": "0.5.3"}, "no attention kernels for head_dim 64"),
        ("llama-3.1-8b", "v100-32g", {"lmdeploy": "0.5.3", "weights": "w4a16"}, "needs compute capability 7.5"),
        ("qwen3-8b", "a100-80g", {"lmdeploy": "0.5.3"}, "does not take Qwen3ForCausalLM"),
        ("qwen3-8b", "a100-80g", {"lmdeploy": "0.5.3", "engine": "turbomind"}, "does not take Qwen3ForCausalLM"),
        ("qwen3-30b-a3b", "h200", {"engine": "pytorch", "weights": "w4a16"}, "does not serve AWQ experts"),
    ],
)
def test_what_the_engine_does_not_take(model: str, gpu: str, wishes: dict[str, Any], message: str) -> None:
    from planner.engine.base import Deployment
    from planner.engine.pick import pick_engine

    entry = catalog.load(model)
    assert entry is not None
    spec = read_spec(entry.config, model)
    with pytest.raises(UnsupportedModelError, match=message):
        chosen = settings(model, gpu, **wishes)
        pick_engine(Deployment(spec, find_gpu(gpu), find_gpu(gpu).memory_total_bytes, chosen))


def test_ranks_may_outnumber_heads_where_the_version_repeats_them() -> None:
    assert settings("qwen2.5-7b", tp=4, lmdeploy="0.5.3").tp == 4  # 4 key-value heads
    with pytest.raises(UsageError, match="does not repeat them"):
        settings("qwen2.5-1.5b", tp=4, lmdeploy="0.5.3")  # 2 key-value heads
    assert settings("qwen2.5-1.5b", tp=4).tp == 4
