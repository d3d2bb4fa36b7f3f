"""Read a server that runs already: what its process holds, what it says of itself."""

from __future__ import annotations

import http.client
import json
import re
import urllib.request
from typing import Any

from planner.clock import today
from planner.errors import EnvironmentProblem, UsageError
from quantize.measure.measurement import Measurement, Reading
from quantize.system.machine import process_tree
from quantize.system.nvml import Nvml

_TIMEOUT_S = 10.0
_MOST_BYTES = 1 << 22
_USAGE = re.compile(r"^lmdeploy:gpu_cache_usage_perc(?:\{[^}]*\})? ([0-9.eE+-]+)", re.M)


def attach(url: str, pid: int | None, device: int) -> Measurement:
    """Ask the server at `url` and the driver; nothing is started and nothing is sent to the model.

    Raises:
        UsageError: not an http address.
        EnvironmentProblem: no answer, no driver, or the process holds nothing on the device.
    """
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"--url is {url!r}; expected an address such as http://localhost:23333")
    base = url.rstrip("/")
    model = _models(base)
    nvml = Nvml()
    facts = nvml.facts(device)
    # Workers of a tensor-parallel server are children of the process that listens.
    used = nvml.process_bytes(device, set(process_tree(pid))) if pid is not None else None
    if pid is not None and used is None:
        raise EnvironmentProblem(
            f"the driver does not say what process {pid} holds on GPU {device}",
            "Inside containers it often cannot; leave --pid out to read the whole device",
        )
    whole = used is None
    size = facts.used_bytes - facts.idle_bytes if used is None else used
    log: dict[str, Any] = {}
    blocks = _engine_blocks(base)
    if blocks is not None:
        log["blocks"] = blocks
    usage = _usage(base)
    what = f"GPU {device} as a whole" if whole else f"process {pid}"
    note = f"{model} at {base}: {what} holds {size / 2**30:.2f} GiB" + (
        f", {usage:.1%} of its KV cache in use" if usage is not None else ""
    )
    return Measurement(
        complete=True,
        outcome="serves",
        host={
            "product": facts.product,
            "memory_total_bytes": facts.memory_total_bytes,
            "driver": facts.driver,
            "compute_capability": facts.compute_capability,
        },
        model={"name": model},
        checkpoint={},
        settings={},
        free_before_bytes=facts.free_bytes + size,
        phases=[Reading("loaded", [size], [size], {"attached": True, "cache_usage_ratio": usage})],
        engine_log=log,
        load_peak_bytes=size,
        peak_bytes=size,
        date=today(),
        note=note,
    )


def _get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            body: bytes = answer.read(_MOST_BYTES)
            return body.decode("utf-8", "replace")
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise EnvironmentProblem(
            f"{url} does not answer: {reason}", "Is the server up, and is this its address?"
        ) from None


def _models(base: str) -> str:
    try:
        name = json.loads(_get(f"{base}/v1/models"))["data"][0]["id"]
        return str(name)[:200]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        raise EnvironmentProblem(f"{base}/v1/models names no model; is this an LMDeploy server?") from None


def _usage(base: str) -> float | None:
    try:
        match = _USAGE.search(_get(f"{base}/metrics"))
    except EnvironmentProblem:
        return None
    return float(match[1]) if match else None


def _engine_blocks(base: str) -> int | None:
    """The PyTorch engine's block count: JSON in a JSON string (0.18.0)."""
    try:
        value = json.loads(_get(f"{base}/distserve/engine_info"))
        value = json.loads(value) if isinstance(value, str) else value
        return int(value["num_gpu_blocks"]) or None
    except (EnvironmentProblem, ValueError, KeyError, TypeError, RecursionError):
        return None
