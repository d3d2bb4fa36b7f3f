"""How many cases a property is tried on: all of them in `make test`, a quarter in `make check`."""

from __future__ import annotations

import os


def examples(number: int) -> int:
    """For `max_examples` of a property whose cases take milliseconds each."""
    return number // 4 if os.environ.get("LMPLAN_QUICK_TESTS") else number
