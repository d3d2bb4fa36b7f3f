"""Which settings to use: the least loss of quality that starts, holds the sessions wanted and keeps room to grow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from planner.advise.candidates import QUALITY_ORDER, Knobs, Offer, Option
from planner.advise.search import Search
from planner.engine.base import Deployment
from planner.errors import LmplanError
from planner.footprint import HANGS_STARTING, NO_ROOM, MemoryEstimate, estimate_memory
from planner.lmdeploy.settings import Request, decide
from planner.request import Load
from planner.units import format_gib

_TP = (2, 4, 8)


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A plan that serves, or None with the reasons why none does.

    Attributes:
        estimate: the recommended deployment, or None.
        wishes: its settings as options.
        why: sentences for people, the decision first.
    """

    estimate: MemoryEstimate | None
    wishes: Request
    why: tuple[str, ...]


def recommend(current: MemoryEstimate, wishes: Request, context_tokens: int) -> Recommendation:
    """The settings to use for `context_tokens` tokens a session, starting from what was asked for.

    What serves as asked, holds a session and keeps room for its growth is confirmed, not replaced.
    """
    wanted = min(context_tokens, current.deployment.settings.session_len)
    if _good(current, wanted):
        return Recommendation(current, wishes, (*_confirm(current, wanted), *_more_tokens(current, wishes, wanted)))
    rejected: list[str] = []
    for candidate in _candidates(wishes):
        plan = _plan(current.deployment, candidate)
        if plan is None:
            continue
        if _good(plan, wanted):
            return Recommendation(plan, candidate, (_decision(current, plan, candidate, wishes, wanted), *rejected[:3]))
        rejected.append(f"{_named(candidate)}: {_lack(plan, wanted)}")
    return Recommendation(None, wishes, (_nothing(current, wanted), *rejected[-3:]))


def _nothing(current: MemoryEstimate, context_tokens: int) -> str:
    """Why there is nothing to recommend."""
    if current.fits and current.max_sequences(context_tokens) >= 1:
        return f"no setting keeps room for what full load may take; as asked, {_lack(current, context_tokens)}"
    return f"nothing that LMDeploy offers holds one session of {context_tokens} tokens on this GPU"


def _good(plan: MemoryEstimate, context_tokens: int) -> bool:
    return plan.fits and not plan.short_of_growth and plan.max_sequences(context_tokens) >= 1


def _candidates(wishes: Request) -> Iterator[Request]:
    # fp8 is a checkpoint to be found, not made: it is planned where it is asked for, and by `lmplan recommend`.
    allowed = ("as-is", "w4a16") if wishes.weights == "as-is" else (wishes.weights,)
    order = [entry for entry in QUALITY_ORDER if entry[0] in allowed]
    for tp in (wishes.tp, *(tp for tp in _TP if tp > wishes.tp)):
        for weights, quant_policy in order:
            if 0 < wishes.quant_policy < (quant_policy or 16):
                continue  # a coarser cache was asked for already
            yield replace(wishes, weights=weights, quant_policy=quant_policy, tp=tp)


def _plan(deployment: Deployment, wishes: Request) -> MemoryEstimate | None:
    """The candidate with the largest safe ratio, or None where LMDeploy refuses it."""
    try:
        settings = decide(deployment.spec, deployment.gpu, deployment.settings.lmdeploy, wishes)
        plan = estimate_memory(replace(deployment, settings=settings))
        if plan.verdict == HANGS_STARTING and wishes.session_len is None:
            # Requests that the cache cannot hold are then refused at once, those of the warm-up among them.
            wishes = replace(wishes, session_len=plan.kv_cache.tokens)
            settings = decide(deployment.spec, deployment.gpu, deployment.settings.lmdeploy, wishes)
            plan = estimate_memory(replace(deployment, settings=settings))
        if wishes.cache_max_entry_count is None and not _ratio_holds(plan):
            settings = replace(settings, cache_max_entry_count=_safe_ratio(deployment, wishes))
            plan = estimate_memory(replace(deployment, settings=settings))
        return plan
    except LmplanError:
        return None


def _safe_ratio(deployment: Deployment, wishes: Request) -> float:
    """The largest ratio, to 0.01, that leaves room for all that may be held besides the KV cache."""
    offer = Offer(deployment.gpu, deployment.free_bytes, wishes.tp)
    search = Search(deployment.spec, offer, deployment.settings.lmdeploy, wishes.engine, wishes.dtype, ())
    knobs = Knobs(wishes.session_len, wishes.max_batch_size, wishes.max_prefill_token_num)
    option = Option(wishes.tp, wishes.weights, wishes.quant_policy)
    return search.weigh(option, knobs, Load(context_tokens=1, num_users=1)).settings.cache_max_entry_count


def _ratio_holds(plan: MemoryEstimate) -> bool:
    return plan.fits and not plan.short_of_growth


def _confirm(plan: MemoryEstimate, context_tokens: int) -> tuple[str, ...]:
    count = plan.max_sequences(context_tokens)
    return (
        f"serves as asked: {format_gib(plan.deployment.free_bytes - plan.total_bytes)} stay free and "
        f"{count} session{'s' if count != 1 else ''} of {context_tokens:,} tokens run at once",
    )


def _more_tokens(plan: MemoryEstimate, wishes: Request, context_tokens: int) -> tuple[str, ...]:
    """What an 8-bit cache would add, where the cache is the limit."""
    if wishes.quant_policy or plan.max_sequences(context_tokens) >= plan.deployment.settings.max_batch_size:
        return ()
    eight = _plan(plan.deployment, replace(wishes, quant_policy=8))
    if eight is None or not eight.fits:
        return ()
    return (
        f"--quant-policy 8 would hold {eight.kv_cache.tokens:,} tokens instead of {plan.kv_cache.tokens:,} "
        "in the same memory",
    )


def _decision(
    current: MemoryEstimate, plan: MemoryEstimate, chosen: Request, wishes: Request, context_tokens: int
) -> str:
    changes = []
    if chosen.tp != wishes.tp:
        changes.append(f"{chosen.tp} GPUs (--tp {chosen.tp})")
    if chosen.weights != wishes.weights:
        changes.append("4-bit weights (W4A16 AWQ)")
    if chosen.quant_policy != wishes.quant_policy:
        changes.append(f"{chosen.quant_policy or 16}-bit KV cache (--quant-policy {chosen.quant_policy})")
    session_len = plan.deployment.settings.session_len
    if session_len != current.deployment.settings.session_len:
        changes.append(f"--session-len {session_len}")
    ratio = plan.deployment.settings.cache_max_entry_count
    if ratio != current.deployment.settings.cache_max_entry_count:
        changes.append(f"--cache-max-entry-count {ratio:g}")
    count = plan.max_sequences(context_tokens)
    return (
        f"{' and '.join(changes) or 'the same settings'}: serves with "
        f"{format_gib(plan.deployment.free_bytes - plan.total_bytes)} free and {count} session"
        f"{'s' if count != 1 else ''} of {context_tokens:,} tokens; as asked, {_lack(current, context_tokens)}"
    )


def _lack(plan: MemoryEstimate, context_tokens: int) -> str:
    if not plan.fits:
        return f"it {plan.verdict} ({plan.reasons[0]})" if plan.verdict != NO_ROOM else plan.reasons[0]
    if plan.max_sequences(context_tokens) < 1:
        return f"the KV cache holds {plan.kv_cache.tokens:,} of the {context_tokens:,} tokens of a session"
    return plan.warnings[0] if plan.warnings else "it serves"


def _named(wishes: Request) -> str:
    tp = f", tp {wishes.tp}" if wishes.tp > 1 else ""
    weights = "weights as they are" if wishes.weights == "as-is" else "W4A16"
    return f"{weights}, {wishes.quant_policy or 16}-bit KV{tp}"
