"""InternVL's keys of tiles and pixel shuffle, at their edges."""

from __future__ import annotations

from typing import Any

import pytest

from planner.errors import ConfigError
from planner.model.arch import read_spec
from planner.model.source import resolve
from planner.model.spec import VisionTower


def tower(**changes: Any) -> VisionTower:
    """InternVL2-8B's, 448 pixels in patches of 14, with other keys at the top of its config."""
    vision = read_spec({**resolve("internvl2-8b").config, **changes}, "internvl2-8b").vision
    assert vision is not None
    return vision


def test_an_image_takes_every_tile_and_the_thumbnail() -> None:
    assert tower().tokens_per_tile == (448 // 14 // 2) ** 2 == 256
    assert tower().max_image_tokens == 13 * 256
    assert tower(max_dynamic_patch=2).max_image_tokens == 3 * 256


@pytest.mark.parametrize("changes", [{"max_dynamic_patch": 1}, {"dynamic_image_size": False}])
def test_a_single_tile_needs_no_thumbnail(changes: dict[str, Any]) -> None:
    assert tower(**changes).max_tiles == 1
    assert tower(**changes).max_image_tokens == 256


@pytest.mark.parametrize(("ratio", "factor"), [(1, 1), (1.0, 1), (0.5, 2), (0.25, 4), (0.0625, 16)])
def test_pixel_shuffle_is_one_over_the_ratio(ratio: float, factor: int) -> None:
    assert tower(downsample_ratio=ratio).pixel_shuffle == factor


@pytest.mark.parametrize("ratio", [0.49, 0.51, 0.5001, 0.9, 0.3])
def test_a_ratio_that_is_not_one_over_a_whole_number_is_refused(ratio: float) -> None:
    with pytest.raises(ConfigError, match="expected one over a whole number"):
        tower(downsample_ratio=ratio)


@pytest.mark.parametrize("ratio", [1 / 3, 0.2])
def test_a_ratio_that_does_not_divide_the_patches_is_refused(ratio: float) -> None:
    with pytest.raises(ConfigError, match="does not divide the 32 patches of a side"):
        tower(downsample_ratio=ratio)
