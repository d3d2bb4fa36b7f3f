"""The engine that plans a deployment."""

from __future__ import annotations

from planner.engine.base import Deployment, Engine
from planner.engine.pytorch.blocks import PytorchEngine
from planner.engine.turbomind.blocks import TurbomindBlocks
from planner.engine.turbomind.slabs import Turbomind
from planner.errors import assert_never
from planner.lmdeploy.versions import turbomind_rules


def pick_engine(deployment: Deployment, rank: int = 0) -> Engine:
    """The memory model of one rank of the deployment, for its engine and version."""
    assert 0 <= rank < deployment.settings.parallelism.num_ranks, rank
    settings = deployment.settings
    match settings.engine:
        case "pytorch":
            return PytorchEngine(deployment, rank)
        case "turbomind":
            rules = turbomind_rules(settings.lmdeploy.rules)
            return Turbomind(deployment, rank) if rules.kv_allocator == "slabs" else TurbomindBlocks(deployment, rank)
        case _:
            assert_never(settings.engine)
