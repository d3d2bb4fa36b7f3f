"""What LMDeploy's engines say about their memory, by version, out of their log lines.

Sources: `src/turbomind/turbomind.cc` and `memory/slab.h` (0.15 and newer), `models/llama/BlockManager.cc` (before),
`lmdeploy/pytorch/engine/executor/base.py` and `engine/cache_engine` (the PyTorch engine).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from planner.units import MIB

# Whole numbers of up to 15 digits and MB of up to 9: longer ones are no sizes, and some overflow.
_BUDGET: Final = re.compile(r"Object cache budget: (\d{1,9}\.?\d*) MB from free (\d{1,9}\.?\d*) MB and ratio \d")
_SLAB: Final = re.compile(r"slab_size (\d{1,15}), object_size (\d{1,15}), object_count (\d{1,15})\b")
_BLOCK_COUNT: Final = re.compile(r"max_block_count = (\d{1,15})\b")
_BLOCK_SIZE: Final = re.compile(r"(?<![\w.])block_size = (\d{1,9}\.?\d*) MB")
_PYTORCH_BLOCKS: Final = re.compile(r"num_gpu_blocks=(\d{1,15})\b")
_OUT_OF_MEMORY: Final = re.compile(
    r"out of memory|OutOfMemoryError|No enough gpu memory|CUDA_ERROR_OUT_OF_MEMORY|cudaErrorMemoryAllocation", re.I
)
_NO_ROOM: Final = re.compile(r"No enough gpu memory for (?:kv cache|runtime)", re.I)
"""The PyTorch engine, when what is left holds no block (`pytorch/engine/executor/base.py`)."""
_CACHE_FULL: Final = re.compile(r"out of memory at \d+/\d+|cache out of memory")
"""TurboMind from 0.15, when a request finds no room in the KV cache: the GPU's memory is not meant."""
_ERROR: Final = re.compile(r"(?:Error|Exception|error|FATAL|\[TM\]\[(?:ERROR|FATAL)\]).*")


@dataclass(slots=True)
class EngineLog:
    """What was read so far; None for what the engine did not say. Bytes as the engine rounds them (0.01 MiB)."""

    free_bytes: int | None = None
    kv_budget_bytes: int | None = None
    block_bytes: int | None = None
    slab_bytes: int | None = None
    blocks_per_slab: int | None = None
    blocks: int | None = None
    out_of_memory: bool = False
    no_room: bool = False
    cache_full: bool = False
    last_error: str = ""

    def to_object(self) -> dict[str, int]:
        """What the engine said, for the file."""
        names = ("free_bytes", "kv_budget_bytes", "block_bytes", "slab_bytes", "blocks_per_slab", "blocks")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def read(self, line: str) -> None:
        """Take what there is in one line."""
        if match := _BUDGET.search(line):
            self.kv_budget_bytes = round(float(match[1]) * MIB)
            self.free_bytes = round(float(match[2]) * MIB)
        if match := _SLAB.search(line):
            self.slab_bytes, self.block_bytes, self.blocks_per_slab = (int(part) for part in match.groups())
        if match := _BLOCK_COUNT.search(line):
            self.blocks = int(match[1])
        if (match := _BLOCK_SIZE.search(line)) and "." in match[1]:  # whole MB up to 0.7, which says too little
            self.block_bytes = round(float(match[1]) * MIB)
        if match := _PYTORCH_BLOCKS.search(line):
            self.blocks = int(match[1])
        if _NO_ROOM.search(line):
            self.no_room = True
        if _CACHE_FULL.search(line):
            self.cache_full = True
        elif _OUT_OF_MEMORY.search(line):
            self.out_of_memory = True
            self.last_error = line.strip()[:500]
        elif not self.out_of_memory and _ERROR.search(line) and "lmdeploy - " not in line:
            self.last_error = line.strip()[:500]
