"""The vision tower to the element: class token, positions, tiles."""

from __future__ import annotations

import pytest

from planner.memory.parallelism import Parallelism
from planner.memory.vision_activations import vision_activations
from planner.memory.weights import AllocationKind, vision_plain
from planner.model.arch import read_spec
from planner.model.source import resolve
from planner.model.vision import VisionTower


def tower_of(name: str) -> VisionTower:
    tower = read_spec(resolve(name).config, name).vision
    assert tower is not None
    return tower


def test_a_class_token_stands_before_the_patches() -> None:
    tower = tower_of("internvl2-8b")  # 448 / 14 = 32 patches a side, 1024 wide
    sizes = {a.kind: a.total_bytes for a in vision_plain(tower, Parallelism())}
    assert sizes[AllocationKind.CLASS_TOKEN] == 1024 * 2
    assert sizes[AllocationKind.POSITIONS] == (32 * 32 + 1) * 1024 * 2


def test_activations_of_an_image_count_every_tile_with_its_class_token() -> None:
    tower = tower_of("internvl2-8b")  # 12 tiles and the thumbnail, 16 heads, MLP of 4096
    tokens = 13 * (32 * 32 + 1)
    mlp = tokens * (2 * 1024 + 2 * 4096) * 2
    scores = 2 * 13 * 16 * (32 * 32 + 1) ** 2 * 2
    term = vision_activations(tower)
    assert (term.low_bytes, term.high_bytes) == (mlp, tokens * 6 * 1024 * 2 + scores)


@pytest.mark.parametrize(("max_tiles", "tokens"), [(1, 256), (2, 3 * 256), (12, 13 * 256)])
def test_one_tile_has_no_thumbnail(max_tiles: int, tokens: int) -> None:
    assert tower_of("internvl2-8b")._replace(max_tiles=max_tiles).max_image_tokens == tokens
