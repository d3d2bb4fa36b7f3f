"""`cache_max_entry_count` as a number of blocks: taken where the version counts them, refused elsewhere."""

from __future__ import annotations

import shlex

import pytest
from packaging.version import Version

from planner import estimate
from planner.api.estimate import Plan
from planner.artefacts.launch import api_server_command
from planner.errors import UsageError
from planner.report.table import render
from tests.engine.test_versions import RELEASES

COUNTING = [text for text in RELEASES if text == "0.4.0" or Version("0.10") <= Version(text) < Version("0.15")]


def _plan(text: str, count: float, gpu: str = "a100-80g") -> Plan:
    return estimate("internlm2_5-7b", gpu, lmdeploy=text, cache_max_entry_count=count)


@pytest.mark.parametrize("text", COUNTING)
def test_the_engine_takes_as_many(text: str) -> None:
    plan = _plan(text, 1000)
    assert plan.verdict == "serves"
    cache = plan.memory.kv_cache
    # 32 layers x 8 kv heads x 2 x 64 tokens x 128 x 2 bytes
    assert (cache.blocks, cache.block_bytes, cache.tokens) == (1000, 8 * 2**20, 64_000)
    assert cache.budget_bytes == 1000 * 8 * 2**20
    assert "1000 blocks as asked; a block is 32 layers" in cache.formula
    (term,) = [term for term in plan.memory.terms if term.name == "kv_cache"]
    assert term.low_bytes == term.size_bytes == term.high_bytes
    words = shlex.split(api_server_command(plan.memory, "m"))
    assert words[words.index("--cache-max-entry-count") + 1] == "1000"


@pytest.mark.parametrize("text", [text for text in RELEASES if text not in COUNTING])
def test_other_versions_refuse(text: str) -> None:
    with pytest.raises(
        UsageError, match=rf"--cache-max-entry-count is 1000.*LMDeploy {text} takes no number of blocks"
    ):
        _plan(text, 1000)


@pytest.mark.parametrize("count", [1.5, 0, -1, 2**24 + 2, float("nan"), float("inf")])
def test_what_is_neither_a_share_nor_a_number(count: float) -> None:
    with pytest.raises(UsageError, match="or a number of blocks, 1 to 16777216"):
        _plan("0.10.2", count)


def test_one_is_one_block() -> None:
    assert _plan("0.12.3", 1).memory.kv_cache.blocks == 1
    assert _plan("0.12.3", 0.999).memory.kv_cache.blocks > 1000


def test_more_than_there_is_does_not_start() -> None:
    plan = _plan("0.10.2", 1_234_567)
    assert plan.verdict == "dies while warming up"
    assert "--cache-max-entry-count 0.98 leaves enough" in plan.memory.reasons[0]
    assert "cache_max_entry_count 1234567, " in render(plan)


def test_the_pytorch_engine_takes_shares_alone() -> None:
    with pytest.raises(UsageError, match="takes no number of blocks"):
        estimate("internlm2_5-7b", "a100-80g", engine="pytorch", cache_max_entry_count=1000)
