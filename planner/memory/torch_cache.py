"""PyTorch's caching allocator, as far as its reserved memory shows.

LMDeploy's loaders stage tensors on the GPU through it, and what it reserved stays reserved until the loader empties
the cache: the peak of loading. Rules from c10/cuda/CUDACachingAllocator.cpp (torch 2.x): sizes round to 512 B; below
1 MiB requests share 2 MiB segments, below 10 MiB 20 MiB segments, larger ones get a segment of their own rounded to
2 MiB; a free block is taken by best fit, split when a useful rest remains, and merged with its free neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from planner.units import MIB, round_up

_ROUND_BYTES: Final = 512
_SMALL_BYTES: Final = MIB
_SMALL_SEGMENT_BYTES: Final = 2 * MIB
_MIN_LARGE_BYTES: Final = 10 * MIB
_LARGE_SEGMENT_BYTES: Final = 20 * MIB
_SEGMENT_ROUND_BYTES: Final = 2 * MIB


@dataclass(slots=True, eq=False)
class _Block:
    size_bytes: int
    small: bool
    free: bool = True
    before: _Block | None = None
    after: _Block | None = None


class TorchCache:
    """Follows allocations and frees; `reserved_bytes` only ever grows."""

    def __init__(self) -> None:
        self.reserved_bytes = 0
        self._free: list[_Block] = []

    def allocate(self, size_bytes: int) -> _Block:
        """Take a block, from the cache where one fits."""
        size = round_up(max(size_bytes, 1), _ROUND_BYTES)
        small = size <= _SMALL_BYTES
        fitting = [b for b in self._free if b.small == small and b.size_bytes >= size]
        if fitting:
            block = min(fitting, key=lambda b: b.size_bytes)
            self._free.remove(block)
        else:
            block = _Block(self._segment_bytes(size, small), small)
            self.reserved_bytes += block.size_bytes
        self._split(block, size)
        block.free = False
        return block

    def release(self, block: _Block) -> None:
        """Give a block back to the cache."""
        block.free = True
        for neighbour in (block.before, block.after):
            if neighbour is not None and neighbour.free:
                self._free.remove(neighbour)
                first, second = (neighbour, block) if neighbour is block.before else (block, neighbour)
                block = self._merge(first, second)
        self._free.append(block)

    @staticmethod
    def _segment_bytes(size: int, small: bool) -> int:
        if small:
            return _SMALL_SEGMENT_BYTES
        if size < _MIN_LARGE_BYTES:
            return _LARGE_SEGMENT_BYTES
        return round_up(size, _SEGMENT_ROUND_BYTES)

    def _split(self, block: _Block, size: int) -> None:
        rest = block.size_bytes - size
        if rest < (_ROUND_BYTES if block.small else _SMALL_BYTES + 1):
            return
        tail = _Block(rest, block.small, True, block, block.after)
        if block.after is not None:
            block.after.before = tail
        block.after = tail
        block.size_bytes = size
        self._free.append(tail)

    @staticmethod
    def _merge(first: _Block, second: _Block) -> _Block:
        first.size_bytes += second.size_bytes
        first.after = second.after
        if second.after is not None:
            second.after.before = first
        first.free = True
        return first
