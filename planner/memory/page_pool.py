"""A stream-ordered CUDA pool with one stream, allocation by allocation.

What it does was read off traces of every allocation that LMDeploy 0.18.0 makes on an H200 (driver 580) while it
converts weights: eleven models under TurboMind, two under the PyTorch engine.

- Memory comes from the driver in pages. A free is pending until the GPU has passed it.
- What one stream freed it may take again at once: pending pieces that touch are one, and the smallest that fits is
  taken. Only then those that are complete, again the smallest that fits. The two kinds never make one piece.
- Where neither fits, the pool grows behind its last complete piece. Whole pages that are free and complete move there
  first; what is still short is asked of the driver.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from planner.memory.pool import PAGE_BYTES, aligned
from planner.units import ceil_div

_ALREADY: Final = float("-inf")
_NEVER: Final = float("inf")


@dataclass(slots=True, eq=False)
class _Piece:
    """Free bytes from `start` to `end`; complete from `done` on. `turn` counts frees."""

    start: int
    end: int
    done: float
    turn: int

    @property
    def size(self) -> int:
        return self.end - self.start


_AGE = attrgetter("turn")


def _smallest(pieces: list[_Piece], size: int) -> _Piece | None:
    """The smallest that fits, of equal ones the one that was freed last."""
    best, best_size = None, 0
    for piece in pieces:
        has = piece.end - piece.start
        if has >= size and (best is None or has < best_size or (has == best_size and piece.turn > best.turn)):
            best, best_size = piece, has
    return best


def _touching(pieces: list[_Piece], start: int, end: int) -> list[_Piece]:
    """Those that lie against either end."""
    return [piece for piece in pieces if piece.end == start or piece.start == end]


class PagePool:
    """The pool, with `used_bytes` in one piece at its start. Times are of one clock, in any unit.

    Attributes:
        num_pages: what it holds of the GPU.
        num_grown: how often it had to grow.
    """

    def __init__(self, used_bytes: int = 0) -> None:
        self.num_pages = ceil_div(used_bytes, PAGE_BYTES)
        self._first_pages = self.num_pages
        self._end = self.num_pages * PAGE_BYTES
        self._sizes: dict[int, int] = {}
        self._pending: list[_Piece] = []
        self._complete: list[_Piece] = []
        self._next_done = _NEVER  # no pending piece is complete before
        self._turn = 0
        self.num_grown = 0
        if used_bytes < self._end:
            self._complete.append(_Piece(used_bytes, self._end, _ALREADY, 0))

    def place(self, address: int, size_bytes: int) -> None:
        """Say what lies at `address` in the used bytes at the start, so that it can be freed."""
        self._sizes[address] = aligned(size_bytes)

    def allocate(self, size_bytes: int, now: float = 0.0) -> int:
        """The address of a new block."""
        size = aligned(size_bytes)
        if now >= self._next_done:
            self._settle(now)
        for pieces in (self._pending, self._complete):
            best = _smallest(pieces, size)
            if best is not None:
                return self._take(pieces, best, size)
        return self._take(self._complete, self._grow(size), size)

    def free(self, address: int, now: float = 0.0, done: float = 0.0) -> None:
        """Free a block; the GPU passes that at `done`."""
        if now >= self._next_done:
            self._settle(now)
        self._turn += 1
        start, end = address, address + self._sizes.pop(address)
        for piece in _touching(self._pending, start, end):
            self._pending.remove(piece)
            start, end, done = min(start, piece.start), max(end, piece.end), max(done, piece.done)
        self._pending.append(_Piece(start, end, done, self._turn))
        if done < self._next_done:
            self._next_done = done

    def trim(self, now: float) -> None:
        """Give back every page that holds nothing, as a pool without a release threshold does when the host waits."""
        if now >= self._next_done:
            self._settle(now)
        for piece in list(self._complete):
            self.num_pages -= self._cut(piece, ceil_div(piece.size, PAGE_BYTES))
        ends = [piece.end for piece in (*self._complete, *self._pending)] + [
            address + size for address, size in self._sizes.items()
        ]
        self._end = max(ceil_div(max(ends, default=0), PAGE_BYTES), self._first_pages) * PAGE_BYTES

    def _settle(self, now: float) -> None:
        """Complete what the GPU has passed."""
        done = [piece for piece in self._pending if piece.done <= now]
        self._pending = [piece for piece in self._pending if piece.done > now]
        self._next_done = min((piece.done for piece in self._pending), default=_NEVER)
        for piece in done:
            for other in _touching(self._complete, piece.start, piece.end):
                self._complete.remove(other)
                piece.start, piece.end = min(piece.start, other.start), max(piece.end, other.end)
                piece.turn = max(piece.turn, other.turn)
            self._complete.append(piece)

    def _grow(self, size: int) -> _Piece:
        tail = next((piece for piece in self._complete if piece.end == self._end), None)
        if tail is None:
            tail = _Piece(self._end, self._end, _ALREADY, 0)
            self._complete.append(tail)
        short = ceil_div(size - tail.size, PAGE_BYTES)
        moved = 0
        self.num_grown += 1
        for piece in sorted(self._complete, key=_AGE):
            if piece is not tail and moved < short:
                moved += self._cut(piece, short - moved)
        self.num_pages += short - moved
        self._end += short * PAGE_BYTES
        tail.end = self._end
        return tail

    def _cut(self, piece: _Piece, num_pages: int) -> int:
        """Take up to so many whole pages out of a complete piece; how many there were."""
        first = ceil_div(piece.start, PAGE_BYTES)
        count = min(piece.end // PAGE_BYTES - first, num_pages)
        if count <= 0:
            return 0
        behind = (first + count) * PAGE_BYTES
        self._complete.remove(piece)
        for start, end in ((piece.start, first * PAGE_BYTES), (behind, piece.end)):
            if start < end:
                self._complete.append(_Piece(start, end, _ALREADY, piece.turn))
        return count

    def _take(self, pieces: list[_Piece], piece: _Piece, size: int) -> int:
        address = piece.start
        self._sizes[address] = size
        piece.start += size
        if piece.start == piece.end:
            pieces.remove(piece)
        return address
