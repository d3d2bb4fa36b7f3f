"""How a checkpoint stores its linears: the methods, and what sets two checkpoints of one method apart."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from planner.model.dtypes import DType


class QuantMethod(Enum):
    """A quantization method; `value` is its ``quant_method`` in a config.json."""

    AWQ = "awq"
    GPTQ = "gptq"
    FP8 = "fp8"
    MXFP4 = "mxfp4"
    COMPRESSED_TENSORS = "compressed-tensors"
    SMOOTH_QUANT = "smooth_quant"

    def __str__(self) -> str:
        return self.value


class Quantization(NamedTuple):
    """How a checkpoint stores the linears of its decoder layers.

    Attributes:
        bits: of a weight.
        group_size: input features that share a scale. Of fp8 the side of the square block, 0 where a whole linear has
            one scale; of smooth_quant 0, where each output has one.
        unquantized: the modules that stay as they were, as the config.json has it (`planner.model.held_out` reads it).
        static: whether linears come with a scale for their input, fixed beforehand (fp8, ``activation_scheme`` static).
        weight_dtype: of a stored 8-bit weight.
        scale_dtype: of the scales of fp8 blocks; None for the model's own.
    """

    method: QuantMethod
    bits: int
    group_size: int
    unquantized: tuple[str, ...] = ()
    static: bool = False
    weight_dtype: DType = DType.F8_E4M3
    scale_dtype: DType | None = None
