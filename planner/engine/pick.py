"""The engine that plans a deployment."""

from __future__ import annotations

from planner.engine.base import Deployment, Engine
from planner.engine.pytorch import PytorchEngine
from planner.engine.turbomind import Turbomind
from planner.engine.turbomind_blocks import TurbomindBlocks
from planner.engine.versions import turbomind_rules


def pick_engine(deployment: Deployment) -> Engine:
    """The memory model for the deployment's engine and version."""
    if deployment.settings.engine == "pytorch":
        return PytorchEngine(deployment)
    rules = turbomind_rules(deployment.settings.lmdeploy.rules)
    return Turbomind(deployment) if rules.kv_allocator == "slabs" else TurbomindBlocks(deployment)
