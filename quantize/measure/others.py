"""Interference: what other processes hold on the devices that are measured, or take meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from planner.units import MIB, format_gib
from quantize.system.nvml import Nvml
from quantize.system.sampler import GpuSampler

_COMES_FREE_WITHIN_S = 5.0
_NOTICED_BYTES = 64 * MIB
"""Less than this that others hold, or take while we measure, is left unsaid: no context is as small."""


def other_users(nvml: Nvml, devices: Sequence[int]) -> str:
    """Who else holds memory on the devices, in words; empty for nobody. Containers hide the others' process ids."""
    found = []
    for device in devices:
        facts = nvml.facts(device)
        held = facts.used_bytes - facts.idle_bytes
        pids = nvml.other_processes(device, {os.getpid()})
        # Without a known idle state the driver's own few hundred MiB look like somebody's.
        if pids or (facts.idle_bytes and held > _NOTICED_BYTES):
            who = f"processes {', '.join(map(str, pids))}" if pids else "others"
            found.append(
                f"{who} hold {format_gib(max(held, 0))} on GPU {device}, and what they take meanwhile is counted"
            )
    return "; ".join(found)


def drift(sampler: GpuSampler) -> str:
    """What the devices hold more or less than before, once the run is gone, in words; empty for nothing."""
    end = time.monotonic() + _COMES_FREE_WITHIN_S
    while True:
        off = {device: change for device, change in sampler.change().items() if abs(change) > _NOTICED_BYTES}
        if not off or time.monotonic() > end:
            break
        time.sleep(0.1)
    return "; ".join(
        f"GPU {device} holds {format_gib(abs(change))} {'more' if change > 0 else 'less'} than before the run: "
        "another process moved meanwhile, and its share is in these figures"
        for device, change in off.items()
    )
