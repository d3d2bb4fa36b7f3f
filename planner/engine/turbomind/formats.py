"""Linears as TurboMind keeps them: 16-bit, 4-bit with a 16-bit scale and zero a group, mxfp4, or fp8 with blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from planner.errors import not_planned
from planner.kinds import assert_never
from planner.memory.linears import LinearShape
from planner.memory.weights import Allocation, AllocationKind, of_linear, plain_linear
from planner.model.quantization import Quantization, QuantMethod
from planner.units import ceil_div

_HALF_BYTES = 2
SM90_PARAM_BYTES = 2.5
"""Packed on compute capability 9.0, a 16-bit scale goes with a 4-bit zero (traced)."""
PARAM_BYTES = 4.0
"""Packed elsewhere, both have 16 bits (`linear_weight.cc`, 0.16.0)."""


def packed_param_bytes(capability: int) -> float:
    """Bytes of a group's scale and zero once they are packed for a compute capability such as 90."""
    return SM90_PARAM_BYTES if capability == 90 else PARAM_BYTES


class Format(NamedTuple):
    """Quantized linears on one GPU under one version.

    Attributes:
        group_size: inputs that share a scale, and a zero where there are such, in the engine's 4-bit form.
        native_fp8: 8-bit activations are multiplied with 8-bit weights.
    """

    quantization: Quantization
    group_size: int
    native_fp8: bool

    def allocations(self, linear: LinearShape) -> Iterator[Allocation]:
        """What a linear takes, as the engine allocates it before it converts anything."""
        if not linear.quantized:
            yield plain_linear(linear)
            return
        num_in, num_out = linear.num_in, linear.num_out
        match self.quantization.method:
            case QuantMethod.FP8:
                size = self.quantization.group_size
                yield of_linear(linear, AllocationKind.WEIGHT, linear.num_weights)
                if self.native_fp8:
                    scales = 4 * ceil_div(num_in, size) * ceil_div(num_out, size)
                else:
                    scales = _HALF_BYTES * ceil_div(num_in, size) * num_out
                yield of_linear(linear, AllocationKind.SCALES, scales)
            case QuantMethod.AWQ | QuantMethod.GPTQ | QuantMethod.COMPRESSED_TENSORS:
                groups = ceil_div(num_in, self.group_size) * num_out
                yield of_linear(linear, AllocationKind.WEIGHT, linear.num_weights // 2)
                yield of_linear(linear, AllocationKind.SCALES, _HALF_BYTES * groups)
                yield of_linear(linear, AllocationKind.ZEROS, _HALF_BYTES * groups)
            case QuantMethod.MXFP4:
                yield of_linear(linear, AllocationKind.WEIGHT, linear.num_weights // 2)
                yield of_linear(linear, AllocationKind.SCALES, ceil_div(num_in, self.group_size) * num_out)
            case QuantMethod.SMOOTH_QUANT:
                raise not_planned(f"{self.quantization.method} under TurboMind")
            case _:
                assert_never(self.quantization.method)

    @property
    def packed_group_size(self) -> int:
        """Inputs that share a scale and a zero which packing fuses in room of their own; 0 where it does not. Scales of
        mxfp4 are packed in turn, through a temporary of their own size.
        """
        return (
            self.group_size if self.quantization.bits == 4 and self.quantization.method is not QuantMethod.MXFP4 else 0
        )
