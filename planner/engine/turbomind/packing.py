"""A replay of how TurboMind packs weights, linear by linear, and what that leaves in the weights' pool.

For each linear the host takes two temporaries of two bytes a weight, queues a kernel behind each, and frees both. Of a
4-bit one it then takes room for scales and zeros in one, queues that kernel, and frees the two that the loader made.
The host never waits. What a call finds free depends on how far the GPU has come, and so on the host's speed.

Example: a linear of 16 Mi weights (32 MiB a temporary) behind 10 MiB of weights, 6 us a call, 400 us more where the
pool grows. The first temporary ends at 42 MiB: the pool grows from 1 page to 2, at 406 us its kernel starts, and takes
105 us. The second ends at 74 MiB: 3 pages, at 812 us its kernel starts and takes 294 us. Both are freed by 824 us, and
the GPU passes that at 1,106 us. A second such linear comes at 824 us: what is pending it may take again at once, so it
lies where the first one's lay, and two pages are left over.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, NamedTuple

from planner.memory.page_pool import PagePool
from planner.memory.pool import PAGE_BYTES, aligned
from planner.units import MIB, ceil_div

_HALF_BYTES: Final = 2
WORKSPACE_BYTES: Final = (1 * MIB, 32 * MIB, 2 * MIB)
"""The GEMM workspace, in the order in which it is taken (traced)."""
_GROWTH_US: Final = 400.0
"""A call that makes the pool grow: 300 to 460 us traced."""
_PACKED_BYTES_PER_US: Final = 400_000.0
"""What the GPU reads and writes while packing."""
_CACHED_BYTES: Final = 40_000_000
"""Linears whose weights and temporaries are less than this stay in the L2 cache (60 MB on an H200). Fitted too: what
else lies there is not known."""
_CACHED_BYTES_PER_US: Final = 2_000_000.0
"""What the GPU reads and writes while packing those."""
_PASSES_BYTES: Final = (2.5, 7.0)
"""Read and written a weight, behind each temporary: unpacked (0.5 + 2); transposed (2 + 2), cleared (0.5) and packed
(2 + 0.5)."""
_HELD_BYTES: Final = 4.5
"""Bytes a weight that packing goes over: packed, and in both temporaries."""


class PoolUsage(NamedTuple):
    """What the weights take of their pool; `behind_bytes` of it lie behind the linears: the output head."""

    used_bytes: int
    behind_bytes: int


class Linear(NamedTuple):
    """Weights to pack, and how many groups have a scale and a zero."""

    num_weights: int
    num_groups: int


class Packing(NamedTuple):
    """`num_layers` times the linears of `layer`; `param_bytes` are those of a scale and a zero as packed."""

    layer: tuple[Linear, ...]
    num_layers: int
    usage: PoolUsage
    param_bytes: float


class Host(NamedTuple):
    """A call takes so long; where the GPU never catches up with the host, nothing is ever complete."""

    call_us: float
    catches_up: bool = True


class Pages(NamedTuple):
    """What the pool holds beyond its first pages: once all is packed, and in the end, with the GEMM workspace."""

    left: int
    kept: int


class _Timeline:
    """Calls of the host on a pool, and the GPU that follows behind; times in microseconds."""

    def __init__(self, pool: PagePool, host: Host) -> None:
        self._pool = pool
        self._host = host
        self._now = self._gpu = 0.0

    def allocate(self, size_bytes: int) -> int:
        pool, before = self._pool, self._pool.num_grown
        address = pool.allocate(size_bytes, self._now)
        self._now += self._host.call_us if pool.num_grown == before else self._host.call_us + _GROWTH_US
        return address

    def run(self, moved_bytes: float, held_bytes: float) -> None:
        """Queue a kernel that reads and writes so much, of what takes `held_bytes`."""
        rate = _CACHED_BYTES_PER_US if held_bytes < _CACHED_BYTES else _PACKED_BYTES_PER_US
        self._gpu = max(self._gpu, self._now) + moved_bytes / rate if self._host.catches_up else math.inf

    def free(self, address: int) -> None:
        self._pool.free(address, self._now, self._gpu)
        self._now += self._host.call_us


@lru_cache(maxsize=1024)  # a sweep asks for the same weights on GPUs of every kind
def replay(packing: Packing, host: Host) -> Pages:
    """Pack layer after layer, then take the GEMM workspace and give back what is free."""
    usage = packing.usage
    pool = PagePool(usage.used_bytes)
    first_pages = pool.num_pages
    timeline = _Timeline(pool, host)
    scales = _scale_addresses(packing)
    for _ in range(packing.num_layers):
        for linear in packing.layer:
            _pack(timeline, linear)
            if linear.num_groups:
                old = next(scales)
                _pack_scales(timeline, pool, linear, packing.param_bytes, old)
    left = pool.num_pages - first_pages
    for size in WORKSPACE_BYTES:
        pool.allocate(size, math.inf)
    pool.trim(math.inf)
    # Scales of very large linears leave whole pages behind, which go back and are not counted here: a little too much.
    return Pages(left, max(pool.num_pages - first_pages, 0))


def _pack(timeline: _Timeline, linear: Linear) -> None:
    temporaries = []
    for pass_bytes in _PASSES_BYTES:
        temporaries.append(timeline.allocate(_HALF_BYTES * linear.num_weights))
        timeline.run(pass_bytes * linear.num_weights, _HELD_BYTES * linear.num_weights)
    for address in reversed(temporaries):
        timeline.free(address)


def _pack_scales(timeline: _Timeline, pool: PagePool, linear: Linear, param_bytes: float, old: tuple[int, int]) -> None:
    timeline.allocate(int(param_bytes * linear.num_groups))
    timeline.run((2 * _HALF_BYTES + param_bytes) * linear.num_groups, 0)
    for address in reversed(old):
        pool.place(address, _HALF_BYTES * linear.num_groups)
    for address in reversed(old):
        timeline.free(address)


def _scale_addresses(packing: Packing) -> Iterator[tuple[int, int]]:
    """Where scales and zeros of each linear lie before: behind its weights, layer after layer, up to the end."""
    sizes = [(aligned(linear.num_weights // 2), aligned(_HALF_BYTES * linear.num_groups)) for linear in packing.layer]
    end = packing.usage.used_bytes - packing.usage.behind_bytes
    at = end - packing.num_layers * sum(weights + 2 * scales for weights, scales in sizes)
    for _ in range(packing.num_layers):
        for weights, scales in sizes:
            yield at + weights, at + weights + scales
            at += weights + 2 * scales


def least_pages(packing: Packing) -> Pages:
    """What no host can do without: pages for all that is in use at once."""
    first_pages = ceil_div(packing.usage.used_bytes, PAGE_BYTES)
    in_use = most = packing.usage.used_bytes
    for _ in range(packing.num_layers):
        for linear in packing.layer:
            most = max(most, in_use + 2 * aligned(_HALF_BYTES * linear.num_weights))
            if linear.num_groups:
                in_use += aligned(int(packing.param_bytes * linear.num_groups))
                most = max(most, in_use)
                in_use -= 2 * aligned(_HALF_BYTES * linear.num_groups)
    kept = in_use + sum(aligned(size) for size in WORKSPACE_BYTES)
    return Pages(ceil_div(most, PAGE_BYTES) - first_pages, max(ceil_div(kept, PAGE_BYTES) - first_pages, 0))
