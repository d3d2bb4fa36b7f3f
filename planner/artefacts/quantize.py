"""The recipe that makes the 4-bit checkpoint which a plan serves."""

from __future__ import annotations

from typing import Any

import yaml

from planner.artefacts.deployed import Deployed
from planner.memory.kv_cache import KV_BITS


def quantize_recipe(deployed: Deployed) -> str | None:
    """A recipe for `lmplan quantize`, or None where the plan serves the checkpoint as it is."""
    settings, deployment = deployed.settings, deployed.memory.deployment
    if settings.weights != "w4a16" or deployment.spec.quantization is not None:
        return None
    gpu = deployment.gpu
    place: dict[str, Any] = {"gpu": gpu.name}
    if not gpu.product:
        place |= {"gpu": f"{deployment.free_bytes}B", "sm": gpu.compute_capability}
    recipe: dict[str, Any] = {
        "model": deployed.model,
        "output": deployed.served,
        "method": "awq",
        "bits": 4,
        "group_size": 128,
    }
    if deployed.remote_code:
        recipe["trust_remote_code"] = True
    recipe["deployment"] = {
        **place,
        "num_gpus": settings.tp,
        "engine": settings.engine,
        "lmdeploy": settings.lmdeploy.version,
        "kv_bits": KV_BITS[settings.quant_policy],
        "ratio": settings.cache_max_entry_count,
        "context_tokens": deployed.load.context_tokens,
        "concurrency": deployed.load.num_users,
    }
    return str(yaml.safe_dump(recipe, sort_keys=False))
