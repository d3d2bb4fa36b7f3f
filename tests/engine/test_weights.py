"""What is remembered of the weights equals what is computed afresh."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from planner.api.estimate import estimate
from planner.engine.base import Deployment
from planner.engine.pick import pick_engine
from planner.engine.pytorch import weights as pytorch_weights
from planner.engine.turbomind import packing, weights
from planner.footprint import MemoryEstimate, estimate_memory
from planner.hardware.gpu import find_gpu
from planner.lmdeploy import versions
from planner.lmdeploy.settings import Request, decide
from planner.memory.terms import Term
from planner.model import catalog
from planner.model.arch import read_spec


def _deployments() -> Iterator[Deployment]:
    for model in ("internlm2_5-7b", "qwen3-30b-a3b", "internvl2-26b", "qwen2.5-1.5b"):
        entry = catalog.load(model)
        assert entry is not None
        spec = read_spec(entry.config, model)
        for version in ("0.18.0", "0.15.0"):
            for gpu in (find_gpu("a100-80g"), find_gpu("h200")):
                for wishes in (Request(), Request(weights="w4a16", tp=2), Request(quant_policy=8, max_batch_size=4)):
                    settings = decide(spec, gpu, versions.resolve(version), wishes)
                    yield Deployment(spec, gpu, gpu.memory_total_bytes, settings)


def test_estimates_are_the_same_without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    remembered = [estimate_memory(deployment) for deployment in _deployments()]
    monkeypatch.setattr("planner.engine.turbomind.slabs.weights_of", weights.TurbomindWeights)
    monkeypatch.setattr("planner.engine.turbomind.conversion.replay", packing.replay.__wrapped__)
    afresh: list[MemoryEstimate] = [estimate_memory(deployment) for deployment in _deployments()]
    assert afresh == remembered


def test_what_is_remembered_is_bounded() -> None:
    for remembered in (weights.weights_of, pytorch_weights.weights_of, packing.replay):
        assert remembered.cache_info().maxsize


def test_older_engines_replay_nothing() -> None:
    entry = catalog.load("internlm2_5-7b")
    assert entry is not None
    gpu, spec = find_gpu("a100-80g"), read_spec(entry.config, "internlm2_5-7b")
    settings = decide(spec, gpu, versions.resolve("0.5.3"), Request(weights="w4a16"))
    packing.replay.cache_clear()
    estimate_memory(Deployment(spec, gpu, gpu.memory_total_bytes, settings))
    assert packing.replay.cache_info().misses == 0


def test_the_gpu_is_part_of_the_key_under_the_pytorch_engine() -> None:
    def packed(gpu: str) -> Term:
        plan = estimate("qwen2.5-7b", gpu, engine="pytorch", weights="w4a16")
        return next(term for term in plan.memory.terms if term.name == "packed_copy")

    here, there, again = packed("h200"), packed("a100-80g"), packed("h200")
    assert here == again != there
    assert (here.evidence.kind, there.evidence.kind) == ("formula", "assumed")


def test_one_computation_for_one_key() -> None:
    deployment = next(_deployments())
    weights.weights_of.cache_clear()
    for free_bytes in (deployment.free_bytes, deployment.free_bytes // 2):
        estimate_memory(deployment._replace(free_bytes=free_bytes))
    assert weights.weights_of.cache_info().misses == 1


def test_the_version_is_part_of_the_key() -> None:
    # Vision towers moved into the engine in 0.16: the same rules otherwise, other bytes under tensor parallelism.
    entry = catalog.load("internvl2-26b")
    assert entry is not None
    spec, gpu = read_spec(entry.config, "internvl2-26b"), find_gpu("a100-80g")
    sizes = set()
    for version in ("0.15.0", "0.16.0"):
        settings = decide(spec, gpu, versions.resolve(version), Request(tp=2))
        engine = pick_engine(Deployment(spec, gpu, gpu.memory_total_bytes, settings))
        sizes.add(next(term.size_bytes for term in engine.before_kv() if term.name == "vision_tower"))
    assert len(sizes) == 2
