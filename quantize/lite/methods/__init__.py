"""The methods of quantization that lmplan runs, a module each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from planner.model.quantization import QuantMethod
from quantize.lite.method import Method
from quantize.lite.methods.awq import Awq
from quantize.recipe.model import MethodName


def _made(name: MethodName) -> Method:
    match name:  # without a default: a name that has no method is a type error
        case MethodName.AWQ:
            return Awq()


METHODS: Final[Mapping[MethodName, Method]] = {name: _made(name) for name in MethodName}
"""Name in a recipe -> the method."""


def find_method(checkpoint_method: QuantMethod) -> Method | None:
    """The method that writes checkpoints of that name, or None."""
    return next((method for method in METHODS.values() if method.checkpoint_method is checkpoint_method), None)
