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


def test_of_equal_pieces_the_one_freed_last_is_taken() -> None:
    for order in ((0, 2), (2, 0)):
        pool = PagePool()
        blocks = [pool.allocate(4 * MIB) for _ in range(4)]
        for block in order:
            pool.free(blocks[block], 0.0, 1.0)
        assert pool.allocate(4 * MIB, 0.0) == blocks[order[1]]  # pending
        pool = PagePool()
        blocks = [pool.allocate(4 * MIB) for _ in range(7)]
        for block in order:
            pool.free(blocks[block], 0.0, 1.0)
        assert pool.allocate(4 * MIB, 2.0) == blocks[order[1]]  # complete


def test_joined_frees_are_complete_once_the_later_one_is() -> None:
    for first, times in ((0, (1.0, 9.0)), (1, (1.0, 9.0)), (0, (9.0, 1.0))):
        pool = PagePool()
        blocks = [pool.allocate(16 * MIB) for _ in range(2)]
        pool.free(blocks[first], 0.0, times[0])
        pool.free(blocks[1 - first], 0.0, times[1])
        pool.trim(5.0)
        assert pool.num_pages == 1  # pending until both are
        pool.trim(9.0)
        assert pool.num_pages == 0


def test_trim_gives_back_whole_pages_and_the_pool_grows_behind_what_it_holds() -> None:
    pool = PagePool()
    first, middle, last = (pool.allocate(size) for size in (40 * MIB, 80 * MIB, 8 * MIB))
    assert (pool.num_pages, last) == (4, 120 * MIB)
    pool.free(middle, 0.0, 0.0)
    pool.trim(0.0)
    # 40 to 120 MiB are free: of four pages the third is empty, 64 to 96 MiB.
    assert pool.num_pages == 3
    assert pool.allocate(24 * MIB, 0.0) == 40 * MIB  # the ends of the pages around it stay
    assert pool.allocate(24 * MIB, 0.0) == 96 * MIB
    pool.free(last, 1.0, 1.0)
    pool.trim(1.0)
    assert pool.num_pages == 3
    assert pool.allocate(40 * MIB, 2.0) == 120 * MIB
    assert pool.num_pages == 4
    pool.free(first, 3.0, 3.0)
    pool.trim(3.0)
    assert pool.num_pages == 3  # 40 to 64 MiB hold the second page


def test_trim_forgets_the_end_of_what_it_gave_back_but_not_what_was_there_first() -> None:
    pool = PagePool(10 * MIB)
    block = pool.allocate(100 * MIB)
    assert (block, pool.num_pages) == (10 * MIB, 4)
    pool.free(block, 0.0, 1.0)
    pool.trim(1.0)
    assert pool.num_pages == 1
    assert pool.allocate(10 * MIB, 2.0) == 10 * MIB
    assert pool.num_pages == 1
    full = PagePool(PAGE_BYTES)
    full.free(full.allocate(PAGE_BYTES), 0.0, 1.0)
    full.trim(1.0)
    assert full.allocate(PAGE_BYTES, 2.0) == PAGE_BYTES


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


def test_after_a_trim_the_pool_grows_behind_the_pages_that_were_there_first() -> None:
    pool = PagePool(2 * PAGE_BYTES)
    pool.place(PAGE_BYTES, PAGE_BYTES)
    behind = pool.allocate(PAGE_BYTES)
    assert behind == 2 * PAGE_BYTES
    pool.free(PAGE_BYTES)
    pool.free(behind)
    pool.trim(0.0)  # both pages in one piece, from before the end of the first ones to behind it
    assert pool.num_pages == 1
    assert pool.allocate(PAGE_BYTES) == 2 * PAGE_BYTES
