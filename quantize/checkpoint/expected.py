"""What a finished checkpoint has to hold: tensors and bytes, from the inventory that planning uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from planner.model import formats
from planner.model.dtypes import DType
from planner.model.inventory import inventory
from planner.model.quantization import Quantization
from planner.model.spec import ModelSpec
from planner.model.tensors import TensorGroup, size_bytes
from quantize.checkpoint.synthetic import safetensors_header

# Zip entries, their padding to 64 bytes and the pickle: 30,820 bytes for the 95 tensors of tiny-llama by 0.5.3.
_BIN_BYTES_PER_TENSOR: Final = 324


@dataclass(frozen=True, slots=True)
class ExpectedCheckpoint:
    """The checkpoint of `spec` after quantization.

    Attributes:
        groups: its tensors as stored.
        quantized: the 16-bit linears that the format replaces, one group each.
        tensor_bytes: all tensors together.
        file_bytes: with the header of one safetensors file, or the archive around a .bin file's tensors.
    """

    quantization: Quantization
    groups: tuple[TensorGroup, ...]
    quantized: tuple[TensorGroup, ...]
    tensor_bytes: int
    file_bytes: int

    @property
    def num_linears(self) -> int:
        """Linears that are packed, each a line of LMDeploy's output."""
        return sum(group.num_tensors for group in self.quantized)


def expect(
    spec: ModelSpec,
    quantization: Quantization,
    dtype: DType,
    *,
    file_format: str = "safetensors",
) -> ExpectedCheckpoint:
    """What quantizing the 16-bit `spec` has to give.

    Args:
        spec: the model that is read.
        quantization: the format.
        dtype: the float type of the result (`quantize.lite.command.stored_dtype`).
        file_format: ``safetensors``, or ``bin`` for pytorch_model.bin.

    Raises:
        UnsupportedModelError: a linear that groups or packing do not divide.
    """
    plain = inventory(spec._replace(dtype=dtype, quantization=None))
    groups = formats.store(plain, quantization)
    if file_format == "bin":
        overhead_bytes = _BIN_BYTES_PER_TENSOR * sum(group.num_tensors for group in groups)
    else:
        overhead_bytes = len(safetensors_header(groups)[0])
    tensor_bytes = size_bytes(groups)
    return ExpectedCheckpoint(
        quantization=quantization,
        groups=groups,
        quantized=tuple(group for group, replaced in formats.divide(plain, quantization) if replaced),
        tensor_bytes=tensor_bytes,
        file_bytes=overhead_bytes + tensor_bytes,
    )
