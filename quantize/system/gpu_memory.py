"""GPU memory as the driver counts it, through NVML, sampled from a thread."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
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
    """The driver's library, opened once. Devices are numbered as CUDA_VISIBLE_DEVICES shows them."""

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
            self._names = _visible_names(pynvml.nvmlDeviceGetCount())
            self._handles = [self._handle(name) for name in self._names]
        except (pynvml.NVMLError, OSError) as error:
            raise EnvironmentProblem(f"the NVIDIA driver cannot be reached: {error}", "Is there a GPU?") from None
        if not self._handles:
            raise EnvironmentProblem("the NVIDIA driver shows no GPU", "Does CUDA_VISIBLE_DEVICES hide it?")

    def _handle(self, name: str) -> Any:
        if name.isdigit():
            return self._nvml.nvmlDeviceGetHandleByIndex(int(name))
        return self._nvml.nvmlDeviceGetHandleByUUID(name)

    def __len__(self) -> int:
        return len(self._handles)

    def check(self, indices: Sequence[int]) -> None:
        """Make sure that these devices are there.

        Raises:
            EnvironmentProblem: one is not.
        """
        for index in indices:
            if not 0 <= index < len(self):
                there = f"{len(self)} GPU{'s are' if len(self) > 1 else ' is'} there"
                raise EnvironmentProblem(f"GPU {index} is needed and {there}, numbered from 0")

    def visible(self, indices: Sequence[int]) -> str:
        """CUDA_VISIBLE_DEVICES for a child that is to see these devices."""
        return ",".join(self._names[index] for index in indices)

    def _ask(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except self._nvml.NVMLError as error:
            raise EnvironmentProblem(f"the NVIDIA driver does not answer: {error}") from None

    def used_bytes(self, index: int) -> int:
        """Memory in use on a device, by all processes and the driver."""
        return int(self._ask(self._nvml.nvmlDeviceGetMemoryInfo, self._handles[index]).used)

    def facts(self, index: int) -> GpuFacts:
        """What a device is.

        Raises:
            EnvironmentProblem: there is no such device, or the driver does not answer.
        """
        self.check((index,))
        handle = self._handles[index]
        memory = self._ask(self._nvml.nvmlDeviceGetMemoryInfo, handle)
        major, minor = self._ask(self._nvml.nvmlDeviceGetCudaComputeCapability, handle)
        return GpuFacts(
            index=index,
            product=_text(self._ask(self._nvml.nvmlDeviceGetName, handle)),
            memory_total_bytes=int(memory.total),
            used_bytes=int(memory.used),
            driver=_text(self._ask(self._nvml.nvmlSystemGetDriverVersion)),
            compute_capability=10 * int(major) + int(minor),
            idle_bytes=self._idle_bytes(handle),
        )

    def _idle_bytes(self, handle: Any) -> int:
        """The driver's reserve, which the second version of the call tells; 0 where it is not known."""
        version = getattr(self._nvml, "nvmlMemory_v2", None)
        if version is not None:
            try:
                return int(self._nvml.nvmlDeviceGetMemoryInfo(handle, version=version).reserved)
            except (self._nvml.NVMLError, AttributeError):
                pass
        return 0

    def process_bytes(self, index: int, pids: set[int]) -> int | None:
        """Memory of these processes on a device, or None where the driver does not tell (containers, some VMs)."""
        sizes = [process.usedGpuMemory for process in self._processes(index) if process.pid in pids]
        if not sizes or any(size is None for size in sizes):
            return None
        return sum(int(size) for size in sizes)

    def other_processes(self, index: int, ours: set[int]) -> list[int]:
        """Processes on a device that are not ours, as far as the driver tells."""
        return sorted(int(process.pid) for process in self._processes(index) if process.pid not in ours)

    def _processes(self, index: int) -> list[Any]:
        try:
            return list(self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handles[index]))
        except self._nvml.NVMLError:  # not supported here
            return []


def _visible_names(count: int) -> list[str]:
    """Indices or UUIDs as CUDA_VISIBLE_DEVICES gives them; without it every index. -1 ends the list, as for CUDA."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(index) for index in range(count)]
    names: list[str] = []
    for part in visible.split(","):
        name = part.strip()
        if not name or name.startswith("-"):
            break
        names.append(name)
    return names


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class Sampler:
    """Follows the memory in use on some devices; a context manager. All figures are above what was used before."""

    def __init__(self, nvml: Nvml, devices: tuple[int, ...], interval_s: float = SAMPLE_INTERVAL_S) -> None:
        self._nvml = nvml
        self._devices = devices
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._lock = threading.Lock()
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

    def change(self) -> dict[int, int]:
        """Bytes above (or below) the base on each device, now."""
        return {device: self._nvml.used_bytes(device) - self.base_bytes[device] for device in self._devices}

    def now(self) -> dict[int, int]:
        """Bytes above the base on each device, now; at least 0."""
        used = {device: max(change, 0) for device, change in self.change().items()}
        with self._lock:
            for device, size in used.items():
                self.peak_bytes[device] = max(self.peak_bytes[device], size)
                self._phase_peak[device] = max(self._phase_peak[device], size)
        return used

    def phase_peak(self) -> dict[int, int]:
        """The most since the last call, on each device."""
        with self._lock:
            peak = dict(self._phase_peak)
            self._phase_peak = dict.fromkeys(self._devices, 0)
        return peak

    def _watch(self) -> None:
        # A driver that stops answering shows at the next phase; the thread has nobody to tell.
        with contextlib.suppress(EnvironmentProblem):
            while not self._stop.wait(self._interval_s):
                self.now()
