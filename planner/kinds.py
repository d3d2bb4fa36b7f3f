"""Words that users type and files hold, as kinds that the type checker knows: engines, and forms of the weights."""

from __future__ import annotations

from enum import Enum
from typing import NoReturn


class Word(str, Enum):
    """A word of a fixed set. It is written, formatted and compared as the text that it is (enum.StrEnum, from 3.11)."""

    __str__ = str.__str__

    def __format__(self, format_spec: str) -> str:
        return format(str(self), format_spec)

    @classmethod
    def words(cls) -> tuple[str, ...]:
        """Every word of the set, in the order of the class."""
        return tuple(str(word) for word in cls)


class EngineName(Word):
    """LMDeploy's engines, in the order in which it would take them. Every other list of engines comes from here."""

    TURBOMIND = "turbomind"
    PYTORCH = "pytorch"

    @property
    def heading(self) -> str:
        """The engine for people, as the subject of a line."""
        match self:
            case EngineName.TURBOMIND:
                return "TurboMind"
            case EngineName.PYTORCH:
                return "PyTorch engine"
            case _:
                assert_never(self)

    @property
    def in_words(self) -> str:
        """The engine for people, within a sentence."""
        return self.heading if self is EngineName.TURBOMIND else f"the {self.heading}"


class WeightsChoice(Word):
    """What is served of a model: its checkpoint as it is, or another form of it."""

    AS_IS = "as-is"
    W4A16 = "w4a16"
    FP8 = "fp8"

    @property
    def in_words(self) -> str:
        """The form for people, within a sentence."""
        match self:
            case WeightsChoice.AS_IS:
                return "weights as they are"
            case WeightsChoice.W4A16:
                return "4-bit weights (W4A16 AWQ)"
            case WeightsChoice.FP8:
                return "fp8 weights"
            case _:
                assert_never(self)

    @property
    def short(self) -> str:
        """The form for people, in a table."""
        match self:
            case WeightsChoice.AS_IS:
                return "as is"
            case WeightsChoice.W4A16:
                return "W4A16"
            case WeightsChoice.FP8:
                return "fp8"
            case _:
                assert_never(self)


def assert_never(value: NoReturn) -> NoReturn:
    """End a `match` that takes a kind apart: a kind that it lacks is a type error (`typing` has this from 3.11 on)."""
    raise AssertionError(f"{value!r} is of a kind that this place does not know")
