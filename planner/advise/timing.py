"""A candidate held against the times of a load as well, which an estimate has none of."""

from __future__ import annotations

from planner.advise.candidates import NO_PINS, Candidate, Knobs, Offer, Option, Pins
from planner.advise.throughput import Speed, Work, speed_of, work_of
from planner.advise.weighing import Scales
from planner.engine.base import Deployment
from planner.engine.pick import pick_engine
from planner.lmdeploy.settings import Settings
from planner.lmdeploy.versions import LmdeployVersion
from planner.memory.capacity import KvCache
from planner.model.spec import ModelSpec
from planner.request import Load


class TimedScales(Scales):
    """Weighs candidates of one model and version on one offer by their memory and their times."""

    def __init__(
        self,
        spec: ModelSpec,
        offer: Offer,
        lmdeploy: LmdeployVersion,
        engine: str | None = None,
        dtype: str = "auto",
        pins: Pins = NO_PINS,
    ) -> None:
        super().__init__(spec, offer, lmdeploy, engine, dtype, pins)
        self._works: dict[tuple[int, str, int], Work] = {}

    def weigh(self, option: Option, knobs: Knobs, load: Load) -> Candidate:
        """Weigh one candidate with the largest safe ratio, or the pinned one, and hold it against the times.

        Raises:
            LmplanError: LMDeploy refuses the settings.
        """
        return self.timed(super().weigh(option, knobs, load), load)

    def timed(self, candidate: Candidate, load: Load) -> Candidate:
        """The same held against the times of the load as well, at the slow end of the band."""
        if candidate.lack or (load.latency_ms is None and load.first_token_ms is None):
            return candidate
        speed = self.speed(candidate.settings, candidate.kv, load.num_users, load.context_tokens)
        if speed is None:
            return candidate._replace(lack=f"the speed of {self.offer.gpu.name} is not known")
        for what, limit, seconds in (
            ("a token takes", load.latency_ms, speed.step_seconds.high),
            ("the first token takes", load.first_token_ms, speed.first_token_seconds.high),
        ):
            if limit is not None and seconds * 1000 > limit:
                lack = f"{what} up to {seconds * 1000:,.0f} ms of {limit:g} allowed"
                return candidate._replace(speed=speed, lack=lack)
        return candidate._replace(speed=speed)

    def work(self, settings: Settings, kv: KvCache) -> Work:
        """The work of a token under these settings."""
        key = (settings.tp, settings.weights, settings.quant_policy)
        if key not in self._works:
            deployment = Deployment(self.spec, self.offer.gpu, self.offer.free_bytes, settings)
            self._works[key] = work_of(deployment, pick_engine(deployment), kv.block_bytes / kv.block_tokens)
        return self._works[key]

    def speed(self, settings: Settings, kv: KvCache, num_users: int, context_tokens: int) -> Speed | None:
        """Speed under these settings at a load."""
        deployment = Deployment(self.spec, self.offer.gpu, self.offer.free_bytes, settings)
        return speed_of(deployment, self.work(settings, kv), num_users, context_tokens)
