"""A fleet as its file describes it: workloads, machines, and what shares a GPU."""

from __future__ import annotations

from dataclasses import dataclass

from planner.hardware.gpu import Gpu
from planner.lmdeploy.versions import LmdeployVersion
from planner.model.source import ModelSource
from planner.model.spec import ModelSpec
from planner.request import Load


@dataclass(frozen=True, slots=True)
class Workload:
    """One model and its load; `gpus` are the kinds that it may use, all where empty."""

    name: str
    source: ModelSource
    spec: ModelSpec
    load: Load
    lmdeploy: LmdeployVersion
    engine: str | None = None
    gpus: tuple[str, ...] = ()
    copies: int = 1


@dataclass(frozen=True, slots=True)
class Machines:
    """`count` machines alike, each with `gpus_each` GPUs of a kind; `count` is None for as many as needed."""

    name: str
    gpu: Gpu
    free_bytes: int
    gpus_each: int
    count: int | None = None

    @property
    def num_gpus(self) -> int | None:
        """All GPUs of this kind of machine."""
        return None if self.count is None else self.count * self.gpus_each


@dataclass(frozen=True, slots=True)
class Shared:
    """Workloads that share one GPU, in the order in which they are started."""

    machines: str
    start: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fleet:
    """A fleet as described; `share` lets models share a GPU wherever they fit beside each other."""

    workloads: tuple[Workload, ...]
    machines: tuple[Machines, ...]
    shared: tuple[Shared, ...] = ()
    share: bool = False
