"""The charts to the pixel: what is drawn stands where its numbers put it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from planner.report import svg
from planner.report.dossier import SHARES, Bar, Dossier
from planner.units import GIB

_RECT = re.compile(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)" height="22" fill="url\(#p(\d)\)"')
_LIMIT = re.compile(r'<path d="M([\d.]+) \d+V\d+" class="limit"/>')


def drawn(page: str) -> list[tuple[float, float, int]]:
    """Left edge, width and pattern of every piece of a bar."""
    return [(float(x), float(width), int(pattern)) for x, width, pattern in _RECT.findall(page)]


@pytest.fixture
def bar(serving: Dossier) -> Bar:
    return replace(serving.bars[0], share_bytes=tuple(n * GIB for n in (1, 4, 0, 3, 2)), free_bytes=20 * GIB)


def test_shares_stand_end_to_end_on_the_scale_of_what_is_free(bar: Bar) -> None:
    page = svg.bars([(bar, "name", "note", True)])
    gib = svg._BAR / 20
    left = svg._LABEL
    assert drawn(page) == [
        (pytest.approx(left, abs=0.1), pytest.approx(gib, abs=0.1), 0),
        (pytest.approx(left + gib, abs=0.1), pytest.approx(4 * gib, abs=0.1), 1),
        (pytest.approx(left + 5 * gib, abs=0.1), pytest.approx(3 * gib, abs=0.1), 3),
        (pytest.approx(left + 8 * gib, abs=0.1), pytest.approx(2 * gib, abs=0.1), 4),
    ]
    assert [float(x) for x in _LIMIT.findall(page)] == [pytest.approx(left + svg._BAR, abs=0.1)]
    assert "20.0 GiB free" in page
    assert "name: 10.0 of 20.0 GiB" in page


def test_the_largest_of_all_bars_sets_the_scale(bar: Bar) -> None:
    short = replace(bar, free_bytes=5 * GIB)
    page = svg.bars([(bar, "one", "", False), (short, "other", "", False)])
    assert [float(x) for x in _LIMIT.findall(page)] == [
        pytest.approx(svg._LABEL + svg._BAR, abs=0.1),
        pytest.approx(svg._LABEL + svg._BAR / 4, abs=0.1),
    ]
    # Both bars are of 10 GiB, one of them runs over its line.
    assert [width for _, width, _ in drawn(page)[:4]] == [width for _, width, _ in drawn(page)[4:]]
    assert "GiB free</text>" not in page


def test_the_chosen_bar_is_the_estimate_share_by_share(serving: Dossier) -> None:
    memory = serving.memory
    assert memory is not None
    sizes = {term.name: term.size_bytes for term in memory.terms}
    bar = next(bar for bar in serving.bars if bar.total_bytes == memory.total_bytes)
    shares = dict(zip(SHARES, bar.share_bytes, strict=True))
    assert shares["weights"] == sizes["weights"] + sizes.get("pool_rounding", 0)
    assert shares["KV cache"] == sizes["kv_cache"]
    assert shares["context and code"] == sizes["cuda_context"] + sizes["kernel_code"] + sizes.get("late_code", 0)
    named = ("weights", "pool_rounding", "kv_cache", "cuda_context", "kernel_code", "late_code")
    assert shares["buffers and reserve"] == sum(size for name, size in sizes.items() if name not in named) > 0


def test_slots_stand_on_the_scale_of_the_fullest_gpu() -> None:
    page = svg.slots([("a", 8 * GIB, [("p", 2 * GIB), ("q", 3 * GIB)]), ("b", 16 * GIB, [("r", 16 * GIB)])])
    scale = (svg.WIDTH - svg._LABEL - 20) / 16
    assert drawn(page) == [
        (pytest.approx(svg._LABEL, abs=0.1), pytest.approx(2 * scale, abs=0.1), 1),
        (pytest.approx(svg._LABEL + 2 * scale, abs=0.1), pytest.approx(3 * scale, abs=0.1), 2),
        (pytest.approx(svg._LABEL, abs=0.1), pytest.approx(16 * scale, abs=0.1), 1),
    ]
    assert [float(x) for x in _LIMIT.findall(page)] == [
        pytest.approx(svg._LABEL + 8 * scale, abs=0.1),
        pytest.approx(svg._LABEL + 16 * scale, abs=0.1),
    ]
