"""Pages and alignment of the driver's pools."""

from __future__ import annotations

import pytest

from planner.memory.pool import PAGE_BYTES, aligned, reserved
from planner.units import MIB


@pytest.mark.parametrize(("asked", "taken"), [(0, 0), (1, 512), (512, 512), (513, 1024), (PAGE_BYTES, PAGE_BYTES)])
def test_allocations_start_every_512_bytes(asked: int, taken: int) -> None:
    assert aligned(asked) == taken


@pytest.mark.parametrize(("used", "held"), [(0, 0), (1, 32 * MIB), (32 * MIB, 32 * MIB), (32 * MIB + 1, 64 * MIB)])
def test_a_pool_grows_by_pages_of_32_mib(used: int, held: int) -> None:
    assert reserved(used) == held
