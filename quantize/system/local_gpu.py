"""The GPUs of this machine as the planner knows them."""

from __future__ import annotations

from planner.hardware.gpu import Gpu, catalog
from quantize.system.nvml import GpuFacts, Nvml


def local_gpu(index: int = 0) -> tuple[Gpu, GpuFacts]:
    """GPU `index` of this machine: its catalog entry with the driver's own total, or a bare one.

    The driver's total leaves out what it keeps for itself, as CUDA's does (seen on an H200, driver 580).

    Raises:
        EnvironmentProblem: no driver library or no such GPU.
    """
    facts = Nvml().facts(index)
    matches = [gpu for gpu in catalog() if gpu.product == facts.product and not gpu.slice_of]
    if not matches:
        gpu = Gpu(facts.product, facts.product, facts.usable_bytes, "the driver", facts.compute_capability)
        return gpu, facts
    nearest = min(matches, key=lambda gpu: abs(gpu.memory_total_bytes - facts.usable_bytes))
    return nearest._replace(memory_total_bytes=facts.usable_bytes, memory_source="the driver"), facts
