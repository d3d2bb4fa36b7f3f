"""The KV cache of one rank, and the only place that says what a sequence takes of it."""

from __future__ import annotations

from typing import NamedTuple

from planner.units import ceil_div


class StateObjects(NamedTuple):
    """Objects of one size that a running sequence holds beside its tokens, however many these are.

    `per_slab` of them share a slab of `slab_pages` pages; a sequence has `per_sequence`.
    """

    object_bytes: int
    per_slab: int
    slab_pages: int
    per_sequence: int

    @property
    def sequence_bytes(self) -> int:
        """Bytes of a sequence's."""
        return self.object_bytes * self.per_sequence

    def pages(self, num_sequences: int) -> int:
        """Pages of the slabs that so many sequences need."""
        return ceil_div(num_sequences * self.per_sequence, self.per_slab) * self.slab_pages


class StatesInRegion(NamedTuple):
    """States of sequences that share a region of `num_pages` pages with the blocks, `blocks_per_slab` of these in
    `slab_pages` pages. Each size of object has slabs of its own; a slab goes to whichever asks first.
    """

    num_pages: int
    blocks_per_slab: int
    slab_pages: int
    objects: tuple[StateObjects, ...]

    @property
    def sequence_bytes(self) -> int:
        """State of one sequence."""
        return sum(each.sequence_bytes for each in self.objects)

    def blocks_beside(self, num_sequences: int) -> int:
        """Blocks that there are room for beside the states of so many sequences."""
        left = self.num_pages - sum(each.pages(num_sequences) for each in self.objects)
        return max(left, 0) // self.slab_pages * self.blocks_per_slab


class KvCache(NamedTuple):
    """Blocks of one size for all layers. Who wants to know what sequences take asks the methods: where windows end what
    a sequence keeps, or sequences have a state beside their tokens, these answer otherwise.

    Attributes:
        budget_bytes: the share of free memory that it may take; what the engine allocates for it.
        block_tokens, block_bytes: one block, on this rank.
        blocks: whole blocks that fit the budget, beside the state of one sequence where sequences have one.
        tokens: tokens that requests can use together.
        notes: what the numbers depend on, such as slabs.
        states: what sequences hold beside their tokens, None for nothing.
    """

    budget_bytes: int
    block_tokens: int
    block_bytes: int
    blocks: int
    tokens: int
    formula: str
    notes: tuple[str, ...] = ()
    states: StatesInRegion | None = None

    @property
    def token_bytes(self) -> float:
        """Keys and values of one token."""
        return self.block_bytes / self.block_tokens

    def sequence_blocks(self, num_tokens: int) -> int:
        """Blocks of a sequence of so many tokens, and the one being made."""
        return ceil_div(num_tokens + 1, self.block_tokens)

    def sequence_bytes(self, num_tokens: int) -> int:
        """Bytes of these, and of the sequence's state."""
        states = self.states.sequence_bytes if self.states else 0
        return self.sequence_blocks(num_tokens) * self.block_bytes + states

    def room_for(self, num_tokens: int) -> int:
        """Sequences of so many tokens that there are blocks, and states, for."""
        each = self.sequence_blocks(num_tokens)
        most = self.blocks // each
        if self.states is None:
            return most
        # More sequences have more states and leave fewer blocks.
        least = 0
        while least < most:
            middle = (least + most + 1) // 2
            if middle * each <= self.states.blocks_beside(middle):
                least = middle
            else:
                most = middle - 1
        return least

    def max_sequences(self, context_tokens: int, max_batch_size: int) -> int:
        """Sequences of `context_tokens` that run at once."""
        return min(max_batch_size, self.room_for(context_tokens))
