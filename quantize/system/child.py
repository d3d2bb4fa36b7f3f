"""A program that lmplan starts, listens to line by line and answers: it ends when lmplan does, however that ends."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from planner.errors import EnvironmentProblem
from quantize.system.interrupts import EndedBySignal
from quantize.system.lines import LineSplitter

_TICK_S = 0.2
_GRACE_S = 5.0


class TimeUpError(Exception):
    """The time limit came before the output ended."""


class Child:
    """A process in a group of its own. Its standard input stays open for as long as lmplan lives."""

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        try:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise EnvironmentProblem(f"cannot run {command[0]}: {error.strerror or error}") from None

    @property
    def pid(self) -> int:
        """Of the process, and of its group."""
        return self._process.pid

    def lines(self, end: Callable[[], float], caught: Sequence[int]) -> Iterator[str]:
        """What it prints, to the end of its output or of itself; only the first 64 KiB of a longer line.

        Args:
            end: when to stop, by `time.monotonic`; asked again and again.
            caught: signals that came (`interrupts.noted_signals`).

        Raises:
            TimeUpError: `end` came first.
            EndedBySignal: a signal came first.
        """
        output = self._process.stdout
        assert output is not None
        splitter = LineSplitter()
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while True:
                if caught:
                    raise EndedBySignal(caught[0])
                if time.monotonic() > end():
                    raise TimeUpError
                if selector.select(_TICK_S):
                    data = os.read(output.fileno(), 2**16)
                    if not data:
                        break
                    yield from splitter.feed(data)
                elif self._process.poll() is not None:
                    # It ended, and a process that it left behind still holds the pipe open.
                    break
        yield from splitter.end()

    def answer(self) -> None:
        """Send an empty line: go on."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it does not listen, or is gone, which its output will show
            os.write(self._process.stdin.fileno(), b"\n")

    def ask_to_end(self) -> None:
        """Close its standard input and give it a moment."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)

    def end(self) -> int:
        """End the whole group; the exit code, negative for the signal that ended it before."""
        # One that closed its output is about to leave: its own exit code says more than ours.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_TICK_S)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        code = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        return code


def exit_words(code: int) -> str:
    """How a process ended, for people."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
