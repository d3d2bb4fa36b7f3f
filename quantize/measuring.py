"""From a plan to its measurement: the checkpoint, the case, the run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from planner.api import Plan, estimate
from planner.errors import UsageError
from planner.model import formats
from planner.model.tensors import inventory, size_bytes
from planner.report.jsonform import settings_object
from quantize.local_gpu import local_gpu
from quantize.measure import Case, measure
from quantize.measurement import Measurement
from quantize.synthetic import quantized_config, write_checkpoint

_FULL_BATCH = 64
_PREFILL_TOKENS = 8000


def plan_here(model: str, wishes: dict[str, Any], device: int, limit_bytes: int | None) -> Plan:
    """The estimate for a GPU of this machine, with what is free on it or the limit.

    Raises:
        EnvironmentProblem: no driver or no such GPU.
        LmplanError: whatever `planner.api.estimate` refuses.
    """
    gpu, facts = local_gpu(device)
    free = facts.free_bytes
    if limit_bytes is not None:
        if limit_bytes > free:
            raise UsageError(f"--limit is more than the {free / 2**30:.2f} GiB that are free on GPU {device}")
        free = limit_bytes
    return estimate(model, gpu, free=min(free, gpu.memory_total_bytes), **wishes)


def measure_plan(
    plan: Plan,
    scratch: Path | None,
    *,
    limit_bytes: int | None = None,
    device: int = 0,
    image_pixels: int = 0,
    load_only: bool = False,
    time_limit_s: float = 900.0,
    python: str = "python3",
    tell: Callable[[str], None] = lambda text: None,
    note: str = "",
) -> Measurement:
    """Run what `plan` describes; `scratch` takes an empty checkpoint of its shapes, None serves the model's own folder.

    Raises:
        UsageError: there are no weights on this machine and no `scratch`.
    """
    deployment = plan.memory.deployment
    settings = deployment.settings
    if scratch is not None:
        folder = _empty_checkpoint(plan, scratch / "model")
    elif plan.source.folder is not None and plan.source.checkpoint is not None:
        folder = plan.source.folder
        if settings.quantization != deployment.spec.quantization:
            raise UsageError(
                f"{folder} is not quantized, and --weights w4a16 was asked for",
                "Quantize it first (lmplan quantize), or measure its shapes with --dry-weights",
            )
    else:
        raise UsageError(
            f"the weights of {plan.source.name} are not on this machine", "Measure its shapes: --dry-weights"
        )
    case = Case(
        folder=folder,
        engine=settings.engine,
        settings=_engine_settings(plan),
        prefill_tokens=min(_PREFILL_TOKENS, settings.session_len - 16, settings.max_prefill_token_num - 1),
        full_batch=min(_FULL_BATCH, settings.max_batch_size),
        image_pixels=image_pixels if deployment.spec.vision is not None else 0,
        load_only=load_only,
        limit_bytes=limit_bytes,
        time_limit_s=time_limit_s,
        devices=tuple(range(device, device + settings.tp)),
        python=python,
    )
    config = dict(plan.source.config)
    text = json.dumps(config, sort_keys=True)
    return measure(
        case,
        {
            "name": deployment.spec.name,
            "architecture": deployment.spec.architecture,
            "config": config,
            "config_sha256": hashlib.sha256(text.encode()).hexdigest(),
        },
        {
            "format": settings.quantization.method if settings.quantization else "16-bit",
            "bytes": plan.checkpoint_bytes,
            "synthetic": scratch is not None,
        },
        settings_object(settings),
        note=note,
        tell=tell,
    )


def _empty_checkpoint(plan: Plan, folder: Path) -> Path:
    spec = plan.memory.deployment.spec
    quantization = plan.memory.deployment.settings.quantization
    groups = formats.store(inventory(spec), quantization)
    config = plan.source.config
    if quantization is not None and quantization.method == "awq" and spec.quantization is None:
        config = quantized_config(config, quantization)
    assert size_bytes(groups)
    write_checkpoint(folder, config, groups, fill="sparse")
    return folder


def _engine_settings(plan: Plan) -> dict[str, Any]:
    """Every setting of the plan as the engine's configuration class calls it."""
    settings = plan.memory.deployment.settings
    options: dict[str, Any] = {
        "dtype": settings.dtype.config_name,
        "cache_max_entry_count": settings.cache_max_entry_count,
        "quant_policy": settings.quant_policy,
        "tp": settings.tp,
        "session_len": settings.session_len,
        "max_batch_size": settings.max_batch_size,
        "max_prefill_token_num": settings.max_prefill_token_num,
    }
    if settings.engine == "turbomind" and settings.tp > 1:
        # The other communicators create multicast objects, which can put GPUs that others share out of service.
        options["communicator"] = "nccl"
    return options
