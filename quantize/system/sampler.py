"""Peak memory of a child process while it runs: resident host memory of its tree, and the GPU's use above the start."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from quantize.system.machine import GpuState, process_tree

_HOST_PERIOD_S: Final = 0.2
# The peak of a run, the final norm over all samples, lasts some tens of milliseconds.
_GPU_PERIOD_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class PeakMemory:
    """The most that was seen; None where it could not be.

    Attributes:
        host_bytes: resident memory of the process tree, mapped files included.
        host_anonymous_bytes: the part of it that no file backs, which is what cannot be dropped.
        gpu_bytes: device memory above what was used before the start.
    """

    host_bytes: int | None
    host_anonymous_bytes: int | None
    gpu_bytes: int | None


class Sampler:
    """Samples in a thread from `start` to `stop`."""

    def __init__(self, read_gpu: Callable[[], GpuState | None]) -> None:
        self._read_gpu = read_gpu
        before = read_gpu()
        self._gpu_before = before.used_bytes if before else None
        self._host = self._anonymous = self._gpu = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, pid: int) -> None:
        """Begin to sample the tree of `pid`."""
        self._thread = threading.Thread(target=self._run, args=(pid,), name="memory-sampler", daemon=True)
        self._thread.start()

    def stop(self) -> PeakMemory:
        """End, and say what was seen."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        return PeakMemory(
            host_bytes=self._host or None,
            host_anonymous_bytes=self._anonymous or None,
            gpu_bytes=None if self._gpu_before is None else max(self._gpu, 0),
        )

    def _run(self, pid: int) -> None:
        next_host = 0.0
        while True:
            if time.monotonic() >= next_host:
                self._sample_host(pid)
                next_host = time.monotonic() + _HOST_PERIOD_S
            self._sample_gpu()
            if self._stop.wait(_HOST_PERIOD_S if self._gpu_before is None else _GPU_PERIOD_S):
                return

    def _sample_host(self, pid: int) -> None:
        resident = peak = anonymous = 0
        for member in process_tree(pid):
            fields = _status(member)
            resident += fields.get("VmRSS", 0)
            anonymous += fields.get("RssAnon", 0)
            # The kernel remembers each process's own peak, which sampling alone could miss.
            peak = max(peak, fields.get("VmHWM", 0))
        self._host = max(self._host, resident, peak)
        self._anonymous = max(self._anonymous, anonymous)

    def _sample_gpu(self) -> None:
        if self._gpu_before is not None:
            gpu = self._read_gpu()
            if gpu is not None:
                self._gpu = max(self._gpu, gpu.used_bytes - self._gpu_before)


def _status(pid: int) -> dict[str, int]:
    """The memory lines of /proc/<pid>/status in bytes; empty where the process is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return {}
    fields = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "VmHWM", "RssAnon"):
            fields[name] = int(value.split()[0]) * 1024
    return fields
