"""What a method of quantization has to say of itself; each stands in a module of `quantize/lite/methods/`.

`quantize/lite/` holds what LMDeploy's methods share: loading, calibration, datasets, the process. Whatever only one of
them knows is asked of its `Method`, so that another is one module, one case in `methods/__init__.py` and data in
`data/lite.toml`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from planner.model.quantization import Quantization, QuantMethod
from planner.model.spec import ModelSpec
from quantize.checkpoint.expected import ExpectedCheckpoint
from quantize.lite.events import Event, Phase
from quantize.lite.findings import Finding
from quantize.lite.resources import Needs
from quantize.lite.versions import LiteVersion
from quantize.recipe.model import MethodName, Recipe


class Method(ABC):
    """One method. Its data by LMDeploy version stands in `data/lite.toml` under its name.

    Everything is abstract: the type checker lists what a new one lacks.
    """

    @property
    @abstractmethod
    def name(self) -> MethodName:
        """In recipes and in the data."""

    @property
    @abstractmethod
    def title(self) -> str:
        """For people."""

    @property
    @abstractmethod
    def command(self) -> str:
        """The command of `lmdeploy lite`."""

    @property
    @abstractmethod
    def checkpoint_method(self) -> QuantMethod:
        """What it calls itself in the config.json that it writes."""

    @property
    @abstractmethod
    def scales_suffix(self) -> str:
        """How the names of its tensors of scales end."""

    # Before the run

    @abstractmethod
    def recipe_findings(self, recipe: Recipe, spec: ModelSpec) -> Iterator[Finding]:
        """What a recipe asks of a model that the method cannot do in any version."""

    @abstractmethod
    def describe(self, recipe: Recipe) -> str:
        """The format that a recipe asks for, in a few words."""

    @abstractmethod
    def options(self, recipe: Recipe, version: LiteVersion) -> list[str]:
        """Options that other commands of `lmdeploy lite` do not have, as that version spells them."""

    @abstractmethod
    def quantization(self, recipe: Recipe, spec: ModelSpec, version: LiteVersion) -> Quantization:
        """The format of the checkpoint that it makes."""

    @abstractmethod
    def needs(
        self, recipe: Recipe, spec: ModelSpec, expected: ExpectedCheckpoint, *, batch_size: int, download_bytes: int
    ) -> Needs:
        """Memory, disk and time of the run (`resources.predict`)."""

    @abstractmethod
    def auto_batch_size(
        self,
        recipe: Recipe,
        spec: ModelSpec,
        expected: ExpectedCheckpoint,
        free_gpu_bytes: int | None,
        free_host_bytes: int,
    ) -> int:
        """The batch size that ``auto`` stands for (`resources.auto_batch_size`)."""

    # While it runs

    @abstractmethod
    def steps(self, recipe: Recipe, spec: ModelSpec, expected: ExpectedCheckpoint) -> Mapping[Phase, int]:
        """How many events each phase will have; 0 for a phase that it has not."""

    @abstractmethod
    def event(self, line: str) -> Event | None:
        """What a line stands for that only this method prints, or None."""

    # What it made

    @abstractmethod
    def config_problems(self, config: Mapping[str, Any]) -> Iterator[str]:
        """What in config.json LMDeploy's engines would refuse in a checkpoint of this method."""

    @abstractmethod
    def result_problems(self, recipe: Recipe, found: Quantization) -> Iterator[str]:
        """Where a result is not what the recipe asked for."""
