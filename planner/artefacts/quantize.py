"""The recipe that makes the 4-bit checkpoint which a plan serves."""

from __future__ import annotations

from typing import Any

from planner.artefacts.deployed import Deployed
from planner.data import read_toml
from planner.kinds import WeightsChoice, assert_never
from planner.lmdeploy.settings import makes_fp8
from planner.memory.kv_cache import KV_BITS


def quantize_recipe(deployed: Deployed) -> str | None:
    """A recipe for `lmplan quantize`, or None where there is nothing to quantize or LMDeploy cannot do it."""
    if not _is_made(deployed):
        return None
    import yaml  # which estimates do without

    settings, deployment = deployed.settings, deployed.memory.deployment
    architecture = deployment.spec.text.architecture
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
    if architecture in read_toml("artefacts.toml")["auto_awq"]["data_free_only"]:
        recipe["calibration"] = {"data_free": True}
    recipe["deployment"] = {
        **place,
        "num_gpus": settings.tp,
        "engine": str(settings.engine),
        "lmdeploy": settings.lmdeploy.version,
        "kv_bits": KV_BITS[settings.quant_policy],
        "ratio": settings.cache_max_entry_count,
        "context_tokens": deployed.load.context_tokens,
        "concurrency": deployed.load.num_users,
    }
    return str(yaml.safe_dump(recipe, sort_keys=False))


def _is_made(deployed: Deployed) -> bool:
    """Whether the plan serves 4-bit weights that LMDeploy makes."""
    spec = deployed.memory.deployment.spec
    if deployed.settings.weights is not WeightsChoice.W4A16 or spec.quantization is not None:
        return False
    known = read_toml("artefacts.toml")["auto_awq"]
    return spec.text.architecture in (*known["calibrate"], *known["data_free_only"])


def first_step(deployed: Deployed) -> str:
    """What has to be done before the plan can be started, in one sentence; empty where nothing has."""
    if _is_made(deployed):
        return (
            f"first make {deployed.served} from {deployed.model} with `lmplan quantize`; "
            "`lmplan recommend --write` writes the recipe"
        )
    return needs_published(deployed)


def needs_published(deployed: Deployed) -> str:
    """What has to be found elsewhere because LMDeploy has no tool that makes it; empty where it has."""
    spec, weights = deployed.memory.deployment.spec, deployed.settings.weights
    if spec.quantization is not None:
        return ""
    match weights:
        case WeightsChoice.AS_IS:
            return ""
        case WeightsChoice.W4A16:
            if _is_made(deployed):
                return ""
            architecture = spec.text.architecture
            return f"LMDeploy's auto_awq does not take {architecture}: this plan needs a published AWQ checkpoint"
        case WeightsChoice.FP8:
            if makes_fp8(deployed.settings.engine) or not deployed.is_folder:
                return ""
            return "LMDeploy writes no fp8 checkpoint for TurboMind: this plan needs a published one in blocks of 128"
        case _:
            assert_never(weights)
