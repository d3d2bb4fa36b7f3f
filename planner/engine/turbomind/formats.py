"""Linears as TurboMind keeps them: 16-bit, 4-bit with a 16-bit scale and zero a group, or fp8 with blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from planner.memory import weights
from planner.memory.weights import Allocation, LinearShape
from planner.model.spec import Quantization, TensorNames
from planner.units import ceil_div

_HALF_BYTES = 2
SM90_PARAM_BYTES = 2.5
"""Packed on compute capability 9.0, a 16-bit scale goes with a 4-bit zero (traced)."""
PARAM_BYTES = 4.0
"""Packed elsewhere, both have 16 bits (`linear_weight.cc`, 0.16.0)."""


def packed_param_bytes(capability: int) -> float:
    """Bytes of a group's scale and zero once they are packed for a compute capability such as 90."""
    return SM90_PARAM_BYTES if capability == 90 else PARAM_BYTES


@dataclass(frozen=True, slots=True)
class Format:
    """Quantized linears on one GPU under one version.

    Attributes:
        group_size: inputs that share a scale and a zero in the engine's 4-bit form.
        native_fp8: 8-bit activations are multiplied with 8-bit weights.
    """

    quantization: Quantization
    group_size: int
    native_fp8: bool

    def allocations(self, linear: LinearShape, names: TensorNames) -> Iterator[Allocation]:
        """What a linear takes, as the engine allocates it before it converts anything."""
        if not self.packs(linear, names):
            yield weights.plain_linear(linear)
            return
        num_in, num_out, count = linear.num_in, linear.num_out, linear.count
        if self.quantization.method == "fp8":
            size = self.quantization.group_size
            yield Allocation(linear.what, num_in * num_out, count)
            if self.native_fp8:
                scales = 4 * ceil_div(num_in, size) * ceil_div(num_out, size)
            else:
                scales = _HALF_BYTES * ceil_div(num_in, size) * num_out
            yield Allocation(f"{linear.what} scales", scales, count)
            return
        yield Allocation(linear.what, num_in * num_out // 2, count)
        groups = ceil_div(num_in, self.group_size) * num_out
        yield Allocation(f"{linear.what} scales", _HALF_BYTES * groups, count)
        yield Allocation(f"{linear.what} zeros", _HALF_BYTES * groups, count)

    def packs(self, linear: LinearShape, names: TensorNames) -> bool:
        """Whether a linear is kept in this format: checkpoints may say that they left a module in 16 bits."""
        module = {
            "qkv": names.qkv or names.query,
            "output": names.output,
            "gate and up": names.gate,
            "down": names.down,
        }.get(linear.what, linear.what)
        return linear.quantized and not any(part in module for part in self.quantization.unquantized)
