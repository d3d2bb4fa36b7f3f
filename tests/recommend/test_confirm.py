"""A start is confirmed by the leanest settings of its option alone: the search, which an estimate skips, agrees."""

from __future__ import annotations

import pytest

from planner.advise.candidates import Offer, Option
from planner.advise.search import Search
from planner.advise.weighing import Scales
from planner.errors import LmplanError
from planner.hardware.gpu import find_gpu
from planner.kinds import WeightsChoice
from planner.lmdeploy import versions
from planner.model.arch import read_spec
from planner.model.source import resolve
from planner.request import Load, default_images
from planner.units import GIB

MODELS = ("qwen2.5-0.5b", "internlm2_5-7b", "internvl3-2b", "qwen3-30b-a3b")
FREE_GIB = (2, 5, 8, 12, 16, 17, 20, 24, 48, 70)


@pytest.mark.parametrize("lmdeploy", ["0.18.0", "0.10.2", "0.7.3"])
@pytest.mark.parametrize("model", MODELS)
def test_the_leanest_settings_serve_where_the_search_finds_any(model: str, lmdeploy: str) -> None:
    source = resolve(model)
    spec, gpu, version = read_spec(source.config, source.name), find_gpu("a100-80g"), versions.resolve(lmdeploy)
    answers = []
    for free_gib in FREE_GIB:
        offer = Offer(gpu, free_gib * GIB)
        for option in (Option(1, WeightsChoice.AS_IS, 0), Option(1, WeightsChoice.W4A16, 8)):
            for context_tokens in (2048, 8192):
                load = Load(context_tokens, num_users=1, num_images=default_images(spec, context_tokens))
                found = Search(spec, offer, version).serve(option, load)
                scales = Scales(spec, offer, version)
                try:
                    leanest = scales.weigh(option, scales.ladder(load).leanest, load)
                except LmplanError:
                    assert found is None
                    continue
                assert leanest.serves == (found is not None)
                if found is not None:
                    assert leanest.image_bytes == found.image_bytes
                answers.append(leanest.serves)
    assert set(answers) == {True, False}
