"""Efficiencies from measured speeds: how `[[measured]]` entries of `planner/data/throughput.toml` come about.

A step's time is taken as bytes read / bandwidth / efficiency + layers x layer_seconds + step_seconds. Over many models
the unknowns separate: small models are all launches, large ones all reading. The band is what holds nine of ten
measured times. `python -m planner.evidence.throughput_fit` prints the entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from planner.advise.throughput import (
    EFFICIENCY_KEYS,
    Band,
    Efficiency,
    Work,
    assumed_efficiency,
    peak_flops_per_s,
    stored_format,
    work_of,
)
from planner.engine.base import Deployment
from planner.engine.pick import pick_engine
from planner.evidence.ledger import Run, read_runs, shipped_files

SHORT_PROMPT_TOKENS = 32
"""Prompt of the decoding phases of a measurement (`lmplan measure`)."""
MIN_MODELS = 5
"""With fewer models, reading and launching are not told apart."""
_ROUNDS = 30
_SMALLEST_ERROR = 1e-4


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured speed. `context_tokens` are cached on average while decoding, or prefilled."""

    name: str
    deployment: Deployment
    work: Work
    phase: str
    batch: int
    context_tokens: int
    tokens_per_s: float
    synthetic: bool = False

    @property
    def step_seconds(self) -> float:
        """One step of decoding."""
        return self.batch / self.tokens_per_s

    @property
    def read_seconds(self) -> float:
        """What the step's reading takes at the peak bandwidth."""
        cached = self.batch * self.context_tokens * self.work.kv_bytes_per_token
        return (self.work.weights_read_bytes(self.batch) + cached) / self.deployment.gpu.memory_bandwidth_bytes_per_s

    @property
    def compute_seconds(self) -> float:
        """What the phase's arithmetic takes at the peak rate."""
        work, tokens = self.work, self.context_tokens
        if self.phase == "prefill":
            flops = tokens * (work.linear_flops - work.head_flops) + work.head_flops
            flops += work.attention_flops * tokens * (tokens + 1) // 2
        else:
            flops = self.batch * (work.linear_flops + tokens * work.attention_flops)
        return flops / peak_flops_per_s(self.deployment)


def read_samples(path: Path) -> Iterator[Sample]:
    """The speeds of a measurement file or ledger; none of runs whose GPU has no known rates."""
    for run in read_runs(path):
        deployment = run.deployment()
        timed = [p for p in run.phases if p["name"] in ("decode", "long_prefill")]
        phases = [p for p in timed if p["facts"].get("seconds") and p["facts"].get("tokens")]
        if deployment is None or not phases or not deployment.gpu.memory_bandwidth_bytes_per_s:
            continue
        engine = pick_engine(deployment)
        kv = engine.kv_cache(deployment.free_bytes)
        work = work_of(deployment, engine, kv.block_bytes / kv.block_tokens)
        for phase in phases:
            yield _sample(run, deployment, work, phase)


def _sample(run: Run, deployment: Deployment, work: Work, phase: dict[str, Any]) -> Sample:
    facts = phase["facts"]
    decode = phase["name"] == "decode"
    batch = int(facts.get("batch", 1))
    made = facts["tokens"] // batch
    return Sample(
        name=f"{run.model} {deployment.settings.weights}, KV {deployment.settings.quant_policy or 16}, batch {batch}",
        deployment=deployment,
        work=work,
        phase="decode" if decode else "prefill",
        batch=batch,
        context_tokens=facts.get("prompt_tokens", SHORT_PROMPT_TOKENS) + made // 2 if decode else facts["tokens"],
        tokens_per_s=facts["tokens"] / facts["seconds"],
        synthetic=run.synthetic,
    )


def usable(sample: Sample) -> bool:
    """Whether a sample says something of reading, computing and launching alone."""
    if sample.work.tp > 1:
        return False  # what its ranks exchange is not told apart
    if sample.phase == "prefill":
        # A prompt longer than the session is refused at once, faster than any card could compute it.
        return sample.compute_seconds <= sample.context_tokens / sample.tokens_per_s
    # With weights of zero every token chooses the same experts, which no real batch does.
    return not (sample.synthetic and sample.work.num_experts and sample.batch > 1)


def fit(samples: list[Sample], base: Efficiency | None = None) -> Efficiency:
    """Efficiencies that explain the usable samples of one GPU, engine and format.

    A format with few models cannot tell launches from reading: it takes what a step and a layer cost from `base`.
    """
    found = base or assumed_efficiency()
    decodes = [s for s in samples if usable(s) and s.phase == "decode" and s.compute_seconds < s.read_seconds]
    prefills = [s for s in samples if usable(s) and s.phase == "prefill"]
    several = len({s.work.dense_bytes for s in decodes}) >= MIN_MODELS
    if several or (base is not None and decodes):
        found = _fit_decoding(decodes, found, several)
    several = len({s.work.dense_bytes for s in prefills}) >= MIN_MODELS
    if several or (base is not None and prefills):
        found = _fit_prefill(prefills, found, several)
    return (
        replace(found, evidence=f"measured ({len(decodes) + len(prefills)} speeds)") if decodes or prefills else found
    )


def _fit_decoding(samples: list[Sample], found: Efficiency, free: bool) -> Efficiency:
    times = [s.step_seconds for s in samples]
    if free:
        read, layer, experts, step = least_relative([[s.read_seconds, *_launches(s)] for s in samples], times)
    else:
        layer, experts, step = (b.value for b in (found.layer_seconds, found.expert_layer_seconds, found.step_seconds))
        read = 1.0
    costs = [_dot((layer, experts, step), _launches(s)) for s in samples]
    if not free:
        rests = [max(t - cost, s.read_seconds) for t, cost, s in zip(times, costs, samples, strict=True)]
        (read,) = least_relative([[s.read_seconds] for s in samples], rests)
    read = max(read, 1.0)  # nothing reads faster than the peak
    ratios = [t / (read * s.read_seconds + cost) for t, cost, s in zip(times, costs, samples, strict=True)]
    fast, slow = _inner(sorted(ratios)) if free else _no_narrower(_inner(sorted(ratios)), found.step_seconds)

    def banded(value: float) -> Band:
        return Band(value * fast, value, value * slow)

    return replace(
        found,
        bandwidth=Band(1 / read / slow, 1 / read, min(1 / read / fast, 1.0)),
        layer_seconds=banded(layer),
        expert_layer_seconds=banded(experts),
        step_seconds=banded(step),
    )


def _launches(sample: Sample) -> tuple[float, float, float]:
    """What is multiplied by the costs of a layer, of a layer with experts, and of a step."""
    return float(sample.work.num_layers), float(sample.work.num_expert_layers), 1.0


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


def _fit_prefill(samples: list[Sample], found: Efficiency, free: bool) -> Efficiency:
    times = [s.context_tokens / s.tokens_per_s for s in samples]
    if free:
        compute, request = least_relative([[s.compute_seconds, 1.0] for s in samples], times)
    else:
        request = found.request_seconds.value
        rests = [max(t - request, s.compute_seconds) for t, s in zip(times, samples, strict=True)]
        (compute,) = least_relative([[s.compute_seconds] for s in samples], rests)
    compute = max(compute, 1.0)
    ratios = sorted(t / (compute * s.compute_seconds + request) for t, s in zip(times, samples, strict=True))
    fast, slow = _inner(ratios) if free else _no_narrower(_inner(ratios), found.request_seconds)
    return replace(
        found,
        compute=Band(1 / compute / slow, 1 / compute, min(1 / compute / fast, 1.0)),
        request_seconds=Band(request * fast, request, request * slow),
    )


def _inner(ratios: list[float]) -> tuple[float, float]:
    """The ends between which nine of ten measured times lie, as shares of the fitted ones; 1 is inside."""
    cut = len(ratios) // 20
    return min(ratios[cut], 1.0), max(ratios[-1 - cut], 1.0)


def _no_narrower(ends: tuple[float, float], band: Band) -> tuple[float, float]:
    """A few speeds agree by chance: their band is no narrower than that of the many they lean on."""
    return min(ends[0], band.low / band.value), max(ends[1], band.high / band.value)


def least_relative(columns: list[list[float]], times: list[float]) -> list[float]:
    """Non-negative weights of the columns whose sums come closest to the times, by relative error.

    Absolute errors count, not squares, so that a run which went astray does not bend the fit: least squares is
    repeated with each row weighed by the inverse of its last error. Every subset of columns is tried, the best without
    a negative weight wins.
    """
    rows = [[value / time for value in row] for row, time in zip(columns, times, strict=True)]
    count = len(rows[0])
    best, least = [0.0] * count, float("inf")
    for mask in range(1, 1 << count):
        kept = [i for i in range(count) if mask >> i & 1]
        weights = [1.0] * len(rows)
        for _ in range(_ROUNDS):
            solved = _solve(
                [[sum(w * r[i] * r[j] for w, r in zip(weights, rows, strict=True)) for j in kept] for i in kept],
                [sum(w * r[i] for w, r in zip(weights, rows, strict=True)) for i in kept],
            )
            if solved is None:
                break
            full = [0.0] * count
            for i, value in zip(kept, solved, strict=True):
                full[i] = value
            errors = [abs(_dot(full, row) - 1) for row in rows]
            weights = [1 / max(error, _SMALLEST_ERROR) for error in errors]
        else:
            if min(full) >= 0 and sum(errors) < least:
                best, least = full, sum(errors)
    return best


def _solve(matrix: list[list[float]], right: list[float]) -> list[float] | None:
    """A small system of equations by Gauss's elimination; None where it has no single solution."""
    size = len(right)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for i in range(size):
        pivot = max(range(i, size), key=lambda k: abs(rows[k][i]))
        if abs(rows[pivot][i]) < 1e-30:
            return None
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for k in range(size):
            if k != i:
                factor = rows[k][i] / rows[i][i]
                rows[k] = [a - factor * b for a, b in zip(rows[k], rows[i], strict=True)]
    return [rows[i][size] / rows[i][i] for i in range(size)]


def entry(samples: list[Sample], efficiency: Efficiency, lmdeploy: str) -> str:
    """The `[[measured]]` entry of samples of one GPU, engine and format."""
    deployment = samples[0].deployment
    gpu = deployment.gpu
    lines = [
        "[[measured]]",
        f'product = "{gpu.product}"',
        f"compute_capability = {gpu.compute_capability}",
        f'engine = "{deployment.settings.engine}"',
        f'format = "{stored_format(deployment)}"',
        f'lmdeploy = "{lmdeploy}"',
        f"speeds = {len([s for s in samples if usable(s)])}",
    ]
    for name, key in EFFICIENCY_KEYS.items():
        if name != "exchange_seconds":
            band = getattr(efficiency, name)
            lines.append(f"{key} = {{ low = {band.low:.3g}, value = {band.value:.3g}, high = {band.high:.3g} }}")
    return "\n".join(lines) + "\n"


def entries(paths: list[Path]) -> Iterator[tuple[str, list[Sample], Efficiency]]:
    """For every GPU, engine and format of measurement files: the entry, its samples and the fit, 16-bit first."""
    groups: dict[tuple[str, str], dict[str, list[Sample]]] = {}
    for path in paths:
        for sample in read_samples(path):
            where = (sample.deployment.gpu.product, sample.deployment.settings.engine)
            groups.setdefault(where, {}).setdefault(stored_format(sample.deployment), []).append(sample)
    for formats in (groups[where] for where in sorted(groups)):
        plain = fit(formats["16-bit"]) if "16-bit" in formats else None
        for form in sorted(formats):
            samples = formats[form]
            found = plain if form == "16-bit" and plain is not None else fit(samples, plain)
            yield entry(samples, found, samples[0].deployment.settings.lmdeploy.version), samples, found


def measured_part() -> str:
    """Everything below the line of `planner/data/throughput.toml`."""
    return "\n".join(text for text, _, _ in entries(shipped_files()))


if __name__ == "__main__":
    print(measured_part(), end="")
