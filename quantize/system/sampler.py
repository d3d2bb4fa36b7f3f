"""Memory followed from a thread: what a process tree holds of the host, and what devices hold above their start."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from planner.errors import EnvironmentProblem
from quantize.system.machine import process_tree
from quantize.system.nvml import Gpus

GPU_INTERVAL_S: Final = 0.005
"""200 readings a second: each takes about 20 microseconds of the host and none of the GPU."""
_HOST_INTERVAL_S: Final = 0.2


class _Ticker:
    """Calls a function in a thread, at once and again and again until it is stopped."""

    def __init__(self, tick: Callable[[], object], interval_s: float) -> None:
        self._tick = tick
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory-sampler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            # A driver that stops answering shows elsewhere; the thread has nobody to tell.
            with contextlib.suppress(EnvironmentProblem):
                self._tick()
            if self._stop.wait(self._interval_s):
                return


class GpuSampler:
    """The memory in use on some devices; a context manager. All figures are above what was used before."""

    def __init__(self, gpus: Gpus, devices: tuple[int, ...], interval_s: float = GPU_INTERVAL_S) -> None:
        self._gpus = gpus
        self._devices = devices
        self._lock = threading.Lock()
        self._ticker = _Ticker(self.now, interval_s)
        self.base_bytes = {device: gpus.used_bytes(device) for device in devices}
        self.peak_bytes = dict.fromkeys(devices, 0)
        self._phase_peak = dict.fromkeys(devices, 0)

    def __enter__(self) -> GpuSampler:
        self._ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ticker.stop()

    def change(self) -> dict[int, int]:
        """Bytes above (or below) the base on each device, now."""
        return {device: self._gpus.used_bytes(device) - self.base_bytes[device] for device in self._devices}

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


class HostSampler:
    """The resident host memory of `pid` and its descendants, mapped files included; a context manager."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._ticker = _Ticker(self._sample, _HOST_INTERVAL_S)
        self.peak_bytes = 0

    def __enter__(self) -> HostSampler:
        self._ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ticker.stop()

    def _sample(self) -> None:
        resident_bytes = 0
        for member in process_tree(self._pid):
            fields = _status(member)
            resident_bytes += fields.get("VmRSS", 0)
            # The kernel remembers each process's own peak, which sampling alone could miss.
            self.peak_bytes = max(self.peak_bytes, fields.get("VmHWM", 0))
        self.peak_bytes = max(self.peak_bytes, resident_bytes)


def _status(pid: int) -> dict[str, int]:
    """The memory lines of /proc/<pid>/status in bytes; empty where the process is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return {}
    fields = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "VmHWM"):
            fields[name] = int(value.split()[0]) * 1024
    return fields
