"""A linear as a checkpoint holds it: what every format gives, and the one that is not quantized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of a linear, one for each output.

    Attributes:
        values: [rows, inputs], float32: the weights that the engine multiplies with.
        steps: [rows, groups], float32: how far apart two neighbouring values of a group lie; None where the format has
            no such grid.
        lowest, highest: [rows, groups], float32: the ends of the grid, beyond which weights are cut off.
    """

    values: torch.Tensor
    steps: torch.Tensor | None = None
    lowest: torch.Tensor | None = None
    highest: torch.Tensor | None = None


class Linear(Protocol):
    """A linear of a checkpoint.

    Attributes:
        num_outputs: rows.
        group_size: inputs that share a scale.
    """

    num_outputs: int
    group_size: int

    def rows(self, start: int, stop: int) -> Rows:
        """The rows from `start` to `stop`; `start` is a multiple of 8."""
        ...


class Plain:
    """A linear with a weight of its own, [outputs, inputs]."""

    def __init__(self, weight: torch.Tensor) -> None:
        self._weight = weight
        self.num_outputs, self.group_size = weight.shape

    def rows(self, start: int, stop: int) -> Rows:
        """As stored."""
        return Rows(self._weight[start:stop].float())
