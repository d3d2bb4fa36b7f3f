"""Putting the terms together: does it start, what does it hold, what is left for tokens."""

from __future__ import annotations

from dataclasses import dataclass

from planner.engine.base import Deployment, Engine
from planner.engine.pick import pick_engine
from planner.memory.terms import FORMULA, Evidence, KvCache, Term
from planner.model.formats import store
from planner.model.tensors import inventory, num_parameters, size_bytes
from planner.units import counted, format_bytes, format_gib

SERVES = "serves"
DIES_LOADING = "dies while loading"
NO_ROOM = "no room for the KV cache"
DIES_STARTING = "dies while warming up"
HANGS_STARTING = "hangs while warming up"
GROWING_TERMS = ("forward_buffers", "cuda_graphs", "late_code")
"""Terms whose high end is what full load makes of them, not doubt."""


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """The memory of one GPU of a deployment.

    Attributes:
        terms: what the process holds when it serves; they add up to `total_bytes`.
        staging: what loading holds besides, given back before the KV cache is sized.
        transient: what is still held when the KV cache is sized and given back before it serves, if anything.
        total_bytes: what the driver shows for the process once it serves.
        load_peak_bytes: the most that it shows while starting.
        free_at_kv_bytes: what the engine finds free when it sizes the KV cache.
        verdict: one of the constants above.
        reasons: why it does not serve; empty when it does.
        warnings: what to know although it serves.
    """

    deployment: Deployment
    num_parameters: int
    checkpoint_bytes: int
    terms: tuple[Term, ...]
    staging: Term
    transient: Term | None
    kv_cache: KvCache
    total_bytes: int
    load_peak_bytes: int
    free_at_kv_bytes: int
    verdict: str
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the engine starts and serves."""
        return self.verdict == SERVES

    @property
    def short_of_growth(self) -> bool:
        """Whether what the process may grow by under full load is more than what stays free."""
        return _growth_bytes(self.terms) > self.deployment.free_bytes - self.total_bytes

    @property
    def low_bytes(self) -> int:
        """Sum of the terms' low ends."""
        return sum(term.low_bytes for term in self.terms)

    @property
    def high_bytes(self) -> int:
        """Sum of the terms' high ends."""
        return sum(term.high_bytes for term in self.terms)

    @property
    def worst_bytes(self) -> int:
        """The most that it may hold: every other term at its high end, which leaves the KV cache its low one."""
        others = sum(term.high_bytes for term in self.terms if term.name != "kv_cache")
        return others + next(term.low_bytes for term in self.terms if term.name == "kv_cache")

    def max_sequences(self, context_tokens: int) -> int:
        """Sequences of `context_tokens` tokens that run at once."""
        return self.kv_cache.max_sequences(context_tokens, self.deployment.settings.max_batch_size)


def estimate_memory(deployment: Deployment) -> MemoryEstimate:
    """Estimate the memory of the GPU that holds most of `deployment`."""
    spec, free_bytes = deployment.spec, deployment.free_bytes
    engine: Engine = pick_engine(deployment)
    tensors = inventory(spec)
    before = engine.before_kv()
    staging = engine.load_staging()
    transient = engine.transient()
    start = _start(engine, free_bytes, before, staging, transient.size_bytes if transient else 0)
    kv = start.kv
    kv_term = _kv_term(engine, kv, free_bytes, (*before, transient) if transient else before)
    terms = (*before, kv_term, *start.after)
    verdict, reasons = _verdict(free_bytes, start)
    others = _other_verdicts(engine, free_bytes, before, staging, transient) - {verdict}
    warnings = _warnings(deployment, kv, start.total_bytes, terms) if verdict == SERVES else ()
    if others and transient is not None:
        race = f"a race while loading leaves {_span(transient)} behind: at one end this {' or '.join(sorted(others))}"
        reasons, warnings = (reasons, (*warnings, race)) if verdict == SERVES else ((*reasons, race), warnings)
    return MemoryEstimate(
        deployment=deployment,
        num_parameters=num_parameters(tensors),
        checkpoint_bytes=size_bytes(store(tensors, deployment.settings.quantization)),
        terms=terms,
        staging=staging,
        transient=transient,
        kv_cache=kv,
        total_bytes=start.total_bytes,
        load_peak_bytes=max(start.load_bytes, start.peak_bytes),
        free_at_kv_bytes=max(start.free_at_kv_bytes, 0),
        verdict=verdict,
        reasons=reasons,
        warnings=warnings,
    )


@dataclass(frozen=True, slots=True)
class _Start:
    """A start: the peak of loading, the KV cache, what it holds in the end, the peak of the rest, and the length of the
    warm-up request that never gets its turn.
    """

    load_bytes: int
    free_at_kv_bytes: int
    kv: KvCache
    after: tuple[Term, ...]
    total_bytes: int
    peak_bytes: int
    stalls_at_tokens: int | None


def _start(engine: Engine, free_bytes: int, before: tuple[Term, ...], staging: Term, transient_bytes: int) -> _Start:
    """How it goes where loading leaves `transient_bytes` behind."""
    held = sum(term.size_bytes for term in before)
    free_at_kv = free_bytes - held - transient_bytes
    kv = engine.kv_cache(max(free_at_kv, 0))
    after = engine.after_kv(kv)
    total = held + kv.budget_bytes + sum(term.size_bytes for term in after)
    load = held + max(staging.size_bytes, transient_bytes)
    peak = total + transient_bytes - engine.reused_bytes(transient_bytes)
    return _Start(load, free_at_kv, kv, after, total, peak, engine.stalls_at_tokens(kv))


def _other_verdicts(
    engine: Engine, free_bytes: int, before: tuple[Term, ...], staging: Term, transient: Term | None
) -> set[str]:
    """The verdicts at both ends of what loading may leave behind."""
    if transient is None:
        return set()
    ends = {transient.low_bytes, transient.high_bytes} - {transient.size_bytes}
    return {_verdict(free_bytes, _start(engine, free_bytes, before, staging, end))[0] for end in ends}


def _span(term: Term) -> str:
    return f"{format_bytes(term.low_bytes)} to {format_bytes(term.high_bytes)}"


def _kv_term(engine: Engine, kv: KvCache, free_bytes: int, before: tuple[Term, ...]) -> Term:
    """The budget as a term. It takes a share of what the others leave, so their doubt is its doubt, upside down."""
    low_free = free_bytes - sum(term.high_bytes for term in before)
    high_free = free_bytes - sum(term.low_bytes for term in before)
    doubtful = next((term for term in before if term.evidence.kind == "assumed"), None)
    evidence = Evidence("assumed", f"rests on {doubtful.name}") if doubtful else FORMULA
    return Term(
        "kv_cache",
        kv.budget_bytes,
        engine.kv_cache(max(low_free, 0)).budget_bytes,
        engine.kv_cache(max(high_free, 0)).budget_bytes,
        evidence,
        kv.formula,
        f"{counted(kv.blocks, 'block')} of {kv.block_tokens} tokens",
    )


def _verdict(free_bytes: int, start: _Start) -> tuple[str, tuple[str, ...]]:
    if start.load_bytes > free_bytes:
        return DIES_LOADING, (
            f"loading needs {format_gib(start.load_bytes)}, but only {format_gib(free_bytes)} is free: "
            f"{format_bytes(start.load_bytes - free_bytes)} short",
        )
    kv = start.kv
    if start.free_at_kv_bytes <= 0 or kv.blocks == 0:
        if start.free_at_kv_bytes <= 0:
            return NO_ROOM, ("nothing is left when the KV cache is sized",)
        return NO_ROOM, (
            f"{format_bytes(start.free_at_kv_bytes)} is left when the KV cache is sized; its share of that, "
            f"{format_bytes(kv.budget_bytes)}, does not hold a block of {format_bytes(kv.block_bytes)}",
        )
    if start.peak_bytes > free_bytes:
        return DIES_STARTING, (
            f"with the KV cache the process needs {format_gib(start.peak_bytes)}, but only {format_gib(free_bytes)} is "
            f"free: {format_bytes(start.peak_bytes - free_bytes)} short; lower --cache-max-entry-count",
        )
    if start.stalls_at_tokens is not None:
        return HANGS_STARTING, (
            f"the KV cache holds {counted(kv.tokens, 'token')}, but a warm-up request has "
            f"{start.stalls_at_tokens:,}, so LMDeploy waits for room forever; --session-len {kv.tokens} avoids that",
        )
    return SERVES, ()


def _growth_bytes(terms: tuple[Term, ...]) -> int:
    """What the buffers of a step may grow by once full batches come."""
    return sum(term.high_bytes - term.size_bytes for term in terms if term.name in GROWING_TERMS)


def _warnings(deployment: Deployment, kv: KvCache, total_bytes: int, terms: tuple[Term, ...]) -> tuple[str, ...]:
    warnings = []
    growth = _growth_bytes(terms)
    spare = deployment.free_bytes - total_bytes
    if growth > spare:
        warnings.append(
            f"under full load the process can grow by {format_bytes(growth)}, but only {format_bytes(spare)} is spare; "
            "lower the ratio, the batch size or --max-prefill-token-num"
        )
    session_len = deployment.settings.session_len
    if kv.tokens < session_len:
        warnings.append(
            f"the KV cache holds {counted(kv.tokens, 'token')}, fewer than one session of {session_len:,}; "
            "longer requests fail"
        )
    return tuple(warnings)
