"""Which settings serve a load on a GPU: every combination that the engine and version support, best first.

The order of the options is the order of preference, known before any is planned: fewer GPUs, less loss of quality. So
the first that serves is the answer, and what the others lack is only worked out for a report. Within an option as
little as possible is taken away from LMDeploy's defaults, see `planner.advise.nearest`.
"""

from __future__ import annotations

from collections.abc import Iterator

from planner.advise.candidates import NO_PINS, Candidate, Knobs, Offer, Option, Pins, options_of
from planner.advise.nearest import Nearest
from planner.advise.timing import TimedScales
from planner.errors import LmplanError
from planner.kinds import WeightsChoice
from planner.lmdeploy.settings import Request, decide, makes_fp8
from planner.lmdeploy.versions import LmdeployVersion
from planner.model import catalog
from planner.model.spec import ModelSpec
from planner.request import Load


class Search(TimedScales):
    """The candidates of one model and version on one offer."""

    def __init__(
        self,
        spec: ModelSpec,
        offer: Offer,
        lmdeploy: LmdeployVersion,
        engine: str | None = None,
        dtype: str = "auto",
        options: tuple[Option, ...] | None = None,
        pins: Pins = NO_PINS,
    ) -> None:
        super().__init__(spec, offer, lmdeploy, engine, dtype, pins)
        self.options = (
            options if options is not None else options_of(spec, offer, pins, fp8_is_there=self._fp8_is_there())
        )
        self._too_large: set[tuple[Load, int, str]] = set()
        self._firsts: dict[tuple[Option, Load, bool], Candidate] = {}

    def _fp8_is_there(self) -> bool:
        """Whether fp8 weights are published, or made while the engine loads."""
        if catalog.has(f"{self.spec.name}-{WeightsChoice.FP8}"):
            return True
        try:
            request = Request(engine=self.engine, dtype=self.dtype)
            return makes_fp8(decide(self.spec, self.offer.gpu, self.lmdeploy, request).engine)
        except LmplanError:
            return True  # nothing is asked of what is refused

    def first(self, option: Option, load: Load, *, smallest_ratio: bool = False) -> Candidate:
        """An option with the settings nearest to LMDeploy's defaults, or its leanest ones and what they lack.

        See `Nearest` for how near. With `smallest_ratio` the KV cache gets just what the load needs.

        Raises:
            LmplanError: LMDeploy refuses the option.
        """
        key = option, load, smallest_ratio
        if key not in self._firsts:
            found = Nearest(self, self.ladder(load), option, load).find(smallest_ratio=smallest_ratio)
            self._firsts[key] = self.timed(found, load)
        return self._firsts[key]

    # --- all options ---------------------------------------------------------------------------------------------

    def serve(self, option: Option, load: Load, *, smallest_ratio: bool = False) -> Candidate | None:
        """The option's first candidate where it serves the load, else None."""
        weights = load, option.tp, option.weights
        if (load.keep_quality and option.loss) or weights in self._too_large:
            return None
        try:
            candidate = self.first(option, load, smallest_ratio=smallest_ratio)
        except LmplanError:
            return None
        if candidate.cannot_load:
            self._too_large.add(weights)  # whatever the cache
        return candidate if candidate.serves else None

    def serving(self, load: Load, *, smallest_ratio: bool = False) -> Iterator[Candidate]:
        """One candidate for every option that serves, best first."""
        found = (self.serve(option, load, smallest_ratio=smallest_ratio) for option in self.options)
        yield from (candidate for candidate in found if candidate is not None)

    def nearest(self, load: Load, *, smallest_ratio: bool = False) -> Candidate | None:
        """Where no option serves, the candidate that lacks least memory; None where LMDeploy refuses all of them."""
        found = []
        for option in self.options:
            if load.keep_quality and option.loss:
                continue
            try:
                found.append(self.first(option, load, smallest_ratio=smallest_ratio))
            except LmplanError:
                continue
        return min(found, key=lambda candidate: candidate.short_bytes, default=None)

    def weigh_at_limit(self, option: Option, load: Load) -> Candidate | None:
        """An option with batch and session cut to the load; smaller prefill steps only where nothing else serves."""
        pins = self.pins
        cut = Knobs(
            pins.session_len or load.context_tokens, pins.max_batch_size or load.num_users, pins.max_prefill_token_num
        )
        try:
            candidate = self.weigh(option, cut, load)
            return candidate if candidate.serves else self.weigh(option, self.ladder(load).leanest, load)
        except LmplanError:
            return None
