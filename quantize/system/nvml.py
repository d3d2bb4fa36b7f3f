"""The GPUs of this machine as the driver shows them: NVML, or `nvidia-smi` where its library is not installed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from planner.errors import EnvironmentProblem
from planner.units import MIB
from quantize.system.child import ask

_SMI_WITHIN_S: Final = 30


@dataclass(frozen=True, slots=True)
class GpuState:
    """A GPU at one moment. `used_bytes` counts every process on it, and the driver."""

    product: str
    memory_total_bytes: int
    used_bytes: int

    @property
    def free_bytes(self) -> int:
        """What a process that starts now can have."""
        return self.memory_total_bytes - self.used_bytes


@dataclass(frozen=True, slots=True)
class GpuFacts(GpuState):
    """A GPU and what it is.

    Attributes:
        memory_total_bytes: the driver's total, what it keeps for itself included.
        idle_bytes: what the driver holds without any process, as far as that can be told; 0 where it cannot.
    """

    index: int
    driver: str
    compute_capability: int
    idle_bytes: int = 0

    @property
    def usable_bytes(self) -> int:
        """What processes can have together: CUDA's total."""
        return self.memory_total_bytes - self.idle_bytes


class Gpus(Protocol):
    """Whoever can be asked for the state of a GPU, often."""

    def state(self, index: int) -> GpuState:
        """GPU `index` now; EnvironmentProblem where it cannot be asked."""
        ...

    def used_bytes(self, index: int) -> int:
        """Memory in use on it; EnvironmentProblem where it cannot be asked."""
        ...


class Nvml:
    """The driver's library, opened once. Devices are numbered as CUDA_VISIBLE_DEVICES shows them.

    Raises:
        EnvironmentProblem: no library, no driver, or no GPU.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        try:
            import pynvml
        except ImportError:
            raise EnvironmentProblem(
                "nvidia-ml-py is not installed, so the GPU's memory cannot be read", "pip install nvidia-ml-py"
            ) from None
        self._nvml: Any = pynvml
        try:
            pynvml.nvmlInit()
            names = _visible_names(environment)
            self._names = [str(i) for i in range(pynvml.nvmlDeviceGetCount())] if names is None else names
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

    def state(self, index: int) -> GpuState:
        """A device now, for little."""
        memory = self._ask(self._nvml.nvmlDeviceGetMemoryInfo, self._handles[index])
        product = _text(self._ask(self._nvml.nvmlDeviceGetName, self._handles[index]))
        return GpuState(product, int(memory.total), int(memory.used))

    def facts(self, index: int) -> GpuFacts:
        """What a device is.

        Raises:
            EnvironmentProblem: there is no such device, or the driver does not answer.
        """
        self.check((index,))
        handle = self._handles[index]
        state = self.state(index)
        major, minor = self._ask(self._nvml.nvmlDeviceGetCudaComputeCapability, handle)
        return GpuFacts(
            product=state.product,
            memory_total_bytes=state.memory_total_bytes,
            used_bytes=state.used_bytes,
            index=index,
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


class NvidiaSmi:
    """The same by the driver's program, 30 ms a question."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def state(self, index: int) -> GpuState:
        """A device now.

        Raises:
            EnvironmentProblem: there is no such program, or it does not answer as it should.
        """
        query = ("--query-gpu=name,memory.total,memory.used", "--format=csv,noheader,nounits")
        answer = ask(("nvidia-smi", "-i", self._names[index], *query), os.environ, _SMI_WITHIN_S)
        try:
            name, total_mib, used_mib = (part.strip() for part in answer.text.strip().split(","))
            return GpuState(name, int(total_mib) * MIB, int(used_mib) * MIB)
        except ValueError:
            raise EnvironmentProblem(f"nvidia-smi answers {answer.last_line!r}") from None

    def used_bytes(self, index: int) -> int:
        """Memory in use on a device."""
        return self.state(index).used_bytes


def first_gpu(environment: Mapping[str, str]) -> Gpus | None:
    """Whoever can be asked for GPU 0, the first that a child with `environment` would see; None where it sees none."""
    names = _visible_names(environment)
    if names == []:
        return None
    first = (names or ["0"])[:1]
    gpus: list[Callable[[], Gpus]] = [lambda: Nvml({**environment, "CUDA_VISIBLE_DEVICES": first[0]})]
    if shutil.which("nvidia-smi"):
        gpus.append(lambda: NvidiaSmi(first))
    for make in gpus:
        try:
            found = make()
            found.state(0)
        except EnvironmentProblem:
            continue
        return found
    return None


def _visible_names(environment: Mapping[str, str]) -> list[str] | None:
    """Indices or UUIDs as CUDA_VISIBLE_DEVICES gives them; None without it: all. -1 ends the list, as for CUDA."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return None
    names: list[str] = []
    for part in visible.split(","):
        name = part.strip()
        if not name or name.startswith("-"):
            break
        names.append(name)
    return names


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
