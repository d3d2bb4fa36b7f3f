"""Measured runs that are shipped with lmplan, replayed beside their estimates.

A ledger is a file of measurements (`lmplan measure` writes them) that share their configs: ``{"schema", "note",
"configs": {key: config.json}, "runs": [...]}``, where a run's ``model.config`` is a key. A measurement file by itself
is read as a ledger of one run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.data import ROOT
from planner.engine.base import Deployment
from planner.errors import LmplanError
from planner.footprint import MemoryEstimate, estimate_memory
from planner.hardware.gpu import catalog
from planner.kinds import WeightsChoice
from planner.lmdeploy import versions
from planner.lmdeploy.settings import Request, decide
from planner.model.arch import read_spec
from planner.model.spec import ModelSpec

SCHEMA = "lmplan.ledger/1"
MEASUREMENT_SCHEMA = "lmplan.measurement/1"
LOG_DOUBT_BYTES = 5243
"""Half of the last digit of the engine's log, 0.01 MiB: doubt of the log and not of the plan."""
_WEIGHTS = {"16-bit": WeightsChoice.AS_IS, "awq": WeightsChoice.W4A16, "fp8": WeightsChoice.FP8}
"""Format of a checkpoint -> --weights, for a config that does not say how it is quantized."""


@dataclass(frozen=True, slots=True)
class Run:
    """One measured start of LMDeploy.

    `used_bytes` is what the device held once it served, None where it never did; `kv_budget_bytes`, `block_bytes` and
    `blocks` are the engine's own words, None where it did not say. `synthetic` weights are all zero.
    """

    model: str
    config: dict[str, Any]
    product: str
    lmdeploy: str
    checkpoint_format: str
    settings: dict[str, Any]
    free_before_bytes: int
    outcome: str
    used_bytes: int | None
    load_peak_bytes: int
    kv_budget_bytes: int | None
    block_bytes: int | None
    blocks: int | None
    synthetic: bool
    phases: tuple[dict[str, Any], ...]

    @property
    def name(self) -> str:
        """What tells the run from the others, for people."""
        settings = ", ".join(f"{k} {v}" for k, v in self.settings.items() if k not in ("engine", "lmdeploy", "weights"))
        engine = self.settings["engine"]
        return (
            f"{self.model} {self.checkpoint_format} {engine} {self.free_before_bytes / 2**30:.1f} GiB free {settings}"
        )

    def deployment(self) -> Deployment | None:
        """The run as lmplan plans it; None where it knows neither the GPU nor how to plan the model."""
        gpu = next((gpu for gpu in catalog() if gpu.product == self.product and not gpu.slice_of), None)
        if gpu is None:
            return None
        try:
            spec = read_spec(self.config, self.model)
            weights = WeightsChoice.AS_IS if spec.quantization else _WEIGHTS[self.checkpoint_format]
            asked = {"weights": weights, **self.settings}
            settings = decide(spec, gpu, versions.resolve(self.lmdeploy), Request(**asked))
        except (LmplanError, KeyError):
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

    @property
    def kv_off_ratio(self) -> float | None:
        """The same of the KV budget, or of the blocks where the engine says those; the log's rounding is no error."""
        if self.run.kv_budget_bytes:
            difference = self.memory.kv_cache.budget_bytes - self.run.kv_budget_bytes
            beyond = max(abs(difference) - LOG_DOUBT_BYTES, 0)
            return (beyond if difference > 0 else -beyond) / self.run.kv_budget_bytes
        if self.run.blocks:
            return self.memory.kv_cache.blocks / self.run.blocks - 1
        return None

    @property
    def peak_off_ratio(self) -> float | None:
        """The same of the peak of loading, where the run served and the peak lies above what it held then.

        Where it died the measured peak is the end of the card.
        """
        run = self.run
        if run.used_bytes is None or run.load_peak_bytes <= run.used_bytes:
            return None
        return self.memory.load_peak_bytes / run.load_peak_bytes - 1

    @property
    def verdict_right(self) -> bool:
        """Whether it went as planned."""
        return self.memory.outcome == self.run.outcome


def shipped_files() -> list[Path]:
    """The measurement files of the package."""
    return sorted((ROOT / "measurements").glob("*.json"))


def read_runs(path: Path) -> Iterator[Run]:
    """The runs of a ledger, or the one of a measurement file."""
    file = json.loads(path.read_text(encoding="utf-8"))
    for value in file.get("runs", [file]):
        yield one_run(value, file.get("configs", {}))


def replay(run: Run) -> Replayed | None:
    """A run beside its estimate; None where lmplan cannot plan it."""
    deployment = run.deployment()
    return Replayed(run, estimate_memory(deployment)) if deployment is not None else None


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
    return (one.text._replace(names=names), one.vision, one.quantization) == (
        other.text,
        other.vision,
        other.quantization,
    )


def one_run(value: dict[str, Any], configs: dict[str, Any]) -> Run:
    """A run of a ledger with these configs, or a measurement that brings its own."""
    config, log = value["model"]["config"], value["engine_log"]
    loaded = next((phase for phase in value["phases"] if phase["name"] == "loaded"), None)
    return Run(
        model=value["model"]["name"],
        config=configs[config] if isinstance(config, str) else config,
        product=value["host"]["product"],
        lmdeploy=value["host"].get("lmdeploy") or value["settings"]["lmdeploy"],
        checkpoint_format=value["checkpoint"]["format"],
        settings={key: wish for key, wish in value["settings"].items() if key in Request._fields},
        free_before_bytes=value["free_before_bytes"],
        outcome=value["outcome"],
        used_bytes=loaded["used_bytes"][0] if loaded else None,
        load_peak_bytes=value["load_peak_bytes"],
        kv_budget_bytes=log.get("kv_budget_bytes"),
        block_bytes=log.get("block_bytes"),
        blocks=log.get("blocks"),
        synthetic=bool(value["checkpoint"].get("synthetic")),
        phases=tuple(value["phases"]),
    )
