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

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from planner.memory.pool import PAGE_BYTES, aligned
from planner.units import ceil_div

_ALREADY: Final = float("-inf")
_NEVER: Final = float("inf")


@dataclass(slots=True, eq=False)
class _Piece:
    """Free bytes from `start` to `end`; complete from `done` on. `turn` counts frees, `serial` pieces."""

    start: int
    end: int
    done: float
    turn: int
    serial: int = 0

    @property
    def size(self) -> int:
        return self.end - self.start


_AGE = attrgetter("turn", "serial")
_Rank = tuple[int, int, int]


class _Pieces:
    """Pieces of one kind, found by size and by where they end: a model of thousands of layers leaves thousands."""

    def __init__(self) -> None:
        self._ranked: list[tuple[_Rank, _Piece]] = []
        self._starts: dict[int, _Piece] = {}
        self._ends: dict[int, _Piece] = {}
        self._serial = 0

    def __iter__(self) -> Iterator[_Piece]:
        return iter(self._starts.values())

    def add(self, piece: _Piece) -> None:
        self._serial += 1
        piece.serial = self._serial
        self._insert(piece)

    def remove(self, piece: _Piece) -> None:
        del self._ranked[bisect_left(self._ranked, (_rank(piece),))]
        del self._starts[piece.start], self._ends[piece.end]

    def smallest(self, size: int) -> _Piece | None:
        """The smallest that fits, of equal ones the one that was freed last."""
        at = bisect_left(self._ranked, ((size,),))
        return self._ranked[at][1] if at < len(self._ranked) else None

    def at_least(self, size: int) -> list[_Piece]:
        """Those of so many bytes."""
        return [piece for _, piece in self._ranked[bisect_left(self._ranked, ((size,),)) :]]

    def before(self, end: int) -> _Piece | None:
        """The one that ends there."""
        return self._ends.get(end)

    def touching(self, start: int, end: int) -> list[_Piece]:
        """Those that lie against either end."""
        found = (self._ends.get(start), self._starts.get(end))
        return [piece for piece in found if piece is not None]

    def take(self, piece: _Piece, size: int) -> int:
        """Take so many bytes off the start of a piece; where they lie."""
        start = piece.start
        self.remove(piece)
        piece.start += size
        if piece.start < piece.end:
            self._insert(piece)
        return start

    def extend(self, piece: _Piece, end: int) -> None:
        """Let a piece end further on."""
        self.remove(piece)
        piece.end = end
        self._insert(piece)

    def _insert(self, piece: _Piece) -> None:
        insort(self._ranked, (_rank(piece), piece))
        self._starts[piece.start] = self._ends[piece.end] = piece


def _rank(piece: _Piece) -> _Rank:
    return piece.end - piece.start, -piece.turn, piece.serial


class PagePool:
    """The pool, with `used_bytes` in one piece at its start. Times are of one clock, in any unit.

    Attributes:
        num_pages: what it holds of the GPU.
        num_grown: how often it had to grow.
    """

    def __init__(self, used_bytes: int = 0) -> None:
        self.num_pages = ceil_div(used_bytes, PAGE_BYTES)
        self._first_end = self._end = self.num_pages * PAGE_BYTES
        self._sizes: dict[int, int] = {}
        self._pending = _Pieces()
        self._complete = _Pieces()
        # Pages that were given back or moved, by their end: everything else below `_end` is a block or a piece.
        self._gone: dict[int, int] = {}
        self._next_done = _NEVER  # no pending piece is complete before
        self._turn = 0
        self.num_grown = 0
        if used_bytes < self._end:
            self._complete.add(_Piece(used_bytes, self._end, _ALREADY, 0))

    def place(self, address: int, size_bytes: int) -> None:
        """Say what lies at `address` in the used bytes at the start, so that it can be freed."""
        self._sizes[address] = aligned(size_bytes)

    def allocate(self, size_bytes: int, now: float = 0.0) -> int:
        """The address of a new block."""
        size = aligned(size_bytes)
        if now >= self._next_done:
            self._settle(now)
        for pieces in (self._pending, self._complete):
            best = pieces.smallest(size)
            if best is not None:
                return self._take(pieces, best, size)
        return self._take(self._complete, self._grow(size), size)

    def free(self, address: int, now: float = 0.0, done: float = 0.0) -> None:
        """Free a block; the GPU passes that at `done`."""
        if now >= self._next_done:
            self._settle(now)
        self._turn += 1
        start, end = address, address + self._sizes.pop(address)
        for piece in self._pending.touching(start, end):
            self._pending.remove(piece)
            start, end, done = min(start, piece.start), max(end, piece.end), max(done, piece.done)
        self._pending.add(_Piece(start, end, done, self._turn))
        if done < self._next_done:
            self._next_done = done

    def trim(self, now: float) -> None:
        """Give back every page that holds nothing, as a pool without a release threshold does when the host waits."""
        if now >= self._next_done:
            self._settle(now)
        for piece in self._complete.at_least(PAGE_BYTES):
            self.num_pages -= self._cut(piece, ceil_div(piece.size, PAGE_BYTES))
        while self._end > self._first_end and self._end in self._gone:
            self._end = self._gone.pop(self._end)
        self._end = max(self._end, self._first_end)

    def _settle(self, now: float) -> None:
        """Complete what the GPU has passed."""
        for piece in [piece for piece in self._pending if piece.done <= now]:
            self._pending.remove(piece)
            for other in self._complete.touching(piece.start, piece.end):
                self._complete.remove(other)
                piece.start, piece.end = min(piece.start, other.start), max(piece.end, other.end)
                piece.turn = max(piece.turn, other.turn)
            self._complete.add(piece)
        self._next_done = min((piece.done for piece in self._pending), default=_NEVER)

    def _grow(self, size: int) -> _Piece:
        tail = self._complete.before(self._end)
        short = ceil_div(size - (tail.size if tail else 0), PAGE_BYTES)
        moved = 0
        self.num_grown += 1
        for piece in sorted(self._complete.at_least(PAGE_BYTES), key=_AGE):
            if piece is not tail and moved < short:
                moved += self._cut(piece, short - moved)
        self.num_pages += short - moved
        start, self._end = self._end, self._end + short * PAGE_BYTES
        if tail is None:
            tail = _Piece(start, self._end, _ALREADY, 0)
            self._complete.add(tail)
        else:
            self._complete.extend(tail, self._end)
        return tail

    def _cut(self, piece: _Piece, num_pages: int) -> int:
        """Take up to so many whole pages out of a complete piece; how many there were."""
        first = ceil_div(piece.start, PAGE_BYTES)
        count = min(piece.end // PAGE_BYTES - first, num_pages)
        if count <= 0:
            return 0
        ahead, behind = first * PAGE_BYTES, (first + count) * PAGE_BYTES
        self._gone[behind] = ahead
        self._complete.remove(piece)
        for start, end in ((piece.start, ahead), (behind, piece.end)):
            if start < end:
                self._complete.add(_Piece(start, end, _ALREADY, piece.turn))
        return count

    def _take(self, pieces: _Pieces, piece: _Piece, size: int) -> int:
        address = pieces.take(piece, size)
        self._sizes[address] = size
        return address
