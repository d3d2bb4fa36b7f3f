"""How far a load could grow: the most users at a context, the longest context for a number of users."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from planner.advise.candidates import Candidate, Option
from planner.advise.search import Search
from planner.errors import LmplanError
from planner.request import Load


@dataclass(frozen=True, slots=True)
class Limit:
    """A load at its limit: `value` users or tokens, and the candidate that carries it; None where there is none."""

    value: int
    candidate: Candidate | None


def most_users(search: Search, option: Option, load: Load) -> Limit:
    """The most users that an option serves at the load's context, with its other wishes held."""
    ceiling = _ceiling_users(search, option, load)
    return _largest(ceiling, lambda users: search.weigh_at_limit(option, load._replace(num_users=users)))


def longest_context(search: Search, option: Option, load: Load) -> Limit:
    """The most tokens a session that an option serves for the load's users, with its other wishes held."""
    ceiling = search.spec.text.max_position_embeddings
    return _largest(ceiling, lambda tokens: search.weigh_at_limit(option, load._replace(context_tokens=tokens)))


def _ceiling_users(search: Search, option: Option, load: Load) -> int:
    """No more than the blocks that stay with buffers for a single user."""
    alone = load._replace(num_users=1, latency_ms=None, first_token_ms=None)
    try:
        kv = search.weigh(option, search.ladder(alone).leanest._replace(max_batch_size=1), alone).kv
    except LmplanError:
        return 0
    return kv.room_for(load.context_tokens)


def _largest(ceiling: int, weigh: Callable[[int], Candidate | None]) -> Limit:
    """Bisection: what serves a number serves every smaller one."""
    best, low, high = None, 0, ceiling + 1
    while high - low > 1:
        middle = (low + high) // 2
        candidate = weigh(middle)
        if candidate is not None and candidate.serves:
            best, low = candidate, middle
        else:
            high = middle
    return Limit(low, best)
