"""`lmplan.json`: what was made from what, by which versions, with which numbers. Written into the output."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from planner.errors import LmplanError
from planner.files import reading

NAME: Final = "lmplan.json"
SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The model that was read: the config's hash is that of its JSON with sorted keys."""

    name: str
    revision: str | None
    config_sha256: str
    drawn: bool


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes predicted and found; None where nothing was predicted or could be sampled."""

    predicted_bytes: int | None
    found_bytes: int | None


@dataclass(frozen=True, slots=True)
class Manifest:
    """One finished run. Times are in seconds, `finished_at` in UTC."""

    schema: int
    lmplan: str
    finished_at: str
    recipe: Mapping[str, Any]
    recipe_sha256: str
    model: ModelFacts
    packages: Mapping[str, str]
    command: tuple[str, ...]
    batch_size: int
    seconds: float
    phase_seconds: Mapping[str, float]
    predicted_seconds: float
    gpu: Memory
    gpu_allocated_bytes: int | None
    host: Memory
    checkpoint: Memory
    num_tensors: int
    quality: Mapping[str, float | None] | None
    notes: tuple[str, ...]

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps(asdict(self), indent=2) + "\n"


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest in `folder`, or None where there is none that can be read."""
    try:
        return reading.read_object(folder / NAME, reading.MANIFEST)
    except LmplanError:
        return None
