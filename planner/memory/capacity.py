"""The KV cache of one rank, and the only place that says what a sequence takes of it."""

from __future__ import annotations

from typing import NamedTuple

from planner.units import ceil_div


class KvCache(NamedTuple):
    """Blocks of one size for all layers. Who wants to know what sequences take asks the methods: where windows end what
    a sequence keeps, or sequences have a state beside their tokens, these answer otherwise.

    Attributes:
        budget_bytes: the share of free memory that it may take; what the engine allocates for it.
        block_tokens, block_bytes: one block, on this rank.
        blocks: whole blocks that fit the budget.
        tokens: tokens that requests can use together.
        notes: what the numbers depend on, such as slabs.
    """

    budget_bytes: int
    block_tokens: int
    block_bytes: int
    blocks: int
    tokens: int
    formula: str
    notes: tuple[str, ...] = ()

    @property
    def token_bytes(self) -> float:
        """Keys and values of one token."""
        return self.block_bytes / self.block_tokens

    def sequence_blocks(self, num_tokens: int) -> int:
        """Blocks of a sequence of so many tokens, and the one being made."""
        return ceil_div(num_tokens + 1, self.block_tokens)

    def sequence_bytes(self, num_tokens: int) -> int:
        """Bytes of these."""
        return self.sequence_blocks(num_tokens) * self.block_bytes

    def room_for(self, num_tokens: int) -> int:
        """Sequences of so many tokens that there are blocks for."""
        return self.blocks // self.sequence_blocks(num_tokens)

    def max_sequences(self, context_tokens: int, max_batch_size: int) -> int:
        """Sequences of `context_tokens` that run at once."""
        return min(max_batch_size, self.room_for(context_tokens))
