"""What LMDeploy 0.5.3 was seen to hold on slices of an A100, in the tutorials that people plan from.

They read `nvidia-smi` and write GB for GiB. They start the model with `lmdeploy chat` (batch 1 in 0.5.3) or with
`lmdeploy serve api_server` (batch 128) and do not always say which, so both have to come near what was seen.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from planner import estimate
from planner.api.estimate import Plan
from planner.lmdeploy import versions
from planner.lmdeploy.words import ChatBatch
from planner.units import GIB

TABLE = json.loads((Path(__file__).parents[1] / "data" / "a100-slices-lmdeploy-0.5.3.json").read_text())
ROWS: list[dict[str, Any]] = TABLE["rows"]
SETTINGS = ("weights", "cache_max_entry_count", "quant_policy")
TOLERANCE = 0.04


def _plan(row: dict[str, Any], max_batch_size: int | None = None) -> Plan:
    chosen = {key: row[key] for key in SETTINGS}
    return estimate(row["model"], row["gpu"], lmdeploy=TABLE["lmdeploy"], max_batch_size=max_batch_size, **chosen)


def _name(row: dict[str, Any]) -> str:
    return "-".join(str(row[key]) for key in ("model", "gpu", *SETTINGS))


def test_chat_runs_one_sequence_in_that_version() -> None:
    assert versions.chat_rules(versions.resolve(TABLE["lmdeploy"]).rules).max_batch_size is ChatBatch.ONE


@pytest.mark.parametrize("max_batch_size", [None, 1], ids=["api_server", "chat"])
@pytest.mark.parametrize("row", ROWS, ids=_name)
def test_a_row_of_the_tutorials(row: dict[str, Any], max_batch_size: int | None) -> None:
    plan = _plan(row, max_batch_size)
    assert plan.memory.outcome == "serves"
    assert plan.total_bytes / GIB == pytest.approx(row["observed_gib"], rel=TOLERANCE)


def test_a_4_bit_cache_holds_nearly_four_times_the_tokens_in_the_same_memory() -> None:
    plain, packed = _plan(ROWS[2]), _plan(ROWS[3])
    assert packed.total_bytes == pytest.approx(plain.total_bytes, rel=0.005)
    # 128 values of 16 bits against 128 of 4 bits and 4 bytes of scale and zero.
    assert packed.memory.kv_cache.tokens / plain.memory.kv_cache.tokens == pytest.approx(256 / 68, rel=0.01)


def test_the_image_that_ran_out_of_memory_does_not_fit_the_cache() -> None:
    plan = _plan(ROWS[-1])
    tower = plan.memory.deployment.spec.vision
    assert tower is not None
    assert plan.memory.kv_cache.tokens < tower.max_image_tokens
    assert any("fewer than one session" in warning for warning in plan.memory.warnings)


def test_4_bit_weights_are_more_than_a_quarter() -> None:
    # "7B x 0.5 bytes" leaves out the vocabulary matrices, the norms, and a scale and zero for every 128 weights.
    plan = _plan(ROWS[4])
    assert plan.checkpoint_bytes == 5_142_749_184
