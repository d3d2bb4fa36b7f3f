"""What this machine has: host memory, disk, and the GPU that a child process would use."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.units import MIB


@dataclass(frozen=True, slots=True)
class GpuState:
    """A GPU as the driver shows it. `used_bytes` counts every process on it."""

    name: str
    total_bytes: int
    used_bytes: int

    @property
    def free_bytes(self) -> int:
        """What a new process could take."""
        return self.total_bytes - self.used_bytes


@dataclass(frozen=True, slots=True)
class Machine:
    """Free memory and disk in bytes; disk is None where nobody can say, `gpu` where there is none to use."""

    host_available_bytes: int
    disk_free_bytes: int | None
    gpu: GpuState | None


def look(folder: Path, environment: Mapping[str, str]) -> Machine:
    """This machine now; disk is that of `folder` or of the nearest folder above it that exists."""
    return Machine(
        host_available_bytes=host_available_bytes(),
        disk_free_bytes=disk_free_bytes(folder),
        gpu=read_gpu(environment),
    )


def host_available_bytes() -> int:
    """Memory that new processes can take without swapping, and no more than the cgroup's limit leaves."""
    available = 0
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    for limit_file, used_file, stat_file in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
            "/sys/fs/cgroup/memory/memory.stat",
        ),
    ):
        try:
            limit = int(Path(limit_file).read_text(encoding="ascii"))
            used = int(Path(used_file).read_text(encoding="ascii"))
            lines = Path(stat_file).read_text(encoding="ascii").splitlines()
        except (OSError, ValueError):
            continue  # no limit ("max"), or another cgroup version
        # File cache counts as used and is given back under pressure.
        counters = dict(line.split()[:2] for line in lines)
        cache = int(counters.get("total_inactive_file") or counters.get("inactive_file") or 0)
        available = min(available, max(limit - used + cache, 0))
    return available


def disk_free_bytes(folder: Path) -> int | None:
    """Free bytes of the file system that `folder` is or would be on; None where nobody can say."""
    try:
        return shutil.disk_usage(nearest_folder(folder.absolute())).free
    except OSError:
        return None


def nearest_folder(folder: Path) -> Path:
    """`folder`, or the nearest one above it that exists.

    Raises:
        OSError: something on the way is a file, or a name is too long.
    """
    while True:
        try:
            mode = folder.stat().st_mode
        except FileNotFoundError:
            folder = folder.parent
            continue
        if not stat.S_ISDIR(mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
        return folder


def gpu_reader(environment: Mapping[str, str]) -> Callable[[], GpuState | None]:
    """A function that reads the first GPU that a child with `environment` would see; it is cheap to call often."""
    index = _first_visible(environment)
    if index is None:
        return lambda: None
    nvml = _open_nvml()
    if nvml is not None:
        handle = _handle(nvml, index)
        if handle is None:
            return lambda: None
        return lambda: _ask_nvml(nvml, handle)
    return lambda: _ask_nvidia_smi(index)


def read_gpu(environment: Mapping[str, str]) -> GpuState | None:
    """The first GPU that a child with `environment` would see, or None."""
    return gpu_reader(environment)()


def _first_visible(environment: Mapping[str, str]) -> str | None:
    """The first entry of CUDA_VISIBLE_DEVICES: an index or a UUID; "0" where it is not set, None where it is empty."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return "0"
    first = visible.split(",")[0].strip()
    return None if first in ("", "-1") else first


def _open_nvml() -> Any:
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # not installed, no driver, or a driver that does not answer: all mean "no NVML"
        return None
    return pynvml


def _handle(nvml: Any, index: str) -> Any:
    try:
        return nvml.nvmlDeviceGetHandleByIndex(int(index)) if index.isdigit() else nvml.nvmlDeviceGetHandleByUUID(index)
    except nvml.NVMLError:
        return None


def _ask_nvml(nvml: Any, handle: Any) -> GpuState | None:
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        name = nvml.nvmlDeviceGetName(handle)
    except nvml.NVMLError:
        return None
    return GpuState(name if isinstance(name, str) else name.decode(), int(memory.total), int(memory.used))


def _ask_nvidia_smi(index: str) -> GpuState | None:
    if not shutil.which("nvidia-smi"):
        return None
    try:
        answer = subprocess.run(
            ["nvidia-smi", "-i", index, "--query-gpu=name,memory.total,memory.used", "--format=csv,noheader,nounits"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        name, total_mib, used_mib = (part.strip() for part in answer.stdout.strip().split(","))
        return GpuState(name, int(total_mib) * MIB, int(used_mib) * MIB)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def process_tree(pid: int) -> list[int]:
    """`pid` and its descendants that are alive."""
    found, pending = [], [pid]
    while pending:
        current = pending.pop()
        found.append(current)
        try:
            for task in Path(f"/proc/{current}/task").iterdir():
                text = (task / "children").read_text(encoding="ascii")
                pending += [int(child) for child in text.split()]
        except OSError:
            continue  # it ended while we looked
    return found
