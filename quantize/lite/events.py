"""From the lines that LMDeploy prints to events: which phase it is in, how far, and how much GPU memory it says."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from planner.units import GIB


class Phase(Enum):
    """The phases of a run, in order."""

    LOADING = "loading"
    CALIBRATION = "calibration"
    SMOOTHING = "smoothing"
    PACKING = "packing"
    SAVING = "saving"


@dataclass(frozen=True, slots=True)
class Event:
    """One step of a phase is done; `gpu_bytes` is what LMDeploy says it has held at most so far."""

    phase: Phase
    name: str
    gpu_bytes: int | None = None


_CALIBRATED: Final = re.compile(r"(\S+), samples: \d+, max gpu memory: (\d{1,9}(?:\.\d+)?) GB")
_LOADED: Final = re.compile(r"Loading calibrate dataset \.\.\.")


def parse_line(line: str, own: Callable[[str], Event | None]) -> Event | None:
    """The event that a line stands for, or None.

    LMDeploy's "GB" are GiB: it divides by 1024 three times (`lite/quantization/calibration.py`).

    Args:
        line: a line of any command of `lmdeploy lite`.
        own: what only the method's own lines mean (`Method.event`).
    """
    line = line.strip()
    if match := _CALIBRATED.fullmatch(line):
        return Event(Phase.CALIBRATION, match[1], round(float(match[2]) * GIB))
    if _LOADED.fullmatch(line):
        return Event(Phase.LOADING, "dataset")
    return own(line)
