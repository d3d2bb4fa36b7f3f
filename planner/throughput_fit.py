"""Efficiencies from measured speeds: how `[[measured]]` entries of `planner/data/throughput.toml` come about.

A step's time is taken as bytes read / bandwidth / efficiency + layers x layer_seconds. Over many models and batches the
two unknowns separate: small models are all launches, large ones all reading. They are fitted by least squares of
relative errors; the band is the span of efficiencies that single measurements ask for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.engine import versions
from planner.engine.base import Deployment
from planner.engine.pick import pick_engine
from planner.engine.settings import Wishes, decide
from planner.gpu import Gpu, catalog
from planner.model.arch import read_spec
from planner.throughput import Band, Efficiency, Work, assumed_efficiency, peak_flops_per_s, work_of

SHORT_PROMPT_TOKENS = 32
"""Prompt of the decoding phases of a measurement (`lmplan measure`)."""


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
    """The speeds of a measurement file; none where it did not serve or its GPU has no known rates."""
    value = json.loads(path.read_text(encoding="utf-8"))
    for run in value.get("runs", [value]):
        yield from _samples(run, path.stem)


def _samples(run: dict[str, Any], stem: str) -> Iterator[Sample]:
    phases = [p for p in run.get("phases", ()) if p["name"] in ("decode", "long_prefill") and p["facts"].get("seconds")]
    gpu = next((g for g in catalog() if g.product == run.get("host", {}).get("product") and not g.slice_of), None)
    if not phases or gpu is None or not gpu.memory_bandwidth_bytes_per_s:
        return
    deployment, work = _deployment(run, gpu)
    for phase in phases:
        facts = phase["facts"]
        decode = phase["name"] == "decode"
        batch = int(facts.get("batch", 1))
        made = facts["tokens"] // batch
        yield Sample(
            f"{run['model']['name']} {phase['name']} {batch} ({stem})",
            deployment,
            work,
            "decode" if decode else "prefill",
            batch,
            facts.get("prompt_tokens", SHORT_PROMPT_TOKENS) + made // 2 if decode else facts["tokens"],
            facts["tokens"] / facts["seconds"],
        )


def _deployment(run: dict[str, Any], gpu: Gpu) -> tuple[Deployment, Work]:
    spec = read_spec(run["model"]["config"], run["model"]["name"])
    known = {name: run["settings"][name] for name in Wishes.__dataclass_fields__ if name in run["settings"]}
    known["engine"] = run["settings"].get("engine")
    settings = decide(spec, gpu, versions.resolve(run["host"]["lmdeploy"]), Wishes(**known))
    deployment = Deployment(spec, gpu, gpu.memory_total_bytes, settings)
    engine = pick_engine(deployment)
    kv = engine.kv_cache(gpu.memory_total_bytes)
    return deployment, work_of(deployment, engine, kv.block_bytes / kv.block_tokens)


def fit(samples: list[Sample]) -> Efficiency:
    """Efficiencies that explain the samples of one GPU and engine.

    Samples of tensor parallelism are left out: what their ranks exchange is not told apart here.
    """
    assumed = assumed_efficiency()
    single = [s for s in samples if s.work.tp == 1]
    decodes = [s for s in single if s.phase == "decode" and s.compute_seconds < s.read_seconds]
    prefills = [s for s in single if s.phase == "prefill"]
    bandwidth, layer = _fit_decoding(decodes) if len(decodes) > 1 else (assumed.bandwidth, assumed.layer_seconds)
    compute = assumed.compute
    if prefills:
        shares = sorted(s.compute_seconds * s.tokens_per_s / s.context_tokens for s in prefills)
        compute = Band(shares[0], shares[len(shares) // 2], shares[-1])
    evidence = f"measured ({len(single)} speeds)" if single else assumed.evidence
    return Efficiency(bandwidth, compute, layer, assumed.exchange_seconds, evidence)


def _fit_decoding(samples: list[Sample]) -> tuple[Band, Band]:
    # Minimise the sum of ((x * read + y * layers) / time - 1) ** 2 over x = 1 / efficiency and y >= 0.
    rows = [(s.read_seconds / s.step_seconds, s.work.num_layers / s.step_seconds) for s in samples]
    aa, ab, bb = (sum(r[i] * r[j] for r in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    a, b = sum(r[0] for r in rows), sum(r[1] for r in rows)
    determinant = aa * bb - ab * ab
    y = (aa * b - ab * a) / determinant if determinant > 0 else 0.0
    y = max(y, 0.0)
    x = (a - ab * y) / aa
    # Whatever is slower or faster than the fit is put down to reading, but no share is above one.
    shares = [s.read_seconds / max(s.step_seconds - y * s.work.num_layers, s.read_seconds) for s in samples]
    value = min(1 / x, 1.0)
    return Band(min(*shares, value), value, max(*shares, value)), Band(y, y, y)


def to_toml(product: str, engine: str, lmdeploy: str, efficiency: Efficiency, runs: int) -> str:
    """The `[[measured]]` entry."""

    def band(value: Band) -> str:
        return f"{{ low = {value.low:.3g}, value = {value.value:.3g}, high = {value.high:.3g} }}"

    return (
        f'[[measured]]\nproduct = "{product}"\nengine = "{engine}"\nlmdeploy = "{lmdeploy}"\nruns = {runs}\n'
        f"bandwidth_efficiency = {band(efficiency.bandwidth)}\ncompute_efficiency = {band(efficiency.compute)}\n"
        f"layer_seconds = {band(efficiency.layer_seconds)}\n"
    )
