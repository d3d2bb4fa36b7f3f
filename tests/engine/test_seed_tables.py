"""What LMDeploy 0.5.3 was seen to hold on slices of an A100, in the tutorials that people plan from.

They read `nvidia-smi` and write GB for GiB. They start the model with `lmdeploy chat` (batch 1 in 0.5.3) or with
`lmdeploy serve api_server` (batch 128) and do not always say which, so both have to come near what was seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from planner import estimate
from planner.api import Plan
from planner.data import read_toml
from planner.engine import versions
from planner.units import GIB

VERSION = "0.5.3"
TOLERANCE = 0.04


@dataclass(frozen=True)
class Row:
    model: str
    gpu: str
    weights: str
    ratio: float
    quant_policy: int
    hand_gib: float
    observed_gib: float


ROWS = (
    Row("internlm2_5-7b", "a100-24g", "as-is", 0.8, 0, 22.0, 23.0),
    Row("internlm2_5-7b", "a100-40g", "as-is", 0.8, 0, 34.8, 36.0),
    Row("internlm2_5-7b", "a100-24g", "as-is", 0.4, 0, 19.0, 19.0),
    Row("internlm2_5-7b", "a100-24g", "as-is", 0.4, 4, 19.0, 19.0),
    Row("internlm2_5-7b", "a100-24g", "w4a16", 0.8, 0, 20.9, 20.9),
    Row("internlm2_5-7b", "a100-24g", "w4a16", 0.4, 4, 13.5, 13.5),
    Row("internvl2-26b", "a100-80g", "as-is", 0.8, 0, 74.4, 74.4),
    Row("internvl2-26b", "a100-24g", "w4a16", 0.1, 4, 23.8, 23.8),
)


def _plan(row: Row, max_batch_size: int | None = None) -> Plan:
    return estimate(
        row.model,
        row.gpu,
        lmdeploy=VERSION,
        weights=row.weights,
        cache_max_entry_count=row.ratio,
        quant_policy=row.quant_policy,
        max_batch_size=max_batch_size,
    )


def _name(row: Row) -> str:
    return f"{row.model}-{row.gpu}-{row.weights}-{row.ratio}-kv{row.quant_policy or 16}"


def test_chat_runs_one_sequence_in_that_version() -> None:
    chat = versions.band(read_toml("lmdeploy.toml")["chat"], versions.resolve(VERSION).rules)
    assert chat["max_batch_size"] == 1


@pytest.mark.parametrize("max_batch_size", [None, 1], ids=["api_server", "chat"])
@pytest.mark.parametrize("row", ROWS, ids=_name)
def test_a_row_of_the_tutorials(row: Row, max_batch_size: int | None) -> None:
    plan = _plan(row, max_batch_size)
    assert plan.verdict == "serves"
    assert plan.total_bytes / GIB == pytest.approx(row.observed_gib, rel=TOLERANCE)


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
