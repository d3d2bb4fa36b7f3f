"""Remembering what depends on the weights alone, for searches that plan one model under thousands of settings."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import wraps
from typing import Any, Protocol, TypeVar


class HasWeights(Protocol):
    """Something whose weights are told apart by a key."""

    @property
    def weights_key(self) -> Hashable:
        """Everything that the bytes of the weights follow from."""
        ...


Owner = TypeVar("Owner", bound=HasWeights)
Result = TypeVar("Result")
_BOOKS: dict[Hashable, dict[str, Any]] = {}
"""Key of the weights -> what is known of them, by method."""


def once_per_weights(method: Callable[[Owner], Result]) -> Callable[[Owner], Result]:
    """Compute a method without arguments once for each `weights_key` in this process."""
    name = method.__qualname__

    @wraps(method)
    def remembered(self: Owner) -> Result:
        # The book is looked up once an object: hashing the key of a large model is what would cost most.
        book: dict[str, Any] | None = self.__dict__.get("_book")
        if book is None:
            book = self.__dict__["_book"] = _BOOKS.setdefault(self.weights_key, {})
        if name not in book:
            book[name] = method(self)
        result: Result = book[name]
        return result

    return remembered
