"""lmplan as tests run it: `lmplan_here` of conftest.py as a rule, a process where that is the point."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

LMPLAN = (sys.executable, "-c", "from planner.cli.main import main; main()")
"""lmplan as a process; PYTHONPATH says that it is this checkout's (`tests/conftest.py`)."""
Lmplan = Callable[..., "subprocess.CompletedProcess[str]"]


def lmplan_after(code: str) -> tuple[str, ...]:
    """lmplan as a process that runs `code` first: where a constant of ours would make a test wait."""
    return (*LMPLAN[:2], f"{code}; {LMPLAN[2]}")
