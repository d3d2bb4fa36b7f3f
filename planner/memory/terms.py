"""A term of an estimate: bytes with a band, the evidence behind them and the formula with its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Evidence(NamedTuple):
    """Why a number is believed: ``formula``, ``measured`` (how often, where) or ``assumed``."""

    kind: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind} ({self.detail})" if self.detail else self.kind


FORMULA = Evidence("formula")


@dataclass(frozen=True, slots=True)
class Term:
    """One named part of the memory of one rank's GPU.

    Attributes:
        name: stable key, such as ``weights``.
        size_bytes: the estimate.
        low_bytes, high_bytes: the band it stands in; both equal `size_bytes` where the arithmetic is exact.
        evidence: why it is believed.
        formula: how it was computed, with the numbers put in.
        what: one line for people.
    """

    name: str
    size_bytes: int
    low_bytes: int
    high_bytes: int
    evidence: Evidence
    formula: str
    what: str = ""

    def __post_init__(self) -> None:
        assert 0 <= self.low_bytes <= self.size_bytes <= self.high_bytes, self


def exact(name: str, size_bytes: int, formula: str, what: str, evidence: Evidence = FORMULA) -> Term:
    """A term without a band."""
    return Term(name, size_bytes, size_bytes, size_bytes, evidence, formula, what)
