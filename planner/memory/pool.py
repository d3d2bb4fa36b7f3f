"""CUDA's stream-ordered memory pools, as far as their growth shows.

A pool takes memory from the driver in pages of 32 MiB and, at the release threshold that TurboMind sets, never gives
it back. Allocations inside are aligned to 512 bytes. Both were read off every allocation that LMDeploy 0.18.0 made
on an H200 with driver 580 (nine models; `docs/memory-model.md`).
"""

from __future__ import annotations

from typing import Final

from planner.units import MIB, round_up

PAGE_BYTES: Final = 32 * MIB
ALIGNMENT_BYTES: Final = 512


def aligned(size_bytes: int) -> int:
    """What an allocation takes inside its pool."""
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES  # asked for at every call of a replay


def reserved(used_bytes: int) -> int:
    """What a pool holds of the GPU when `used_bytes` of it are used without gaps."""
    return round_up(used_bytes, PAGE_BYTES)
