"""The shipped runs beside their estimates, planned once in a process however many tests compare them."""

from __future__ import annotations

from functools import cache

from planner.evidence import accuracy
from planner.evidence.ledger import Replayed


@cache
def replayed() -> tuple[Replayed, ...]:
    """Every shipped run that lmplan can plan."""
    return tuple(accuracy.replays())
