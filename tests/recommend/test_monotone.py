"""More memory never makes the answer worse; fewer users or a shorter context cost no GPU, no quality and no verdict."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.advise.candidates import Candidate, Offer
from planner.advise.nearest import KV_SHARE_PERCENT
from planner.advise.search import Search
from planner.api.advice import advise
from planner.engine.base import Deployment
from planner.errors import LmplanError
from planner.hardware.gpu import find_gpu
from planner.lmdeploy import versions
from planner.memory.pool import PAGE_BYTES
from planner.model.arch import read_spec
from planner.model.source import resolve
from planner.request import Load
from planner.start import Startup
from planner.units import MIB
from tests.examples import examples

MODELS = (
    "qwen2.5-1.5b",
    "internlm2_5-7b",
    "qwen3-8b",
    "llama-2-13b",
    "internvl2-8b",
    "qwen3-30b-a3b",
    "mistral-7b-v0.1",
)
GPUS = ("a100-40g-mig-1g.5gb", "t4", "l4", "rtx-4090", "v100-32g", "a100-80g", "h100")
ENGINES = (("0.18.0", None), ("0.18.0", "pytorch"), ("0.16.0", None), ("0.12.3", None), ("0.5.3", None))

models, gpus, engines = st.sampled_from(MODELS), st.sampled_from(GPUS), st.sampled_from(ENGINES)
contexts = st.sampled_from((512, 1024, 4096, 8192, 20_000))
users = st.sampled_from((1, 2, 4, 16, 64, 200))
steps_mib = st.integers(min_value=8, max_value=128)


@dataclass(frozen=True)
class Answer:
    """The rank of an answer (less is better), its tokens and users, what it keeps free, and tokens that do not count.

    A ratio is given to 0.01, so what the KV cache holds is known to a hundredth of what is free for it; and pools grow
    by pages of 32 MiB. So many tokens fewer are no worse an answer.
    """

    rank: tuple[int, ...]
    tokens: int
    users: int
    slack_tokens: int
    keep_free_tokens: int

    def is_no_worse_than(self, other: Answer) -> bool:
        if self.rank != other.rank:
            return self.rank < other.rank
        slack = max(self.slack_tokens, other.slack_tokens)
        return self.tokens >= other.tokens - slack


def answer(search: Search, load: Load) -> Answer:
    candidate = next(search.serving(load), None)
    if candidate is None:
        return Answer((9,), 0, 0, 0, 0)
    kv = candidate.kv
    slack_bytes = max(_free_at_kv_bytes(search, candidate) // 100, PAGE_BYTES)
    slack_tokens = slack_bytes * kv.block_tokens // kv.block_bytes + kv.block_tokens
    rank = search.offer.preference(candidate.option)
    keep_free_tokens = candidate.keep_free_bytes * kv.block_tokens // kv.block_bytes
    return Answer(rank, kv.tokens, candidate.users, slack_tokens, keep_free_tokens)


def _free_at_kv_bytes(search: Search, candidate: Candidate) -> int:
    offer = search.offer
    return Startup.of(Deployment(search.spec, offer.gpu, offer.free_bytes, candidate.settings)).free_at_kv_bytes()


def search_of(model: str, gpu: str, engine: tuple[str, str | None], free_bytes: int) -> Search:
    source = resolve(model)
    spec = read_spec(source.config, source.name)
    return Search(spec, Offer(find_gpu(gpu), free_bytes, 2), versions.resolve(engine[0]), engine[1])


@settings(deadline=None, max_examples=examples(120))
@given(models, gpus, engines, contexts, users, st.floats(0.1, 0.98), steps_mib)
def test_more_memory(
    model: str, gpu: str, engine: tuple[str, str | None], context: int, num_users: int, share: float, step_mib: int
) -> None:
    load, total = Load(context, num_users), find_gpu(gpu).memory_total_bytes
    before = None
    for step in range(5):
        free_bytes = int(share * total) + step * step_mib * MIB
        if free_bytes > total:
            return
        found = answer(search_of(model, gpu, engine, free_bytes), load)
        assert before is None or found.is_no_worse_than(before)
        before = found


@settings(deadline=None, max_examples=examples(120))
@given(models, gpus, engines, contexts, users, st.floats(0.2, 1), st.integers(1, 199), st.floats(0.1, 0.99))
def test_fewer_users_or_shorter_sessions_cost_no_gpu_no_quality_and_no_verdict(
    model: str,
    gpu: str,
    engine: tuple[str, str | None],
    context: int,
    num_users: int,
    share: float,
    fewer: int,
    shorter: float,
) -> None:
    search = search_of(model, gpu, engine, int(share * find_gpu(gpu).memory_total_bytes))
    load = Load(context, num_users)
    asked = answer(search, load)
    less = answer(search, load._replace(num_users=min(fewer, num_users)))
    assert less.rank <= asked.rank
    if less.rank == asked.rank:
        # Tokens that are no longer asked for go to the defaults: to their share, and to larger buffers.
        buffers = max(less.keep_free_tokens - asked.keep_free_tokens, 0)
        assert less.tokens + buffers + less.slack_tokens >= asked.tokens * KV_SHARE_PERCENT // 100
    short = answer(search, load._replace(context_tokens=max(int(context * shorter), 1)))
    assert short.rank <= asked.rank
    if short.rank == asked.rank:
        lost = short.slack_tokens // max(context, 1) + 1
        assert short.users >= asked.users * KV_SHARE_PERCENT // 100 - lost


def test_128_mib_more_no_longer_cost_nineteen_tokens_in_twenty() -> None:
    """It was 46,080 tokens at a ratio of 0.73 and, with more memory, LMDeploy's defaults and 2,304 tokens at 0.05."""
    found = []
    for free in (4615885697, 4750103425):
        advice = advise("qwen2.5-1.5b", ("a100-40g-mig-1g.5gb",), num_gpus=1, context=1024, concurrency=1, free=free)
        assert advice.decision.chosen is not None
        found.append(advice.decision.chosen)
    small, large = found
    assert (small.memory.kv_cache.tokens, large.memory.kv_cache.tokens) == (36864, 40320)
    assert (small.candidate.users, large.candidate.users) == (33, 37)
    # The batch is what such a card can use, not the default of 256 and not the one user of the load.
    assert {chosen.candidate.settings.max_batch_size for chosen in found} == {64}


@pytest.mark.parametrize("gpu", ["t4", "rtx-4090", "h100"])
def test_no_free_memory_of_a_whole_card_makes_the_answer_worse(gpu: str) -> None:
    """From nothing to the whole card, in steps of 128 MiB, the hardest options included."""
    total, before = find_gpu(gpu).memory_total_bytes, None
    for free_bytes in range(2 * 1024 * MIB, min(total, 24 * 1024 * MIB), 128 * MIB):
        try:
            found = answer(search_of("qwen2.5-1.5b", gpu, ENGINES[0], free_bytes), Load(2048, 2))
        except LmplanError:
            continue
        assert before is None or found.is_no_worse_than(before), free_bytes
        before = found
