"""What holds for every recommendation: the estimate bears it out, nothing better is turned down, more is never less."""

from __future__ import annotations

from functools import cache
from itertools import product

from hypothesis import example, given, settings
from hypothesis import strategies as st

from planner import estimate
from planner.advise.candidates import Candidate, Offer
from planner.advise.decision import Decider
from planner.advise.search import Search
from planner.engine.base import Deployment
from planner.engine.pick import pick_engine
from planner.errors import LmplanError
from planner.footprint import estimate_memory
from planner.hardware.gpu import find_gpu
from planner.lmdeploy import versions
from planner.model.arch import read_spec
from planner.model.source import resolve
from planner.model.spec import ModelSpec
from planner.request import Load
from planner.units import GIB, MIB
from tests.examples import examples

MODELS = ("internlm2_5-7b", "qwen2.5-1.5b", "qwen3-8b", "llama-2-13b", "internvl2-2b", "internvl2-26b", "qwen3-30b-a3b")
GPUS = ("a10", "a100-80g", "l4", "h200", "v100-32g", "rtx-4090", "h100")
VERSIONS = ("0.18.0", "0.16.0", "0.12.3", "0.5.3")

models = st.sampled_from(MODELS)
gpus = st.sampled_from(GPUS)
lmdeploys = st.sampled_from(VERSIONS)
contexts = st.integers(min_value=64, max_value=20_000)
users = st.integers(min_value=1, max_value=200)


@cache
def spec_of(model: str) -> ModelSpec:
    source = resolve(model)
    return read_spec(source.config, source.name)


def search_of(model: str, gpu: str, version: str, free_bytes: int | None = None, max_gpus: int = 2) -> Search:
    chosen = find_gpu(gpu)
    offer = Offer(chosen, free_bytes or chosen.memory_total_bytes, max_gpus)
    return Search(spec_of(model), offer, versions.resolve(version))


def best(search: Search, load: Load) -> Candidate | None:
    return next(search.serving(load), None)


def rank(search: Search, candidate: Candidate | None) -> tuple[int, ...]:
    return search.offer.preference(candidate.option) if candidate else (10**6,)


@settings(deadline=None, max_examples=examples(120))
@given(models, gpus, lmdeploys, contexts, users, st.integers(min_value=0, max_value=1))
def test_the_chosen_plan_passes_the_estimate_with_the_same_settings(
    model: str, gpu: str, version: str, context: int, num_users: int, images: int
) -> None:
    load = Load(context, num_users, images if spec_of(model).vision else 0)
    decider = Decider(spec_of(model), (search_of(model, gpu, version).offer,), versions.resolve(version))
    first = best(decider.searches[0], load)
    chosen = decider.choose(load)
    if first is None:
        assert chosen is None
        return
    # The quick weighing and the full estimate agree, so that the first that serves is the one taken.
    assert chosen is not None
    assert chosen.candidate.option == first.option
    s = chosen.candidate.settings
    plan = estimate(
        model,
        gpu,
        lmdeploy=version,
        context=context,
        engine=s.engine,
        weights=s.weights,
        quant_policy=s.quant_policy,
        cache_max_entry_count=s.cache_max_entry_count,
        tp=s.tp,
        session_len=s.session_len,
        max_batch_size=s.max_batch_size,
        max_prefill_token_num=s.max_prefill_token_num,
    )
    assert plan.verdict == "serves"
    assert not plan.memory.short_of_growth
    assert plan.memory.max_sequences(context) >= num_users


@settings(deadline=None, max_examples=examples(25))
@given(models, gpus, lmdeploys, contexts, users)
def test_nothing_better_in_every_respect_is_turned_down(
    model: str, gpu: str, version: str, context: int, num_users: int
) -> None:
    search, load = search_of(model, gpu, version), Load(context, num_users)
    chosen = best(search, load)
    if chosen is None:
        return
    mine = _respects(search, chosen, load)
    # The others have no fewer GPUs or lose no less quality: nothing of theirs is better in every respect.
    worth_a_look = [o for o in search.options if o == chosen.option or (o.tp < -mine[0] and o.loss < -mine[1])]
    for option, knobs in product(worth_a_look, search.ladder(load).combinations()):
        try:
            candidate = search.weigh(option, knobs, load)
        except LmplanError:
            continue
        if not candidate.serves:
            continue
        other = _respects(search, candidate, load)
        assert not all(a > b for a, b in zip(other, mine, strict=True))
        # Between the defaults and the leanest settings the KV cache takes a share, so with the same lengths more fits.
        same = other == mine or (chosen.shared and other[2:5] == mine[2:5])
        assert not (candidate.option == chosen.option and not same and all(map(int.__ge__, other, mine)))


def _respects(search: Search, candidate: Candidate, load: Load) -> tuple[int, ...]:
    """More is better: GPUs spared, quality, prefill step, batch, session, tokens held, tokens a second."""
    s = candidate.settings
    speed = search.speed(s, candidate.kv, load.num_users, load.context_tokens)
    assert speed is not None
    return (
        -candidate.option.tp,
        -candidate.option.loss,
        s.max_prefill_token_num,
        s.max_batch_size,
        s.session_len,
        candidate.kv.tokens,
        round(1000 * speed.decode_tokens_per_s.value),
    )


@settings(deadline=None, max_examples=examples(150))
@example("qwen2.5-1.5b", "h200", "0.18.0", 64, 1, 8025, 25)
@example("internlm2_5-7b", "a100-80g", "0.18.0", 192, 1, 26901, 8)  # a pool's page once cost a hundredth of the ratio
@given(
    models,
    gpus,
    lmdeploys,
    contexts,
    users,
    st.integers(min_value=4 * 1024, max_value=40 * 1024),
    st.one_of(st.integers(min_value=1, max_value=200), st.integers(min_value=1, max_value=16 * 1024)),
)
def test_more_memory_never_makes_the_answer_worse(
    model: str, gpu: str, version: str, context: int, num_users: int, free_mib: int, more_mib: int
) -> None:
    load = Load(context, num_users)
    small = search_of(model, gpu, version, free_mib * MIB)
    large = search_of(model, gpu, version, (free_mib + more_mib) * MIB)
    assert rank(large, best(large, load)) <= rank(small, best(small, load))
    for option in small.options[:4]:
        try:
            before, after = small.first(option, load), large.first(option, load)
        except LmplanError:
            continue
        assert after.serves >= before.serves
        if before.serves and _knobs(before) == _knobs(after):
            # A ratio that only takes its share is rounded up to a hundredth: so much may be lost.
            hundredth = before.kv.tokens / (100 * before.settings.cache_max_entry_count) if before.shared else 0
            lost_tokens = hundredth + 2 * before.kv.block_tokens
            assert after.kv.tokens >= before.kv.tokens - (lost_tokens if before.shared else 0)
            assert after.shared or after.users >= before.users


def _knobs(candidate: Candidate) -> tuple[int, ...]:
    return candidate.settings.max_batch_size, candidate.settings.session_len, candidate.settings.max_prefill_token_num


@settings(deadline=None, max_examples=examples(100))
@given(models, gpus, lmdeploys, contexts, users, st.integers(min_value=1, max_value=200))
def test_fewer_users_or_shorter_sessions_never_make_the_answer_worse(
    model: str, gpu: str, version: str, context: int, num_users: int, fewer: int
) -> None:
    search = search_of(model, gpu, version)
    asked = rank(search, best(search, Load(context, num_users)))
    assert rank(search, best(search, Load(context, min(fewer, num_users)))) <= asked
    assert rank(search, best(search, Load(max(context // 2, 1), num_users))) <= asked


@settings(deadline=None, max_examples=examples(80))
@given(models, gpus, lmdeploys, contexts, users)
def test_the_ratio_is_safe_and_the_largest_that_is(
    model: str, gpu: str, version: str, context: int, num_users: int
) -> None:
    search, load = search_of(model, gpu, version), Load(context, num_users)
    candidate = best(search, load)
    if candidate is None:
        return
    deployment = Deployment(search.spec, search.offer.gpu, search.offer.free_bytes, candidate.settings)
    memory = estimate_memory(deployment)
    kv = next(term for term in memory.terms if term.name == "kv_cache")
    passing = memory.transient.high_bytes if memory.transient else 0
    # What a later term takes over of it counts once.
    overlap = pick_engine(deployment).reused_bytes(passing)
    others = sum(term.high_bytes for term in memory.terms if term.name != "kv_cache") + passing - overlap
    # At their worst, all terms together stay below what is free: the KV cache then finds its low end.
    assert others + kv.low_bytes <= search.offer.free_bytes
    # Two hundredths more would reach into what has to stay free.
    if candidate.settings.cache_max_entry_count < 0.95 and not candidate.shared:
        more = candidate.settings.cache_max_entry_count + 0.02
        worst_free = search.offer.free_bytes - sum(t.high_bytes for t in memory.terms[: memory.terms.index(kv)])
        assert (
            more * (worst_free - passing) > worst_free - passing - candidate.keep_free_bytes or candidate.kv.tokens == 0
        )


def test_the_smallest_ratio_serves_and_one_less_does_not() -> None:
    search, load = search_of("internlm2_5-7b", "a100-80g", "0.18.0"), Load(8192, 16)
    option = search.options[0]
    candidate = search.first(option, load, smallest_ratio=True)
    assert candidate.serves and candidate.users >= 16
    s = candidate.settings
    assert s.cache_max_entry_count < 0.5
    ratio = round(s.cache_max_entry_count - 0.01, 2)
    plan = estimate(
        "internlm2_5-7b",
        "a100-80g",
        cache_max_entry_count=ratio,
        session_len=s.session_len,
        max_batch_size=s.max_batch_size,
        max_prefill_token_num=s.max_prefill_token_num,
        context=8192,
    )
    assert plan.memory.max_sequences(8192) < 16


def test_the_gpus_offered_come_before_quality_only_where_none_were_counted() -> None:
    gpu = find_gpu("a10")
    spec, load, version = spec_of("internlm2_5-7b"), Load(8192, 16), versions.resolve(None)
    fewest = best(Search(spec, Offer(gpu, 22 * GIB, 4), version), load)
    there = best(Search(spec, Offer(gpu, 22 * GIB, 4, quality_first=True), version), load)
    assert fewest is not None and there is not None
    assert (fewest.option.tp, fewest.option.weights) == (1, "w4a16")
    assert (there.option.tp, there.option.loss) == (2, 0)
