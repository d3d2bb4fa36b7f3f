"""Every tensor of a result against the original's, with what smoothing moved between them undone.

Smoothing leaves the model as it was: what it multiplies into the inputs of a linear it divides out of what feeds them,
a norm or the outputs of another linear. A norm says by how much, old over new. Of a linear that feeds another, a scale
for each output is fitted, and the inputs of the other must be scaled by just the inverse. What is left is the error of
rounding, and where something was lost it is far more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from quantize.quality.inside.formats import open_linear
from quantize.quality.inside.formats.base import Linear, Rows
from quantize.quality.inside.tensors import Tensors

_CHUNK_ELEMENTS = 2**24
"""Weights that are compared at once: a dozen temporaries of 64 MiB."""
_FLOOR_RATIO = 0.01
"""A group's error is put in relation to its own size, and to a hundredth of the linear's where the group is smaller:
such a group is less than 1e-4 of what the linear gives, and may well be below what float16 can scale."""
_ROUNDING_RATIO = 2**-8
"""How far a value that was only converted may be off: half the distance of two bfloat16."""


@dataclass(frozen=True, slots=True)
class Link:
    """A linear and what smoothing may have scaled.

    Attributes:
        name: of its module.
        layer: of the decoder.
        norm: the norm whose output it takes, or None.
        feeder: the linear whose output it takes, or None.
        feeds: how many of its outputs, the last ones, are the inputs of another linear; 0 for none. Of queries, keys
            and values in one linear it is the values.
    """

    name: str
    layer: int
    norm: str | None
    feeder: str | None
    feeds: int


@dataclass(frozen=True, slots=True)
class LinearResult:
    """How far a linear is from the original's.

    Attributes:
        error: RMS of the difference over RMS of the weights.
        group_error: the same of its worst group, `worst_output` and `worst_group`.
        steps: the largest difference of a weight in steps of its grid, where it was not cut off; half a step is
            rounding. None where there is no grid.
        scale: by how much it is larger than it should be: 1 in a good result, and with smoothing that was applied twice
            or never what is missing between a linear and the one that feeds it.
        bias_error: RMS of the bias's difference over that of the bias; None without a bias.
    """

    name: str
    layer: int
    error: float
    group_error: float
    worst_output: int
    worst_group: int
    steps: float | None
    scale: float
    bias_error: float | None


class Comparison:
    """A result beside its original.

    Args:
        original, result: their tensors, on one device.
        method: ``quant_method`` of the result.
    """

    def __init__(self, original: Tensors, result: Tensors, method: str) -> None:
        self._original = original
        self._result = result
        self._method = method
        self._fitted: dict[str, torch.Tensor] = {}

    def linears(self, links: list[Link]) -> Iterator[LinearResult]:
        """Each linear, those that feed others before them."""
        for link in links:
            yield self._linear(link)

    def others(self, links: list[Link]) -> tuple[int, list[dict[str, str]]]:
        """All tensors that are no linear of a layer: how many, and what is wrong with which."""
        modules = {link.name for link in links}
        norms = {f"{link.norm}.weight" for link in links if link.norm}
        names = sorted(n for n in self._original.names & self._result.names if n.rpartition(".")[0] not in modules)
        found = []
        for name in names:
            problem = self._problem(name, smoothed=name in norms)
            if problem:
                found.append({"name": name, "problem": problem})
        return len(names), found

    def _problem(self, name: str, smoothed: bool) -> str:
        before, after = self._original.get(name), self._result.get(name)
        if before.shape != after.shape:
            return f"has shape {list(after.shape)} and not {list(before.shape)}"
        num_odd = num_other = 0
        pieces = (tensor.flatten().split(_CHUNK_ELEMENTS) for tensor in (before, after))
        for one, other in zip(*pieces, strict=True):
            one, other = one.float(), other.float()
            num_odd += int((~torch.isfinite(other)).sum())
            # Smoothing divides by positive numbers: signs and zeros stay.
            wrong = one.sign() != other.sign() if smoothed else (other - one).abs() > _ROUNDING_RATIO * one.abs()
            num_other += int(wrong.sum())
        if num_odd:
            return f"{num_odd} of {after.numel()} values are NaN or infinite"
        return f"{num_other} of {after.numel()} values are not the original's" if num_other else ""

    def _columns(self, link: Link) -> torch.Tensor | None:
        """What the inputs of a linear should have been multiplied by, [inputs]."""
        if link.norm is not None:
            before, after = (tensors.get(f"{link.norm}.weight").float() for tensors in (self._original, self._result))
            return torch.where(before == after, 1.0, before / after)
        if link.feeder is not None and link.feeder in self._fitted:
            return 1 / self._fitted.pop(link.feeder)
        return None

    def _linear(self, link: Link) -> LinearResult:
        weight = self._original.get(f"{link.name}.weight")
        linear = open_linear(self._result, link.name, self._method)
        num_outputs, num_inputs = weight.shape
        sums = _Sums(weight, linear, self._columns(link), num_outputs - link.feeds)
        step = max(8, _CHUNK_ELEMENTS // num_inputs // 8 * 8)
        outputs = torch.cat([sums.add(at, min(at + step, num_outputs)) for at in range(0, num_outputs, step)])
        if link.feeds:
            self._fitted[link.name] = outputs[-link.feeds :]
        return LinearResult(link.name, link.layer, *sums.results(), self._bias_error(link, outputs))

    def _bias_error(self, link: Link, outputs: torch.Tensor) -> float | None:
        name = f"{link.name}.bias"
        if name not in self._original:
            return None
        before, after = self._original.get(name).float() * outputs, self._result.get(name).float()
        difference = (after - before).norm()
        return float(difference / before.norm()) if float(difference) else 0.0


class _Sums:
    """What the chunks of one linear add up to. Outputs from `first_scaled` on may have been scaled."""

    def __init__(self, weight: torch.Tensor, linear: Linear, columns: torch.Tensor | None, first_scaled: int) -> None:
        self._weight = weight
        self._linear = linear
        self._columns = columns
        self._first_scaled = first_scaled
        self._difference = self._size = self._product = 0.0
        self._worst = (-1.0, 0, 0)
        self._steps: float | None = None

    def add(self, start: int, stop: int) -> torch.Tensor:
        """Compare some rows; the scale that was fitted for each, 1 where none can be."""
        expected = self._weight[start:stop].float()
        if self._columns is not None:
            expected = expected * self._columns
        part = self._linear.rows(start, stop)
        outputs = torch.ones(len(expected), device=expected.device)
        if stop > self._first_scaled:
            fitted = (
                torch.einsum("oi,oi->o", part.values, expected) / torch.linalg.vector_norm(expected, dim=1).square()
            )
            # Of a row that was lost there is no scale: it is held against what it was.
            good = torch.isfinite(fitted) & (fitted > 0)
            good &= torch.arange(start, stop, device=good.device) >= self._first_scaled
            outputs = torch.where(good, fitted, 1.0)
            expected = expected * outputs.unsqueeze(1)
        groups = (len(expected), -1, self._linear.group_size)
        values, expected = part.values.view(groups), expected.view(groups)
        sizes = torch.linalg.vector_norm(expected, dim=-1)
        differences = torch.linalg.vector_norm(values - expected, dim=-1)
        size = float(sizes.square().sum())
        self._size += size
        self._difference += float(differences.square().sum())
        self._product += float(torch.dot(values.flatten(), expected.flatten()))
        errors = differences / sizes.clamp(min=_FLOOR_RATIO * (size / sizes.numel()) ** 0.5)
        worst = int(errors.nan_to_num(torch.inf).argmax())
        error = float(errors.flatten()[worst])
        if not error <= self._worst[0]:  # NaN is worse than any number
            self._worst = (error, start + worst // errors.shape[1], worst % errors.shape[1])
        self._see_steps(part, values, expected)
        return outputs

    def _see_steps(self, part: Rows, values: torch.Tensor, expected: torch.Tensor) -> None:
        if part.steps is None or part.lowest is None or part.highest is None:
            return
        on_grid = expected.clamp(part.lowest.unsqueeze(-1), part.highest.unsqueeze(-1))
        largest = torch.linalg.vector_norm(values - on_grid, torch.inf, dim=-1)
        steps = float(torch.where(part.steps > 0, largest / part.steps, 0).max())
        self._steps = steps if self._steps is None or not steps <= self._steps else self._steps

    def results(self) -> tuple[float, float, int, int, float | None, float]:
        """Of `LinearResult`: error to scale."""
        size = self._size or float("nan")
        return (self._difference / size) ** 0.5, *self._worst, self._steps, self._product / size


def to_object(result: LinearResult) -> dict[str, Any]:
    """For JSON."""
    return asdict(result)
