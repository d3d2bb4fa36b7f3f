"""The copy that TurboMind's 4-bit kernels keep when the PyTorch engine serves AWQ, and the code they bring.

The engine packs one linear after the other and waits for the GPU behind each, so that nothing is left to chance: the
pool gives back every page that holds nothing, and what stays lies in pages that scales and weights share. Calls and
sizes from traces of LMDeploy 0.18.0 on an H200: Qwen2.5-7B and 14B keep 115 and 235 pages, as replayed here.
"""

from __future__ import annotations

from collections.abc import Iterable

from planner.memory.linears import LinearShape
from planner.memory.page_pool import PagePool
from planner.memory.pool import PAGE_BYTES
from planner.units import ceil_div

_HALF_BYTES = 2
_MOST_LINEARS = 4096
"""As many are replayed at most, a quarter of a second; Llama-3.1-405B has 504, and experts in AWQ are not served. Of a
model with more of them, pages grow with bytes as they did so far: 15 too many of 43,805 for 14,336 layers."""
_PACKED = 1.0
"""Any time behind that of the calls: the host waits for the GPU only once a linear is done."""


def packed_bytes(linears: Iterable[LinearShape], group_size: int, param_bytes: float) -> int:
    """What the pool holds once every linear is packed.

    Args:
        linears: in the order of a layer; those that are quantized count.
        group_size: inputs that share a scale and a zero.
        param_bytes: of a scale and a zero as packed.
    """
    packed = [linear for linear in linears if linear.quantized]
    pool, num_packed, kept_bytes = PagePool(), 0, 0
    for layer in range(max((linear.num_linears for linear in packed), default=0)):
        if num_packed >= _MOST_LINEARS:
            all_bytes = sum(linear.num_linears * _kept_bytes(linear, group_size, param_bytes) for linear in packed)
            return ceil_div(pool.num_pages * all_bytes, kept_bytes) * PAGE_BYTES
        for linear in packed:
            if layer < linear.num_linears:
                _pack(pool, linear.num_weights, group_size, param_bytes)
                num_packed += 1
                kept_bytes += _kept_bytes(linear, group_size, param_bytes)
    return pool.num_pages * PAGE_BYTES


def _kept_bytes(linear: LinearShape, group_size: int, param_bytes: float) -> int:
    return linear.num_weights // 2 + int(param_bytes * (linear.num_weights // group_size))


def _pack(pool: PagePool, num_weights: int, group_size: int, param_bytes: float) -> None:
    num_groups = num_weights // group_size
    pool.allocate(num_weights // 2)
    old = [pool.allocate(_HALF_BYTES * num_groups) for _ in range(2)]
    temporaries = [pool.allocate(_HALF_BYTES * num_weights) for _ in range(2)]
    for address in reversed(temporaries):
        pool.free(address, 0.0, _PACKED)
    pool.allocate(int(param_bytes * num_groups))
    for address in reversed(old):
        pool.free(address, 0.0, _PACKED)
    pool.trim(_PACKED)
