"""One candidate on the scales: how it starts, how large its ratio may be, and what memory it lacks for a load."""

from __future__ import annotations

from functools import cached_property
from typing import Final, NamedTuple

from planner.advise.candidates import NO_PINS, Candidate, Knobs, Offer, Option, Pins
from planner.advise.ladder import Ladder, ladder
from planner.engine.base import Deployment
from planner.kinds import EngineName
from planner.lmdeploy import versions
from planner.lmdeploy.settings import Request, Settings, decide
from planner.lmdeploy.versions import LmdeployVersion
from planner.memory.vision_activations import vision_activations
from planner.model.formats import store
from planner.model.inventory import inventory
from planner.model.spec import ModelSpec
from planner.request import Load
from planner.start import End, SafeRatio, Startup
from planner.units import format_gib

_NO_RATIO: Final = 0.01
"""Stands in the settings of a candidate for which no ratio is safe."""


class Sized(NamedTuple):
    """Settings of an option, how they start, and the largest ratio that is safe for a load."""

    option: Option
    startup: Startup
    safe: SafeRatio
    image_bytes: int


class Scales:
    """Weighs candidates of one model and version on one offer by memory; `planner.advise.timing` adds the times."""

    def __init__(
        self,
        spec: ModelSpec,
        offer: Offer,
        lmdeploy: LmdeployVersion,
        engine: str | None = None,
        dtype: str = "auto",
        pins: Pins = NO_PINS,
    ) -> None:
        self.spec = spec
        self.offer = offer
        self.lmdeploy = lmdeploy
        self.engine = engine
        self.dtype = dtype
        self.pins = pins
        self._storable: set[str] = set()
        self._ladders: dict[Load, Ladder] = {}

    @cached_property
    def default_batch(self) -> int:
        """LMDeploy's max_batch_size on this GPU."""
        return versions.default_max_batch_size(self.lmdeploy.rules, self.offer.gpu.product)

    def ladder(self, load: Load) -> Ladder:
        """The settings to try."""
        if load not in self._ladders:
            has_prefill = versions.has_option("--max-prefill-token-num", self.lmdeploy.rules)
            self._ladders[load] = ladder(load, self.pins, self.default_batch, has_prefill)
        return self._ladders[load]

    def settings(self, option: Option, knobs: Knobs) -> Settings:
        """The settings of a candidate, with LMDeploy's own ratio where none is pinned.

        Raises:
            LmplanError: LMDeploy refuses them.
        """
        request = Request(
            engine=self.engine,
            dtype=self.dtype,
            weights=option.weights,
            quant_policy=option.quant_policy,
            cache_max_entry_count=self.pins.cache_max_entry_count,
            tp=option.tp,
            session_len=knobs.session_len,
            max_batch_size=knobs.max_batch_size,
            max_prefill_token_num=knobs.max_prefill_token_num,
        )
        settings = decide(self.spec, self.offer.gpu, self.lmdeploy, request)
        self._check_storable(settings)
        return settings

    def _check_storable(self, settings: Settings) -> None:
        """Refuse a format whose groups do not divide the model's linears."""
        if settings.weights in self._storable or settings.quantization == self.spec.quantization:
            return
        store(inventory(self.spec), settings.quantization)
        self._storable.add(settings.weights)

    def weigh(self, option: Option, knobs: Knobs, load: Load) -> Candidate:
        """Weigh one candidate with the largest safe ratio, or the pinned one.

        Raises:
            LmplanError: LMDeploy refuses the settings.
        """
        sized = self.size(option, knobs, load)
        return self.candidate(sized, self.largest_ratio(sized), load)

    def size(self, option: Option, knobs: Knobs, load: Load) -> Sized:
        """How settings start, and how large their ratio may be.

        Raises:
            LmplanError: LMDeploy refuses them.
        """
        settings = self.settings(option, knobs)
        startup = Startup.of(Deployment(self.spec, self.offer.gpu, self.offer.free_bytes, settings))
        image_bytes = self._image_bytes(settings, load)
        return Sized(option, startup, startup.safe_ratio(image_bytes + self.offer.neighbours_bytes), image_bytes)

    def largest_ratio(self, sized: Sized) -> float:
        """The largest safe ratio to 0.01, 0 for none, or the pinned one."""
        pinned = self.pins.cache_max_entry_count
        return sized.safe.percent / 100 if pinned is None else pinned

    def candidate(self, sized: Sized, ratio: float, load: Load) -> Candidate:
        """Settings with a ratio against a load, whatever its times."""
        startup = sized.startup.with_ratio(ratio or _NO_RATIO)
        settings, safe = startup.deployment.settings, sized.safe
        kv = startup.kv_cache(taken_bytes=self.offer.neighbours_bytes)
        users = kv.max_sequences(load.context_tokens, settings.max_batch_size) if ratio else 0
        load_short = startup.load_bytes() + self.offer.neighbours_bytes - self.offer.free_bytes
        held_bytes = startup.held_bytes(End.HIGH) + startup.left_bytes(End.HIGH)
        wanted_bytes = kv.sequence_bytes(load.context_tokens) * load.num_users
        short = max(load_short, held_bytes + safe.keep_free_bytes + wanted_bytes - self.offer.free_bytes)
        lack = self._lack(settings, load, users, load_short, short)
        if not lack and self._exceeds(ratio, safe, startup):
            lack = f"--cache-max-entry-count {ratio:g} leaves too little; {safe.percent / 100:g} is safe"
        return Candidate(
            sized.option,
            self.offer,
            settings,
            kv,
            users,
            short,
            lack or self._stall(startup),
            safe.keep_free_bytes,
            sized.image_bytes,
            load_short > 0,
        )

    @staticmethod
    def _exceeds(ratio: float, safe: SafeRatio, startup: Startup) -> bool:
        """Whether a ratio, or the cache of a number of blocks, is more than the largest that is safe."""
        if ratio < 1:
            return 100 * ratio > max(safe.percent, 100 * safe.ratio)
        if not safe.percent:
            return True
        most = startup.with_ratio(safe.ratio).kv_cache(End.HIGH)
        return startup.kv_cache(End.HIGH).budget_bytes > most.budget_bytes

    def _stall(self, startup: Startup) -> str:
        """Why the start might hang. A warm-up that waits for room never ends, so the smallest cache possible counts."""
        least = startup.kv_cache(End.HIGH, self.offer.neighbours_bytes)
        stalls_at = startup.engine.stalls_at_tokens(least)
        if stalls_at is None:
            return ""
        return f"a warm-up request of {stalls_at:,} tokens may not fit the KV cache of {least.tokens:,}"

    def _image_bytes(self, settings: Settings, load: Load) -> int:
        tower = self.spec.vision
        if tower is None or not load.num_images:
            return 0
        native = settings.engine is EngineName.TURBOMIND and versions.native_vision(
            self.spec.architecture, self.lmdeploy.rules
        )
        return 0 if native else vision_activations(tower).high_bytes

    def _lack(self, settings: Settings, load: Load, users: int, load_short: int, short: int) -> str:
        longest = min(settings.session_len, self.spec.text.max_position_embeddings)
        if load.context_tokens > longest:
            return f"sessions end at {longest:,} tokens"
        image_tokens = load.num_images * self.spec.vision.max_image_tokens if self.spec.vision else 0
        if image_tokens >= load.context_tokens:
            return f"the images of a session take {image_tokens:,} tokens"
        if load_short > 0:
            return f"{format_gib(load_short, 1)} short while loading"
        if users >= load.num_users:
            return ""
        if settings.max_batch_size < load.num_users and users == settings.max_batch_size:
            return f"max_batch_size {settings.max_batch_size} is below {load.num_users} users"
        held = f", room for {users} of {load.num_users} users" if users else ""
        return f"{format_gib(max(short, 0), 1)} short at load{held}"
