"""From the lines that LMDeploy prints to events: which phase it is in, how far, and how much GPU memory it says."""

from __future__ import annotations

import re
from collections.abc import Iterator
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
_MAX_LINE: Final = 2**16


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


class LineSplitter:
    """Bytes in pieces of any size -> lines of bounded length. A carriage return ends a line too: progress bars."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._skipping = False

    def feed(self, data: bytes) -> Iterator[str]:
        """The lines that `data` completes. Of a line longer than 64 KiB only the beginning is given."""
        for piece in re.split(rb"([\r\n])", data):
            if piece in (b"\r", b"\n"):
                if self._rest:
                    yield self._rest.decode("utf-8", "replace")
                self._rest.clear()
                self._skipping = False
            elif not self._skipping:
                room = _MAX_LINE - len(self._rest)
                self._rest += piece[:room]
                self._skipping = len(piece) > room

    def end(self) -> Iterator[str]:
        """The last line, where no newline ended it."""
        if self._rest:
            yield self._rest.decode("utf-8", "replace")
        self._rest.clear()
