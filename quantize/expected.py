"""What a finished checkpoint has to hold: tensors and bytes, from the inventory that planning uses."""

from __future__ import annotations

from dataclasses import dataclass, replace

from planner.model import formats
from planner.model.dtypes import DType
from planner.model.spec import ModelSpec, Quantization
from planner.model.tensors import TensorGroup, inventory, size_bytes
from quantize.synthetic import safetensors_header


@dataclass(frozen=True, slots=True)
class ExpectedCheckpoint:
    """The checkpoint of `spec` after quantization.

    Attributes:
        groups: its tensors as stored.
        quantized: the 16-bit linears that the format replaces, one group each.
        tensor_bytes: all tensors together.
        file_bytes: with the header of one safetensors file.
    """

    quantization: Quantization
    groups: tuple[TensorGroup, ...]
    quantized: tuple[TensorGroup, ...]
    tensor_bytes: int
    file_bytes: int

    @property
    def num_linears(self) -> int:
        """Linears that are packed, each a line of LMDeploy's output."""
        return sum(group.count for group in self.quantized)


def expect(spec: ModelSpec, quantization: Quantization, dtype: DType) -> ExpectedCheckpoint:
    """What quantizing the 16-bit `spec` has to give.

    Args:
        spec: the model that is read.
        quantization: the format.
        dtype: the float type of the result (`quantize.command.stored_dtype`).

    Raises:
        UnsupportedModelError: a linear that groups or packing do not divide.
    """
    plain = inventory(replace(spec, dtype=dtype, quantization=None))
    groups = formats.store(plain, quantization)
    header, _ = safetensors_header(groups)
    tensor_bytes = size_bytes(groups)
    return ExpectedCheckpoint(
        quantization=quantization,
        groups=groups,
        quantized=tuple(group for group in plain if formats.is_quantized(group, quantization)),
        tensor_bytes=tensor_bytes,
        file_bytes=len(header) + tensor_bytes,
    )
