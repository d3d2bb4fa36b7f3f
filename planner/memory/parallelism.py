"""How GPUs share a model, and what one rank has of it."""

from __future__ import annotations

from typing import NamedTuple

from planner.units import ceil_div, round_up


class Parallelism(NamedTuple):
    """The ranks of a deployment, one GPU each.

    `tp` of them cut every layer between them (tensor parallelism). Other ways to share are further fields here, so that
    whoever computes one rank's memory is given all of them at once.
    """

    tp: int = 1

    @property
    def num_ranks(self) -> int:
        """GPUs of the deployment."""
        return self.tp

    def heads(self, num_heads: int) -> int:
        """Query heads of one rank; `tp` divides them."""
        return num_heads // self.tp

    def kv_heads(self, num_kv_heads: int) -> int:
        """KV heads of one rank. Where `tp` does not divide them they are repeated first."""
        return ceil_div(num_kv_heads, self.tp)


class Sharding(NamedTuple):
    """How one version splits weights over the ranks.

    Attributes:
        embedding_sharded, lm_head_sharded: whether the vocabulary matrices are cut or whole on every rank.
        vocab_multiple: the head's rows are padded to a multiple of this times tp (only when cut).
        intermediate_multiple: an MLP's intermediate size is padded to a multiple of this times tp; 1 for no padding.
        latent_folded: whether latent attention's projection of keys and values is multiplied into its neighbours.
    """

    parallelism: Parallelism = Parallelism()
    embedding_sharded: bool = False
    lm_head_sharded: bool = False
    vocab_multiple: int = 1
    intermediate_multiple: int = 1
    latent_folded: bool = False

    @property
    def tp(self) -> int:
        """Ranks that cut every layer."""
        return self.parallelism.tp

    def padded(self, intermediate_size: int) -> int:
        """An MLP's intermediate size after padding, over all ranks."""
        if self.intermediate_multiple == 1:
            return intermediate_size
        return round_up(intermediate_size, self.intermediate_multiple * self.tp)

    def intermediate(self, intermediate_size: int) -> int:
        """The same on one rank."""
        return self.padded(intermediate_size) // self.tp

    def head_rows(self, vocab_size: int) -> int:
        """Rows of the output matrix after padding, over all ranks."""
        if self.tp == 1 or not self.lm_head_sharded:
            return vocab_size
        return round_up(vocab_size, self.vocab_multiple * self.tp)

    def rank_head_rows(self, vocab_size: int) -> int:
        """Rows of the output matrix on one rank."""
        rows = self.head_rows(vocab_size)
        return rows // self.tp if self.lm_head_sharded else rows
