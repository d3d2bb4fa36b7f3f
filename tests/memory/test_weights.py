"""Weights on the GPU against the inventory of the checkpoint."""

from __future__ import annotations

import pytest

from planner.memory import weights
from planner.memory.linears import LinearKind
from planner.memory.parallelism import Parallelism, Sharding
from planner.model import catalog
from planner.model.arch import read_spec
from planner.model.formats import W4A16
from planner.model.inventory import inventory
from planner.model.spec import ModelSpec
from planner.model.tensors import VISION_ROLES, size_bytes

WHOLE = Sharding(Parallelism(1), True, True, 8, 1)


def spec_of(name: str) -> ModelSpec:
    entry = catalog.load(name)
    assert entry is not None
    return read_spec(entry.config, name)


def held_bytes(spec: ModelSpec, sharding: Sharding) -> int:
    plain = sum(allocation.total_bytes for allocation in weights.text_plain(spec.text, sharding))
    linears = weights.text_linears(spec.text, None, sharding)
    return plain + sum(weights.plain_linear(linear).total_bytes for linear in linears)


NAMES = ["internlm2_5-7b", "llama-3.1-8b", "qwen2.5-1.5b", "qwen2.5-7b", "qwen3-8b", "qwen3-30b-a3b", "mixtral-8x7b"]


@pytest.mark.parametrize("name", [*NAMES, "qwen2-57b-a14b"])
def test_one_gpu_holds_the_checkpoint_and_a_second_table_where_they_are_tied(name: str) -> None:
    spec = spec_of(name)
    text = spec.text
    second_table = text.vocab_size * text.hidden_size * 2 if text.tie_word_embeddings else 0
    assert held_bytes(spec, WHOLE) == size_bytes(inventory(spec)) + second_table


# 12 and 28 heads cannot be shared by 8 ranks: the engine refuses that.
NOT_BY_EIGHT = {"qwen2.5-1.5b", "qwen2.5-7b"}


@pytest.mark.parametrize(
    ("name", "tp"),
    [(name, tp) for name in (*NAMES, "llama-3.1-70b") for tp in (2, 4, 8) if tp < 8 or name not in NOT_BY_EIGHT],
)
def test_ranks_together_hold_at_least_the_whole(name: str, tp: int) -> None:
    spec = spec_of(name)
    sharding = Sharding(Parallelism(tp), True, True, 8, 64)
    assert tp * held_bytes(spec, sharding) >= held_bytes(spec, WHOLE)


def test_every_linear_of_a_layer_is_packed_and_nothing_else() -> None:
    packed = {
        linear.kind for linear in weights.text_linears(spec_of("qwen3-30b-a3b").text, W4A16, WHOLE) if linear.quantized
    }
    assert packed == {
        LinearKind.QKV,
        LinearKind.OUTPUT,
        LinearKind.EXPERT_GATE_UP,
        LinearKind.EXPERT_DOWN,
    }


def test_an_intermediate_size_is_padded_for_all_ranks_at_once() -> None:
    # Qwen2.5-7B has 18944 = 148 x 128, which two groups of 128 divide and eight do not.
    assert Sharding(Parallelism(2), True, True, 8, 128).padded(18944) == 18944
    assert Sharding(Parallelism(8), True, True, 8, 128).padded(18944) == 19456
    assert Sharding(Parallelism(8), True, True, 8, 1).padded(18944) == 18944


def test_a_cut_head_is_padded_to_eight_rows_a_rank() -> None:
    text = spec_of("internlm2_5-7b").text  # 92544 rows
    assert Sharding(Parallelism(8), True, True, 8, 1).head_rows(text.vocab_size) == 92544
    assert Sharding(Parallelism(8), True, True, 64, 1).head_rows(text.vocab_size) == 92672
    assert Sharding(Parallelism(8), True, False, 64, 1).head_rows(text.vocab_size) == 92544


@pytest.mark.parametrize("name", ["internvl2-26b", "internvl3-8b", "internvl2_5-38b"])
def test_the_vision_tower_is_that_of_the_checkpoint(name: str) -> None:
    spec = spec_of(name)
    assert spec.vision is not None
    held = sum(allocation.total_bytes for allocation in weights.vision_plain(spec.vision, Parallelism()))
    held += sum(
        weights.plain_linear(linear).total_bytes for linear in weights.vision_linears(spec.vision, Parallelism())
    )
    stored = size_bytes(tuple(group for group in inventory(spec) if group.role in VISION_ROLES))
    assert held == stored
