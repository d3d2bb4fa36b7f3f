"""Which settings serve a load on a GPU: every combination that the engine and version support, best first.

The order of the candidates is the order of preference, known before any is planned: fewer GPUs, less loss of quality,
then as little taken away from LMDeploy's defaults as possible. So the first that serves is the answer, and what the
others lack is only worked out for a report.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Final

from planner.advise.candidates import Candidate, Knobs, Offer, Option, options_of
from planner.advise.throughput import Speed, Work, speed_of, work_of
from planner.engine.base import Deployment
from planner.engine.pick import pick_engine
from planner.errors import LmplanError
from planner.lmdeploy import versions
from planner.lmdeploy.settings import DEFAULT_MAX_PREFILL_TOKEN_NUM, Request, Settings, decide
from planner.lmdeploy.versions import LmdeployVersion
from planner.memory.pool import PAGE_BYTES
from planner.memory.terms import KvCache
from planner.memory.vision_activations import vision_activations
from planner.model.formats import store
from planner.model.spec import ModelSpec
from planner.model.tensors import inventory
from planner.request import Load
from planner.units import ceil_div, format_gib

PREFILL_TOKENS: Final = (DEFAULT_MAX_PREFILL_TOKEN_NUM, 4096, 2048, 1024, 512)
MAX_RATIO_PERCENT: Final = 95
"""A twentieth of the free memory stays out of the KV cache's reach whatever the arithmetic says."""


class Search:
    """The candidates of one model and version on one offer."""

    def __init__(
        self,
        spec: ModelSpec,
        offer: Offer,
        lmdeploy: LmdeployVersion,
        engine: str | None = None,
        dtype: str = "auto",
        options: tuple[Option, ...] | None = None,
    ) -> None:
        self.spec = spec
        self.offer = offer
        self.lmdeploy = lmdeploy
        self.engine = engine
        self.dtype = dtype
        self.options = options if options is not None else options_of(spec, offer)
        self.nearest: Candidate | None = None
        """Of the options that `serving` found not to serve, the one that lacks least memory."""
        self._storable: set[str] = set()
        self._ladders: dict[tuple[int, int], tuple[Knobs, ...]] = {}
        self._works: dict[tuple[int, str, int], Work] = {}

    @cached_property
    def default_batch(self) -> int:
        """LMDeploy's max_batch_size on this GPU."""
        return versions.default_max_batch_size(self.lmdeploy.rules, self.offer.gpu.product)

    def ladder(self, load: Load) -> tuple[Knobs, ...]:
        """Defaults first, then sessions no longer than the load's, smaller batches, smaller prefill steps."""
        key = load.context_tokens, load.num_users
        if key not in self._ladders:
            self._ladders[key] = tuple(self._rungs(load))
        return self._ladders[key]

    def _rungs(self, load: Load) -> Iterator[Knobs]:
        batches: list[int | None] = [None] if load.num_users <= self.default_batch else []
        power = 1 << (load.num_users - 1).bit_length()
        batches += [size for size in dict.fromkeys((power, load.num_users)) if not batches or size < self.default_batch]
        has_prefill = versions.has_option("--max-prefill-token-num", self.lmdeploy.rules)
        for prefill in PREFILL_TOKENS if has_prefill else PREFILL_TOKENS[:1]:
            for batch in batches:
                for session in (None, load.context_tokens):
                    yield Knobs(session, batch, None if prefill == DEFAULT_MAX_PREFILL_TOKEN_NUM else prefill)

    def frugal(self, load: Load) -> Knobs:
        """The last rung of the ladder: what cannot serve with these serves with none."""
        return self.ladder(load)[-1]

    def settings(self, option: Option, knobs: Knobs) -> Settings:
        """The settings of a candidate, with the largest ratio that is ever taken.

        Raises:
            LmplanError: LMDeploy refuses them.
        """
        wishes = Request(
            engine=self.engine,
            dtype=self.dtype,
            weights=option.weights,
            quant_policy=option.quant_policy,
            cache_max_entry_count=MAX_RATIO_PERCENT / 100,
            tp=option.tp,
            session_len=knobs.session_len,
            max_batch_size=knobs.max_batch_size,
            max_prefill_token_num=knobs.max_prefill_token_num,
        )
        settings = decide(self.spec, self.offer.gpu, self.lmdeploy, wishes)
        self._check_storable(settings)
        return settings

    def weigh(self, option: Option, knobs: Knobs, load: Load, *, smallest_ratio: bool = False) -> Candidate:
        """Weigh one candidate with the largest safe ratio, or with the smallest that serves the load.

        Raises:
            LmplanError: LMDeploy refuses the settings.
        """
        settings = self.settings(option, knobs)
        spec, gpu, free_bytes = self.spec, self.offer.gpu, self.offer.free_bytes
        engine = pick_engine(Deployment(spec, gpu, free_bytes, settings))
        before, transient = engine.before_kv(), engine.transient()
        held = sum(term.size_bytes for term in before)
        held_high = sum(term.high_bytes for term in before)
        passing = transient.size_bytes if transient else 0
        passing_high = transient.high_bytes if transient else 0
        free_at_kv, worst_free = free_bytes - held - passing, free_bytes - held_high - passing_high
        kv = engine.kv_cache(max(worst_free, 0))
        # Pools grow by whole pages, so what the buffers take moves by up to a page with the size of the KV cache. A
        # cache of whole pages and a page on top bound it for every size, and more memory never asks for more.
        after = engine.after_kv(replace(kv, budget_bytes=kv.budget_bytes // PAGE_BYTES * PAGE_BYTES))
        images = self._image_bytes(settings, load)
        keep_free = sum(term.high_bytes for term in after) + PAGE_BYTES + images + self.offer.neighbours_bytes
        keep_free -= engine.reused_bytes(passing_high)
        room, share_of = worst_free - keep_free, worst_free - engine.kv_reserve_bytes()
        percent = min(math.floor(100 * room / share_of), MAX_RATIO_PERCENT) if room > 0 else 0
        free_at_kv -= self.offer.neighbours_bytes
        if percent:
            settings, kv = self._at(settings, percent, free_at_kv)
        else:
            settings = replace(settings, cache_max_entry_count=0.01)
        batch = settings.max_batch_size
        blocks_each = ceil_div(load.context_tokens + 1, kv.block_tokens)
        wanted_bytes = blocks_each * load.num_users * kv.block_bytes
        users = kv.max_sequences(load.context_tokens, batch) if percent else 0
        load_short = held + max(engine.load_staging().size_bytes, passing) - (free_bytes - self.offer.neighbours_bytes)
        short = max(load_short, held_high + passing_high + keep_free + wanted_bytes - free_bytes)
        lack = self._lack(settings, load, users, load_short, short)
        # A warm-up that waits for room would never end, so that this is asked of the smallest cache there may be.
        worst_free -= self.offer.neighbours_bytes
        if not lack:
            least = self._at(settings, percent, worst_free)[1]
            stalls_at = engine.stalls_at_tokens(least)
            if stalls_at is not None:
                lack = f"a warm-up request of {stalls_at:,} tokens may not fit the KV cache of {least.tokens:,}"
        if not lack and smallest_ratio:
            percent = self._smallest(settings, percent, free_at_kv, worst_free, load)
            settings, kv = self._at(settings, percent, free_at_kv)
            users = kv.max_sequences(load.context_tokens, batch)
        candidate = Candidate(option, self.offer, settings, kv, users, short, lack, keep_free, images, load_short > 0)
        return candidate if lack else self._timed(candidate, load)

    def first(self, option: Option, load: Load, *, smallest_ratio: bool = False) -> Candidate:
        """The first rung on which an option serves, or its last one and what it lacks.

        Raises:
            LmplanError: LMDeploy refuses the option.
        """
        # Time is left out of the look at the last rung: its small prefill steps are slow, others may not be.
        any_time = load
        if load.latency_ms is not None or load.first_token_ms is not None:
            any_time = replace(load, latency_ms=None, first_token_ms=None)
        last = self.weigh(option, self.frugal(load), any_time, smallest_ratio=smallest_ratio)
        if not last.serves:
            return last
        too_slow: dict[int | None, Candidate] = {}
        for knobs in self.ladder(load):
            if knobs.max_prefill_token_num in too_slow:
                continue  # of the rungs' settings only the prefill step changes the speed
            candidate = self.weigh(option, knobs, load, smallest_ratio=smallest_ratio)
            if candidate.serves:
                return candidate
            if candidate.speed is not None:
                too_slow[knobs.max_prefill_token_num] = candidate
        return next(iter(too_slow.values()), last)

    def weigh_at_limit(self, option: Option, load: Load) -> Candidate | None:
        """An option with batch and session cut to the load; smaller prefill steps only where nothing else serves."""
        cut = Knobs(load.context_tokens, load.num_users)
        try:
            candidate = self.weigh(option, cut, load)
            return candidate if candidate.serves else self.weigh(option, self.frugal(load), load)
        except LmplanError:
            return None

    def serving(self, load: Load, *, smallest_ratio: bool = False) -> Iterator[Candidate]:
        """One candidate for every option that serves, best first."""
        too_large: set[tuple[int, str]] = set()
        for option in self.options:
            weights = option.tp, option.weights
            if (load.keep_quality and option.loss) or weights in too_large:
                continue
            try:
                candidate = self.first(option, load, smallest_ratio=smallest_ratio)
            except LmplanError:
                continue
            if candidate.serves:
                yield candidate
                continue
            if self.nearest is None or candidate.short_bytes < self.nearest.short_bytes:
                self.nearest = candidate
            if candidate.cannot_load:
                too_large.add(weights)  # whatever the cache

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

    def _at(self, settings: Settings, percent: int, free_at_kv: int) -> tuple[Settings, KvCache]:
        settings = replace(settings, cache_max_entry_count=max(percent, 1) / 100)
        engine = pick_engine(Deployment(self.spec, self.offer.gpu, self.offer.free_bytes, settings))
        return settings, engine.kv_cache(max(free_at_kv, 0))

    def _smallest(self, settings: Settings, percent: int, free_at_kv: int, worst_free: int, load: Load) -> int:
        engine = pick_engine(Deployment(self.spec, self.offer.gpu, self.offer.free_bytes, settings))
        low, high = 0, percent
        while high - low > 1:
            middle = (low + high) // 2
            kv = self._at(settings, middle, free_at_kv)[1]
            enough = kv.max_sequences(load.context_tokens, settings.max_batch_size) >= load.num_users
            enough &= engine.stalls_at_tokens(self._at(settings, middle, worst_free)[1]) is None
            low, high = (low, middle) if enough else (middle, high)
        return high

    def _image_bytes(self, settings: Settings, load: Load) -> int:
        tower = self.spec.vision
        if tower is None or not load.num_images:
            return 0
        native = settings.engine == "turbomind" and versions.native_vision(self.spec.architecture, self.lmdeploy.rules)
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

    def _timed(self, candidate: Candidate, load: Load) -> Candidate:
        if load.latency_ms is None and load.first_token_ms is None:
            return candidate
        speed = self.speed(candidate.settings, candidate.kv, load.num_users, load.context_tokens)
        if speed is None:
            return replace(candidate, lack=f"the speed of {self.offer.gpu.name} is not known")
        for what, limit, seconds in (
            ("a token takes", load.latency_ms, speed.step_seconds.high),
            ("the first token takes", load.first_token_ms, speed.first_token_seconds.high),
        ):
            if limit is not None and seconds * 1000 > limit:
                return replace(
                    candidate, speed=speed, lack=f"{what} up to {seconds * 1000:,.0f} ms of {limit:g} allowed"
                )
        return replace(candidate, speed=speed)

    def _check_storable(self, settings: Settings) -> None:
        """Refuse a format whose groups do not divide the model's linears."""
        if settings.weights in self._storable or settings.quantization == self.spec.quantization:
            return
        store(inventory(self.spec), settings.quantization)
        self._storable.add(settings.weights)
