"""Replays of packing: the worked example, bounds, and which hosts make the band."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version

from planner.engine.turbomind import conversion
from planner.engine.turbomind.conversion import Leftover, conversion_leftover
from planner.engine.turbomind.packing import Host, Linear, Packing, Pages, PoolUsage, least_pages, replay
from planner.kinds import EngineName
from planner.lmdeploy.evidence import traced
from planner.memory.linears import LinearKind, LinearShape
from planner.memory.pool import PAGE_BYTES
from planner.model.formats import FP8, W4A16
from planner.model.quantization import Quantization
from planner.units import MIB
from tests.examples import examples

USAGE = PoolUsage(10 * MIB, 0)
FAST, NEVER = Host(6.0), Host(6.0, catches_up=False)


def test_the_example_of_the_docstring() -> None:
    """Three pages for two temporaries of 32 MiB behind 10 MiB, for one linear and for two."""
    for number in (1, 2):
        packing = Packing((Linear(16 * MIB, 0),), number, USAGE, 4.0)
        assert replay(packing, FAST).left == replay(packing, NEVER).left == 2
        assert least_pages(packing).left == 2
    # The workspace of 35 MiB is all that is left in the end, behind 10 MiB: two pages, one of them new.
    assert replay(packing, FAST).kept == least_pages(packing).kept == 1


@st.composite
def packings(draw: st.DrawFn) -> Packing:
    grouped = draw(st.booleans())
    sizes = draw(st.lists(st.integers(1, 64), min_size=1, max_size=4))
    layer = tuple(Linear(size * 524_288, size * 16_384 if grouped else 0) for size in sizes)
    num_layers = draw(st.integers(1, 4))
    used = num_layers * sum(linear.num_weights // 2 + 4 * linear.num_groups for linear in layer)
    behind = draw(st.integers(0, 100)) * MIB
    return Packing(layer, num_layers, PoolUsage(used + behind, behind), draw(st.sampled_from([2.5, 4.0])))


@given(packings(), st.sampled_from([1.0, 6.0, 40.0, 120.0, 150.0]), st.booleans())
@settings(max_examples=examples(150), deadline=None)
def test_no_host_does_with_less_than_the_least(packing: Packing, call_us: float, catches_up: bool) -> None:
    pages, least = replay(packing, Host(call_us, catches_up)), least_pages(packing)
    assert pages.left >= least.left
    assert pages.kept >= least.kept


def test_a_second_slow_host_counts_where_the_first_falls_in_step() -> None:
    layer = tuple(Linear(size * 524_288, size * 16_384) for size in (96, 128))
    used = 2 * sum(linear.num_weights // 2 + 4 * linear.num_groups for linear in layer)
    packing = Packing(layer, 2, PoolUsage(used, 0), 2.5)
    runs = conversion._runs(packing)
    assert [run.left for run in runs] == [10, 10, 13, 12]
    assert conversion._band(runs, lambda run: run.left)[2] == 12 * PAGE_BYTES


@given(packings())
@settings(max_examples=examples(80), deadline=None)
def test_the_replay_that_is_left_out_changes_nothing(packing: Packing) -> None:
    runs = conversion._runs(packing)
    every = [replay(packing, host) for host in (conversion._FAST, conversion._NEVER_REACHED, *conversion._SLOW)]
    for pages_of in (lambda pages: pages.left, lambda pages: pages.kept):
        assert conversion._band(runs, pages_of) == conversion._band(every, pages_of)


@pytest.mark.parametrize(
    ("pages", "band"),
    [
        ((2, 3, 9, 4), (2, 2, 4)),  # the lesser of two slow speeds
        ((2, 3, 4, 9), (2, 2, 4)),
        ((2, 7, 9, 4), (2, 2, 7)),
        ((5, 3, 1, 4), (5, 1, 5)),
        ((2, 3, 1), (2, 1, 3)),
    ],
)
def test_the_band_takes_the_lesser_of_two_slow_speeds(pages: tuple[int, ...], band: tuple[int, int, int]) -> None:
    runs = [Pages(number, 0) for number in pages]
    assert conversion._band(runs, lambda run: run.left) == tuple(number * PAGE_BYTES for number in band)


def leftover(
    linears: list[LinearShape], quantization: Quantization | None, group_size: int, usage: PoolUsage, capability: int
) -> Leftover | None:
    """As 0.18.0 leaves it."""
    return conversion_leftover(
        linears,
        quantization,
        group_size,
        usage,
        capability,
        lambda subject: traced(subject, EngineName.TURBOMIND, Version("0.18.0"), capability),
    )


EXPERTS = [
    LinearShape(LinearKind.EXPERT_GATE_UP, 2048, 1536, 48, num_experts=128),
    LinearShape(LinearKind.EXPERT_DOWN, 768, 2048, 48, num_experts=128),
]


@pytest.mark.parametrize(
    ("capability", "converted"), [(80, True), (90, True), (100, False), (103, False), (110, False)]
)
def test_experts_stay_as_they_are_where_cublas_multiplies_them(capability: int, converted: bool) -> None:
    assert (leftover(EXPERTS, None, 0, USAGE, capability) is not None) == converted


def test_experts_are_packed_on_12_0() -> None:
    assert leftover(EXPERTS, None, 0, USAGE, 120) == leftover(EXPERTS, None, 0, USAGE, 89)


def test_dense_16_bit_linears_are_never_converted() -> None:
    dense = [LinearShape(LinearKind.GATE_UP, 4096, 28672, 32)]
    assert leftover(dense, None, 0, USAGE, 80) is None
    assert leftover([], W4A16, 128, USAGE, 80) is None


def test_what_transposing_leaves_to_the_page() -> None:
    shapes = [
        LinearShape(LinearKind.QKV, 4096, 6144, 32, quantized=True),  # 24 MiB
        LinearShape(LinearKind.OUTPUT, 4096, 4096, 32, quantized=True),
        LinearShape(LinearKind.GATE_UP, 4096, 28672, 32, quantized=True),  # 112 MiB
        LinearShape(LinearKind.DOWN, 14336, 4096, 32, quantized=True),  # 56 MiB
    ]
    left = leftover(shapes, FP8, 0, PoolUsage(0, 0), 90)
    assert left is not None
    # Low: gate and up and down. Central: qkv and gate and up twice. High: down twice as well, and three pages.
    pages = [-(-mib // 32) for mib in (112 + 56, 24 + 2 * 112 + 56, 24 + 2 * (112 + 56))]
    low, size, high = (number * PAGE_BYTES for number in pages)
    assert (left.term.low_bytes, left.term.size_bytes, left.term.high_bytes) == (low, size, high + 3 * PAGE_BYTES)
    # The workspace of 35 MiB takes two pages.
    assert (left.kept_low_bytes, left.kept_bytes, left.kept_high_bytes) == (
        2 * PAGE_BYTES,
        3 * PAGE_BYTES,
        5 * PAGE_BYTES,
    )
