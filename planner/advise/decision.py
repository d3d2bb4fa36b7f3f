"""From a load and GPUs to a decision: which settings, why these, what the others lack, and what gives if none serve."""

from __future__ import annotations

from dataclasses import dataclass, replace

from planner.advise.candidates import TP, Candidate, Knobs, Offer, Option
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
    """An option of an offer after weighing: its best candidate, or why LMDeploy refuses it.

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
class Chosen:
    """The candidate taken: confirmed by the full estimate.

    Attributes:
        users, context: the most users at the load's context, and the longest context for its users.
        binding: what ends the growth of the load.
    """

    candidate: Candidate
    memory: MemoryEstimate
    speed: Speed | None
    users: Limit
    context: Limit
    binding: str


@dataclass(frozen=True, slots=True)
class Relaxation:
    """The wish that has to give where nothing serves: what was asked, what is possible, and the load that results."""

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
        options: every option evaluated against what was asked for, in order of preference within an offer.
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
    """Weighs loads for one model and version on the same offers."""

    def __init__(
        self,
        spec: ModelSpec,
        offers: tuple[Offer, ...],
        lmdeploy: LmdeployVersion,
        engine: str | None = None,
        dtype: str = "auto",
    ) -> None:
        self.spec, self.offers, self.lmdeploy = spec, offers, lmdeploy
        self.engine, self.dtype = engine, dtype
        self.searches = [self._search(offer) for offer in offers]

    def _search(self, offer: Offer) -> Search:
        return Search(self.spec, offer, self.lmdeploy, self.engine, self.dtype)

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

    def decide(self, load: Load) -> Decision:
        """The decision for a load, with every option evaluation."""
        options = tuple(evaluation for search in self.searches for evaluation in self._weigh(search, load))
        chosen = self.choose(load)
        if chosen is not None:
            return Decision(load, chosen, options, None)
        relaxation = self.relaxation(load)
        if relaxation is None:
            return Decision(load, None, options, None)
        other = Decider(self.spec, relaxation.offers, self.lmdeploy, self.engine, self.dtype)
        return Decision(load, other.choose(relaxation.load), options, relaxation)

    def choose(self, load: Load) -> Chosen | None:
        """The best candidate of all offers that the full estimate confirms."""
        found = [(search, candidate) for search in self.searches for candidate in search.serving(load)]
        for search, candidate in sorted(found, key=lambda pair: _rank(pair[0], pair[1], load)):
            memory = confirm(search, candidate, load)
            if memory is not None:
                return self._describe(search, candidate, memory, load)
        return None

    def serves(self, load: Load) -> bool:
        """Whether any option serves a load."""
        return any(True for search in self.searches for _ in search.serving(load))

    def limits(self, load: Load) -> tuple[Evaluation, ...]:
        """For every option: the most users at the load's context and the longest context for its users."""
        return tuple(
            replace(
                evaluation,
                users=most_users(search, evaluation.option, load),
                context=longest_context(search, evaluation.option, load),
            )
            for search in self.searches
            for evaluation in self._weigh(search, load)
            if not evaluation.refused and not (load.keep_quality and evaluation.option.loss)
        )

    def _weigh(self, search: Search, load: Load) -> list[Evaluation]:
        rows = []
        for option in search.options:
            try:
                rows.append(Evaluation(search.offer, option, search.first(option, load)))
            except LmplanError as error:
                rows.append(Evaluation(search.offer, option, None, error.message))
        return rows

    def _describe(self, search: Search, candidate: Candidate, memory: MemoryEstimate, load: Load) -> Chosen:
        users = most_users(search, candidate.option, load)
        context = longest_context(search, candidate.option, load)
        beyond = search.weigh_at_limit(candidate.option, replace(load, num_users=users.value + 1))
        binding = "the KV cache"
        if beyond is not None and beyond.speed is not None and not beyond.serves:
            binding = f"the speed ({beyond.lack})"
        return Chosen(
            candidate,
            memory,
            search.speed(candidate.settings, candidate.kv, load.num_users, load.context_tokens),
            users,
            context,
            binding,
        )

    # --- what gives ----------------------------------------------------------------------------------------------

    def relaxation(self, load: Load) -> Relaxation | None:
        """The one wish whose smallest change makes the rest possible."""
        ways = [*self._fewer_users(load), *self._other_context(load), *self._slower(load), *self._coarser(load)]
        ways += [*self._fewer_images(load), *self._more_gpus(load)]
        return min(ways, key=lambda way: way.factor, default=None)

    def _best(self, load: Load, what: str) -> int:
        find = most_users if what == "users" else longest_context
        values = [
            find(search, option, load).value
            for search in self.searches
            for option in search.options
            if not (load.keep_quality and option.loss)
        ]
        return max(values, default=0)

    def _fewer_users(self, load: Load) -> list[Relaxation]:
        users = self._best(load, "users")
        if not 0 < users < load.num_users:
            return []
        changed = replace(load, num_users=users)
        return [
            Relaxation(
                "--concurrency",
                f"{load.num_users:,} users",
                f"{users:,}",
                load.num_users / users,
                changed,
                self.offers,
            )
        ]

    def _other_context(self, load: Load) -> list[Relaxation]:
        tokens = self._best(load, "context")
        floor = self._image_tokens(load.num_images)
        if floor >= load.context_tokens and self.serves(replace(load, context_tokens=floor + 1)):
            tokens = floor + 1  # the images alone are longer than the context asked for
        if tokens <= floor or tokens == load.context_tokens:
            return []
        factor = max(load.context_tokens / tokens, tokens / load.context_tokens)
        changed = replace(load, context_tokens=tokens)
        return [Relaxation("--context", f"{load.context_tokens:,} tokens", f"{tokens:,}", factor, changed, self.offers)]

    def _slower(self, load: Load) -> list[Relaxation]:
        ways = []
        for option, wanted, others, first in (
            ("--latency-ms", load.latency_ms, replace(load, latency_ms=None), False),
            ("--first-token-ms", load.first_token_ms, replace(load, first_token_ms=None), True),
        ):
            if wanted is None:
                continue
            reached = min((ms for s in self.searches for ms in self._milliseconds(s, others, first)), default=0.0)
            if reached <= wanted:
                continue
            changed = replace(others, first_token_ms=reached) if first else replace(others, latency_ms=reached)
            ways.append(
                Relaxation(option, f"{wanted:g} ms", f"{reached:,.1f} ms", reached / wanted, changed, self.offers)
            )
        return ways

    @staticmethod
    def _milliseconds(search: Search, load: Load, first_token: bool) -> list[float]:
        found = []
        for candidate in search.serving(load):
            speed = search.speed(candidate.settings, candidate.kv, load.num_users, load.context_tokens)
            if speed is not None:
                band = speed.first_token_seconds if first_token else speed.step_seconds
                found.append(band.high * 1000)
        return found

    def _coarser(self, load: Load) -> list[Relaxation]:
        changed = replace(load, keep_quality=False)
        if not load.keep_quality or not self.serves(changed):
            return []
        # A wish that is kept or not has no size: giving it up counts as much as halving a number.
        return [Relaxation("--keep-quality", "nothing quantized", "quantized", 2.0, changed, self.offers)]

    def _fewer_images(self, load: Load) -> list[Relaxation]:
        for images in range(load.num_images - 1, -1, -1):
            changed = replace(load, num_images=images)
            if self.serves(changed):
                factor = (load.num_images + 1) / (images + 1)
                return [
                    Relaxation("--images", f"{load.num_images} a session", str(images), factor, changed, self.offers)
                ]
        return []

    def _more_gpus(self, load: Load) -> list[Relaxation]:
        asked = max(offer.max_gpus for offer in self.offers)
        for tp in TP:
            if tp <= asked:
                continue
            offers = tuple(replace(offer, max_gpus=max(tp, offer.max_gpus)) for offer in self.offers)
            if Decider(self.spec, offers, self.lmdeploy, self.engine, self.dtype).serves(load):
                return [Relaxation("--gpus", str(asked), str(tp), tp / asked, load, offers)]
        return []

    def _image_tokens(self, num_images: int) -> int:
        tower = self.spec.vision
        return num_images * tower.max_image_tokens if tower else 0


def confirm(search: Search, candidate: Candidate, load: Load) -> MemoryEstimate | None:
    """The full estimate of a candidate's settings, or None where it does not bear the candidate out."""
    offer = candidate.offer
    memory = estimate_memory(Deployment(search.spec, offer.gpu, offer.free_bytes, candidate.settings))
    good = memory.fits and not memory.short_of_growth and memory.max_sequences(load.context_tokens) >= load.num_users
    return memory if good else None


def _rank(search: Search, candidate: Candidate, load: Load) -> tuple[float, ...]:
    """The offer's preference, then defaults kept, then headroom, then speed; less is better."""
    settings = candidate.settings
    speed = search.speed(settings, candidate.kv, load.num_users, load.context_tokens)
    return (
        *search.offer.preference(candidate.option),
        -settings.max_prefill_token_num,
        -min(settings.session_len, candidate.kv.tokens),
        -candidate.kv.tokens,
        -speed.decode_tokens_per_s.value if speed else 0.0,
    )
