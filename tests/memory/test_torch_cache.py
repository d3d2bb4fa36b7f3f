"""The caching allocator's rules, case by case."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.memory.torch_cache import TorchCache
from planner.units import MIB


def test_small_requests_share_a_segment_of_2_mib() -> None:
    cache = TorchCache()
    for _ in range(4):
        cache.allocate(512 * 1024)
    assert cache.reserved_bytes == 2 * MIB
    cache.allocate(1)
    assert cache.reserved_bytes == 4 * MIB


def test_middle_requests_share_a_segment_of_20_mib() -> None:
    cache = TorchCache()
    cache.allocate(9 * MIB)
    cache.allocate(9 * MIB)
    assert cache.reserved_bytes == 20 * MIB


def test_large_requests_get_their_own_in_steps_of_2_mib() -> None:
    cache = TorchCache()
    cache.allocate(10 * MIB + 1)
    assert cache.reserved_bytes == 12 * MIB
    cache.allocate(446 * MIB)
    assert cache.reserved_bytes == 458 * MIB


def test_a_freed_block_is_taken_again() -> None:
    cache = TorchCache()
    block = cache.allocate(100 * MIB)
    cache.release(block)
    cache.allocate(60 * MIB)
    cache.allocate(40 * MIB)
    assert cache.reserved_bytes == 100 * MIB


def test_the_best_fit_is_taken() -> None:
    cache = TorchCache()
    large, middle = cache.allocate(200 * MIB), cache.allocate(100 * MIB)
    cache.release(large)
    cache.release(middle)
    cache.allocate(90 * MIB)
    cache.allocate(200 * MIB)
    assert cache.reserved_bytes == 300 * MIB


@pytest.mark.parametrize(("rest_bytes", "is_split"), [(MIB - 512, False), (MIB, False), (MIB + 512, True)])
def test_a_rest_of_more_than_a_mebibyte_is_split_off(rest_bytes: int, is_split: bool) -> None:
    cache = TorchCache()
    cache.release(cache.allocate(100 * MIB))
    block = cache.allocate(100 * MIB - rest_bytes)
    assert block.size_bytes == 100 * MIB - (rest_bytes if is_split else 0)
    cache.allocate(MIB + 512)  # the smallest of the large ones
    assert cache.reserved_bytes == (100 if is_split else 120) * MIB


def test_a_small_rest_is_split_off_from_512_bytes_on() -> None:
    cache = TorchCache()
    cache.allocate(MIB)
    cache.allocate(MIB - 512)
    assert cache.reserved_bytes == 2 * MIB
    cache.allocate(512)
    assert cache.reserved_bytes == 2 * MIB
    cache.allocate(1)
    assert cache.reserved_bytes == 4 * MIB


def test_free_neighbours_become_one_block() -> None:
    cache = TorchCache()
    whole = cache.allocate(96 * MIB)
    cache.release(whole)
    parts = [cache.allocate(32 * MIB) for _ in range(3)]
    for block in (parts[0], parts[2], parts[1]):
        cache.release(block)
    cache.allocate(96 * MIB)
    assert cache.reserved_bytes == 96 * MIB


def test_small_and_large_blocks_do_not_mix() -> None:
    cache = TorchCache()
    cache.release(cache.allocate(64 * MIB))
    cache.allocate(1024)
    assert cache.reserved_bytes == 66 * MIB


def test_an_embedding_and_a_head_that_is_transposed_take_three_tables() -> None:
    cache = TorchCache()
    table_bytes = 151_936 * 1536 * 2
    cache.allocate(table_bytes)
    cache.allocate(table_bytes)
    cache.allocate(table_bytes)
    assert cache.reserved_bytes == 3 * 446 * MIB


@given(st.lists(st.tuples(st.integers(1, 64 * MIB), st.booleans()), max_size=40))
def test_reserved_covers_what_is_in_use_and_only_grows(steps: list[tuple[int, bool]]) -> None:
    cache = TorchCache()
    in_use = []
    before = 0
    for size_bytes, release_one in steps:
        in_use.append((size_bytes, cache.allocate(size_bytes)))
        assert cache.reserved_bytes >= max(before, sum(size for size, _ in in_use))
        before = cache.reserved_bytes
        if release_one:
            cache.release(in_use.pop(len(in_use) // 2)[1])
            assert cache.reserved_bytes == before
    for _, block in in_use:
        cache.release(block)
    assert cache.reserved_bytes == before
