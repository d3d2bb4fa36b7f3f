"""How near estimates came to what was measured: `planner/data/accuracy.json`, made by `planner.evidence.accuracy`."""

from __future__ import annotations

import math
from typing import NamedTuple

from planner.data import read_json
from planner.engine.base import Deployment
from planner.kinds import EngineName, assert_never
from planner.model.quantization import QuantMethod
from planner.units import counted


class Group(NamedTuple):
    """Measured runs of one kind on one GPU with one version.

    Attributes:
        format: 16-bit, 4-bit or fp8 weights.
        runs: starts of LMDeploy, those that failed included; `served` of them had a total to compare.
        total_off_ratio, kv_off_ratio: the largest miss of the total and of the KV budget (its blocks for the PyTorch
            engine), whichever its sign. The band that is printed is this, rounded up to a tenth of a percent.
        total_usual_ratio, kv_usual_ratio: what nine runs in ten stay within.
        peak_off_ratio: the largest miss of the peak of loading where that lies above the total; None for no such run.
        right: runs whose verdict was right.
    """

    product: str
    lmdeploy: str
    engine: str
    format: str
    tp: int
    runs: int
    served: int
    models: int
    total_off_ratio: float
    total_usual_ratio: float
    kv_off_ratio: float
    kv_usual_ratio: float
    peak_off_ratio: float | None
    right: int

    @property
    def what(self) -> str:
        """Weights, engine and tp, for people."""
        tp = f" with tp {self.tp}" if self.tp > 1 else ""
        return f"{self.format} weights under {EngineName(self.engine).in_words}{tp}"

    @property
    def kv_name(self) -> str:
        """What the engine says of its cache."""
        engine = EngineName(self.engine)
        match engine:
            case EngineName.TURBOMIND:
                return "KV budget"
            case EngineName.PYTORCH:
                return "block count"
            case _:
                assert_never(engine)


def groups() -> list[Group]:
    """Everything that was measured."""
    return [Group(**value) for value in read_json("accuracy.json")["groups"]]


def weights_format(deployment: Deployment) -> str:
    """16-bit, 4-bit or fp8."""
    quantization = deployment.settings.quantization
    if quantization is None:
        return "16-bit"
    return "fp8" if quantization.method is QuantMethod.FP8 else f"{quantization.bits}-bit"


def band_percent(ratio: float) -> str:
    """The largest miss as the band that is printed: rounded up to a tenth of a percent."""
    return f"{max(math.ceil(ratio * 1000 - 1e-9), 1) / 10:.1f}%"


def find(deployment: Deployment) -> Group | None:
    """The runs of exactly this kind: GPU, version, engine, weights and tp."""
    return next((group for group in groups() if not _differences(group, deployment)), None)


def line(deployment: Deployment) -> str:
    """One sentence: how near, in how many runs; or that nobody measured it, and what comes nearest."""
    nearest = min(groups(), key=lambda group: _distance(group, deployment))
    within = f"within {band_percent(nearest.total_off_ratio)} of the total and {band_percent(nearest.kv_off_ratio)} "
    within += f"of the {nearest.kv_name} in {counted(nearest.served, 'run')}"
    differences = _differences(nearest, deployment)
    if not differences:
        return f"{within} of {nearest.what} on {nearest.product} (LMDeploy {nearest.lmdeploy})"
    return (
        f"not measured {', '.join(differences)}; {nearest.what} on {nearest.product} (LMDeploy {nearest.lmdeploy}) "
        f"came {within}"
    )


def _differences(group: Group, deployment: Deployment) -> list[str]:
    """In what a deployment differs from what was measured, the GPU first."""
    settings, gpu = deployment.settings, deployment.gpu
    found = []
    if gpu.slice_of or gpu.product != group.product:
        found.append("on this GPU")
    if settings.lmdeploy.version != group.lmdeploy:
        found.append(f"with LMDeploy {settings.lmdeploy.version}")
    if settings.engine != group.engine:
        found.append(f"under {settings.engine.in_words}")
    if weights_format(deployment) != group.format:
        found.append(f"with {weights_format(deployment)} weights")
    if settings.tp != group.tp:
        found.append(f"with tp {settings.tp}")
    return found


def _distance(group: Group, deployment: Deployment) -> tuple[bool, bool, bool, bool, int, int]:
    """Of groups that are equally near, that of most runs is nearest."""
    settings = deployment.settings
    return (
        settings.engine != group.engine,
        weights_format(deployment) != group.format,
        deployment.gpu.product != group.product,
        settings.lmdeploy.version != group.lmdeploy,
        abs(settings.tp - group.tp),
        -group.runs,
    )
