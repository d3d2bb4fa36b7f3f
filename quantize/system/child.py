"""A program that lmplan starts: heard line by line, bounded in time, and ended with all that it started."""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from planner.errors import EnvironmentProblem
from planner.files.escape import visible
from quantize.system.interrupts import EndedBySignal
from quantize.system.lines import LineSplitter

_TICK_S: Final = 0.2
_GRACE_S: Final = 10.0
_PR_SET_PDEATHSIG: Final = 1  # <linux/prctl.h>


class TimeUpError(Exception):
    """The time limit came before the end."""


class Child:
    """A process in a group of its own, which ends when lmplan does, however that ends.

    Args:
        command: program and arguments.
        folder: its working folder.
        environment: its environment; relative entries of PYTHONPATH are made absolute, for it runs elsewhere, and a
            Python from 3.11 on imports nothing from its working folder.
        answers: its standard input stays open for as long as lmplan lives, and it ends with its workers when that
            closes. Another program reads nothing and is killed by the kernel when lmplan dies.
        errors: what it writes to standard error is heard too, in the order in which it comes.
        keep_fds: file descriptors that it inherits.

    Raises:
        EnvironmentProblem: it cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        *,
        answers: bool = False,
        errors: bool = True,
        keep_fds: Sequence[int] = (),
    ) -> None:
        program, *arguments = command
        if os.sep in program:
            program = os.path.abspath(program)  # noqa: PTH100 - a virtual environment's python is a link: not resolved
        try:
            self._process = subprocess.Popen(
                [program, *arguments],
                cwd=folder,
                env=_for_another_folder(environment),
                stdin=subprocess.PIPE if answers else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if errors else subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=tuple(keep_fds),
                preexec_fn=None if answers else _die_with_parent,
            )
        except (OSError, ValueError) as error:  # a NUL in the name
            reason = getattr(error, "strerror", None) or error
            raise EnvironmentProblem(f"cannot run {command[0]}: {reason}") from None
        self.heard_at = time.monotonic()
        """When it last wrote something, by `time.monotonic`; its start at first."""

    @property
    def pid(self) -> int:
        """Of the process, and of its group."""
        return self._process.pid

    def lines(
        self, end: Callable[[], float], caught: Sequence[int] = (), log: IO[bytes] | None = None
    ) -> Iterator[str]:
        """What it prints, to the end of its output or of itself; only the first 64 KiB of a longer line.

        Args:
            end: when to stop, by `time.monotonic`; asked again and again.
            caught: signals that came (`interrupts.noted_signals`).
            log: takes everything that it prints, in full.

        Raises:
            TimeUpError: `end` came first.
            EndedBySignal: a signal came first.
            EnvironmentProblem: the log cannot be written (a full disk).
        """
        output = self._process.stdout
        assert output is not None
        splitter = LineSplitter()
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while True:
                _check(end, caught)
                if selector.select(_TICK_S):
                    data = os.read(output.fileno(), 2**16)
                    if not data:
                        break
                    self.heard_at = time.monotonic()
                    if log is not None:
                        _write(log, data)
                    yield from splitter.feed(data)
                elif self._process.poll() is not None:
                    # It ended, and a process that it left behind still holds the pipe open.
                    break
        yield from splitter.end()

    def wait(self, end: Callable[[], float], caught: Sequence[int] = ()) -> int:
        """The exit code, once the output has ended; negative for the signal that ended it.

        Raises:
            TimeUpError, EndedBySignal: as `lines`.
        """
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._process.wait(_TICK_S)
            _check(end, caught)

    def answer(self) -> None:
        """Send an empty line: go on."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it does not listen, or is gone, which its output will show
            os.write(self._process.stdin.fileno(), b"\n")

    def ask_to_end(self) -> None:
        """Close its standard input, or send SIGTERM to its group where it has none, and give it a moment."""
        if self._process.poll() is not None:
            return
        if self._process.stdin is None:
            self._signal_group(signal.SIGTERM)
        else:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)

    def end(self) -> int:
        """End the whole group; the exit code, negative for the signal that ended it before."""
        # One that closed its output is about to leave: its own exit code says more than ours.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_TICK_S)
        # Also after a good end: a process that outlived it would go on writing.
        self._signal_group(signal.SIGKILL)
        code = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        return code

    def _signal_group(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a short program said, without its last newline, and how it ended."""

    code: int
    text: str

    @property
    def last_line(self) -> str:
        """Its last words; imports may print warnings before them."""
        lines = [line.strip() for line in self.text.splitlines() if line.strip()]
        return visible(lines[-1][:300]) if lines else "no output"


def ask(command: Sequence[str], environment: Mapping[str, str], within_s: float, *, errors: bool = True) -> Answer:
    """Run a short program to its end, in an empty folder: Python puts the working folder first on its module path.

    Raises:
        EnvironmentProblem: it cannot be started, or says nothing final in `within_s` seconds.
    """
    with tempfile.TemporaryDirectory(prefix="lmplan-ask-") as folder:
        child = Child(command, Path(folder), environment, errors=errors)
        end = time.monotonic() + within_s
        try:
            text = "\n".join(child.lines(lambda: end))
            return Answer(child.wait(lambda: end), text)
        except TimeUpError:
            raise EnvironmentProblem(f"`{' '.join(command)}` did not answer in {within_s:g} s") from None
        finally:
            child.end()


def exit_words(code: int) -> str:
    """How a process ended, for people."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _check(end: Callable[[], float], caught: Sequence[int]) -> None:
    if caught:
        raise EndedBySignal(caught[0])
    if time.monotonic() > end():
        raise TimeUpError


def _write(log: IO[bytes], data: bytes) -> None:
    try:
        log.write(data)
        log.flush()
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot write {log.name}: {error.strerror or error}", "Make room on the disk"
        ) from None


def _for_another_folder(environment: Mapping[str, str]) -> dict[str, str]:
    # An empty entry is the working folder, which is never meant for a program that runs elsewhere.
    entries = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    child = {**environment, "PYTHONSAFEPATH": "1"}
    if entries:
        child["PYTHONPATH"] = os.pathsep.join(str(Path(entry).absolute()) for entry in entries)
    else:
        child.pop("PYTHONPATH", None)
    return child


_libc = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    """In the child before exec: be killed when lmplan is, even by SIGKILL, rather than write on as an orphan."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
