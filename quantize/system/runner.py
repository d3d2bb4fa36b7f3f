"""Running LMDeploy: one child process in a group of its own, its output merged, logged and watched."""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from planner.errors import ChildFailedError, EnvironmentProblem, LmplanError
from quantize.system.interrupts import noted_signals
from quantize.system.lines import LineSplitter
from quantize.system.sampler import PeakMemory, Sampler

_GRACE_S: Final = 10.0
_TAIL_LINES: Final = 200
_TICK_S: Final = 0.5
_PR_SET_PDEATHSIG: Final = 1  # <linux/prctl.h>


class InterruptedRunError(LmplanError):
    """The user ended the run (exit 128 and the signal's number, as shells do)."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(
            f"ended by {signal.Signals(signal_number).name}; LMDeploy is stopped and the output untouched",
            "The same command starts over and cleans up",
        )
        self.exit_code = 128 + signal_number


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a child process ended: exit status (negative: the signal), seconds, its last lines, peak memory."""

    exit_status: int
    seconds: float
    tail: tuple[str, ...]
    peak: PeakMemory


def run(
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    log: Path,
    sampler: Sampler,
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
        sampler: watches its memory.
        silence_s: without any output for so long, it is stopped.
        on_line: called with each line; only the first 64 KiB of a longer one.
        keep_fds: file descriptors that it inherits.

    Raises:
        InterruptedRunError: SIGINT, SIGTERM or SIGHUP came; the process group is gone.
        ChildFailedError: it was silent for too long.
        EnvironmentProblem: it cannot be started, or the log cannot be written (a full disk).
    """
    start = time.monotonic()
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    with noted_signals() as caught, log.open("ab") as log_file:
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=tuple(keep_fds),
                preexec_fn=_die_with_parent,
            )
        except OSError as error:
            raise EnvironmentProblem(f"cannot run {command[0]}: {error.strerror or error}") from None
        try:
            sampler.start(process.pid)
            _follow(process, log_file, caught, silence_s, tail, on_line)
            status = _wait(process, caught, silence_s, log)
        finally:
            _end_group(process)
            peak = sampler.stop()
    return RunResult(status, time.monotonic() - start, tuple(tail), peak)


def _follow(
    process: subprocess.Popen[bytes],
    log: IO[bytes],
    caught: list[int],
    silence_s: float,
    tail: deque[str],
    on_line: Callable[[str], None],
) -> None:
    """Read until the output ends or the process does, the silence is too long, or a signal came."""
    assert process.stdout is not None
    splitter = LineSplitter()

    def take(lines: Iterator[str]) -> None:
        for line in lines:
            tail.append(line)
            on_line(line)

    last_output = time.monotonic()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if caught:
                raise InterruptedRunError(caught[0])
            if selector.select(_TICK_S):
                data = os.read(process.stdout.fileno(), 2**16)
                if not data:
                    break
                last_output = time.monotonic()
                _log(log, data)
                take(splitter.feed(data))
            elif process.poll() is not None:
                # It ended, and a grandchild still holds the pipe open.
                break
            elif time.monotonic() - last_output > silence_s:
                raise _silent(silence_s, log.name)
    take(splitter.end())


def _wait(process: subprocess.Popen[bytes], caught: list[int], silence_s: float, log: Path) -> int:
    """The exit status, once the output has ended: at once as a rule, and no later than after the longest silence."""
    end = time.monotonic() + silence_s
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(_TICK_S)
        if caught:
            raise InterruptedRunError(caught[0])
        if time.monotonic() > end:
            raise _silent(silence_s, str(log))


def _silent(silence_s: float, log: str) -> ChildFailedError:
    return ChildFailedError(
        f"LMDeploy printed nothing for {silence_s:.0f} s and was stopped; its log is {log}",
        "If it was only slow, raise silence_s in the recipe",
    )


def _log(log: IO[bytes], data: bytes) -> None:
    try:
        log.write(data)
        log.flush()
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot write {log.name}: {error.strerror or error}", "Make room on the disk"
        ) from None


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Make sure that no process of the group is left: ask, wait, then insist."""
    assert process.stdout is not None
    if process.poll() is None:
        _signal_group(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
    # Also after a good end: a grandchild that outlived it would go on writing.
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


_libc = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    """In the child before exec: be killed when lmplan is, even by SIGKILL, rather than write on as an orphan."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
