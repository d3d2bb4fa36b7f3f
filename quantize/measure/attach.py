"""Read a server that runs already: what its process holds, what it says of itself."""

from __future__ import annotations

import http.client
import re
import urllib.request
from typing import Any

from planner.clock import today
from planner.errors import EnvironmentProblem, UsageError
from planner.files.escape import shown
from planner.files.reading import PAGE, parse_json
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
        raise UsageError(f"--url is '{shown(url)}'; expected an address such as http://localhost:23333")
    base = url.rstrip("/")
    model, blocks, usage = pages(base)
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
    log: dict[str, Any] = {} if blocks is None else {"blocks": blocks}
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


def pages(base: str) -> tuple[str, int | None, float | None]:
    """What a server says of itself: its model, its blocks and the share of its KV cache in use, as far as it does.

    Raises:
        EnvironmentProblem: no answer, or none of an LMDeploy server.
    """
    return _models(base), _engine_blocks(base), _usage(base)


def _get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            body: bytes = answer.read(_MOST_BYTES)
            return body.decode("utf-8", "replace")
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise EnvironmentProblem(
            f"{shown(url)} does not answer: {shown(str(reason))}", "Is the server up, and is this its address?"
        ) from None


def _models(base: str) -> str:
    try:
        name = parse_json(_get(f"{base}/v1/models"), PAGE, base)["data"][0]["id"]
    except (UsageError, KeyError, IndexError, TypeError):
        name = None
    if not isinstance(name, str) or not name:
        raise EnvironmentProblem(f"{shown(base)}/v1/models names no model; is this an LMDeploy server?")
    return shown(name)


def _usage(base: str) -> float | None:
    try:
        match = _USAGE.search(_get(f"{base}/metrics"))
        usage = float(match[1]) if match else None
    except (EnvironmentProblem, ValueError):
        return None
    return usage if usage is not None and 0 <= usage <= 1 else None


def _engine_blocks(base: str) -> int | None:
    """The PyTorch engine's block count: JSON in a JSON string (0.18.0)."""
    try:
        value = parse_json(_get(f"{base}/distserve/engine_info"), PAGE, base)
        value = parse_json(value, PAGE, base) if isinstance(value, str) else value
        blocks = value["num_gpu_blocks"]
    except (EnvironmentProblem, UsageError, KeyError, TypeError, IndexError):
        return None
    return blocks if type(blocks) is int and 0 < blocks < 2**40 else None
