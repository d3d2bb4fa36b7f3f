"""The formats that can be read back, a module each: packed words to weights, by lmplan's own reading of the layout."""

from __future__ import annotations

from quantize.quality.inside.formats.awq import Awq
from quantize.quality.inside.formats.base import Linear, Plain
from quantize.quality.inside.tensors import Tensors

READERS = {"awq": Awq}
"""``quant_method`` of a config.json -> what reads a linear of it."""
_PACKED = (".qweight",)


def is_packed(tensors: Tensors, module: str) -> bool:
    """Whether a linear is quantized in this checkpoint."""
    return any(module + suffix in tensors for suffix in _PACKED)


def open_linear(tensors: Tensors, module: str, method: str) -> Linear:
    """A linear of a checkpoint, packed or as it was.

    Raises:
        KeyError: it is not there, or lacks a tensor.
    """
    if is_packed(tensors, module):
        return READERS[method](tensors, module)
    return Plain(tensors.get(f"{module}.weight"))
