"""A measurement: what one start of LMDeploy held on a GPU, phase by phase. One JSON file each."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from planner.errors import UsageError

SCHEMA: Final = "lmplan.measurement/1"
_KINDS: Final[dict[str, type]] = {
    "complete": bool,
    "outcome": str,
    "host": dict,
    "model": dict,
    "checkpoint": dict,
    "settings": dict,
    "free_before_bytes": int,
    "engine_log": dict,
    "load_peak_bytes": int,
    "peak_bytes": int,
}
OUTCOMES: Final = (
    "serves",
    "dies while loading",
    "no room for the KV cache",
    "dies while warming up",
    "hangs while warming up",
    "failed",
)


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
        outcome: one of OUTCOMES.
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


def write(measurement: Measurement, path: Path) -> None:
    """Write the file in one step: nothing half-written ever carries the name.

    Raises:
        UsageError: it cannot be written there.
    """
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(measurement.to_json(), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", "--out names another file") from None


def read(path: Path) -> Measurement:
    """Read a measurement file.

    Raises:
        UsageError: not there, not JSON, another schema, or a field missing.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        found = value.get("schema") if isinstance(value, dict) else type(value).__name__
        raise UsageError(f"{path} is no measurement: its schema is {found!r}, expected {SCHEMA!r}")
    return from_object(value, str(path))


def from_object(value: dict[str, Any], where: str) -> Measurement:
    """A measurement from its JSON object.

    Raises:
        UsageError: a field is missing or of another kind.
    """
    fields = {name: value[name] for name in Measurement.__dataclass_fields__ if name in value}
    try:
        fields["phases"] = [Reading(**phase) for phase in fields["phases"]]
        found = Measurement(**fields)
    except (KeyError, TypeError) as error:
        raise UsageError(f"{where}: a field is missing or unknown ({error})") from None
    for name, kind in _KINDS.items():
        if not isinstance(getattr(found, name), kind):
            raise UsageError(f"{where}: {name} is {getattr(found, name)!r:.40}; expected {kind.__name__}")
    for phase in found.phases:
        for sizes in (phase.used_bytes, phase.peak_bytes):
            if not (isinstance(sizes, list) and sizes and all(isinstance(size, int) for size in sizes)):
                raise UsageError(f"{where}: phase {phase.name!r:.40} has no bytes")
    for name, size in found.engine_log.items():
        if not isinstance(size, int):
            raise UsageError(f"{where}: engine_log.{name} is {size!r:.40}; expected int")
    return found
