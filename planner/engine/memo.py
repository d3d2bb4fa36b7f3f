"""Remembering what depends on the weights alone, for searches that plan one model under thousands of settings."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import wraps
from typing import Protocol, TypeVar


class HasWeights(Protocol):
    """Something whose weights are told apart by a key."""

    @property
    def weights_key(self) -> Hashable:
        """Everything that the bytes of the weights follow from."""
        ...


Owner = TypeVar("Owner", bound=HasWeights)
Result = TypeVar("Result")


def once_per_weights(method: Callable[[Owner], Result]) -> Callable[[Owner], Result]:
    """Compute a method without arguments once for each `weights_key` in this process."""
    known: dict[Hashable, Result] = {}

    @wraps(method)
    def remembered(self: Owner) -> Result:
        key = self.weights_key
        if key not in known:
            known[key] = method(self)
        return known[key]

    return remembered
