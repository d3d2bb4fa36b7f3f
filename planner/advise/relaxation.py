"""The decision for a load, and where nothing serves it: the one wish whose smallest change makes the rest possible."""

from __future__ import annotations

from planner.advise.candidates import TP
from planner.advise.decision import Decider, Decision, Relaxation
from planner.advise.limits import longest_context, most_users
from planner.advise.search import Search
from planner.request import Load


def decide(decider: Decider, load: Load) -> Decision:
    """The decision for a load, relaxed where nothing serves it."""
    chosen, relaxation = decider.choose(load), None
    if chosen is None:
        relaxation = _Relaxer(decider).smallest(load)
        if relaxation is not None:
            chosen = decider.with_offers(relaxation.offers).choose(relaxation.load)
    most = max(offer.max_gpus for offer in decider.offers)
    if chosen is not None:
        return Decision(load, chosen, decider.evaluate(load, chosen.candidate.option.tp), relaxation)
    return Decision(load, None, decider.evaluate(load, most, max(tp for tp in TP if tp <= most)), None)


class _Relaxer:
    """Tries what could change."""

    def __init__(self, decider: Decider) -> None:
        self.decider = decider

    def smallest(self, load: Load) -> Relaxation | None:
        """The one wish whose smallest change makes the rest possible."""
        ways = [*self._fewer_users(load), *self._other_context(load), *self._slower(load), *self._coarser(load)]
        ways += [*self._fewer_images(load), *self._more_gpus(load)]
        return min(ways, key=lambda way: way.factor, default=None)

    def _best(self, load: Load, what: str) -> int:
        find = most_users if what == "users" else longest_context
        values = [
            find(search, option, load).value
            for search in self.decider.searches
            for option in search.options
            if not (load.keep_quality and option.loss)
        ]
        return max(values, default=0)

    def _fewer_users(self, load: Load) -> list[Relaxation]:
        users = self._best(load, "users")
        if not 0 < users < load.num_users:
            return []
        changed = load._replace(num_users=users)
        return [
            Relaxation(
                "--concurrency",
                f"{load.num_users:,} users",
                f"{users:,}",
                load.num_users / users,
                changed,
                self.decider.offers,
            )
        ]

    def _other_context(self, load: Load) -> list[Relaxation]:
        tokens = self._best(load, "context")
        floor = self._image_tokens(load.num_images)
        if floor >= load.context_tokens and self.decider.serves(load._replace(context_tokens=floor + 1)):
            tokens = floor + 1  # the images alone are longer than the context asked for
        if tokens <= floor or tokens == load.context_tokens:
            return []
        factor = max(load.context_tokens / tokens, tokens / load.context_tokens)
        changed = load._replace(context_tokens=tokens)
        return [
            Relaxation(
                "--context", f"{load.context_tokens:,} tokens", f"{tokens:,}", factor, changed, self.decider.offers
            )
        ]

    def _slower(self, load: Load) -> list[Relaxation]:
        ways = []
        for option, wanted, others, first in (
            ("--latency-ms", load.latency_ms, load._replace(latency_ms=None), False),
            ("--first-token-ms", load.first_token_ms, load._replace(first_token_ms=None), True),
        ):
            if wanted is None:
                continue
            reached = min(
                (ms for s in self.decider.searches for ms in self._milliseconds(s, others, first)), default=0.0
            )
            if reached <= wanted:
                continue
            changed = others._replace(first_token_ms=reached) if first else others._replace(latency_ms=reached)
            ways.append(
                Relaxation(
                    option, f"{wanted:g} ms", f"{reached:,.1f} ms", reached / wanted, changed, self.decider.offers
                )
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
        changed = load._replace(keep_quality=False)
        if not load.keep_quality or not self.decider.serves(changed):
            return []
        # A wish that is kept or not has no size: giving it up counts as much as halving a number.
        return [Relaxation("--keep-quality", "nothing quantized", "quantized", 2.0, changed, self.decider.offers)]

    def _fewer_images(self, load: Load) -> list[Relaxation]:
        for images in range(load.num_images - 1, -1, -1):
            changed = load._replace(num_images=images)
            if self.decider.serves(changed):
                factor = (load.num_images + 1) / (images + 1)
                return [
                    Relaxation(
                        "--images", f"{load.num_images} a session", str(images), factor, changed, self.decider.offers
                    )
                ]
        return []

    def _more_gpus(self, load: Load) -> list[Relaxation]:
        asked = max(offer.max_gpus for offer in self.decider.offers)
        for tp in TP:
            if tp <= asked:
                continue
            offers = tuple(offer._replace(max_gpus=max(tp, offer.max_gpus)) for offer in self.decider.offers)
            if self.decider.with_offers(offers).serves(load):
                return [Relaxation("--gpus", str(asked), str(tp), tp / asked, load, offers)]
        return []

    def _image_tokens(self, num_images: int) -> int:
        tower = self.decider.spec.vision
        return num_images * tower.max_image_tokens if tower else 0
