"""From the lines that LMDeploy prints to events: which phase it is in, how far, and how much GPU memory it says."""

from __future__ import annotations

import re
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


_CALIBRATED: Final = re.compile(r"(\S+), samples: \d+, max gpu memory: (\d+(?:\.\d+)?) GB")
# Versions before 0.9 end after "done."
_SMOOTHED: Final = re.compile(r"(\S+) smooth weight done\.(?: max gpu memory: (\d+(?:\.\d+)?) GB)?")
_PACKED: Final = re.compile(r"(\S+) weight (?:packed|skipped)\.")
_LOADED: Final = re.compile(r"Loading calibrate dataset \.\.\.")


def parse_line(line: str) -> Event | None:
    """The event that a line stands for, or None.

    LMDeploy's "GB" are GiB: it divides by 1024 three times (`lite/quantization/calibration.py`).
    """
    line = line.strip()
    match = _PACKED.fullmatch(line)
    if match:
        return Event(Phase.PACKING, match[1])
    for pattern, phase in ((_CALIBRATED, Phase.CALIBRATION), (_SMOOTHED, Phase.SMOOTHING)):
        match = pattern.fullmatch(line)
        if match:
            return Event(phase, match[1], round(float(match[2]) * GIB) if match[2] else None)
    if _LOADED.fullmatch(line):
        return Event(Phase.LOADING, "dataset")
    return None
