"""From a load and GPUs to a decision: which settings, why these, what the others lack, and what gives if none serve."""

from __future__ import annotations

from dataclasses import dataclass, replace

from planner.advise.candidates import TP, Knobs, Offer, Option, Trial
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
class Weighed:
    """An option of an offer after weighing: its best trial, or why LMDeploy refuses it.

    `users` and `context` are how far it could go, where that was asked for.
    """

    offer: Offer
    option: Option
    trial: Trial | None
    refused: str = ""
    users: Limit | None = None
    context: Limit | None = None

    @property
    def serves(self) -> bool:
        """Whether it serves the load."""
        return self.trial is not None and self.trial.serves

    @property
    def lack(self) -> str:
        """What keeps it from serving; empty when it serves."""
        return self.refused or (self.trial.lack if self.trial else "")


@dataclass(frozen=True, slots=True)
class Chosen:
    """The candidate taken: confirmed by the full estimate.

    Attributes:
        users, context: the most users at the load's context, and the longest context for its users.
        binding: what ends the growth of the load.
    """

    trial: Trial
    memory: MemoryEstimate
    speed: Speed | None
    users: Limit
    context: Limit
    binding: str


@dataclass(frozen=True, slots=True)
class Give:
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
        chosen: the answer; where `give` is set, the closest plan, for the load in `give`.
        options: every option weighed against what was asked for, in order of preference within an offer.
    """

    load: Load
    chosen: Chosen | None
    options: tuple[Weighed, ...]
    give: Give | None

    @property
    def serves(self) -> bool:
        """Whether everything that was asked for is served."""
        return self.chosen is not None and self.give is None


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
        """The decision for a load, with every option weighed."""
        options = tuple(weighed for search in self.searches for weighed in self._weigh(search, load))
        chosen = self.choose(load)
        if chosen is not None:
            return Decision(load, chosen, options, None)
        give = self.give(load)
        if give is None:
            return Decision(load, None, options, None)
        other = Decider(self.spec, give.offers, self.lmdeploy, self.engine, self.dtype)
        return Decision(load, other.choose(give.load), options, give)

    def choose(self, load: Load) -> Chosen | None:
        """The best candidate of all offers that the full estimate confirms."""
        found = [(search, trial) for search in self.searches for trial in search.serving(load)]
        for search, trial in sorted(found, key=lambda pair: _rank(pair[0], pair[1], load)):
            memory = confirm(search, trial, load)
            if memory is not None:
                return self._describe(search, trial, memory, load)
        return None

    def serves(self, load: Load) -> bool:
        """Whether any option serves a load."""
        return any(True for search in self.searches for _ in search.serving(load))

    def limits(self, load: Load) -> tuple[Weighed, ...]:
        """For every option: the most users at the load's context and the longest context for its users."""
        return tuple(
            replace(
                weighed,
                users=most_users(search, weighed.option, load),
                context=longest_context(search, weighed.option, load),
            )
            for search in self.searches
            for weighed in self._weigh(search, load)
            if not weighed.refused and not (load.keep_quality and weighed.option.loss)
        )

    def _weigh(self, search: Search, load: Load) -> list[Weighed]:
        rows = []
        for option in search.options:
            try:
                rows.append(Weighed(search.offer, option, search.first(option, load)))
            except LmplanError as error:
                rows.append(Weighed(search.offer, option, None, error.message))
        return rows

    def _describe(self, search: Search, trial: Trial, memory: MemoryEstimate, load: Load) -> Chosen:
        users = most_users(search, trial.option, load)
        context = longest_context(search, trial.option, load)
        beyond = search.weigh_at_limit(trial.option, replace(load, num_users=users.value + 1))
        binding = "the KV cache"
        if beyond is not None and beyond.speed is not None and not beyond.serves:
            binding = f"the speed ({beyond.lack})"
        return Chosen(
            trial,
            memory,
            search.speed(trial.settings, trial.kv, load.num_users, load.context_tokens),
            users,
            context,
            binding,
        )

    # --- what gives ----------------------------------------------------------------------------------------------

    def give(self, load: Load) -> Give | None:
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

    def _fewer_users(self, load: Load) -> list[Give]:
        users = self._best(load, "users")
        if not 0 < users < load.num_users:
            return []
        changed = replace(load, num_users=users)
        return [
            Give(
                "--concurrency",
                f"{load.num_users:,} users",
                f"{users:,}",
                load.num_users / users,
                changed,
                self.offers,
            )
        ]

    def _other_context(self, load: Load) -> list[Give]:
        tokens = self._best(load, "context")
        floor = self._image_tokens(load.num_images)
        if floor >= load.context_tokens and self.serves(replace(load, context_tokens=floor + 1)):
            tokens = floor + 1  # the images alone are longer than the context asked for
        if tokens <= floor or tokens == load.context_tokens:
            return []
        factor = max(load.context_tokens / tokens, tokens / load.context_tokens)
        changed = replace(load, context_tokens=tokens)
        return [Give("--context", f"{load.context_tokens:,} tokens", f"{tokens:,}", factor, changed, self.offers)]

    def _slower(self, load: Load) -> list[Give]:
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
            ways.append(Give(option, f"{wanted:g} ms", f"{reached:,.1f} ms", reached / wanted, changed, self.offers))
        return ways

    @staticmethod
    def _milliseconds(search: Search, load: Load, first_token: bool) -> list[float]:
        found = []
        for trial in search.serving(load):
            speed = search.speed(trial.settings, trial.kv, load.num_users, load.context_tokens)
            if speed is not None:
                band = speed.first_token_seconds if first_token else speed.step_seconds
                found.append(band.high * 1000)
        return found

    def _coarser(self, load: Load) -> list[Give]:
        changed = replace(load, keep_quality=False)
        if not load.keep_quality or not self.serves(changed):
            return []
        # A wish that is kept or not has no size: giving it up counts as much as halving a number.
        return [Give("--keep-quality", "nothing quantized", "quantized", 2.0, changed, self.offers)]

    def _fewer_images(self, load: Load) -> list[Give]:
        for images in range(load.num_images - 1, -1, -1):
            changed = replace(load, num_images=images)
            if self.serves(changed):
                factor = (load.num_images + 1) / (images + 1)
                return [Give("--images", f"{load.num_images} a session", str(images), factor, changed, self.offers)]
        return []

    def _more_gpus(self, load: Load) -> list[Give]:
        asked = max(offer.max_gpus for offer in self.offers)
        for tp in TP:
            if tp <= asked:
                continue
            offers = tuple(replace(offer, max_gpus=max(tp, offer.max_gpus)) for offer in self.offers)
            if Decider(self.spec, offers, self.lmdeploy, self.engine, self.dtype).serves(load):
                return [Give("--gpus", str(asked), str(tp), tp / asked, load, offers)]
        return []

    def _image_tokens(self, num_images: int) -> int:
        tower = self.spec.vision
        return num_images * tower.max_image_tokens if tower else 0


def confirm(search: Search, trial: Trial, load: Load) -> MemoryEstimate | None:
    """The full estimate of a trial's settings, or None where it does not bear the trial out."""
    offer = trial.offer
    memory = estimate_memory(Deployment(search.spec, offer.gpu, offer.free_bytes, trial.settings))
    good = memory.fits and not memory.short_of_growth and memory.max_sequences(load.context_tokens) >= load.num_users
    return memory if good else None


def _rank(search: Search, trial: Trial, load: Load) -> tuple[float, ...]:
    """The offer's preference, then defaults kept, then headroom, then speed; less is better."""
    settings = trial.settings
    speed = search.speed(settings, trial.kv, load.num_users, load.context_tokens)
    return (
        *search.offer.preference(trial.option),
        -settings.max_prefill_token_num,
        -min(settings.session_len, trial.kv.tokens),
        -trial.kv.tokens,
        -speed.decode_tokens_per_s.value if speed else 0.0,
    )
