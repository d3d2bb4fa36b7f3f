"""Steps of ranks, warm-ups at the edge, the least number of blocks, and what each rank holds."""

from __future__ import annotations

from typing import Any

import pytest

from planner import estimate
from planner.engine.base import Deployment
from planner.engine.pick import pick_engine
from planner.engine.turbomind import warmup
from planner.engine.turbomind.slabs import Turbomind
from planner.units import GIB


def deployment(model: str, gpu: str = "a100-80g", **options: Any) -> Deployment:
    return estimate(model, gpu, **options).memory.deployment


@pytest.mark.parametrize(
    ("tp", "batch", "lmdeploy", "tokens"),
    [
        (1, 129, "0.18.0", 8321),
        (2, 129, "0.18.0", 8322),
        (4, 129, "0.18.0", 8324),
        (4, 128, "0.18.0", 8320),
        (4, 129, "0.10.2", 8324),
        (4, 129, "0.5.3", 8321),
    ],
)
def test_a_step_is_shared_evenly_by_the_ranks(tp: int, batch: int, lmdeploy: str, tokens: int) -> None:
    engine = pick_engine(deployment("llama-3.1-8b", tp=tp, max_batch_size=batch, lmdeploy=lmdeploy))
    assert isinstance(engine, Turbomind)
    assert engine.max_step_tokens == tokens


@pytest.mark.parametrize(
    ("cache_tokens", "stalled"), [(6143, 6144), (6144, 8192), (8191, 8192), (8192, 8320), (8319, 8320), (8320, None)]
)
def test_a_warm_up_that_fills_the_cache_to_the_token_runs(cache_tokens: int, stalled: int | None) -> None:
    assert warmup.stalls_at(8320, 32768, cache_tokens) == stalled
    assert warmup.longest(8320, 32768, cache_tokens) == max(n for n in (4096, 6144, 8192, 8320) if n <= cache_tokens)


def test_the_pytorch_engine_starts_from_three_blocks() -> None:
    engine = pick_engine(deployment("llama-3.1-8b", "h200", engine="pytorch", cache_max_entry_count=0.5))
    block = engine.kv_cache(20 * GIB).block_bytes
    reserve = engine.kv_reserve_bytes()
    for blocks, usable in ((1, 0), (2, 0), (3, 2), (4, 3)):
        kv = engine.kv_cache(reserve + 2 * blocks * block)
        assert (kv.blocks, kv.tokens) == (blocks if usable else 0, usable * 64)


@pytest.mark.parametrize(
    ("model", "lmdeploy", "tower_shared"), [("internvl2-8b", "0.18.0", True), ("internvl2-8b", "0.10.2", False)]
)
def test_the_first_rank_holds_most(model: str, lmdeploy: str, tower_shared: bool) -> None:
    shared = deployment(model, lmdeploy=lmdeploy, tp=2)
    first, second = (pick_engine(shared, rank) for rank in range(2))
    held = [{term.name: term.size_bytes for term in engine.before_kv()} for engine in (first, second)]
    assert held[0]["weights"] == held[1]["weights"]
    assert (held[0].get("vision_tower") == held[1].get("vision_tower")) == tower_shared
    assert ("vision_tower" in held[1]) == tower_shared
    assert first.load_staging().size_bytes > second.load_staging().size_bytes == 0
    with pytest.raises(AssertionError):
        pick_engine(shared, 2)
