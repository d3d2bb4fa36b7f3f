"""The search where it is easiest to get wrong: stalls, what is nearest, images that fill a session, neighbours."""

from __future__ import annotations

import pytest

from planner import estimate
from planner.advise.candidates import NO_PINS, Knobs, Offer, Option, Pins, options_of
from planner.advise.ladder import ladder
from planner.advise.nearest import KV_SHARE_PERCENT
from planner.advise.search import Search
from planner.api.advice import advise
from planner.engine.base import Deployment
from planner.hardware.gpu import find_gpu
from planner.kinds import WeightsChoice
from planner.lmdeploy import versions
from planner.model.arch import read_spec
from planner.model.source import resolve
from planner.request import Load
from planner.start import End, Startup
from planner.units import GIB

PLAIN = Option(1, WeightsChoice.AS_IS, 0)


def search_of(
    model: str, gpu: str, *, free_bytes: int | None = None, neighbours_bytes: int = 0, pins: Pins = NO_PINS
) -> Search:
    source, chosen = resolve(model), find_gpu(gpu)
    offer = Offer(chosen, free_bytes or chosen.memory_total_bytes, 1, neighbours_bytes=neighbours_bytes)
    return Search(read_spec(source.config, source.name), offer, versions.resolve("0.18.0"), pins=pins)


def test_the_smallest_ratio_still_holds_the_warm_up() -> None:
    """One user of 512 tokens needs nine blocks; a warm-up request of 8,192 that waits for room would hang the start."""
    candidate = search_of("internlm2_5-7b", "a100-80g").first(PLAIN, Load(512, 1), smallest_ratio=True)
    s = candidate.settings

    def plan(ratio: float) -> str:
        return estimate(
            "internlm2_5-7b", "a100-80g", cache_max_entry_count=round(ratio, 2), session_len=s.session_len
        ).verdict

    assert (s.session_len, s.max_batch_size, s.max_prefill_token_num) == (32768, 384, 8192)
    assert candidate.kv.tokens >= 8192 + 384
    assert plan(s.cache_max_entry_count) == "serves"
    # A cache that holds the user many times over is not enough.
    assert plan(s.cache_max_entry_count - 0.01) == "hangs while warming up"


@pytest.mark.parametrize("gib", [20, 21, 22, 23, 25, 26, 42])
def test_the_smallest_ratio_holds_the_warm_up_where_all_else_takes_most(gib: int) -> None:
    """On a card that nobody measured what precedes the cache is wide: the likely cache would hold it a step earlier."""
    search = search_of("internlm2_5-7b", "a100-80g", free_bytes=gib * GIB)
    settings = search.first(PLAIN, Load(512, 1), smallest_ratio=True).settings
    startup = Startup.of(Deployment(search.spec, search.offer.gpu, search.offer.free_bytes, settings))
    assert startup.engine.stalls_at_tokens(startup.kv_cache(End.HIGH)) is None
    less = startup.with_ratio(round(settings.cache_max_entry_count - 0.01, 2))
    assert less.engine.stalls_at_tokens(less.kv_cache(End.HIGH)) is not None


def test_nearest_is_what_lacks_least() -> None:
    search, load = search_of("llama-3.1-70b", "l4"), Load(8192, 1)
    nearest = search.nearest(load)
    each = [search.first(option, load) for option in search.options]
    assert not any(candidate.serves for candidate in each)
    short = sorted(candidate.short_bytes for candidate in each)
    assert nearest is not None and nearest.short_bytes == short[0] < short[-1]
    assert nearest.option.weights == "w4a16"
    # What may not be taken is not near.
    kept = search.nearest(load._replace(keep_quality=True))
    assert kept is not None and kept.option == PLAIN


def test_images_that_fill_a_session_leave_no_token_for_words() -> None:
    search = search_of("internvl2-2b", "a100-80g")
    tower = search.spec.vision
    assert tower is not None
    image_tokens = tower.max_image_tokens
    for images in (1, 2):
        full = search.first(PLAIN, Load(images * image_tokens, 1, images))
        assert full.lack == f"the images of a session take {images * image_tokens:,} tokens"
        assert search.first(PLAIN, Load(images * image_tokens + 1, 1, images)).serves


class TestNeighbours:
    """A neighbour may have grown by `NEIGHBOURS` when the cache is sized, or may grow by it afterwards."""

    NEIGHBOURS = 3 * GIB
    LOAD = Load(4096, 4)

    def test_the_cache_is_that_beside_a_grown_neighbour_and_leaves_room_for_one_that_grows_later(self) -> None:
        search = search_of("internlm2_5-7b", "a100-24g", neighbours_bytes=self.NEIGHBOURS)
        candidate = search.first(PLAIN, self.LOAD)
        assert candidate.serves
        offer = search.offer
        startup = Startup.of(Deployment(search.spec, offer.gpu, offer.free_bytes, candidate.settings))
        grown = Startup.of(Deployment(search.spec, offer.gpu, offer.free_bytes - self.NEIGHBOURS, candidate.settings))
        assert candidate.kv == grown.at().kv
        # Not grown yet, the cache is at its largest, and what is left must do for both.
        kv = startup.kv_cache(End.HIGH)
        later = sum(term.high_bytes for term in startup.engine.after_kv(kv))
        held = startup.held_bytes(End.HIGH) + startup.left_bytes(End.HIGH)
        reused = startup.engine.reused_bytes(startup.left_bytes(End.HIGH))
        assert held + kv.budget_bytes + later - reused + self.NEIGHBOURS <= offer.free_bytes

    def test_they_count_while_loading(self) -> None:
        lean = Knobs(4096, 4, 512)
        alone = search_of("internlm2_5-7b", "a100-24g").weigh(PLAIN, lean, self.LOAD)
        beside = search_of("internlm2_5-7b", "a100-24g", neighbours_bytes=9 * GIB).weigh(PLAIN, lean, self.LOAD)
        assert alone.serves and not beside.serves
        assert beside.cannot_load and beside.lack.endswith("short while loading")
        # What has to stay free changes by a page with the size of the cache.
        assert beside.short_bytes == pytest.approx(alone.short_bytes + 9 * GIB, abs=GIB)
        assert beside.short_bytes > alone.short_bytes + 8 * GIB

    def test_a_warm_up_has_to_fit_beside_a_grown_one(self) -> None:
        """The cache of the smallest ratio holds the longest warm-up request even then."""
        search = search_of("internlm2_5-7b", "a100-80g", neighbours_bytes=40 * GIB)
        candidate = search.first(PLAIN, Load(512, 1), smallest_ratio=True)
        offer = search.offer
        grown = Startup.of(Deployment(search.spec, offer.gpu, offer.free_bytes - 40 * GIB, candidate.settings))
        assert grown.engine.stalls_at_tokens(grown.kv_cache(End.HIGH)) is None
        alone = search_of("internlm2_5-7b", "a100-80g").first(PLAIN, Load(512, 1), smallest_ratio=True)
        assert candidate.settings.cache_max_entry_count > alone.settings.cache_max_entry_count


class TestLadder:
    def test_it_halves_the_batch_down_to_the_users_and_the_prefill_step_down_to_512(self) -> None:
        found = ladder(Load(1024, 20), NO_PINS, 128, True)
        assert found.batches == (None, 64, 32, 20)
        assert found.prefills == (None, 4096, 2048, 1024, 512)
        assert found.sessions == (None, 1024)
        assert (found.defaults, found.leanest) == (Knobs(), Knobs(1024, 20, 512))
        assert len(list(found.combinations())) == 2 * 4 * 5
        assert ladder(Load(1024, 1), NO_PINS, 128, False).prefills == (None,)

    def test_more_users_than_lmdeploys_batch_take_the_next_power_of_two_or_just_as_many(self) -> None:
        assert ladder(Load(1024, 128), NO_PINS, 128, True).batches == (None,)
        assert ladder(Load(1024, 129), NO_PINS, 128, True).batches == (256, 129)
        assert ladder(Load(1024, 256), NO_PINS, 128, True).batches == (256,)

    def test_what_is_pinned_has_one_value(self) -> None:
        pins = Pins(session_len=4096, max_batch_size=7, max_prefill_token_num=100)
        assert list(ladder(Load(1024, 1), pins, 128, True).combinations()) == [Knobs(4096, 7, 100)]


def test_pins_leave_only_options_that_keep_them() -> None:
    search = search_of("qwen3-8b", "l4")
    assert [o.tp for o in options_of(search.spec, search.offer._replace(max_gpus=3), Pins(tp=3))] == [3] * 9
    assert options_of(search.spec, search.offer, Pins(weights=WeightsChoice.W4A16, quant_policy=0)) == (
        Option(1, WeightsChoice.W4A16, 0),
    )
    assert {o.weights for o in options_of(search.spec, search.offer, Pins(quant_policy=4))} == {"as-is", "w4a16", "fp8"}


def test_a_pinned_ratio_is_kept_or_said_to_leave_too_little() -> None:
    free = find_gpu("a100-24g").memory_total_bytes
    safe = search_of("internlm2_5-7b", "a100-24g").weigh(PLAIN, Knobs(), Load(1024, 1)).settings.cache_max_entry_count
    for ratio, serves in ((0.3, True), (safe, True), (round(safe + 0.02, 2), False)):
        search = search_of("internlm2_5-7b", "a100-24g", free_bytes=free, pins=Pins(cache_max_entry_count=ratio))
        candidate = search.weigh(PLAIN, Knobs(), Load(1024, 1))
        assert candidate.settings.cache_max_entry_count == ratio
        assert candidate.serves == serves
        assert serves or candidate.lack == f"--cache-max-entry-count {ratio:g} leaves too little; {safe:g} is safe"


@pytest.mark.parametrize(("model", "gib"), [("internlm2_5-7b", 18), ("qwen2.5-1.5b", 6), ("llama-3.1-8b", 20)])
def test_between_defaults_and_leanest_the_cache_takes_its_share(model: str, gib: int) -> None:
    load = Load(1024, 1)
    search = search_of(model, "a100-24g", free_bytes=gib * GIB)
    candidate = search.first(PLAIN, load)
    assert candidate.shared
    lean = [search.weigh(PLAIN, knobs, load) for knobs in search.ladder(load).combinations()]
    block = candidate.kv.block_tokens
    session_tokens = -(-(1024 + 1) // block) * block
    most = max(min(c.kv.tokens, c.settings.max_batch_size * session_tokens) for c in lean if c.serves)
    assert candidate.kv.tokens >= KV_SHARE_PERCENT / 100 * most
    one_less = round(candidate.settings.cache_max_entry_count - 0.01, 2)
    startup = Startup.of(Deployment(search.spec, search.offer.gpu, search.offer.free_bytes, candidate.settings))
    assert startup.with_ratio(one_less).kv_cache().tokens < KV_SHARE_PERCENT / 100 * most


def test_no_option_behind_the_answer_is_weighed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    size = Search.size

    def spy(self: Search, option: Option, knobs: Knobs, load: Load) -> object:
        seen.add((self.offer.gpu.name, option))
        return size(self, option, knobs, load)

    monkeypatch.setattr(Search, "size", spy)
    advice = advise("qwen3-30b-a3b", ("h100", "a100-80g", "l40s"))
    assert len(seen) == len(advice.decision.options) == 24
    assert {option.tp for _, option in seen} == {1}


@pytest.mark.parametrize("engine", ["turbomind", "pytorch"])
def test_the_ratio_is_a_share_of_what_the_engine_shares_out(engine: str) -> None:
    """The PyTorch engine sets memory for logits aside first: its ratio is larger for the same bytes."""
    source, gpu = resolve("qwen2.5-7b"), find_gpu("a100-24g")
    offer = Offer(gpu, gpu.memory_total_bytes, 1)
    search = Search(read_spec(source.config, source.name), offer, versions.resolve("0.18.0"), engine)
    startup = search.size(PLAIN, Knobs(), Load(1024, 1)).startup
    safe = startup.safe_ratio()
    worst_free = startup.free_at_kv_bytes(End.HIGH, End.HIGH)
    assert 0 < safe.percent < 95

    def budget(percent: int) -> int:
        return startup.with_ratio(percent / 100).kv_cache(End.HIGH).budget_bytes

    assert budget(safe.percent) + safe.keep_free_bytes <= worst_free
    assert budget(safe.percent + 2) + safe.keep_free_bytes > worst_free
