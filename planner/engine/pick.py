"""The engine that plans a deployment."""

from __future__ import annotations

from planner.engine.base import Deployment, Engine
from planner.engine.turbomind.slabs import Turbomind
from planner.kinds import EngineName, assert_never
from planner.lmdeploy.versions import turbomind_rules
from planner.lmdeploy.words import KvAllocator


def pick_engine(deployment: Deployment, rank: int = 0) -> Engine:
    """The memory model of one rank of the deployment, for its engine and version. Each is loaded when it plans."""
    assert 0 <= rank < deployment.settings.parallelism.num_ranks, rank
    settings = deployment.settings
    match settings.engine:
        case EngineName.PYTORCH:
            from planner.engine.pytorch.blocks import PytorchEngine

            return PytorchEngine(deployment, rank)
        case EngineName.TURBOMIND:
            return _turbomind(deployment, rank, turbomind_rules(settings.lmdeploy.rules).kv_allocator)
        case _:
            assert_never(settings.engine)


def _turbomind(deployment: Deployment, rank: int, allocator: KvAllocator) -> Engine:
    match allocator:
        case KvAllocator.SLABS:
            return Turbomind(deployment, rank)
        case KvAllocator.BLOCKS:
            from planner.engine.turbomind.blocks import TurbomindBlocks

            return TurbomindBlocks(deployment, rank)
        case _:
            assert_never(allocator)
