"""The pool against what a trace on an H200 showed, and against its own rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.engine.pytorch.packed_copy import packed_bytes
from planner.memory.linears import LinearKind, LinearShape
from planner.memory.page_pool import PagePool
from planner.memory.pool import PAGE_BYTES
from planner.units import MIB

# The first four linears of Qwen2.5-7B, AWQ under the PyTorch engine: addresses in MiB of the weights, scales, zeros,
# both temporaries and the packed scales, and the pool's pages once the host had waited.
PACKED = [
    ((3584, 4608), (0.00, 7.88, 8.86, 9.84, 41.34, 9.84), 1),
    ((3584, 3584), (11.07, 7.88, 8.64, 17.20, 41.70, 17.20), 1),
    ((3584, 37888), (18.16, 82.91, 91.00, 99.09, 358.09, 99.09), 4),
    ((18944, 3584), (109.21, 82.91, 86.95, 141.59, 271.09, 141.59), 5),
]


def test_blocks_lie_where_the_trace_has_them() -> None:
    pool = PagePool()
    for (num_in, num_out), traced, pages in PACKED:
        num = num_in * num_out
        weights = pool.allocate(num // 2)
        scales, zeros = (pool.allocate(num // 32 * 2) for _ in range(2))
        first, second = (pool.allocate(2 * num) for _ in range(2))
        for address in (second, first):
            pool.free(address, 0.0, 1.0)
        packed = pool.allocate(num // 32 * 5 // 2)
        for address in (zeros, scales):
            pool.free(address, 0.0, 1.0)
        pool.trim(1.0)
        found = [address / MIB for address in (weights, scales, zeros, first, second, packed)]
        assert found == pytest.approx(traced, abs=0.006)
        assert pool.num_pages == pages


@pytest.mark.parametrize(
    ("hidden", "kv_width", "intermediate", "num_layers", "pages"),
    [(3584, 512, 18944, 28, 115), (5120, 1024, 13824, 48, 235)],
    ids=["qwen2.5-7b", "qwen2.5-14b"],
)
def test_the_packed_copy_has_the_traced_pages(
    hidden: int, kv_width: int, intermediate: int, num_layers: int, pages: int
) -> None:
    linears = [
        LinearShape(LinearKind.QKV, hidden, hidden + 2 * kv_width, num_layers, quantized=True),
        LinearShape(LinearKind.OUTPUT, hidden, hidden, num_layers, quantized=True),
        LinearShape(LinearKind.GATE_UP, hidden, 2 * intermediate, num_layers, quantized=True),
        LinearShape(LinearKind.DOWN, intermediate, hidden, num_layers, quantized=True),
    ]
    assert packed_bytes(linears, 32, 2.5) == pages * PAGE_BYTES


def test_what_is_pending_is_taken_first_and_never_joined_with_what_is_complete() -> None:
    pool = PagePool()
    blocks = [pool.allocate(8 * MIB) for _ in range(4)]
    pool.free(blocks[0], 0.0, 1.0)
    pool.free(blocks[1], 2.0, 9.0)  # the first is complete by now, this one is not
    assert pool.allocate(4 * MIB, 2.0) == blocks[1]
    assert pool.allocate(12 * MIB, 2.0) >= PAGE_BYTES
    pool.free(blocks[2], 10.0, 10.0)
    assert pool.allocate(12 * MIB, 10.0) == blocks[1] + 4 * MIB  # the rest of one and the next, both complete


def test_complete_pages_move_behind_the_end_before_the_driver_is_asked() -> None:
    pool = PagePool()
    first, second = pool.allocate(3 * PAGE_BYTES), pool.allocate(PAGE_BYTES)
    pool.free(first, 0.0, 1.0)
    pool.allocate(4 * PAGE_BYTES, 2.0)
    assert (pool.num_pages, pool.num_grown) == (5, 3)
    pending = PagePool()
    first, second = pending.allocate(3 * PAGE_BYTES), pending.allocate(PAGE_BYTES)
    pending.free(first, 0.0, 9.0)
    pending.allocate(4 * PAGE_BYTES, 2.0)
    assert pending.num_pages == 8
    assert second == 3 * PAGE_BYTES


@given(st.lists(st.tuples(st.integers(1, 200 * MIB), st.integers(0, 3), st.floats(0, 5)), max_size=60))
def test_blocks_never_overlap_and_pages_hold_them(steps: list[tuple[int, int, float]]) -> None:
    pool, live, now = PagePool(), dict[int, int](), 0.0
    for size, what, later in steps:
        now += 1
        if what == 0 and live:
            address = min(live)
            del live[address]
            pool.free(address, now, now + later)
        elif what == 1:
            pool.trim(now)
        else:
            address = pool.allocate(size, now)
            assert all(address + size <= other or other + held <= address for other, held in live.items())
            live[address] = size
        assert pool.num_pages * PAGE_BYTES >= sum(live.values())
    for address in list(live):
        pool.free(address, now, now)
    pool.trim(now + 5)
    assert pool.num_pages == 0
