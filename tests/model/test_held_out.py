"""Which entries of modules_to_not_convert are about which modules."""

from __future__ import annotations

import pytest

from planner.data import read_json
from planner.errors import UnsupportedModelError
from planner.model import catalog
from planner.model.arch import read_spec
from planner.model.formats import W4A16, divide
from planner.model.held_out import held_out_layers, without_routers
from planner.model.inventory import inventory
from planner.model.quantization import Quantization
from planner.model.tensors import LINEAR_ROLES, Role

LAYERS = tuple(range(12))
EVERY, NONE = frozenset(LAYERS), frozenset[int]()
GATE_PROJ = "model.layers.{layer}.mlp.gate_proj"


@pytest.mark.parametrize(
    ("entry", "module", "layers"),
    [
        ("mlp", GATE_PROJ, EVERY),
        ("gate_proj", GATE_PROJ, EVERY),
        ("gate", GATE_PROJ, EVERY),  # AutoAWQ's substring, where no router has that name
        ("mlp.gate_proj", GATE_PROJ, EVERY),
        ("self_attn", GATE_PROJ, NONE),
        ("lm_head", GATE_PROJ, NONE),
        ("", GATE_PROJ, NONE),
        ("model.layers.0.mlp", GATE_PROJ, {0}),
        ("model.layers.1", GATE_PROJ, {1}),
        ("model.layers.1.", GATE_PROJ, {1}),
        ("layers.11", GATE_PROJ, {11}),
        ("1.mlp.gate_proj", GATE_PROJ, {1}),
        ("model.layers.1.self_attn", GATE_PROJ, NONE),
        ("model.layers.40", GATE_PROJ, NONE),
        ("w1", "model.layers.{layer}.block_sparse_moe.experts.{expert}.w1", EVERY),
        ("experts", "model.layers.{layer}.block_sparse_moe.experts.{expert}.w1", EVERY),
        ("w", "model.layers.{layer}.attention.wqkv", EVERY),
    ],
)
def test_an_entry_is_a_part_of_a_name_with_whole_numbers(entry: str, module: str, layers: set[int]) -> None:
    assert held_out_layers(module, LAYERS, (entry,)) == layers


def test_a_number_that_appears_twice_is_found_where_it_is_whole() -> None:
    assert held_out_layers("model.layers.{layer}.x1.x", (11,), ("1",)) == {11}
    assert held_out_layers("model.layers.{layer}.x.x", (11,), ("1",)) == NONE


@pytest.mark.parametrize(
    ("entry", "kept"),
    [
        ("gate", False),
        ("mlp.gate", False),
        ("3.mlp.gate", False),
        ("model.layers.3.mlp.gate", False),
        ("model.layers.x.mlp.gate", True),
        ("gate_proj", True),
        ("ate", True),
        ("mlp", True),
        ("language_model.model.layers.3.mlp.gate", True),
    ],
)
def test_the_name_of_a_router_is_about_the_router(entry: str, kept: bool) -> None:
    assert bool(without_routers((entry,), ["model.layers.{layer}.mlp.gate"])) == kept


def test_single_experts_are_refused() -> None:
    module = "model.layers.{layer}.mlp.experts.{expert}.up_proj"
    for entry in ("model.layers.0.mlp.experts.3.up_proj", "experts.3"):
        with pytest.raises(UnsupportedModelError, match="single experts"):
            held_out_layers(module, LAYERS, (entry,))
    assert held_out_layers(module, LAYERS, ("model.layers.0.mlp.experts",)) == {0}


@pytest.mark.parametrize("name", ["mixtral-8x7b", "qwen3-30b-a3b", "qwen2-57b-a14b"])
def test_gate_holds_out_no_linear_where_it_is_the_router(name: str) -> None:
    groups = inventory(read_spec(read_json(f"models/{name}.json")["config"], name))
    replaced = list(divide(groups, W4A16))
    assert [group for group, _ in replaced] == list(groups)
    for entry in ("gate", "shared_expert_gate"):
        if entry == "gate" or any(entry in group.name for group in groups):
            assert list(divide(groups, _with(entry))) == replaced


def test_a_group_of_which_a_layer_is_held_out_comes_as_two() -> None:
    entry = catalog.load("llama-3.1-8b")
    assert entry is not None
    groups = inventory(read_spec(entry.config, "x"))
    parts = list(divide(groups, _with("model.layers.7.self_attn.q_proj")))
    queries = [(group.layers, replaced) for group, replaced in parts if ".q_proj." in group.name]
    assert queries == [((7,), False), (tuple(n for n in range(32) if n != 7), True)]
    assert sum(group.num_elements for group, _ in parts) == sum(group.num_elements for group in groups)
    assert not any(replaced for group, replaced in parts if group.role not in LINEAR_ROLES or group.role is Role.ROUTER)


def _with(*entries: str) -> Quantization:
    return W4A16._replace(unquantized=entries)
