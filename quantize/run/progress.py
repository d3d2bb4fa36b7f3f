"""One progress bar over all phases on a terminal, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Final, Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from planner.units import format_gib
from quantize.lite.events import Event, Phase

_PLAIN_EVERY_SHARE: Final = 0.1
_PLAIN_EVERY_S: Final = 60.0


class Tracker:
    """How far a run is, from its events and from the time that each phase is predicted to take.

    Args:
        steps: events expected in each phase.
        seconds: predicted time of each phase; only their proportions matter.
    """

    def __init__(self, steps: Mapping[Phase, int], seconds: Mapping[Phase, float]) -> None:
        self.steps = steps
        self.done = dict.fromkeys(Phase, 0)
        self.phase = Phase.LOADING
        self.gpu_bytes: int | None = None
        total = sum(seconds[phase] for phase in Phase if steps.get(phase)) or 1.0
        self._share = {phase: seconds[phase] / total if steps.get(phase) else 0.0 for phase in Phase}

    def see(self, event: Event) -> None:
        """Count an event."""
        order = list(Phase)
        if order.index(event.phase) >= order.index(self.phase):
            self.phase = event.phase
        self.done[event.phase] = min(self.done[event.phase] + 1, max(self.steps.get(event.phase, 0), 1))
        if event.gpu_bytes:
            self.gpu_bytes = max(self.gpu_bytes or 0, event.gpu_bytes)
        if self.phase is Phase.PACKING and self.done[Phase.PACKING] >= self.steps.get(Phase.PACKING, 0):
            self.phase = Phase.SAVING

    @property
    def fraction(self) -> float:
        """Share of the run's time that is behind, from 0 to 1."""
        order = list(Phase)
        total = 0.0
        for phase in order:
            if order.index(phase) < order.index(self.phase):
                total += self._share[phase]
            elif self.steps.get(phase):
                total += self._share[phase] * min(self.done[phase] / self.steps[phase], 1.0)
        return min(total, 1.0)

    def remaining_s(self, elapsed_s: float) -> float | None:
        """Seconds left, should the rest go on as fast as what is behind; None while that says nothing."""
        fraction = self.fraction
        return elapsed_s * (1 - fraction) / fraction if fraction > 0.02 else None

    def describe(self) -> str:
        """Such as ``calibration 3/28``."""
        steps = self.steps.get(self.phase, 0)
        return f"{self.phase.value} {self.done[self.phase]}/{steps}" if steps > 1 else self.phase.value


class Display(Protocol):
    """What shows a run."""

    def __enter__(self) -> Display:
        """Begin to show."""
        ...

    def __exit__(self, *exc: object) -> None:
        """Stop."""
        ...

    def update(self, tracker: Tracker) -> None:
        """Show how far the run is."""
        ...


def make_display(stream: TextIO | None = None) -> Display:
    """A bar where `stream` (stderr) is a terminal, plain lines elsewhere."""
    stream = stream or sys.stderr
    return Bar(stream) if stream.isatty() else PlainLines(stream)


class _Remaining(ProgressColumn):
    def render(self, task: Task) -> Text:
        left = task.fields.get("remaining")
        return Text("" if left is None else f"{format_seconds(left)} left", style="progress.remaining")


class Bar:
    """A bar that rich draws."""

    def __init__(self, stream: TextIO) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            _Remaining(),
            TextColumn("{task.fields[memory]}"),
            console=Console(file=stream),
            transient=True,
        )
        self._task = self._progress.add_task("loading", total=1.0, memory="", remaining=None)
        self._start = time.monotonic()

    def __enter__(self) -> Bar:
        """Begin to draw."""
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Take the bar away."""
        self._progress.stop()

    def update(self, tracker: Tracker) -> None:
        """Move the bar."""
        self._progress.update(
            self._task,
            completed=tracker.fraction,
            description=tracker.describe(),
            memory=f"GPU {format_gib(tracker.gpu_bytes)}" if tracker.gpu_bytes else "",
            remaining=tracker.remaining_s(time.monotonic() - self._start),
        )


class PlainLines:
    """A line at each phase, at each tenth of the run and at least every minute that something happens."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._start = self._last_time = time.monotonic()
        self._last_fraction = 0.0
        self._last_phase: Phase | None = None

    def __enter__(self) -> PlainLines:
        """Nothing to begin."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Nothing to end."""

    def update(self, tracker: Tracker) -> None:
        """Print a line when it is time for one."""
        now, fraction = time.monotonic(), tracker.fraction
        if (
            tracker.phase is self._last_phase
            and fraction - self._last_fraction < _PLAIN_EVERY_SHARE
            and now - self._last_time < _PLAIN_EVERY_S
        ):
            return
        self._last_time, self._last_fraction, self._last_phase = now, fraction, tracker.phase
        left = tracker.remaining_s(now - self._start)
        parts = [f"{fraction:4.0%} {tracker.describe()}", f"{format_seconds(now - self._start)} elapsed"]
        if left is not None:
            parts.append(f"about {format_seconds(left)} left")
        if tracker.gpu_bytes:
            parts.append(f"GPU {format_gib(tracker.gpu_bytes)}")
        print(", ".join(parts), file=self._stream, flush=True)


def format_seconds(seconds: float) -> str:
    """``75.3`` -> ``1:15``; ``3725`` -> ``1:02:05``."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
