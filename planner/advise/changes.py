"""What to change where a start does not serve as asked: the search, with ever less of what was given.

What the user gave is kept and what was left open is changed. Of what was given, first the ratio is released, since
another costs nothing, and the rest only where nothing open helps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from planner.advise.candidates import NO_PINS, TP, Offer, Option, Pins
from planner.advise.decision import pick
from planner.advise.least_gpus import least_gpus
from planner.advise.search import Search
from planner.advise.suggestion import Recommendation, sessions_held
from planner.errors import LmplanError
from planner.footprint import MemoryEstimate
from planner.lmdeploy.settings import Settings
from planner.request import Load
from planner.units import format_gib
from planner.verdict import Outcome

_RELEASED: Final = (
    "max_prefill_token_num",
    "max_batch_size",
    "session_len",
    "quant_policy",
    "weights",
    "tp",
)
"""What is released one at a time: what costs least first. Last all at once."""
_MAX_LACKS: Final = 3
"""Options that were preferred are named up to here."""


def change(current: MemoryEstimate, engine: str | None, dtype: str, pins: Pins, load: Load) -> Recommendation:
    """The settings to use instead of those asked for, for a load of one user.

    Args:
        current: the plan as asked.
        engine, dtype: as asked.
        pins: what the user gave.
    """
    return _Changes(current, engine, dtype, pins, load).find()


class _Changes:
    def __init__(self, current: MemoryEstimate, engine: str | None, dtype: str, pins: Pins, load: Load) -> None:
        self.current, self.pins, self.load = current, pins, load
        self.engine, self.dtype = engine, dtype
        self.settings = current.deployment.settings
        self.asked = Option(self.settings.tp, self.settings.weights, self.settings.quant_policy)

    def find(self) -> Recommendation:
        for search in self._searches():
            found = pick([search], self.load)
            if found is not None:
                why = (self._decision(found.memory), *self._alternatives(search, found.candidate.option))
                return Recommendation(found.memory, why)
        return Recommendation(None, self._nothing(search))

    def _searches(self) -> Iterator[Search]:
        """With ever less of what was given: the option asked for before any other, the ratio before all else."""
        deployment = self.current.deployment
        least = least_gpus(deployment.spec, deployment.gpu, self.settings.lmdeploy, self.engine, self.dtype)
        loose = self.pins._replace(cache_max_entry_count=None)
        for options in ((self.asked,), None):
            for pins in dict.fromkeys((self.pins, loose)):
                yield self._search(options, pins, least)
        for name in _RELEASED:
            if getattr(loose, name) is not None:
                yield self._search(None, loose._replace(**{name: None}), least)
        if loose != NO_PINS:
            yield self._search(None, NO_PINS, least)

    def _search(self, options: tuple[Option, ...] | None, pins: Pins, least: int) -> Search:
        deployment = self.current.deployment
        offer = Offer(
            deployment.gpu, deployment.free_bytes, pins.tp or TP[-1], least_gpus=1 if pins.tp is not None else least
        )
        return Search(deployment.spec, offer, self.settings.lmdeploy, self.engine, self.dtype, options, pins)

    # --- in words ------------------------------------------------------------------------------------------------

    def _decision(self, memory: MemoryEstimate) -> str:
        changes = " and ".join(self._changes(memory.deployment.settings)) or "the same settings"
        spare = format_gib(memory.deployment.free_bytes - memory.total_bytes)
        sessions = sessions_held(memory, self.load.context_tokens)
        return f"{changes}: serves with {spare} free and {sessions}; as asked, {self._lack()}"

    def _changes(self, best: Settings) -> Iterator[str]:
        """What differs from the settings asked for, with what was given where that had to change."""
        texts = {
            "tp": f"{best.tp} GPU{'s' if best.tp > 1 else ''} (--tp {best.tp})",
            "weights": best.weights.in_words,
            "quant_policy": f"{best.quant_policy or 16}-bit KV cache (--quant-policy {best.quant_policy})",
            "session_len": f"--session-len {best.session_len}",
            "max_batch_size": f"--max-batch-size {best.max_batch_size}",
            "max_prefill_token_num": f"--max-prefill-token-num {best.max_prefill_token_num}",
            "cache_max_entry_count": f"--cache-max-entry-count {best.cache_max_entry_count:g}",
        }
        for name, text in texts.items():
            if getattr(best, name) != getattr(self.settings, name):
                given = getattr(self.pins, name)
                yield text if given is None else f"{text} instead of the {given} given"

    def _alternatives(self, search: Search, chosen: Option) -> Iterator[str]:
        """What was preferred and does not serve, and what serves with fewer GPUs."""
        gpu = search.offer.gpu.name
        lacks = []
        for option in search.options:
            if search.offer.preference(option) >= search.offer.preference(chosen):
                break
            try:
                lacks.append(f"{option.text} on {option.hardware(gpu)}: {search.first(option, self.load).lack}")
            except LmplanError:
                continue
        yield from lacks[:_MAX_LACKS]
        fewer = (option for option in search.options if option.tp < chosen.tp)
        other = next((option for option in fewer if search.serve(option, self.load)), None)
        if other is not None:
            yield f"{other.hardware(gpu)} would serve with {other.text}"

    def _nothing(self, search: Search) -> tuple[str, ...]:
        memory, context = self.current, self.load.context_tokens
        if memory.fits and memory.max_sequences(context) >= 1:
            why = f"no setting keeps room for what full load may take; as asked, {self._lack()}"
        else:
            why = f"nothing that LMDeploy offers holds one session of {context} tokens on this GPU"
        nearest = search.nearest(self.load)
        if nearest is None:
            return (why,)
        what = f"{nearest.option.text} on {nearest.option.hardware(search.offer.gpu.name)}"
        return why, f"the least is missing with {what}: {nearest.lack}"

    def _lack(self) -> str:
        """What the plan as asked lacks."""
        memory, context = self.current, self.load.context_tokens
        if not memory.fits:
            named = memory.outcome is not Outcome.NO_ROOM
            return f"it {memory.outcome} ({memory.reasons[0]})" if named else memory.reasons[0]
        if memory.max_sequences(context) < 1:
            return f"the KV cache holds {memory.kv_cache.tokens:,} of the {context:,} tokens of a session"
        if memory.short_of_growth:
            return memory.overload
        return "no ratio is safe: what is assumed may take more than is free"
