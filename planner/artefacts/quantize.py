"""The recipe that makes the 4-bit checkpoint which a plan serves."""

from __future__ import annotations

from typing import Any

import yaml

from planner.artefacts.deployed import Deployed
from planner.data import read_toml
from planner.lmdeploy.engines import engine_facts
from planner.memory.kv_cache import KV_BITS


def quantize_recipe(deployed: Deployed) -> str | None:
    """A recipe for `lmplan quantize`, or None where there is nothing to quantize or LMDeploy cannot do it."""
    settings, deployment = deployed.settings, deployed.memory.deployment
    if settings.weights != "w4a16" or deployment.spec.quantization is not None:
        return None
    architecture = deployment.spec.text.architecture
    known = read_toml("artefacts.toml")["auto_awq"]
    if architecture not in (*known["calibrate"], *known["data_free_only"]):
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
    if architecture in known["data_free_only"]:
        recipe["calibration"] = {"data_free": True}
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


def needs_published(deployed: Deployed) -> str:
    """What has to be found elsewhere because LMDeploy has no tool that makes it; empty where it has."""
    spec, weights = deployed.memory.deployment.spec, deployed.settings.weights
    if spec.quantization is not None or weights == "as-is":
        return ""
    if weights == "w4a16" and quantize_recipe(deployed) is None:
        return f"LMDeploy's auto_awq does not take {spec.text.architecture}: this plan needs a published AWQ checkpoint"
    if weights == "fp8" and not engine_facts(deployed.settings.engine).quantizes_to_fp8 and deployed.is_folder:
        return "LMDeploy writes no fp8 checkpoint for TurboMind: this plan needs a published one in blocks of 128"
    return ""
