"""One start of an engine: what it holds at each step, what the KV cache gets, and the largest ratio that is safe."""

from __future__ import annotations

import enum
import math
from typing import Final, NamedTuple

from planner.engine.base import Deployment, Engine
from planner.engine.pick import pick_engine
from planner.memory.capacity import KvCache
from planner.memory.pool import PAGE_BYTES
from planner.memory.terms import Term

MAX_RATIO_PERCENT: Final = 95
"""A twentieth of the free memory stays out of the KV cache's reach whatever the arithmetic says."""


class End(enum.Enum):
    """Where in their bands terms are taken."""

    LOW = "low_bytes"
    CENTRAL = "size_bytes"
    HIGH = "high_bytes"

    def of(self, term: Term) -> int:
        """The term's bytes at this end."""
        size: int = getattr(term, self.value)
        return size


class Start(NamedTuple):
    """How one start goes. All sizes are of one GPU.

    Attributes:
        load_bytes: the peak of loading.
        free_at_kv_bytes: what the engine finds free when it sizes the KV cache; negative where there is less than none.
        after: what comes behind the KV cache.
        total_bytes: what the process holds once it serves.
        peak_bytes: the most that it holds from the KV cache on.
        stalls_at_tokens: the length of the warm-up request that never gets its turn, None for none.
    """

    load_bytes: int
    free_at_kv_bytes: int
    kv: KvCache
    after: tuple[Term, ...]
    total_bytes: int
    peak_bytes: int
    stalls_at_tokens: int | None


class Startup(NamedTuple):
    """An engine about to start: what it holds before its KV cache is sized, each with its band.

    Attributes:
        before: terms that stay.
        staging: what loading holds besides, given back before the KV cache is sized.
        transient: what loading leaves behind and is given back only once the KV cache is sized.
    """

    deployment: Deployment
    engine: Engine
    before: tuple[Term, ...]
    staging: Term
    transient: Term | None

    @classmethod
    def of(cls, deployment: Deployment) -> Startup:
        """The start of a deployment.

        Raises:
            LmplanError: its engine does not take it.
        """
        engine = pick_engine(deployment)
        return cls(deployment, engine, engine.before_kv(), engine.load_staging(), engine.transient())

    def with_ratio(self, ratio: float) -> Startup:
        """The same with another cache_max_entry_count; nothing before the KV cache depends on it."""
        settings = self.deployment.settings._replace(cache_max_entry_count=ratio)
        deployment = self.deployment._replace(settings=settings)
        return self._replace(deployment=deployment, engine=pick_engine(deployment))

    def held_bytes(self, end: End = End.CENTRAL) -> int:
        """What stays, before the KV cache."""
        return sum(end.of(term) for term in self.before)

    def left_bytes(self, end: End = End.CENTRAL) -> int:
        """What loading leaves behind."""
        return end.of(self.transient) if self.transient else 0

    def load_bytes(self, left: End = End.CENTRAL) -> int:
        """The peak of loading."""
        return self.held_bytes() + max(self.staging.size_bytes, self.left_bytes(left))

    def free_at_kv_bytes(self, held: End = End.CENTRAL, left: End = End.CENTRAL) -> int:
        """What is free when the KV cache is sized."""
        return self.deployment.free_bytes - self.held_bytes(held) - self.left_bytes(left)

    def kv_cache(self, end: End = End.CENTRAL, taken_bytes: int = 0) -> KvCache:
        """The KV cache where all that comes before it is at one end and others have taken `taken_bytes` meanwhile."""
        return self.engine.kv_cache(max(self.free_at_kv_bytes(end, end) - taken_bytes, 0))

    def at(self, left: End = End.CENTRAL) -> Start:
        """How it goes, with one end of what loading leaves behind."""
        left_bytes = self.left_bytes(left)
        free_at_kv = self.free_at_kv_bytes(left=left)
        kv = self.engine.kv_cache(max(free_at_kv, 0))
        after = self.engine.after_kv(kv)
        total = self.held_bytes() + kv.budget_bytes + sum(term.size_bytes for term in after)
        peak = total + left_bytes - self.engine.reused_bytes(left_bytes)
        return Start(self.load_bytes(left), free_at_kv, kv, after, total, peak, self.engine.stalls_at_tokens(kv))

    def safe_ratio(self, beside_bytes: int = 0) -> SafeRatio:
        """The largest ratio that leaves room for everything else at the high end of its band.

        Args:
            beside_bytes: what has to stay free besides, for others than the engine.
        """
        most = self.with_ratio(MAX_RATIO_PERCENT / 100)
        kv = most.kv_cache(End.HIGH)
        # Pools grow by whole pages, so what the buffers take moves by up to a page with the size of the KV cache. A
        # cache of whole pages and a page on top bound it for every size, and more memory never asks for more.
        after = most.engine.after_kv(kv._replace(budget_bytes=kv.budget_bytes // PAGE_BYTES * PAGE_BYTES))
        keep_free = sum(term.high_bytes for term in after) + PAGE_BYTES + beside_bytes
        keep_free -= self.engine.reused_bytes(self.left_bytes(End.HIGH))
        worst_free = self.free_at_kv_bytes(End.HIGH, End.HIGH)
        room, shared = worst_free - keep_free, worst_free - self.engine.kv_reserve_bytes()
        ratio = min(room / shared, MAX_RATIO_PERCENT / 100) if room > 0 else 0.0
        return SafeRatio(ratio, keep_free)


class SafeRatio(NamedTuple):
    """The largest safe cache_max_entry_count, 0 for none, and what it keeps free beside the KV cache."""

    ratio: float
    keep_free_bytes: int

    @property
    def percent(self) -> int:
        """The ratio to 0.01, in hundredths."""
        return math.floor(100 * self.ratio + _SAME)


_SAME: Final = 1e-9
"""Ratios nearer to each other than this are one."""
