"""Stands in for nvidia-ml-py. FAKE_NVML: "none" has no driver, "lost" stops answering once somebody serves."""

from __future__ import annotations

import os
from types import SimpleNamespace

import fake_gpu

nvmlMemory_v2 = 2


class NVMLError(Exception):
    pass


def nvmlInit():
    if os.environ.get("FAKE_NVML") == "none":
        raise NVMLError("Driver Not Loaded")


def nvmlDeviceGetCount():
    return int(os.environ.get("FAKE_GPUS", "1"))


def nvmlDeviceGetHandleByIndex(index):
    if index >= nvmlDeviceGetCount():
        raise NVMLError("Invalid Argument")
    return index


def nvmlDeviceGetHandleByUUID(uuid):
    if uuid != "GPU-0":
        raise NVMLError("Not Found")
    return 0


def nvmlDeviceGetMemoryInfo(handle, version=1):
    if os.environ.get("FAKE_NVML") == "lost" and (fake_gpu.FOLDER / "serving").exists():
        raise NVMLError("GPU is lost")
    used = fake_gpu.used_bytes()
    return SimpleNamespace(total=fake_gpu.TOTAL_BYTES, used=used, reserved=fake_gpu.RESERVED_BYTES)


def nvmlDeviceGetCudaComputeCapability(handle):
    return 9, 0


def nvmlDeviceGetName(handle):
    return b"NVIDIA H200"


def nvmlSystemGetDriverVersion():
    return "580.159.04"


def nvmlDeviceGetComputeRunningProcesses(handle):
    return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in fake_gpu.holders().items() if pid]
