"""Element types of checkpoint tensors, by the names that safetensors gives them."""

from __future__ import annotations

from enum import Enum


class DType(Enum):
    """An element type; `value` is its safetensors name."""

    F32 = "F32"
    F16 = "F16"
    BF16 = "BF16"
    F8_E4M3 = "F8_E4M3"
    F8_E5M2 = "F8_E5M2"
    F8_E8M0 = "F8_E8M0"
    F64 = "F64"
    I64 = "I64"
    U64 = "U64"
    U32 = "U32"
    U16 = "U16"
    I32 = "I32"
    I16 = "I16"
    I8 = "I8"
    U8 = "U8"
    BOOL = "BOOL"

    @property
    def bits(self) -> int:
        """Width of one element in bits."""
        return _BITS[self]

    @property
    def config_name(self) -> str:
        """The name that config.json and LMDeploy use: ``bfloat16`` for BF16."""
        return _CONFIG_NAMES.get(self, self.value.lower())

    def size_bytes(self, num_elements: int) -> int:
        """Bytes of `num_elements` elements."""
        return num_elements * _BITS[self] // 8


_BITS = {
    DType.F64: 64,
    DType.I64: 64,
    DType.U64: 64,
    DType.U32: 32,
    DType.U16: 16,
    DType.F8_E8M0: 8,
    DType.F32: 32,
    DType.I32: 32,
    DType.F16: 16,
    DType.BF16: 16,
    DType.I16: 16,
    DType.F8_E4M3: 8,
    DType.F8_E5M2: 8,
    DType.I8: 8,
    DType.U8: 8,
    DType.BOOL: 8,
}
_CONFIG_NAMES = {DType.F32: "float32", DType.F16: "float16", DType.BF16: "bfloat16"}
FLOAT_DTYPES = {name: dtype for dtype, name in _CONFIG_NAMES.items()}
"""``torch_dtype`` in a config.json -> DType, for the types that a checkpoint's float weights come in."""
