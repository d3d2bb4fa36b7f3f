"""Typed reading of config.json. What is missing or cannot be right is refused by the name of its key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from planner.errors import ConfigError

MAX_DIMENSION: Final = 2**24
"""No published tensor has a side near this; a larger value is a slip, and its product would mean nothing."""
MAX_COUNT: Final = 2**14
"""Upper bound for layers, heads and experts (DeepSeek-V3 has 256 experts, Llama-3.1-405B 126 layers)."""
_MAX_CLASS_NAME: Final = 100
"""Longer than any class of transformers; a longer name is no name, and messages show it."""


def _describe(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


class Fields:
    """One JSON object of a config and where it stands, such as ``llm_config``.

    `defaults` are those of the family's config class, for keys that are not there; a key that is null says null.
    """

    def __init__(self, values: Mapping[str, Any], path: str = "", defaults: Mapping[str, Any] | None = None) -> None:
        self.values = values
        self.path = path
        self.defaults = defaults or {}

    def with_defaults(self, defaults: Mapping[str, Any]) -> Fields:
        """The same object, read with the defaults of a config class."""
        return Fields(self.values, self.path, defaults)

    def value(self, name: str) -> Any:
        """What is under a key, or its default; None where there is neither."""
        return self.values.get(name, self.defaults.get(name))

    def key(self, name: str) -> str:
        """The full name of a key, for messages: ``llm_config.hidden_size``."""
        return f"{self.path}.{name}" if self.path else name

    def has(self, name: str) -> bool:
        """Whether the key is there and not null."""
        return self.value(name) is not None

    def _get(self, name: str, expected: str) -> Any:
        value = self.value(name)
        if value is None:
            state = "null" if name in self.values else "missing"
            raise ConfigError(f"config.json: {self.key(name)} is {state}; expected {expected}")
        return value

    def _wrong(self, name: str, value: object, expected: str) -> ConfigError:
        return ConfigError(f"config.json: {self.key(name)} is {_describe(value)}; expected {expected}")

    def integer(self, name: str, *, minimum: int = 1, maximum: int = MAX_DIMENSION) -> int:
        """A required integer within bounds.

        Raises:
            ConfigError: missing, of another type (true and 1.0 included) or out of bounds.
        """
        expected = f"an integer from {minimum} to {maximum}"
        value = self._get(name, expected)
        if type(value) is not int or not minimum <= value <= maximum:
            raise self._wrong(name, value, expected)
        return value

    def count(self, name: str) -> int:
        """A required number of layers, heads or experts."""
        return self.integer(name, maximum=MAX_COUNT)

    def optional_integer(self, name: str, *, minimum: int = 1, maximum: int = MAX_DIMENSION) -> int | None:
        """An integer within bounds, or None where the key is missing or null."""
        return self.integer(name, minimum=minimum, maximum=maximum) if self.has(name) else None

    def boolean(self, name: str, default: bool | None = None) -> bool:
        """A boolean; `default` is the one that the model's transformers class documents."""
        if not self.has(name) and default is not None:
            return default
        value = self._get(name, "true or false")
        if type(value) is not bool:
            raise self._wrong(name, value, "true or false")
        return value

    def number(self, name: str, *, minimum: float, maximum: float) -> float:
        """A required number within bounds."""
        expected = f"a number from {minimum:g} to {maximum:g}"
        value = self._get(name, expected)
        if type(value) not in (int, float) or not minimum <= value <= maximum:
            raise self._wrong(name, value, expected)
        return float(value)

    def text(self, name: str, expected: str = "a text") -> str:
        """A required string."""
        value = self._get(name, expected)
        if type(value) is not str:
            raise self._wrong(name, value, expected)
        return value

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """A required string that is one of `choices`."""
        expected = "one of " + ", ".join(choices)
        value = self.text(name, expected)
        if value not in choices:
            raise self._wrong(name, value, expected)
        return value

    def integers(self, name: str, *, maximum: int = MAX_DIMENSION) -> tuple[int, ...]:
        """A list of integers of at least 0; empty where the key is missing or null."""
        if not self.has(name):
            return ()
        value = self.value(name)
        expected = f"a list of integers from 0 to {maximum}"
        if type(value) is not list or any(type(x) is not int or not 0 <= x <= maximum for x in value):
            raise self._wrong(name, value, expected)
        return tuple(value)

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings; empty where the key is missing or null."""
        if not self.has(name):
            return ()
        value = self.value(name)
        if type(value) is not list or any(type(x) is not str for x in value):
            raise self._wrong(name, value, "a list of texts")
        return tuple(value)

    def section(self, name: str) -> Fields:
        """A required nested object."""
        value = self._get(name, "an object")
        if not isinstance(value, Mapping):
            raise self._wrong(name, value, "an object")
        return Fields(value, self.key(name))

    def architecture(self) -> str:
        """The first entry of ``architectures``.

        Raises:
            ConfigError: the list is missing, empty or holds something else than texts.
        """
        names = self.texts("architectures")
        if names and not (names[0].isidentifier() and len(names[0]) <= _MAX_CLASS_NAME):
            raise self._wrong("architectures", list(names), "a list with the model's class, such as LlamaForCausalLM")
        if not names:
            raise ConfigError(
                f"config.json: {self.key('architectures')} is missing or empty; "
                "expected a list with the model's class, such as LlamaForCausalLM"
            )
        return names[0]
