"""The engine that plans a deployment."""

from __future__ import annotations

from planner.engine.base import Deployment, Engine
from planner.engine.pytorch.blocks import PytorchEngine
from planner.engine.turbomind.blocks import TurbomindBlocks
from planner.engine.turbomind.slabs import Turbomind
from planner.kinds import EngineName, assert_never
from planner.lmdeploy.versions import turbomind_rules
from planner.lmdeploy.words import KvAllocator


def pick_engine(deployment: Deployment) -> Engine:
    """The memory model for the deployment's engine and version."""
    settings = deployment.settings
    match settings.engine:
        case EngineName.PYTORCH:
            return PytorchEngine(deployment)
        case EngineName.TURBOMIND:
            return _turbomind(deployment, turbomind_rules(settings.lmdeploy.rules).kv_allocator)
        case _:
            assert_never(settings.engine)


def _turbomind(deployment: Deployment, allocator: KvAllocator) -> Engine:
    match allocator:
        case KvAllocator.SLABS:
            return Turbomind(deployment)
        case KvAllocator.BLOCKS:
            return TurbomindBlocks(deployment)
        case _:
            assert_never(allocator)
