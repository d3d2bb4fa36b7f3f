"""From a plan to its measurement: the checkpoint, the case, the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from planner.api.estimate import Plan, estimate
from planner.errors import EnvironmentProblem, UsageError
from planner.files.escape import shown
from planner.kinds import EngineName, assert_never
from planner.lmdeploy import options
from planner.model import formats
from planner.model.fingerprint import config_sha256
from planner.model.inventory import inventory
from planner.model.own_code import own_code, some_of
from planner.model.rewrite import quantized_config
from planner.report.jsonform import settings_object
from planner.units import format_gib
from quantize.checkpoint.stand_ins import needs_remote_code
from quantize.checkpoint.synthetic import is_synthetic, write_checkpoint
from quantize.measure.measurement import Measurement
from quantize.measure.run import Case, measure
from quantize.system.local_gpu import local_gpu
from quantize.system.sampler import GPU_INTERVAL_S

_FULL_BATCH = 64
_PREFILL_TOKENS = 8000
_SPARE_TOKENS = 64
"""What a prompt leaves of the KV cache: a block for what is generated."""


def check_version(plan: Plan, installed: str) -> None:
    """Make sure that what will run is what was planned.

    Raises:
        UsageError: it is another version.
    """
    planned = plan.memory.deployment.settings.lmdeploy.version
    if planned != installed:
        raise UsageError(
            f"the plan is for LMDeploy {planned} and {installed} is installed",
            f"Plan with --lmdeploy {installed}, or name another --python",
        )


def plan_here(
    model: str, wishes: dict[str, Any], device: int, limit_bytes: int | None, free_bytes: int | None = None
) -> Plan:
    """The estimate for a GPU of this machine, with what is free on it, or the limit, or `free_bytes`.

    Raises:
        EnvironmentProblem: no driver or no such GPU.
        UsageError: the limit is more than what is free.
        LmplanError: whatever `planner.api.estimate.estimate` refuses.
    """
    gpu, facts = local_gpu(device)
    free = facts.free_bytes if free_bytes is None else free_bytes
    if limit_bytes is not None:
        if limit_bytes > free:
            raise UsageError(f"--limit is more than the {format_gib(free)} that are free on GPU {device}")
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
    decode_batches: tuple[int, ...] = (1, 16),
    sample_interval_s: float = GPU_INTERVAL_S,
    tell: Callable[[str], None] = lambda text: None,
    note: str = "",
    trust_remote_code: bool = False,
) -> Measurement:
    """Run what `plan` describes; `scratch` takes a sparse checkpoint of its shapes, None serves the model's own folder.

    Raises:
        UsageError: there are no weights on this machine and no `scratch`, or the model comes with Python files and
            `trust_remote_code` does not let them run.
        EnvironmentProblem: no GPU, no driver, no LMDeploy, or no room for the scratch folder.
        InterruptedMeasurement: a signal came.
    """
    deployment = plan.memory.deployment
    settings = deployment.settings
    if scratch is None:
        folder = _weights_folder(plan)
        _check_code(plan, folder, trust_remote_code)
    else:
        folder = _sparse_checkpoint(plan, scratch / "model")
    case = Case(
        folder=folder,
        engine=settings.engine,
        settings=_engine_settings(plan),
        prefill_tokens=_prefill_tokens(plan),
        full_batch=min(_FULL_BATCH, settings.max_batch_size),
        image_pixels=image_pixels if deployment.spec.vision is not None else 0,
        load_only=load_only,
        limit_bytes=limit_bytes,
        time_limit_s=time_limit_s,
        devices=tuple(range(device, device + settings.tp)),
        python=python,
        decode_batches=decode_batches,
        sample_interval_s=sample_interval_s,
        # Beside sparse weights lies no code but lmplan's own.
        trust_remote_code=trust_remote_code if scratch is None else needs_remote_code(plan.source.config),
    )
    config = dict(plan.source.config)
    return measure(
        case,
        {
            "name": deployment.spec.name,
            "architecture": deployment.spec.architecture,
            "config": config,
            "config_sha256": config_sha256(config),
        },
        {
            "format": settings.quantization.method.value if settings.quantization else "16-bit",
            "bytes": plan.checkpoint_bytes,
            "synthetic": scratch is not None or is_synthetic(folder),
        },
        settings_object(settings),
        note=note,
        tell=tell,
    )


def _prefill_tokens(plan: Plan) -> int:
    """A long prompt that the session, a step and the planned KV cache take."""
    memory = plan.memory
    settings = memory.deployment.settings
    limits = [_PREFILL_TOKENS, settings.session_len - 16, settings.max_prefill_token_num - 1]
    if memory.kv_cache.tokens:
        limits.append(memory.kv_cache.tokens - _SPARE_TOKENS)
    return max(min(limits), 0)


def _weights_folder(plan: Plan) -> Path:
    """The folder of the model's own weights."""
    deployment = plan.memory.deployment
    folder = plan.source.folder
    if folder is None or plan.source.checkpoint is None:
        raise UsageError(
            f"the weights of {shown(plan.source.name)} are not on this machine", "Measure its shapes: --dry-weights"
        )
    if deployment.settings.quantization != deployment.spec.quantization:
        raise UsageError(
            f"{shown(folder)} is not quantized, and --weights {deployment.settings.weights} was asked for",
            "Quantize it first (lmplan quantize), or measure its shapes with --dry-weights",
        )
    return folder.absolute()


def _check_code(plan: Plan, folder: Path, trusted: bool) -> None:
    """Nothing that came with a model runs unasked."""
    files = () if trusted else own_code(plan.source.config, folder)
    if files:
        raise UsageError(
            f"{shown(plan.source.name)} comes with Python files that would run: {some_of(files)}",
            "Read them, then give --trust-remote-code; --dry-weights measures the shapes without them",
        )


def _sparse_checkpoint(plan: Plan, folder: Path) -> Path:
    spec = plan.memory.deployment.spec
    quantization = plan.memory.deployment.settings.quantization
    groups = formats.store(inventory(spec), quantization)
    config = plan.source.config
    if quantization is not None and spec.quantization is None:
        config = quantized_config(config, quantization)
    try:
        write_checkpoint(folder, config, groups, fill="sparse")
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot write a sparse checkpoint in {folder.parent}: {error.strerror or error}",
            "TMPDIR names another folder; its file system must take sparse files",
        ) from None
    return folder


def _engine_settings(plan: Plan) -> dict[str, Any]:
    """Every setting of the plan as the engine's configuration class calls it."""
    settings = plan.memory.deployment.settings
    config: dict[str, Any] = options.full_config(settings)
    if settings.tp == 1:
        return config
    match settings.engine:
        case EngineName.TURBOMIND:
            # The other communicators create multicast objects, which can put GPUs that others share out of service.
            config["communicator"] = "nccl"
        case EngineName.PYTORCH:
            config["distributed_executor_backend"] = "mp"  # ray, the default, may not be there
        case _:
            assert_never(settings.engine)
    return config
