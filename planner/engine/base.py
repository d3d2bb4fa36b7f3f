"""What an engine is to the rest of lmplan: the parts of its memory, and how free memory becomes KV blocks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from planner.hardware.gpu import Gpu
from planner.lmdeploy.settings import Settings
from planner.memory.capacity import KvCache
from planner.memory.parallelism import Sharding
from planner.memory.terms import Term
from planner.memory.weights import Allocation
from planner.model.spec import ModelSpec


class Deployment(NamedTuple):
    """A model on GPUs of one kind under settings; `free_bytes` is what each has free before the process starts."""

    spec: ModelSpec
    gpu: Gpu
    free_bytes: int
    settings: Settings


class Engine(Protocol):
    """The memory of one rank's GPU under one engine and version.

    Attributes:
        rank: which; 0 is the one that holds most.
        sharding: how weights are split over the ranks.
    """

    rank: int
    sharding: Sharding

    def text_allocations(self) -> Iterable[Allocation]:
        """The language model's weights on this rank as the engine allocates them."""
        ...

    def before_kv(self) -> tuple[Term, ...]:
        """What is held when the engine asks how much memory is free."""
        ...

    def transient(self) -> Term | None:
        """What is held besides when the KV cache is sized and given back before the engine serves, if anything."""
        ...

    def reused_bytes(self, transient_bytes: int) -> int:
        """What of so much left by `transient` later terms take over: they count it, the peak must not do so again."""
        ...

    def kv_reserve_bytes(self) -> int:
        """What is taken off the free memory before the KV cache gets its share of the rest."""
        ...

    def kv_cache(self, free_bytes: int) -> KvCache:
        """The KV cache for `free_bytes` of free memory (at least 0)."""
        ...

    def after_kv(self, kv: KvCache) -> tuple[Term, ...]:
        """What is allocated once the KV cache stands, up to the first request served."""
        ...

    def stalls_at_tokens(self, kv: KvCache) -> int | None:
        """Length of a warm-up request that the KV cache cannot hold and the engine waits for, None for none."""
        ...

    def load_staging(self) -> Term:
        """What loading holds besides `before_kv` at its peak, given back before the KV cache is sized."""
        ...
