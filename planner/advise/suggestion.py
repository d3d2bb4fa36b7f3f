"""What `lmplan estimate` suggests: a start that serves as asked is confirmed; else see `planner.advise.changes`."""

from __future__ import annotations

from typing import NamedTuple

from planner.advise.candidates import Offer, Option
from planner.advise.weighing import Scales
from planner.errors import LmplanError
from planner.footprint import MemoryEstimate, estimate_memory
from planner.request import Load
from planner.units import format_gib


class Recommendation(NamedTuple):
    """A plan that serves, or None with the reasons why none does.

    Attributes:
        estimate: the recommended deployment, or None.
        why: sentences for people, the decision first.
    """

    estimate: MemoryEstimate | None
    why: tuple[str, ...]


def confirm(current: MemoryEstimate, engine: str | None, dtype: str, load: Load) -> Recommendation | None:
    """The plan as asked where it serves a load of one user, and keeps room for whatever full load may take; else None.

    Args:
        current: the plan as asked.
        engine, dtype: as asked.
    """
    if not _serves_as_asked(current, engine, dtype, load):
        return None
    spare = format_gib(current.deployment.free_bytes - current.total_bytes)
    sessions = sessions_held(current, load.context_tokens)
    why = f"serves as asked: {spare} remain free and {sessions} run at once"
    return Recommendation(current, (why, *_more_tokens(current, load)))


def sessions_held(memory: MemoryEstimate, context_tokens: int) -> str:
    """``6 sessions of 8,192 tokens``."""
    count = memory.max_sequences(context_tokens)
    return f"{count} session{'s' if count != 1 else ''} of {context_tokens:,} tokens"


def _serves_as_asked(current: MemoryEstimate, engine: str | None, dtype: str, load: Load) -> bool:
    """Whether it starts, holds the load and keeps room for its growth, and a safe ratio would do so too.

    Where the leanest settings of the option serve with a safe ratio, those nearest to the defaults are found as well,
    and images take the same of all.
    """
    if not current.fits or current.short_of_growth or current.max_sequences(load.context_tokens) < 1:
        return False
    deployment = current.deployment
    settings = deployment.settings
    offer = Offer(deployment.gpu, deployment.free_bytes)
    scales = Scales(deployment.spec, offer, settings.lmdeploy, engine, dtype)
    asked = Option(settings.tp, settings.weights, settings.quant_policy)
    try:
        leanest = scales.weigh(asked, scales.ladder(load).leanest, load)
    except LmplanError:
        return False
    spare_bytes = deployment.free_bytes - current.total_bytes
    return leanest.serves and current.growth_bytes + leanest.image_bytes <= spare_bytes


def _more_tokens(current: MemoryEstimate, load: Load) -> tuple[str, ...]:
    """What an 8-bit cache would add, where the cache is the limit."""
    settings = current.deployment.settings
    if settings.quant_policy or current.max_sequences(load.context_tokens) >= settings.max_batch_size:
        return ()
    try:
        eight = estimate_memory(current.deployment._replace(settings=settings._replace(quant_policy=8)))
    except LmplanError:
        return ()
    if not eight.fits:
        return ()
    return (
        f"--quant-policy 8 would hold {eight.kv_cache.tokens:,} tokens instead of {current.kv_cache.tokens:,} "
        "in the same memory",
    )
