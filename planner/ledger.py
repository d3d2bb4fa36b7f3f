"""Measured runs that are shipped with lmplan, replayed beside their estimates."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from planner.data import ROOT
from planner.engine import versions
from planner.engine.base import Deployment
from planner.engine.settings import Wishes, decide
from planner.errors import LmplanError
from planner.footprint import MemoryEstimate, estimate_memory
from planner.gpu import catalog
from planner.model.arch import read_spec
from planner.model.spec import ModelSpec

_WEIGHTS = {"w16": "as-is", "w4a16-g128": "w4a16"}
"""How the first file of runs names its checkpoints -> --weights."""


@dataclass(frozen=True, slots=True)
class Run:
    """One measured start of LMDeploy.

    `used_bytes` is what the device held once it served, None where it never did. `synthetic` weights are all zero.
    """

    model: str
    config: dict[str, Any]
    product: str
    lmdeploy: str
    settings: dict[str, Any]
    free_before_bytes: int
    outcome: str
    used_bytes: int | None
    synthetic: bool
    phases: tuple[dict[str, Any], ...]

    def deployment(self) -> Deployment | None:
        """The run as lmplan plans it; None where it knows neither the GPU nor how to plan the model."""
        gpu = next((gpu for gpu in catalog() if gpu.product == self.product and not gpu.slice_of), None)
        if gpu is None:
            return None
        try:
            spec = read_spec(self.config, self.model)
            settings = decide(spec, gpu, versions.resolve(self.lmdeploy), Wishes(**self.settings))
        except LmplanError:
            return None
        return Deployment(spec, gpu, self.free_before_bytes, settings)


@dataclass(frozen=True, slots=True)
class Replayed:
    """A measured run beside its estimate."""

    run: Run
    memory: MemoryEstimate

    @property
    def off_ratio(self) -> float | None:
        """How far the estimate lies from what was measured: 0.01 for one percent too much."""
        return self.memory.total_bytes / self.run.used_bytes - 1 if self.run.used_bytes else None


def shipped_files() -> list[Path]:
    """The measurement files of the package."""
    return sorted((ROOT / "measurements").glob("*.json"))


def read_runs(path: Path) -> Iterator[Run]:
    """The runs of a ledger, or the one of a measurement file."""
    file = json.loads(path.read_text(encoding="utf-8"))
    for value in file.get("runs", [file]):
        yield _run(value, file.get("configs", {}))


def runs_of(spec: ModelSpec) -> list[Replayed]:
    """Every shipped run of a model with these shapes, in the order of the files."""
    found = []
    for path in shipped_files():
        for run in read_runs(path):
            deployment = run.deployment()
            if deployment is not None and _alike(deployment.spec, spec):
                found.append(Replayed(run, estimate_memory(deployment)))
    return found


def _alike(one: ModelSpec, other: ModelSpec) -> bool:
    names = other.text.names
    return (replace(one.text, names=names), one.vision, one.quantization) == (
        other.text,
        other.vision,
        other.quantization,
    )


def _run(value: dict[str, Any], configs: dict[str, Any]) -> Run:
    plain = {key: wish for key, wish in value["settings"].items() if key in Wishes.__dataclass_fields__}
    if "host" not in value:
        return Run(
            model=value["model"],
            config=configs[value["model"]],
            product=value["gpu"],
            lmdeploy=value["lmdeploy"],
            settings={"engine": value["engine"], "weights": _WEIGHTS[value["checkpoint_format"]], **plain},
            free_before_bytes=value["free_before_bytes"],
            outcome=value["outcome"],
            used_bytes=value["used_after_load_bytes"],
            synthetic=True,
            phases=(),
        )
    config = value["model"]["config"]
    loaded = next((phase for phase in value["phases"] if phase["name"] == "loaded"), None)
    return Run(
        model=value["model"]["name"],
        config=configs[config] if isinstance(config, str) else config,
        product=value["host"]["product"],
        lmdeploy=value["host"]["lmdeploy"],
        settings=plain,
        free_before_bytes=value["free_before_bytes"],
        outcome=value["outcome"],
        used_bytes=loaded["used_bytes"][0] if loaded else None,
        synthetic=bool(value["checkpoint"].get("synthetic")),
        phases=tuple(value["phases"]),
    )
