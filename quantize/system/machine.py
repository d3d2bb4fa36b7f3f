"""What this machine has: host memory, disk, and the GPU that a child process would use."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quantize.system.nvml import GpuState, first_gpu


@dataclass(frozen=True, slots=True)
class Machine:
    """Free memory and disk in bytes; disk is None where nobody can say, `gpu` where there is none to use."""

    host_available_bytes: int
    disk_free_bytes: int | None
    gpu: GpuState | None


def look(folder: Path, environment: Mapping[str, str]) -> Machine:
    """This machine now; disk is that of `folder` or of the nearest folder above it that exists."""
    gpus = first_gpu(environment)
    return Machine(
        host_available_bytes=host_available_bytes(),
        disk_free_bytes=disk_free_bytes(folder),
        gpu=None if gpus is None else gpus.state(0),
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
