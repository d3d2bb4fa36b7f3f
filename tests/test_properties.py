"""What holds for every plan, whatever the model, the GPU and the settings."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import HealthCheck, assume, given, reject, settings
from hypothesis import strategies as st

from planner.engine.base import Deployment
from planner.errors import LmplanError, UnsupportedModelError
from planner.footprint import MemoryEstimate, estimate_memory
from planner.hardware.gpu import Gpu, catalog
from planner.lmdeploy import versions
from planner.lmdeploy.settings import Request, decide
from planner.memory.kv_cache import block_bytes
from planner.memory.parallelism import Parallelism
from planner.memory.pool import PAGE_BYTES
from planner.model import catalog as models
from planner.model.arch import read_spec
from planner.model.spec import ModelSpec
from planner.units import GIB, MIB
from tests.examples import examples


def _specs() -> dict[str, ModelSpec]:
    specs = {}
    for entry in models.entries():
        try:
            specs[entry.name] = read_spec(entry.config, entry.name)
        except LmplanError:
            continue
    return specs


SPECS = _specs()
GPUS = {gpu.name: gpu for gpu in catalog()}
# LMDeploy refuses many random settings; those cases are drawn again.
ANY_SETTINGS = settings(
    max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow]
)
VERSIONS = ("0.4.0", "0.5.3", "0.6.0", "0.10.2", "0.12.0", "0.14.0", "0.15.0", "0.18.0", "0.99.0")


@dataclass(frozen=True)
class Case:
    """One deployment before its GPU memory is known."""

    model: str
    gpu: Gpu
    version: str
    wishes: Request

    def plan(self, free_bytes: int | None = None) -> MemoryEstimate:
        spec = SPECS[self.model]
        decided = decide(spec, self.gpu, versions.resolve(self.version), self.wishes)
        free = self.gpu.memory_total_bytes if free_bytes is None else free_bytes
        return estimate_memory(Deployment(spec, self.gpu, free, decided))


WISHES = st.builds(
    Request,
    engine=st.sampled_from([None, "turbomind", "pytorch"]),
    weights=st.sampled_from(["as-is", "as-is", "w4a16"]),
    dtype=st.just("auto"),  # hypothesis would make any text for a field that is left out
    quant_policy=st.sampled_from([0, 4, 8]),
    cache_max_entry_count=st.none() | st.floats(0.01, 0.99),
    tp=st.sampled_from([1, 1, 1, 2, 4, 8]),
    session_len=st.none() | st.integers(1, 200_000),
    max_batch_size=st.none() | st.integers(1, 2048),
    max_prefill_token_num=st.none() | st.integers(1, 32768),
)
CASES = st.builds(
    Case,
    model=st.sampled_from(sorted(SPECS)),
    gpu=st.sampled_from(sorted(GPUS)).map(GPUS.__getitem__),
    version=st.sampled_from(VERSIONS),
    wishes=WISHES,
)
FREE = st.integers(64 * MIB, 200 * GIB)


def _planned(case: Case, free_bytes: int | None = None) -> MemoryEstimate:
    """The plan, or a case that LMDeploy would refuse and that is drawn again."""
    try:
        return case.plan(free_bytes)
    except LmplanError:
        assume(False)
        raise


@ANY_SETTINGS
@given(CASES, FREE)
def test_an_estimate_is_the_sum_of_its_terms(case: Case, free_bytes: int) -> None:
    plan = _planned(case, free_bytes)
    assert plan.total_bytes == sum(term.size_bytes for term in plan.terms)
    assert len({term.name for term in plan.terms}) == len(plan.terms)
    extra = [plan.staging, *([plan.transient] if plan.transient else [])]
    for term in (*plan.terms, *extra):
        assert type(term.size_bytes) is type(term.low_bytes) is type(term.high_bytes) is int
        assert 0 <= term.low_bytes <= term.size_bytes <= term.high_bytes
        assert term.evidence.kind in ("formula", "measured", "assumed")
        assert term.formula
        assert term.what


@ANY_SETTINGS
@given(CASES, FREE)
def test_a_verdict_goes_with_its_numbers(case: Case, free_bytes: int) -> None:
    plan = _planned(case, free_bytes)
    assert plan.load_peak_bytes >= plan.total_bytes
    assert plan.fits == (not plan.reasons)
    if plan.fits:
        assert plan.load_peak_bytes <= free_bytes
        assert plan.kv_cache.blocks > 0
    kv = plan.kv_cache
    assert kv.blocks * kv.block_bytes <= max(kv.budget_bytes, 0)
    assert kv.tokens <= kv.blocks * kv.block_tokens


@ANY_SETTINGS
@given(CASES, FREE, st.integers(0, 100 * GIB))
def test_more_free_memory_never_lowers_capacity(case: Case, free_bytes: int, more_bytes: int) -> None:
    small, large = _planned(case, free_bytes), _planned(case, free_bytes + more_bytes)
    assert small.kv_cache.tokens <= large.kv_cache.tokens
    assert small.kv_cache.budget_bytes <= large.kv_cache.budget_bytes
    for context in (1, 1000, 32768):
        assert small.max_sequences(context) <= large.max_sequences(context)


@ANY_SETTINGS
@given(CASES, FREE, st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_a_larger_ratio_never_lowers_capacity(case: Case, free_bytes: int, one: float, other: float) -> None:
    def plan(ratio: float) -> MemoryEstimate:
        wishes = Request(**{**_as_dict(case.wishes), "cache_max_entry_count": ratio})
        return _planned(Case(case.model, case.gpu, case.version, wishes), free_bytes)

    small, large = plan(min(one, other)), plan(max(one, other))
    assert small.kv_cache.tokens <= large.kv_cache.tokens
    # Buffers that share the region's pool round up with it, by a page at most.
    assert small.total_bytes <= large.total_bytes + PAGE_BYTES


def _as_dict(wishes: Request) -> dict[str, object]:
    return {name: getattr(wishes, name) for name in Request._fields}


@ANY_SETTINGS
@given(CASES, st.sampled_from([2, 4, 8]))
def test_ranks_together_hold_at_least_the_whole(case: Case, tp: int) -> None:
    def plan(tp: int) -> MemoryEstimate:
        wishes = Request(**{**_as_dict(case.wishes), "tp": tp})
        return _planned(Case(case.model, case.gpu, case.version, wishes))

    whole, rank = plan(1), plan(tp)
    for name in ("weights", "vision_tower"):
        assert tp * _term_bytes(rank, name) >= _term_bytes(whole, name)
    assert tp * rank.kv_cache.block_bytes >= whole.kv_cache.block_bytes


def _term_bytes(plan: MemoryEstimate, name: str) -> int:
    return sum(term.size_bytes for term in plan.terms if term.name == name)


@ANY_SETTINGS
@given(st.sampled_from(sorted(SPECS)), st.sampled_from([0, 4, 8]), st.integers(1, 256), st.integers(1, 8))
def test_kv_is_linear_in_tokens(model: str, quant_policy: int, block_tokens: int, tp: int) -> None:
    text = SPECS[model].text
    try:
        one_token = block_bytes(text, quant_policy, 1, Parallelism(tp))
    except UnsupportedModelError:
        reject()  # keys and values that are not grouped: refused by the name of the mechanism
    assert block_bytes(text, quant_policy, block_tokens, Parallelism(tp)) == block_tokens * one_token


@ANY_SETTINGS
@given(CASES, FREE)
def test_capacity_is_linear_in_sequences_up_to_a_block(case: Case, free_bytes: int) -> None:
    plan = _planned(case, free_bytes)
    kv = plan.kv_cache
    for context in (1, 777, 8192):
        held = kv.max_sequences(context, max_batch_size=2**40)
        each = (context + 1 + kv.block_tokens - 1) // kv.block_tokens * kv.block_tokens
        assert held * each <= kv.blocks * kv.block_tokens < (held + 1) * each


@ANY_SETTINGS
@given(CASES, FREE)
def test_kv_quantization_changes_capacity_and_not_the_footprint(case: Case, free_bytes: int) -> None:
    assume(case.wishes.engine != "pytorch")
    plans = []
    for quant_policy in (0, 8, 4):
        wishes = Request(**{**_as_dict(case.wishes), "quant_policy": quant_policy})
        plans.append(_planned(Case(case.model, case.gpu, case.version, wishes), free_bytes))
    assume(plans[0].deployment.settings.engine == "turbomind")
    plain, eight, four = plans
    assert plain.kv_cache.block_bytes > eight.kv_cache.block_bytes > four.kv_cache.block_bytes
    budgets = [plan.kv_cache.budget_bytes for plan in plans]
    slabs = versions.turbomind_rules(plain.deployment.settings.lmdeploy.rules).kv_allocator == "slabs"
    # Before 0.15 the budget is whole blocks, so that the rest of one is lost.
    assert max(budgets) - min(budgets) <= (0 if slabs else plain.kv_cache.block_bytes)
    decided = plain.deployment.settings
    step = decided.max_prefill_token_num + decided.max_batch_size + decided.tp
    if slabs and plain.kv_cache.tokens >= min(decided.session_len, step):
        # The same warm-up requests fit in all three, so that the activations are the same too.
        totals = [plan.total_bytes for plan in plans]
        assert max(totals) - min(totals) <= PAGE_BYTES
