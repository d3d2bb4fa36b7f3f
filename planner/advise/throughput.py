"""How fast a deployment decodes and prefills: a roofline with a stated band.

A decoding step reads every weight in its stored format, the cached keys and values of every sequence, and computes two
operations a parameter and sequence. Which of the two takes longer names what the step is bound by.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from planner.data import read_toml
from planner.engine.base import Deployment, Engine
from planner.memory.attention import on_rank
from planner.memory.weights import AllocationKind, text_linears
from planner.model.dtypes import DType
from planner.model.layers import routed_experts
from planner.model.quantization import QuantMethod

MEMORY: Final = "memory bandwidth"
COMPUTE: Final = "compute"
_MAX_TURN_BATCH: Final = 1 << 16
_EXCHANGES_PER_LAYER: Final = 2
"""After attention and after the MLP (`src/turbomind/models/llama/unified_decoder.cc`, v0.16.0)."""


@dataclass(frozen=True, slots=True)
class Band:
    """A number with the ends it may lie between."""

    low: float
    value: float
    high: float

    def scaled(self, factor: float) -> Band:
        """The band times `factor`."""
        return Band(self.low * factor, self.value * factor, self.high * factor)


@dataclass(frozen=True, slots=True)
class Efficiency:
    """Shares of the peak rates that an engine reaches on a GPU, what comes on top, and why we think so.

    Attributes:
        bandwidth, compute: shares of the peak rates.
        layer_seconds, step_seconds: what a layer and a step of decoding cost besides reading and computing.
        expert_layer_seconds: what a layer with routed experts costs on top of that.
        request_seconds: from a request to its prefill.
        exchange_seconds: one exchange between the ranks of tensor parallelism.
    """

    bandwidth: Band
    compute: Band
    layer_seconds: Band
    expert_layer_seconds: Band
    step_seconds: Band
    request_seconds: Band
    exchange_seconds: Band
    evidence: str


@dataclass(frozen=True, slots=True)
class Work:
    """What one GPU reads and computes for a token.

    Attributes:
        dense_bytes: weights read by every step: linears outside experts, norms, the output head.
        expert_bytes: all routed experts.
        num_experts, num_experts_per_tok: 0 for a dense model.
        linear_flops: of all linears and the head, for one token of one sequence.
        head_flops: the output head's share of it; a prefill computes it once.
        attention_flops: for one token against one cached token.
        kv_bytes_per_token: keys and values of one cached token.
    """

    dense_bytes: int
    expert_bytes: int
    num_experts: int
    num_experts_per_tok: int
    linear_flops: int
    head_flops: int
    attention_flops: int
    kv_bytes_per_token: float
    num_layers: int
    num_expert_layers: int
    tp: int

    def weights_read_bytes(self, batch: float) -> float:
        """Weights that a step of `batch` tokens reads: experts that no token chose are left alone."""
        return self.dense_bytes + self.expert_bytes * self.experts_touched_ratio(batch)

    def experts_touched_ratio(self, batch: float) -> float:
        """The expected share of the experts that `batch` tokens choose, were each choice as likely."""
        if not self.num_experts:
            return 0.0
        return 1.0 - math.pow(1.0 - self.num_experts_per_tok / self.num_experts, batch)


@dataclass(frozen=True, slots=True)
class Speed:
    """What users see. Rates in tokens a second; `bound` is MEMORY or COMPUTE for the step at this load.

    Attributes:
        decode_tokens_per_s: of all users together.
        user_tokens_per_s: of one user.
        step_seconds: time between two tokens of a user.
        first_token_seconds: prefill of one session of the whole context, alone, and the first step.
        prefill_tokens_per_s: of that prefill.
        turn_batch: sequences from which the linears are bound by compute, None where they never are.
        evidence: what the efficiencies rest on.
    """

    decode_tokens_per_s: Band
    user_tokens_per_s: Band
    step_seconds: Band
    first_token_seconds: Band
    prefill_tokens_per_s: Band
    bound: str
    turn_batch: int | None
    evidence: str


def work_of(deployment: Deployment, engine: Engine, block_bytes_per_token: float) -> Work:
    """The work of one GPU of a deployment, from the tensors that its engine holds."""
    text, sharding = deployment.spec.text, engine.sharding
    dense = experts = 0
    allocations = list(engine.text_allocations())
    for allocation in allocations:
        if allocation.is_expert:
            experts += allocation.total_bytes
        elif allocation.kind is not AllocationKind.EMBEDDING:
            dense += allocation.total_bytes
    # A tied head shares the embedding's tensor in engines that keep one copy.
    if not any(allocation.kind is AllocationKind.OUTPUT_HEAD for allocation in allocations):
        dense += 2 * text.vocab_size * text.hidden_size
    sparse = [(group, moe) for group in text.layer_groups if (moe := routed_experts(group.mlp)) is not None]
    moe = sparse[0][1] if sparse else None
    flops = 0
    for linear in text_linears(text, None, sharding):
        each = 2 * linear.num_weights * linear.num_linears
        if moe is not None and linear.kind.is_expert:
            each = each * moe.num_experts_per_tok // moe.num_experts
        flops += each
    head_flops = 2 * text.hidden_size * sharding.rank_head_rows(text.vocab_size)
    attention = sum(
        4 * rank.num_heads * rank.head_dim * len(group.layers)
        for group in text.layer_groups
        for rank in (on_rank(group.attention, sharding.parallelism),)
    )
    return Work(
        dense_bytes=dense,
        expert_bytes=experts,
        num_experts=moe.num_experts if moe else 0,
        num_experts_per_tok=moe.num_experts_per_tok if moe else 0,
        linear_flops=flops + head_flops,
        head_flops=head_flops,
        attention_flops=attention,
        kv_bytes_per_token=block_bytes_per_token,
        num_layers=text.num_layers,
        num_expert_layers=sum(len(group.layers) for group, _ in sparse),
        tp=sharding.tp,
    )


def peak_flops_per_s(deployment: Deployment) -> int:
    """The peak rate of the matrix units for the deployment's arithmetic; 0 where it is not known."""
    gpu, settings = deployment.gpu, deployment.settings
    fp8 = settings.quantization is not None and settings.quantization.method is QuantMethod.FP8
    if fp8 and gpu.compute_capability == 90:
        # Elsewhere fp8 weights are widened to 16 bits first (planner/data/lmdeploy.toml, fp8_native_sm).
        return gpu.peak_fp8_flops_per_s
    return gpu.peak_bf16_flops_per_s if settings.dtype is DType.BF16 else gpu.peak_fp16_flops_per_s


def assumed_efficiency() -> Efficiency:
    """What stands in where nobody measured."""
    data = read_toml("throughput.toml")["assumed"]
    bands = {name: Band(**data[key]) for name, key in EFFICIENCY_KEYS.items()}
    return Efficiency(**bands, evidence="assumed efficiencies; nobody measured speed on this GPU")


def find_efficiency(deployment: Deployment) -> Efficiency:
    """The efficiencies measured for the GPU, engine and format; else for its compute capability; else the assumed."""
    gpu, engine, form = deployment.gpu, deployment.settings.engine, stored_format(deployment)
    efficiency = assumed_efficiency()
    entries = [
        e for e in read_toml("throughput.toml").get("measured", ()) if (e["engine"], e["format"]) == (engine, form)
    ]
    for entry in entries:
        same = entry["product"] == gpu.product and not gpu.slice_of
        if same or entry["compute_capability"] == gpu.compute_capability:
            bands = {name: Band(**entry[key]) for name, key in EFFICIENCY_KEYS.items() if key in entry}
            where = f"{entry['speeds']} speeds, {entry['product']}, LMDeploy {entry['lmdeploy']}"
            evidence = f"measured ({where})" if same else f"assumed as measured on another GPU ({where})"
            return replace(efficiency, **bands, evidence=evidence)
    return efficiency


def stored_format(deployment: Deployment) -> str:
    """``16-bit`` or the method that the weights are quantized by: each has kernels of its own."""
    quantization = deployment.settings.quantization
    return quantization.method.value if quantization else "16-bit"


EFFICIENCY_KEYS: Final = {
    "bandwidth": "bandwidth_efficiency",
    "compute": "compute_efficiency",
    "layer_seconds": "layer_seconds",
    "expert_layer_seconds": "expert_layer_seconds",
    "step_seconds": "step_seconds",
    "request_seconds": "request_seconds",
    "exchange_seconds": "exchange_seconds",
}
"""Efficiency's field -> key of the data file."""


def speed_of(
    deployment: Deployment, work: Work, num_users: int, context_tokens: int, efficiency: Efficiency | None = None
) -> Speed | None:
    """Speed with `num_users` sequences of `context_tokens` cached tokens each; None where the rates are unknown."""
    bandwidth, peak = deployment.gpu.memory_bandwidth_bytes_per_s, peak_flops_per_s(deployment)
    if not bandwidth or not peak:
        return None
    efficiency = efficiency or find_efficiency(deployment)
    chunk = min(deployment.settings.max_prefill_token_num, context_tokens)
    ends = []
    for end in ("low", "value", "high"):
        rates = _Rates.at(end, efficiency, bandwidth, peak, work)
        ends.append((rates.step_seconds(work, num_users, context_tokens), rates.prefill(work, context_tokens, chunk)))
    step = Band(ends[2][0], ends[1][0], ends[0][0])
    prefill = Band(ends[2][1], ends[1][1], ends[0][1])
    tokens_per_s = Band(1 / step.high, 1 / step.value, 1 / step.low)
    ideal = _Rates(bandwidth, peak, 0.0, 0.0)
    reads, computes = ideal.sides(work, num_users, context_tokens)
    return Speed(
        decode_tokens_per_s=tokens_per_s.scaled(num_users),
        user_tokens_per_s=tokens_per_s,
        step_seconds=step,
        first_token_seconds=Band(*(p + s for p, s in zip(_ends(prefill), _ends(step), strict=True))),
        prefill_tokens_per_s=Band(*(context_tokens / p for p in (prefill.high, prefill.value, prefill.low))),
        bound=MEMORY if reads >= computes else COMPUTE,
        turn_batch=turn_batch(work, bandwidth, peak),
        evidence=efficiency.evidence,
    )


def turn_batch(work: Work, bandwidth_bytes_per_s: float, peak_flops_per_s: float) -> int | None:
    """The smallest batch whose linears take longer to compute than to read, at peak rates."""

    def computes(batch: int) -> bool:
        return batch * work.linear_flops / peak_flops_per_s >= work.weights_read_bytes(batch) / bandwidth_bytes_per_s

    if not computes(_MAX_TURN_BATCH):
        return None
    low, high = 0, _MAX_TURN_BATCH
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if computes(middle) else (middle, high)
    return high


@dataclass(frozen=True, slots=True)
class _Rates:
    """Rates reached, and the seconds that a step and a request take besides."""

    bytes_per_s: float
    flops_per_s: float
    fixed_seconds: float
    request_seconds: float

    @classmethod
    def at(cls, end: str, efficiency: Efficiency, bandwidth: float, peak: float, work: Work) -> _Rates:
        """The rates at the ``low``, ``value`` or ``high`` end; low is slow."""
        slow = {"low": "high", "value": "value", "high": "low"}[end]
        fixed = work.num_layers * getattr(efficiency.layer_seconds, slow) + getattr(efficiency.step_seconds, slow)
        fixed += work.num_expert_layers * getattr(efficiency.expert_layer_seconds, slow)
        if work.tp > 1:
            fixed += _EXCHANGES_PER_LAYER * work.num_layers * getattr(efficiency.exchange_seconds, slow)
        return cls(
            bandwidth * getattr(efficiency.bandwidth, end),
            peak * getattr(efficiency.compute, end),
            float(fixed),
            getattr(efficiency.request_seconds, slow),
        )

    def sides(self, work: Work, batch: int, context_tokens: int) -> tuple[float, float]:
        """Seconds of reading and of computing in one step."""
        cached = batch * context_tokens
        reads = (work.weights_read_bytes(batch) + cached * work.kv_bytes_per_token) / self.bytes_per_s
        return reads, (batch * work.linear_flops + cached * work.attention_flops) / self.flops_per_s

    def step_seconds(self, work: Work, batch: int, context_tokens: int) -> float:
        """One step of decoding: linears, then attention, each bound by its slower side."""
        linear = max(work.weights_read_bytes(batch) / self.bytes_per_s, batch * work.linear_flops / self.flops_per_s)
        cached = batch * context_tokens
        attention = max(
            cached * work.kv_bytes_per_token / self.bytes_per_s, cached * work.attention_flops / self.flops_per_s
        )
        return linear + attention + self.fixed_seconds

    def prefill(self, work: Work, context_tokens: int, chunk_tokens: int) -> float:
        """One session's prompt, chunk by chunk; each reads the weights once."""
        chunks = -(-context_tokens // chunk_tokens)
        linear = context_tokens * (work.linear_flops - work.head_flops) + chunks * work.head_flops
        attention = work.attention_flops * context_tokens * (context_tokens + 1) // 2
        reads = chunks * work.weights_read_bytes(chunk_tokens) / self.bytes_per_s
        return max((linear + attention) / self.flops_per_s, reads) + self.request_seconds


def _ends(band: Band) -> tuple[float, float, float]:
    return band.low, band.value, band.high
