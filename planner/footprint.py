"""Putting the terms together: does it start, what does it hold, what is left for tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from planner.engine.base import Deployment
from planner.memory.capacity import KvCache
from planner.memory.terms import FORMULA, Evidence, Term
from planner.model.formats import store
from planner.model.inventory import inventory
from planner.model.tensors import num_parameters, size_bytes
from planner.start import End, Start, Startup
from planner.units import counted, format_bytes, format_gib
from planner.verdict import Outcome, Verdict

GROWING_TERMS = ("forward_buffers", "delta_buffers", "cuda_graphs", "late_code")
"""Terms whose high end is what full load makes of them, not doubt."""


class MemoryEstimate(NamedTuple):
    """The memory of one GPU of a deployment.

    Attributes:
        terms: what the process holds when it serves; they add up to `total_bytes`.
        staging: what loading holds besides, given back before the KV cache is sized.
        transient: what is still held when the KV cache is sized and given back before it serves, if anything.
        total_bytes: what the driver shows for the process once it serves.
        load_peak_bytes: the most that it shows while starting.
        free_at_kv_bytes: what the engine finds free when it sizes the KV cache.
        outcome: how the start ends.
        reasons: why it does not serve; empty when it does.
        overload: why it may die under full load although it serves; empty when it does not.
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
    outcome: Outcome
    reasons: tuple[str, ...]
    overload: str
    warnings: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the engine starts and serves."""
        return self.outcome is Outcome.SERVES

    @property
    def growth_bytes(self) -> int:
        """What the process may grow by under full load."""
        return _growth_bytes(self.terms)

    @property
    def full_load_bytes(self) -> int:
        """The most that it holds under full load, where the other terms are as estimated."""
        return self.total_bytes + self.growth_bytes

    @property
    def short_of_growth(self) -> bool:
        """Whether what the process may grow by under full load is more than what stays free."""
        return self.full_load_bytes > self.deployment.free_bytes

    def verdict(self, context_tokens: int) -> Verdict:
        """What becomes of it where sessions have `context_tokens` tokens."""
        if not self.fits:
            return Verdict(self.outcome.value)
        if self.max_sequences(context_tokens) < 1:
            return Verdict.NO_SESSION
        return Verdict.UNTIL_FULL_LOAD if self.short_of_growth else Verdict.SERVES

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
    startup = Startup.of(deployment)
    start = startup.at()
    tensors = inventory(deployment.spec)
    terms = (*startup.before, _kv_term(startup, start.kv), *start.after)
    outcome, reasons = _outcome(startup, start)
    serves = outcome is Outcome.SERVES
    race = _race(startup, outcome)
    return MemoryEstimate(
        deployment=deployment,
        num_parameters=num_parameters(tensors),
        checkpoint_bytes=size_bytes(store(tensors, deployment.settings.quantization)),
        terms=terms,
        staging=startup.staging,
        transient=startup.transient,
        kv_cache=start.kv,
        total_bytes=start.total_bytes,
        load_peak_bytes=max(start.load_bytes, start.peak_bytes),
        free_at_kv_bytes=max(start.free_at_kv_bytes, 0),
        outcome=outcome,
        reasons=() if serves else (*reasons, *race),
        overload=_overload(startup, start, terms) if serves else "",
        warnings=(*_warnings(startup, start), *race) if serves else (),
    )


def _race(startup: Startup, outcome: Outcome) -> tuple[str, ...]:
    """What else may happen at the ends of what loading leaves behind."""
    if startup.transient is None:
        return ()
    others = {_fate(startup, startup.at(end)) for end in (End.LOW, End.HIGH)} - {outcome}
    if not others:
        return ()
    span = _span(startup.transient)
    return (f"a race while loading leaves {span} behind: at one end this {' or '.join(sorted(others))}",)


def _span(term: Term) -> str:
    return f"{format_bytes(term.low_bytes)} to {format_bytes(term.high_bytes)}"


def _kv_term(startup: Startup, kv: KvCache) -> Term:
    """The budget as a term. It takes a share of what the others leave, so their doubt is its doubt, upside down."""
    before = (*startup.before, startup.transient) if startup.transient else startup.before
    doubtful = next((term for term in before if term.evidence.kind == "assumed"), None)
    evidence = Evidence("assumed", f"rests on {doubtful.name}") if doubtful else FORMULA
    return Term(
        "kv_cache",
        kv.budget_bytes,
        startup.kv_cache(End.HIGH).budget_bytes,
        startup.kv_cache(End.LOW).budget_bytes,
        evidence,
        kv.formula,
        f"{counted(kv.blocks, 'block')} of {kv.block_tokens} tokens",
    )


def _fate(startup: Startup, start: Start) -> Outcome:
    """How one start ends."""
    free_bytes = startup.deployment.free_bytes
    if start.load_bytes > free_bytes:
        return Outcome.DIES_LOADING
    if start.free_at_kv_bytes <= 0 or start.kv.blocks == 0:
        return Outcome.NO_ROOM
    if start.peak_bytes > free_bytes:
        return Outcome.DIES_STARTING
    return Outcome.SERVES if start.stalls_at_tokens is None else Outcome.HANGS_STARTING


def _outcome(startup: Startup, start: Start) -> tuple[Outcome, tuple[str, ...]]:
    """How it ends, and why it does not serve."""
    free_bytes, kv = startup.deployment.free_bytes, start.kv
    fate = _fate(startup, start)
    if fate is Outcome.DIES_LOADING:
        return fate, (
            f"loading needs {format_gib(start.load_bytes)}, but only {format_gib(free_bytes)} is free: "
            f"{format_bytes(start.load_bytes - free_bytes)} short",
        )
    if fate is Outcome.NO_ROOM:
        if start.free_at_kv_bytes <= 0:
            return fate, ("nothing is left when the KV cache is sized",)
        return fate, (
            f"{format_bytes(start.free_at_kv_bytes)} is left when the KV cache is sized; its share of that, "
            f"{format_bytes(kv.budget_bytes)}, does not hold a block of {format_bytes(kv.block_bytes)}",
        )
    if fate is Outcome.DIES_STARTING:
        percent = _largest_percent(startup, lambda peak, _: peak <= free_bytes)
        helps = f"--cache-max-entry-count {percent / 100:g} leaves enough" if percent else "no ratio leaves enough"
        return fate, (
            f"with the KV cache the process needs {format_gib(start.peak_bytes)}, but only {format_gib(free_bytes)} is "
            f"free: {format_bytes(start.peak_bytes - free_bytes)} short; {helps}",
        )
    if fate is Outcome.HANGS_STARTING:
        return fate, (
            f"the KV cache holds {counted(kv.tokens, 'token')}, but a warm-up request has "
            f"{start.stalls_at_tokens:,}, so LMDeploy waits for room forever; --session-len {kv.tokens} avoids that",
        )
    return Outcome.SERVES, ()


def _largest_percent(startup: Startup, enough: Callable[[int, tuple[Term, ...]], bool]) -> int:
    """The largest ratio, in hundredths, that serves with a peak and terms that are good enough; 0 for none.

    A smaller cache leaves more but holds less: where the largest that leaves enough does not serve, none does.
    """
    low, high = 0, 100
    while high - low > 1:
        middle = (low + high) // 2
        start = startup.with_ratio(middle / 100).at()
        low, high = (middle, high) if enough(start.peak_bytes, start.after) else (low, middle)
    if not low:
        return 0
    smaller = startup.with_ratio(low / 100)
    return low if _fate(smaller, smaller.at()) is Outcome.SERVES else 0


def _growth_bytes(terms: tuple[Term, ...]) -> int:
    """What the buffers of a step may grow by once full batches come."""
    return sum(term.high_bytes - term.size_bytes for term in terms if term.name in GROWING_TERMS)


def _overload(startup: Startup, start: Start, terms: tuple[Term, ...]) -> str:
    """Why full batches may end it, or nothing."""
    free_bytes = startup.deployment.free_bytes
    growth, spare = _growth_bytes(terms), free_bytes - start.total_bytes
    if growth <= spare:
        return ""
    percent = _largest_percent(startup, lambda peak, after: peak + _growth_bytes(after) <= free_bytes)
    ratio = f"--cache-max-entry-count {percent / 100:g}, or " if percent else ""
    return (
        f"under full load the process can grow by {format_bytes(growth)}, but only {format_bytes(spare)} is spare; "
        f"{ratio}a smaller batch or --max-prefill-token-num leaves room"
    )


def _warnings(startup: Startup, start: Start) -> tuple[str, ...]:
    session_len, kv = startup.deployment.settings.session_len, start.kv
    if kv.tokens >= session_len:
        return ()
    return (
        f"the KV cache holds {counted(kv.tokens, 'token')}, fewer than one session of {session_len:,}; "
        "longer requests fail",
    )
