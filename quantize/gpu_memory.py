"""GPU memory as the driver counts it, through NVML, sampled from a thread."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from planner.errors import EnvironmentProblem

SAMPLE_INTERVAL_S = 0.005
"""200 readings a second: each takes about 20 microseconds of the host and none of the GPU."""


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """A GPU of this machine.

    Attributes:
        memory_total_bytes: the driver's total, what it keeps for itself included.
        used_bytes: in use when asked, by the driver too.
        idle_bytes: what the driver holds without any process, as far as that can be told; 0 where it cannot.
    """

    index: int
    product: str
    memory_total_bytes: int
    used_bytes: int
    driver: str
    compute_capability: int
    idle_bytes: int = 0

    @property
    def usable_bytes(self) -> int:
        """What processes can have together: CUDA's total."""
        return self.memory_total_bytes - self.idle_bytes

    @property
    def free_bytes(self) -> int:
        """What a process that starts now can have."""
        return self.memory_total_bytes - self.used_bytes


class Nvml:
    """The driver's library, opened once."""

    def __init__(self) -> None:
        try:
            import pynvml
        except ImportError:
            raise EnvironmentProblem(
                "nvidia-ml-py is not installed, so the GPU's memory cannot be read", "pip install nvidia-ml-py"
            ) from None
        self._nvml: Any = pynvml
        try:
            pynvml.nvmlInit()
            self._handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        except pynvml.NVMLError as error:
            raise EnvironmentProblem(f"the NVIDIA driver cannot be reached: {error}", "Is there a GPU?") from None
        if not self._handles:
            raise EnvironmentProblem("the NVIDIA driver knows no GPU")

    def __len__(self) -> int:
        return len(self._handles)

    def used_bytes(self, index: int) -> int:
        """Memory in use on a device, by all processes and the driver."""
        return int(self._nvml.nvmlDeviceGetMemoryInfo(self._handles[index]).used)

    def facts(self, index: int) -> GpuFacts:
        """What a device is."""
        handle = self._handles[index]
        memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
        major, minor = self._nvml.nvmlDeviceGetCudaComputeCapability(handle)
        return GpuFacts(
            index=index,
            product=_text(self._nvml.nvmlDeviceGetName(handle)),
            memory_total_bytes=int(memory.total),
            used_bytes=int(memory.used),
            driver=_text(self._nvml.nvmlSystemGetDriverVersion()),
            compute_capability=10 * int(major) + int(minor),
            idle_bytes=self._idle_bytes(handle),
        )

    def _idle_bytes(self, handle: Any) -> int:
        """The driver's reserve: told by the second version of the call, else what is used while nobody is there."""
        version = getattr(self._nvml, "nvmlMemory_v2", None)
        if version is not None:
            try:
                return int(self._nvml.nvmlDeviceGetMemoryInfo(handle, version=version).reserved)
            except self._nvml.NVMLError:
                pass
        return 0

    def process_bytes(self, index: int, pids: set[int]) -> int | None:
        """Memory of these processes on a device, or None where the driver does not tell (containers, some VMs)."""
        running = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handles[index])
        sizes = [p.usedGpuMemory for p in running if p.pid in pids]
        if not sizes or any(size is None for size in sizes):
            return None
        return sum(int(size) for size in sizes)

    def other_processes(self, index: int, ours: set[int]) -> list[int]:
        """Processes on a device that are not ours."""
        running = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handles[index])
        return sorted(int(p.pid) for p in running if p.pid not in ours)


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class Sampler:
    """Follows the memory in use on some devices; a context manager. All figures are above what was used before."""

    def __init__(self, nvml: Nvml, devices: tuple[int, ...], interval_s: float = SAMPLE_INTERVAL_S) -> None:
        self._nvml = nvml
        self._devices = devices
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.base_bytes = {device: nvml.used_bytes(device) for device in devices}
        self.peak_bytes = dict.fromkeys(devices, 0)
        self._phase_peak = dict.fromkeys(devices, 0)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def now(self) -> dict[int, int]:
        """Bytes above the base on each device, now."""
        used = {d: max(self._nvml.used_bytes(d) - self.base_bytes[d], 0) for d in self._devices}
        self._raise_peaks(used)
        return used

    def phase_peak(self) -> dict[int, int]:
        """The most since the last call, on each device."""
        peak = dict(self._phase_peak)
        self._phase_peak = dict.fromkeys(self._devices, 0)
        return peak

    def _raise_peaks(self, used: dict[int, int]) -> None:
        for device, size in used.items():
            self.peak_bytes[device] = max(self.peak_bytes[device], size)
            self._phase_peak[device] = max(self._phase_peak[device], size)

    def _watch(self) -> None:
        while not self._stop.wait(self._interval_s):
            self.now()
