"""Everything that a plan's report says, gathered once for every form: bars, capacity, evidence, provenance."""

from __future__ import annotations

from dataclasses import dataclass

from planner import __version__
from planner.advise.candidates import Knobs, Option
from planner.advise.decision import Evaluation
from planner.advise.search import Search
from planner.api.advice import Advice
from planner.clock import today
from planner.engine.base import Deployment
from planner.errors import LmplanError
from planner.evidence.ledger import Replayed, runs_of
from planner.footprint import MemoryEstimate, estimate_memory
from planner.memory.terms import Term
from planner.model.fingerprint import config_sha256

SHARES = ("context and code", "weights", "vision tower", "KV cache", "buffers and reserve")
_SHARE_OF = {
    "cuda_context": 0,
    "kernel_code": 0,
    "communicator": 0,
    "late_code": 0,
    "weights": 1,
    "pool_rounding": 1,
    "vision_tower": 2,
    "kv_cache": 3,
}
"""Term -> share; what is not named is a buffer."""
_SHORTEST_CONTEXT_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Bar:
    """One option's memory on one GPU: bytes of each of SHARES, or what the load would take where it does not serve."""

    evaluation: Evaluation
    share_bytes: tuple[int, ...]
    free_bytes: int

    @property
    def total_bytes(self) -> int:
        """All shares."""
        return sum(self.share_bytes)


@dataclass(frozen=True, slots=True)
class Curve:
    """Concurrent sequences by context length in tokens, for one KV format of the chosen weights and GPUs."""

    option: Option
    ratio: float
    points: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Provenance:
    """What the plan was made from and with."""

    lmplan: str
    lmdeploy: str
    rules: str
    model: str
    revision: str
    config_sha256: str
    gpu_sources: tuple[str, ...]
    date: str


@dataclass(frozen=True, slots=True)
class Dossier:
    """A plan's report before it takes a form."""

    advice: Advice
    bars: tuple[Bar, ...]
    curves: tuple[Curve, ...]
    measured: tuple[Replayed, ...]
    provenance: Provenance

    @property
    def memory(self) -> MemoryEstimate | None:
        """The chosen plan's estimate."""
        return self.advice.decision.chosen.memory if self.advice.decision.chosen else None

    @property
    def assumed(self) -> tuple[Term, ...]:
        """Terms of the chosen plan that rest on an assumption."""
        terms = self.memory.terms if self.memory else ()
        return tuple(t for t in terms if t.evidence.kind == "assumed" and t.high_bytes)


def gather(advice: Advice, shown: list[Evaluation]) -> Dossier:
    """The report of a decision; `shown` are the options that get a bar."""
    bars = [bar for evaluation in shown if (bar := _bar(advice, evaluation)) is not None]
    return Dossier(advice, tuple(bars), _curves(advice), tuple(runs_of(advice.spec)), _provenance(advice))


def _bar(advice: Advice, evaluation: Evaluation) -> Bar | None:
    candidate = evaluation.candidate
    if candidate is None:
        return None
    memory = estimate_memory(
        Deployment(advice.spec, evaluation.offer.gpu, evaluation.offer.free_bytes, candidate.settings)
    )
    shares = [0] * len(SHARES)
    for term in memory.terms:
        shares[_SHARE_OF.get(term.name, len(SHARES) - 1)] += term.size_bytes
    if not candidate.serves:
        # The load's cache instead of what happens to be left, and all that has to stay free beside it.
        load, kv = advice.decision.load, candidate.kv
        shares[3] = kv.sequence_bytes(load.context_tokens) * load.num_users
        needed_bytes = evaluation.offer.free_bytes + candidate.short_bytes
        shares[4] = max(needed_bytes - sum(shares[:4]), candidate.keep_free_bytes)
    return Bar(evaluation, tuple(shares), evaluation.offer.free_bytes)


def _curves(advice: Advice) -> tuple[Curve, ...]:
    chosen = advice.decision.chosen
    if chosen is None:
        return ()
    load, mine = advice.load, chosen.candidate
    search = Search(advice.spec, mine.offer, advice.lmdeploy, mine.settings.engine)
    longest = advice.spec.text.max_position_embeddings
    contexts = [1 << n for n in range(_SHORTEST_CONTEXT_TOKENS.bit_length() - 1, longest.bit_length())]
    contexts = sorted({*(c for c in contexts if c < longest), longest, load.context_tokens})
    knobs = Knobs(None, mine.settings.max_batch_size, mine.settings.max_prefill_token_num)
    curves = []
    for quant_policy in (0, 8, 4):
        option = mine.option._replace(quant_policy=quant_policy)
        try:
            candidate = search.weigh(option, knobs, load._replace(latency_ms=None, first_token_ms=None))
        except LmplanError:
            continue
        points = tuple((c, candidate.kv.room_for(c)) for c in contexts)
        if candidate.settings.cache_max_entry_count > 0.01 and points[0][1]:
            curves.append(Curve(option, candidate.settings.cache_max_entry_count, points))
    return tuple(curves)


def _provenance(advice: Advice) -> Provenance:
    source = advice.source
    return Provenance(
        lmplan=__version__,
        lmdeploy=advice.lmdeploy.version,
        rules=str(advice.lmdeploy.rules),
        model=source.hf_id or source.name,
        revision=source.revision or "",
        config_sha256=config_sha256(source.config),
        gpu_sources=tuple(
            f"{o.gpu.name}: memory from {o.gpu.memory_source}"
            + (f"; rates from {o.gpu.spec_source}" if o.gpu.spec_source else "")
            for o in advice.offers
        ),
        date=today(),
    )
