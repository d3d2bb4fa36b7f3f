"""What a verdict and a sweep say at the edges: nothing left, almost enough, exactly one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from planner import estimate
from planner.cli.main import run
from planner.units import MIB

MODEL, GPU = "qwen2.5-0.5b", "a10"


def test_a_shortfall_below_a_gibibyte_is_not_rounded_away() -> None:
    needed_bytes = estimate(MODEL, GPU, free=512 * MIB).memory.load_peak_bytes
    memory = estimate(MODEL, GPU, free=needed_bytes - 3 * MIB).memory
    assert memory.outcome == "dies while loading"
    assert memory.reasons[0].endswith(" is free: 3.0 MiB short")


def test_no_room_for_the_cache_says_what_is_left_and_what_a_block_takes() -> None:
    memory = estimate(MODEL, GPU, cache_max_entry_count=1e-6).memory
    assert memory.outcome == "no room for the KV cache"
    words = r"[\d.]+ GiB is left when the KV cache is sized; its share of that, [\d.]+ KiB, does not hold a block of "
    assert re.match(words, memory.reasons[0]), memory.reasons[0]


@pytest.mark.parametrize(
    ("copies", "there", "first"),
    [
        (1, 1, "The model runs on 1 GPU."),
        (2, 2, "All 2 models run on 2 GPUs."),
        (2, 1, "1 of 2 models fit on 1 GPU."),
    ],
)
def test_a_sweep_counts_like_people(
    copies: int, there: int, first: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(
        f"workloads: [{{model: qwen3-8b, copies: {copies}}}]\n"
        f"machines: [{{gpu: a100-24g, gpus_each: 1, count: {there}}}]\n"
    )
    assert run(["sweep", str(fleet)]) == (0 if copies <= there else 3)
    assert capsys.readouterr().out.splitlines()[0] == first
