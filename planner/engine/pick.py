"""The engine that plans a deployment."""

from __future__ import annotations

from planner.engine.base import Deployment, Engine
from planner.engine.turbomind.slabs import Turbomind
from planner.lmdeploy.versions import turbomind_rules


def pick_engine(deployment: Deployment) -> Engine:
    """The memory model for the deployment's engine and version."""
    if deployment.settings.engine == "pytorch":
        from planner.engine.pytorch.blocks import PytorchEngine  # each engine is loaded when it plans

        return PytorchEngine(deployment)
    rules = turbomind_rules(deployment.settings.lmdeploy.rules)
    if rules.kv_allocator == "slabs":
        return Turbomind(deployment)
    from planner.engine.turbomind.blocks import TurbomindBlocks

    return TurbomindBlocks(deployment)
