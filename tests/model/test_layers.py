"""Which layers are sparse, and what a decoder's heads and experts may be; test_oracle.py asks transformers the same."""

from __future__ import annotations

from typing import Any

import pytest

from planner.errors import ConfigError
from planner.model.arch import read_spec
from planner.model.layers import MoeMlp
from planner.model.source import resolve
from planner.model.spec import TextModel


def text(name: str, **changes: Any) -> TextModel:
    config = {key: value for key, value in {**resolve(name).config, **changes}.items() if value != "removed"}
    return read_spec(config, name).text


@pytest.mark.parametrize(
    ("changes", "sparse"),
    [
        ({}, (0, 1, 2, 3, 4, 5)),
        ({"decoder_sparse_step": 2}, (1, 3, 5)),
        ({"decoder_sparse_step": 3}, (2, 5)),
        ({"mlp_only_layers": [0, 4]}, (1, 2, 3, 5)),
        ({"decoder_sparse_step": 2, "mlp_only_layers": [3]}, (1, 5)),
        ({"decoder_sparse_step": 7}, ()),
    ],
)
def test_every_layer_is_sparse_that_is_neither_skipped_nor_listed(
    changes: dict[str, Any], sparse: tuple[int, ...]
) -> None:
    model = text("qwen3-30b-a3b", num_hidden_layers=6, **changes)
    found = {isinstance(group.mlp, MoeMlp): group.layers for group in model.layer_groups}
    assert found.get(True, ()) == sparse
    assert found.get(False, ()) == tuple(layer for layer in range(6) if layer not in sparse)


@pytest.mark.parametrize("chosen", [1, 128])
def test_a_router_may_choose_one_expert_or_all(chosen: int) -> None:
    mlp = text("qwen3-30b-a3b", num_experts_per_tok=chosen).layer_groups[0].mlp
    assert isinstance(mlp, MoeMlp)
    assert (mlp.num_experts, mlp.num_experts_per_tok) == (128, chosen)


def test_a_router_may_not_choose_more_experts_than_there_are() -> None:
    with pytest.raises(ConfigError, match="num_experts_per_tok is 129; expected at most the 128 experts"):
        text("qwen3-30b-a3b", num_experts_per_tok=129)


@pytest.mark.parametrize(
    ("name", "hidden_size", "num_heads", "head_dim"),
    [
        ("qwen3-4b", 2560, 32, 128),  # Qwen3Config's default, and not 2560 / 32
        ("qwen2.5-7b", 3584, 28, 128),
        ("qwen2.5-0.5b", 896, 14, 64),
    ],
)
def test_heads_are_as_wide_as_the_family_has_them(name: str, hidden_size: int, num_heads: int, head_dim: int) -> None:
    model = text(name, head_dim="removed")
    attention = model.layer_groups[0].attention
    assert (model.hidden_size, attention.num_heads, attention.head_dim) == (hidden_size, num_heads, head_dim)
