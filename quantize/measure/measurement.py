"""A measurement: what one start of LMDeploy held on a GPU, phase by phase. One JSON file each."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from planner.evidence.forms import MeasurementForm, check, check_schema
from planner.files import reading
from planner.files.escape import shown
from planner.files.writing import write_text

SCHEMA: Final = "lmplan.measurement/1"


@dataclass(slots=True)
class Reading:
    """Memory at one point: `used_bytes` by device once it was reached, `peak_bytes` since the phase before."""

    name: str
    used_bytes: list[int]
    peak_bytes: list[int]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Measurement:
    """What was seen. Sizes are bytes above what the devices held before the process started.

    Attributes:
        complete: false for a run that was cut short; what it reached is kept.
        outcome: one of `planner.evidence.forms.OUTCOMES`.
        host: product, memory_total_bytes, driver, compute_capability, and versions of what ran.
        model: name, architecture, config (the whole config.json, so that the run can be replayed).
        checkpoint: format (16-bit, awq ...), bytes, synthetic.
        settings: as the estimate's, as far as they were given or are known.
        free_before_bytes: free on device 0 before the process started, by CUDA's count.
        engine_log: what the engine said of itself.
        speed: decode and prefill rates.
        note: what the user said of the run, and what stood in the way of a clean reading.
    """

    complete: bool
    outcome: str
    host: dict[str, Any]
    model: dict[str, Any]
    checkpoint: dict[str, Any]
    settings: dict[str, Any]
    free_before_bytes: int
    phases: list[Reading]
    engine_log: dict[str, Any]
    load_peak_bytes: int
    peak_bytes: int
    speed: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""
    date: str = ""
    note: str = ""

    def phase(self, name: str) -> Reading | None:
        """The first phase of that name."""
        return next((phase for phase in self.phases if phase.name == name), None)

    @property
    def total_bytes(self) -> int | None:
        """What device 0 held once the engine served, before any request; None when it never did."""
        loaded = self.phase("loaded")
        return loaded.used_bytes[0] if loaded else None

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n"


def write(measurement: Measurement, path: Path, *, force: bool = False) -> None:
    """Write the file, whole or not at all.

    Raises:
        UsageError, EnvironmentProblem: as `planner.files.writing.write_text`.
    """
    write_text(path, measurement.to_json(), force=force)


def read(path: Path) -> Measurement:
    """Read a measurement file.

    Raises:
        UsageError: not there, not JSON, another schema, or a field that is missing or cannot be right.
    """
    value = reading.read_object(path, reading.MEASUREMENT)
    check_schema(value, SCHEMA, f"{shown(path)} is no measurement", reading.MEASUREMENT.hint)
    return from_object(value, shown(path))


def from_object(value: dict[str, Any], where: str) -> Measurement:
    """A measurement from its JSON object.

    Raises:
        UsageError: a field is missing or cannot be right.
    """
    check(MeasurementForm, value, where, reading.MEASUREMENT.hint)
    fields = {name: value[name] for name in Measurement.__dataclass_fields__ if name in value}
    known = Reading.__dataclass_fields__
    fields["phases"] = [Reading(**{name: phase[name] for name in known if name in phase}) for phase in value["phases"]]
    return Measurement(**fields)
