"""PyTorch's caching allocator, as far as its reserved memory shows.

LMDeploy's loaders stage tensors on the GPU through it, and what it reserved stays reserved until the loader empties
the cache: the peak of loading. Rules from c10/cuda/CUDACachingAllocator.cpp (torch 2.x): sizes round to 512 B; below
1 MiB requests share 2 MiB segments, below 10 MiB 20 MiB segments, larger ones get a segment of their own rounded to
2 MiB; a free block is taken by best fit, split when a useful rest remains, and merged with its free neighbours.
"""

from __future__ import annotations

from bisect import bisect_left, insort
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
    serial: int
    free: bool = True
    before: _Block | None = None
    after: _Block | None = None


class TorchCache:
    """Follows allocations and frees; `reserved_bytes` grows until `empty` is called."""

    def __init__(self) -> None:
        self.reserved_bytes = 0
        # Free blocks by size, small and large apart; the serial number settles ties as addresses do.
        self._free: dict[bool, list[tuple[int, int, _Block]]] = {True: [], False: []}
        self._serial = 0

    def allocate(self, size_bytes: int) -> _Block:
        """Take a block, from the cache where one fits."""
        size = round_up(max(size_bytes, 1), _ROUND_BYTES)
        small = size <= _SMALL_BYTES
        fitting = self._free[small]
        at = bisect_left(fitting, (size,))
        if at < len(fitting):
            block = fitting.pop(at)[2]
        else:
            block = self._block(_segment_bytes(size, small), small)
            self.reserved_bytes += block.size_bytes
        self._split(block, size)
        block.free = False
        return block

    def release(self, block: _Block) -> None:
        """Give a block back to the cache."""
        block.free = True
        for neighbour in (block.before, block.after):
            if neighbour is not None and neighbour.free:
                self._take_out(neighbour)
                first, second = (neighbour, block) if neighbour is block.before else (block, neighbour)
                block = _merge(first, second)
        self._put(block)

    def empty(self) -> None:
        """Give back the segments that nothing is in, as `torch.cuda.empty_cache` does."""
        for entries in self._free.values():
            whole = [entry for entry in entries if entry[2].before is None and entry[2].after is None]
            for entry in whole:
                entries.remove(entry)
                self.reserved_bytes -= entry[0]

    def _block(self, size: int, small: bool) -> _Block:
        self._serial += 1
        return _Block(size, small, self._serial)

    def _put(self, block: _Block) -> None:
        insort(self._free[block.small], (block.size_bytes, block.serial, block))

    def _take_out(self, block: _Block) -> None:
        entries = self._free[block.small]
        at = bisect_left(entries, (block.size_bytes, block.serial))
        assert entries[at][2] is block
        del entries[at]

    def _split(self, block: _Block, size: int) -> None:
        rest = block.size_bytes - size
        if rest < (_ROUND_BYTES if block.small else _SMALL_BYTES + 1):
            return
        tail = self._block(rest, block.small)
        tail.before, tail.after = block, block.after
        if block.after is not None:
            block.after.before = tail
        block.after = tail
        block.size_bytes = size
        self._put(tail)


def _segment_bytes(size: int, small: bool) -> int:
    if small:
        return _SMALL_SEGMENT_BYTES
    if size < _MIN_LARGE_BYTES:
        return _LARGE_SEGMENT_BYTES
    return round_up(size, _SEGMENT_ROUND_BYTES)


def _merge(first: _Block, second: _Block) -> _Block:
    first.size_bytes += second.size_bytes
    first.after = second.after
    if second.after is not None:
        second.after.before = first
    first.free = True
    return first
