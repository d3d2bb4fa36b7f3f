"""From a load and GPUs to a choice: which settings, how far they go, and what the others lack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from planner.advise.candidates import NO_PINS, Candidate, Knobs, Offer, Option, Pins
from planner.advise.limits import Limit, longest_context, most_users
from planner.advise.search import Search
from planner.advise.throughput import Speed
from planner.engine.base import Deployment
from planner.errors import LmplanError
from planner.footprint import MemoryEstimate, estimate_memory
from planner.lmdeploy.versions import LmdeployVersion
from planner.model.spec import ModelSpec
from planner.request import Load


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An option of an offer and its best candidate, or why LMDeploy refuses it.

    `users` and `context` are how far it could go, where that was asked for.
    """

    offer: Offer
    option: Option
    candidate: Candidate | None
    refused: str = ""
    users: Limit | None = None
    context: Limit | None = None

    @property
    def serves(self) -> bool:
        """Whether it serves the load."""
        return self.candidate is not None and self.candidate.serves

    @property
    def lack(self) -> str:
        """What keeps it from serving; empty when it serves."""
        return self.refused or (self.candidate.lack if self.candidate else "")


@dataclass(frozen=True, slots=True)
class Pick:
    """The best candidate that the full estimate confirms."""

    search: Search
    candidate: Candidate
    memory: MemoryEstimate


@dataclass(frozen=True, slots=True)
class Chosen:
    """The candidate taken, confirmed by the full estimate.

    Attributes:
        users, context: the most users at the load's context, and the longest context for its users.
        binding: what limits the growth of the load.
    """

    candidate: Candidate
    memory: MemoryEstimate
    speed: Speed | None
    users: Limit
    context: Limit
    binding: str


@dataclass(frozen=True, slots=True)
class Relaxation:
    """The wish that changes where nothing serves: what was asked, what is possible, and the load that results."""

    wish: str
    asked: str
    possible: str
    factor: float
    load: Load
    offers: tuple[Offer, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """What `lmplan recommend` answers.

    Attributes:
        load: what was asked for.
        chosen: the answer; where `relaxation` is set, the closest plan, for its load.
        options: the options with no more GPUs than the chosen plan, or with the most where there is none, evaluated
            against what was asked for, in order of preference within an offer.
    """

    load: Load
    chosen: Chosen | None
    options: tuple[Evaluation, ...]
    relaxation: Relaxation | None

    @property
    def serves(self) -> bool:
        """Whether everything that was asked for is served."""
        return self.chosen is not None and self.relaxation is None


class Decider:
    """Answers loads for one model and version on the same offers."""

    def __init__(
        self,
        spec: ModelSpec,
        offers: tuple[Offer, ...],
        lmdeploy: LmdeployVersion,
        engine: str | None = None,
        dtype: str = "auto",
        pins: Pins = NO_PINS,
    ) -> None:
        self.spec, self.offers, self.lmdeploy = spec, offers, lmdeploy
        self.engine, self.dtype, self.pins = engine, dtype, pins
        self.searches = [Search(spec, offer, lmdeploy, engine, dtype, pins=pins) for offer in offers]

    def with_offers(self, offers: tuple[Offer, ...]) -> Decider:
        """The same on other offers."""
        return Decider(self.spec, offers, self.lmdeploy, self.engine, self.dtype, self.pins)

    def refuse_what_lmdeploy_refuses(self) -> None:
        """Raise the first refusal where no option of any offer is one that LMDeploy takes."""
        refusal: LmplanError | None = None
        for search in self.searches:
            for option in search.options:
                try:
                    search.weigh(option, Knobs(), Load(context_tokens=1, num_users=1))
                    return
                except LmplanError as error:
                    refusal = refusal or error
        if refusal is not None:
            raise refusal

    def choose(self, load: Load) -> Chosen | None:
        """The best candidate that the full estimate confirms, with its speed and how far the load could grow."""
        found = pick(self.searches, load)
        if found is None:
            return None
        search, candidate = found.search, found.candidate
        users = most_users(search, candidate.option, load)
        context = longest_context(search, candidate.option, load)
        beyond = search.weigh_at_limit(candidate.option, load._replace(num_users=users.value + 1))
        binding = "the KV cache"
        if beyond is not None and beyond.speed is not None and not beyond.serves:
            binding = f"the speed ({beyond.lack})"
        speed = search.speed(candidate.settings, candidate.kv, load.num_users, load.context_tokens)
        return Chosen(candidate, found.memory, speed, users, context, binding)

    def serves(self, load: Load) -> bool:
        """Whether any option serves a load."""
        return any(True for search in self.searches for _ in search.serving(load))

    def evaluate(self, load: Load, max_gpus: int, min_gpus: int = 1) -> tuple[Evaluation, ...]:
        """The options with so many GPUs against the load."""
        return tuple(
            _evaluate(search, option, load)
            for search in self.searches
            for option in search.options
            if min_gpus <= option.tp <= max_gpus and not (load.keep_quality and option.loss)
        )

    def limits(self, load: Load) -> tuple[Evaluation, ...]:
        """For every option: the most users at the load's context and the longest context for its users."""
        return tuple(self._limits(load))

    def _limits(self, load: Load) -> Iterator[Evaluation]:
        for search in self.searches:
            for option in search.options:
                evaluation = _evaluate(search, option, load)
                if not evaluation.refused and not (load.keep_quality and option.loss):
                    users, context = most_users(search, option, load), longest_context(search, option, load)
                    yield replace(evaluation, users=users, context=context)


def _evaluate(search: Search, option: Option, load: Load) -> Evaluation:
    try:
        return Evaluation(search.offer, option, search.first(option, load))
    except LmplanError as error:
        return Evaluation(search.offer, option, None, error.message)


def pick(searches: Sequence[Search], load: Load) -> Pick | None:
    """The best candidate of all searches that the full estimate confirms. No option behind it is looked at."""
    options = [(search.offer.preference(option), search, option) for search in searches for option in search.options]
    options.sort(key=lambda entry: entry[0])
    for _, alike in groupby(options, key=lambda entry: entry[0]):
        served = [(search, search.serve(option, load)) for _, search, option in alike]
        found = [(search, candidate) for search, candidate in served if candidate is not None]
        for search, candidate in sorted(found, key=lambda pair: _rank(pair[0], pair[1], load)):
            memory = confirm(search, candidate, load)
            if memory is not None:
                return Pick(search, candidate, memory)
    return None


def confirm(search: Search, candidate: Candidate, load: Load) -> MemoryEstimate | None:
    """The full estimate of a candidate's settings, or None where it does not bear the candidate out."""
    offer = candidate.offer
    memory = estimate_memory(Deployment(search.spec, offer.gpu, offer.free_bytes, candidate.settings))
    good = memory.fits and not memory.short_of_growth and memory.max_sequences(load.context_tokens) >= load.num_users
    return memory if good else None


def _rank(search: Search, candidate: Candidate, load: Load) -> tuple[float, ...]:
    """Among options alike: defaults kept, then headroom, then speed; less is better."""
    settings = candidate.settings
    speed = search.speed(settings, candidate.kv, load.num_users, load.context_tokens)
    return (
        -settings.max_prefill_token_num,
        -min(settings.session_len, candidate.kv.tokens),
        -candidate.kv.tokens,
        -speed.decode_tokens_per_s.value if speed else 0.0,
    )
