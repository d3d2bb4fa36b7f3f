"""Imitating a smaller card: a neighbour process holds the rest of a GPU's memory."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from planner.errors import EnvironmentProblem
from quantize.system.child import Child, TimeUpError

_STARTS_WITHIN_S = 120.0


def copied(program: str, folder: Path) -> Path:
    """A program of this package alone in `folder`: Python puts a script's own folder first on its path."""
    return Path(shutil.copy(Path(__file__).with_name(program), folder))


@contextlib.contextmanager
def neighbours(
    python: str, environments: Sequence[Mapping[str, str]], limit_bytes: int, caught: Sequence[int]
) -> Iterator[int]:
    """Hold all but `limit_bytes` on the GPU that each environment shows; yields the bytes left free on the first.

    Raises:
        EnvironmentProblem: the memory cannot be held.
        EndedBySignal: a signal came meanwhile.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lmplan-hold-")))
        program = copied("hold.py", folder)
        left = [
            _hold(stack, [python, str(program), "0", str(limit_bytes)], folder, environment, caught)
            for environment in environments
        ]
        yield left[0]


def _hold(
    stack: contextlib.ExitStack, command: list[str], folder: Path, environment: Mapping[str, str], caught: Sequence[int]
) -> int:
    child = Child(command, folder, environment, answers=True)
    stack.callback(child.end)
    stack.callback(child.ask_to_end)
    said = ""
    with contextlib.suppress(TimeUpError):
        end = time.monotonic() + _STARTS_WITHIN_S
        for line in child.lines(lambda: end, caught):
            if line.startswith("left ") and line[5:].isdigit():
                return int(line[5:])
            said = line.strip()[:300] or said
    raise EnvironmentProblem(
        f"the rest of the GPU could not be held: {said or 'no answer'}",
        "Is torch or a CUDA runtime installed beside LMDeploy?",
    )
