"""Within an option: the settings nearest to LMDeploy's defaults that do not starve the KV cache.

Defaults are kept where they leave the KV cache at least `KV_SHARE_PERCENT` of the tokens that any settings leave it. Of
tokens only those count that a batch can use: a batch for one user has no use for the sessions of ten. What is not all
default takes that share and no more. So more memory, which moves the answer towards the defaults, never means fewer
tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from planner.advise.candidates import Candidate, Knobs, Option
from planner.advise.ladder import Ladder
from planner.advise.timing import TimedScales
from planner.advise.weighing import Sized
from planner.request import Load
from planner.units import ceil_div

KV_SHARE_PERCENT: Final = 75
"""Defaults may cost a quarter of the tokens. A preference, not a measurement."""


@dataclass(frozen=True, slots=True)
class _Try:
    """A candidate and what it was weighed with.

    Attributes:
        usable_tokens: what its batch can use at the load's context, whatever the KV cache holds.
        useful_tokens: what the KV cache holds of these; 0 where it does not serve.
    """

    knobs: Knobs
    sized: Sized
    candidate: Candidate
    usable_tokens: int

    @property
    def useful_tokens(self) -> int:
        return min(self.candidate.kv.tokens, self.usable_tokens) if self.candidate.serves else 0


class Nearest:
    """Looks through the settings of one option for one load."""

    def __init__(self, scales: TimedScales, ladder: Ladder, option: Option, load: Load) -> None:
        self.scales, self.ladder, self.option, self.load = scales, ladder, option, load
        self._tries: dict[Knobs, _Try] = {}

    def find(self, *, smallest_ratio: bool) -> Candidate:
        """The candidate, or the leanest one where that does not serve, its speed aside.

        Raises:
            LmplanError: LMDeploy refuses the option.
        """
        leanest = self._try(self.ladder.leanest)
        if not leanest.candidate.serves:
            return leanest.candidate
        steps = self._fast_prefills(leanest.candidate)
        leanest = self._lean(-1, steps[-1])
        if not leanest.candidate.serves:
            return leanest.candidate
        defaults = self._try(self.ladder.defaults._replace(max_prefill_token_num=steps[0]))
        nearest, wanted_tokens = defaults, 0
        # No batch can use more than the leanest settings leave, so that the look at all of them is rarely needed.
        if defaults.useful_tokens < _share(leanest.candidate.kv.tokens):
            place = self._fullest(steps[-1])
            wanted_tokens = _share(self._lean(place, steps[-1]).useful_tokens)
            if defaults.useful_tokens < wanted_tokens:
                nearest = self._between(wanted_tokens, steps, place)
        if smallest_ratio:
            return self._least(nearest.sized, 0)
        if nearest is defaults or self.scales.pins.cache_max_entry_count is not None:
            return nearest.candidate
        return self._least(nearest.sized, wanted_tokens)._replace(shared=True)

    def _try(self, knobs: Knobs) -> _Try:
        if knobs not in self._tries:
            sized = self.scales.size(self.option, knobs, self.load)
            candidate = self.scales.candidate(sized, self.scales.largest_ratio(sized), self.load)
            kv = candidate.kv
            session_tokens = kv.sequence_blocks(self.load.context_tokens) * kv.block_tokens
            usable_tokens = candidate.settings.max_batch_size * session_tokens
            self._tries[knobs] = _Try(knobs, sized, candidate, usable_tokens)
        return self._tries[knobs]

    def _lean(self, place: int, prefill: int | None) -> _Try:
        """The shortest session with one of the batches."""
        return self._try(Knobs(self.ladder.sessions[-1], self.ladder.batches[place], prefill))

    def _fast_prefills(self, candidate: Candidate) -> tuple[int | None, ...]:
        """The prefill steps that are fast enough, or all where none is; no other setting changes the speed."""
        prefills = self.ladder.prefills
        if self.load.latency_ms is None and self.load.first_token_ms is None:
            return prefills

        def fast(prefill: int | None) -> bool:
            settings = self.scales.settings(self.option, self.ladder.leanest._replace(max_prefill_token_num=prefill))
            return self.scales.timed(candidate._replace(settings=settings), self.load).serves

        return tuple(prefill for prefill in prefills if fast(prefill)) or prefills

    def _fullest(self, prefill: int | None) -> int:
        """The place of the batch with most useful tokens: larger ones leave fewer, smaller ones use fewer."""
        last = len(self.ladder.batches) - 1

        def uses_more_than_is_left(place: int) -> bool:
            each = self._lean(place, prefill)
            return each.candidate.kv.tokens < each.usable_tokens

        place = _first(last, lambda place: not uses_more_than_is_left(place))
        return max((place, max(place - 1, 0)), key=lambda place: self._lean(place, prefill).useful_tokens)

    def _between(self, wanted_tokens: int, prefills: tuple[int | None, ...], place: int) -> _Try:
        """The largest prefill step, then the largest batch from `place` up, then the longest session that leave so many
        useful tokens. The smallest step with the batch at `place` does.
        """

        def enough(each: _Try) -> bool:
            return each.useful_tokens >= wanted_tokens

        prefill = prefills[_first(len(prefills) - 1, lambda step: enough(self._lean(place, prefills[step])))]
        place = _first(place, lambda batch: enough(self._lean(batch, prefill)))
        long = self._try(Knobs(self.ladder.sessions[0], self.ladder.batches[place], prefill))
        return long if enough(long) else self._lean(place, prefill)

    def _least(self, sized: Sized, tokens: int) -> Candidate:
        """The candidate with the smallest ratio that serves the load and holds so many tokens."""
        if self.scales.pins.cache_max_entry_count is not None:
            return self.scales.candidate(sized, self.scales.pins.cache_max_entry_count, self.load)

        def enough(percent: int) -> bool:
            candidate = self.scales.candidate(sized, percent / 100, self.load)
            return candidate.serves and candidate.kv.tokens >= tokens

        return self.scales.candidate(sized, _first(sized.safe.percent, enough) / 100, self.load)


def _share(tokens: int) -> int:
    return ceil_div(tokens * KV_SHARE_PERCENT, 100)


def _first(last: int, good: Callable[[int], bool]) -> int:
    """The smallest number from 0 that is good, by bisection: all above a good one are, and `last` is taken to be."""
    low, high = -1, last
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if good(middle) else (middle, high)
    return high
