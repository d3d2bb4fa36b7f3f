"""Running `lmdeploy lite` to its end: what it prints is logged and heard, its memory watched, its silence bounded."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from planner.errors import ChildFailedError
from quantize.system.child import Child, TimeUpError
from quantize.system.interrupts import EndedBySignal, noted_signals
from quantize.system.nvml import first_gpu
from quantize.system.sampler import GpuSampler, HostSampler

_TAIL_LINES: Final = 200
# The peak of a run, the final norm over all samples, lasts some tens of milliseconds.
_GPU_INTERVAL_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class RunResult:
    """How the process ended.

    Attributes:
        exit_code: negative for the signal that ended it.
        tail: its last lines.
        host_peak_bytes: the most that its tree held resident; None where it could not be seen.
        gpu_peak_bytes: the most that the GPU held above its start; None without a GPU.
    """

    exit_code: int
    seconds: float
    tail: tuple[str, ...]
    host_peak_bytes: int | None
    gpu_peak_bytes: int | None


def run(
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    log: Path,
    silence_s: float,
    on_line: Callable[[str], None],
    keep_fds: Sequence[int] = (),
) -> RunResult:
    """Run `command` to its end.

    Args:
        command: program and arguments.
        folder: its working folder.
        environment: its environment.
        log: where everything that it prints goes, in full.
        silence_s: without any output for so long, it is stopped.
        on_line: called with each line; only the first 64 KiB of a longer one.
        keep_fds: file descriptors that it inherits.

    Raises:
        EndedBySignal: SIGINT, SIGTERM or SIGHUP came; the process group is gone.
        ChildFailedError: it was silent for too long.
        EnvironmentProblem: it cannot be started, or the log cannot be written (a full disk).
    """
    start = time.monotonic()
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    gpus = first_gpu(environment)
    gpu = None if gpus is None else GpuSampler(gpus, (0,), _GPU_INTERVAL_S)
    with ExitStack() as stack:
        caught = stack.enter_context(noted_signals())
        log_file = stack.enter_context(log.open("ab"))
        child = Child(command, folder, environment, keep_fds=keep_fds)
        stack.callback(child.end)
        stack.callback(child.ask_to_end)
        host = stack.enter_context(HostSampler(child.pid))
        if gpu is not None:
            stack.enter_context(gpu)

        def silent_until() -> float:
            return child.heard_at + silence_s

        try:
            for line in child.lines(silent_until, caught, log_file):
                tail.append(line)
                on_line(line)
            code = child.wait(silent_until, caught)
        except TimeUpError:
            raise ChildFailedError(
                f"LMDeploy printed nothing for {silence_s:.0f} s and was stopped; its log is {log}",
                "If it was only slow, raise silence_s in the recipe",
            ) from None
        except EndedBySignal as error:
            raise EndedBySignal(
                error.signal_number,
                "LMDeploy is stopped and the output untouched",
                "The same command starts over and cleans up",
            ) from None
    return RunResult(
        exit_code=code,
        seconds=time.monotonic() - start,
        tail=tuple(tail),
        host_peak_bytes=host.peak_bytes or None,
        gpu_peak_bytes=None if gpu is None else gpu.peak_bytes[0],
    )
