"""Lines that LMDeploy's engines have written, by version, and what is read out of them."""

from __future__ import annotations

import pytest

from quantize.measure.engine_log import EngineLog

MIB = 2**20
LINES = {
    "0.5.3": (
        ["[TM][INFO] [BlockManager] block_size = 16 MB", "[TM][INFO] [BlockManager] max_block_count = 412"],
        {"blocks": 412},  # whole MB say too little of a block
    ),
    "0.8.0": (
        [
            "[TM][INFO] [BlockManager] block_size = 8.250 MB",
            "[TM][INFO] [BlockManager] max_block_count = 1024",
            "[TM][INFO] [BlockManager] chunk_size = 1024",
        ],
        {"blocks": 1024, "block_bytes": 8650752},
    ),
    "0.10.2": (
        ["[TM][INFO] [BlockManager] block_size = 0.875 MB", "[TM][INFO] [BlockManager] max_block_count = 9"],
        {"blocks": 9, "block_bytes": 917504},
    ),
    "0.13.0": (
        ["[TM][INFO] block_size = 8.000 MB", "[TM][INFO] max_block_count = 771"],
        {"blocks": 771, "block_bytes": 8388608},
    ),
    "0.18.0": (
        [
            "[TM][WARNING] [BlockManager] slab_size 134217728, object_size 6291456, object_count 21, ratio 0.984",
            "[TM][INFO] Object cache budget: 9177.19 MB from free 18354.38 MB and ratio 0.500",
        ],
        {
            "slab_bytes": 134217728,
            "block_bytes": 6291456,
            "blocks_per_slab": 21,
            "kv_budget_bytes": round(9177.19 * MIB),
            "free_bytes": round(18354.38 * MIB),
        },
    ),
    "0.18.0 pytorch": (
        [
            "2026-01-01 00:00:00,000 - lmdeploy - INFO - executor_base.py:200 - Building CacheEngine with config: "
            "CacheConfig(max_batches=128, block_size=64, num_cpu_blocks=0, num_gpu_blocks=8391, window_size=-1)"
        ],
        {"blocks": 8391},
    ),
}  # fmt: skip


@pytest.mark.parametrize("version", LINES)
def test_what_each_version_says_is_read(version: str) -> None:
    lines, expected = LINES[version]
    log = EngineLog()
    for line in ["", "Loading weights: 100%", *lines, "\x00\xff garbage", "block_size", "max_block_count = many"]:
        log.read(line)
    assert log.to_object() == expected
    assert not log.out_of_memory and not log.no_room


@pytest.mark.parametrize(
    "line",
    [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
        "RuntimeError: [TM][ERROR] CUDA runtime error: out of memory /src/turbomind/core/allocator.cc:49",
        "terminate called after throwing an instance of 'std::runtime_error': cudaErrorMemoryAllocation",
        "CUDA driver error: CUDA_ERROR_OUT_OF_MEMORY",
    ],
)
def test_running_out_of_memory_is_known_and_is_the_last_word(line: str) -> None:
    log = EngineLog()
    for text in ("Error: something before", line, "Error: the server is gone"):
        log.read(text)
    assert log.out_of_memory and log.last_error == line


def test_the_last_error_is_kept_and_log_lines_of_lmdeploy_are_none() -> None:
    log = EngineLog()
    for text in ("ValueError: one", "KeyError: two", "2026 - lmdeploy - WARNING - an error is only mentioned", "bye"):
        log.read(text)
    assert log.last_error == "KeyError: two" and not log.out_of_memory
    log.read("x" * 100_000 + " Error: long")
    assert len(log.last_error) <= 500


def test_no_room_for_the_cache() -> None:
    log = EngineLog()
    log.read("RuntimeError: No enough gpu memory for runtime.")
    assert log.no_room
