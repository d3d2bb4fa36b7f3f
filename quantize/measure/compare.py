"""An estimate beside a measurement: what was said, what was seen, and whether it lies in the band."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from planner.errors import UsageError
from planner.evidence.forms import EstimateForm, check, check_schema
from planner.files import reading
from planner.files.escape import shown
from planner.kinds import EngineName, assert_never
from planner.model.quantization import QuantMethod
from planner.units import MIB, format_gib
from planner.verdict import Verdict
from quantize.measure.measurement import Measurement

ESTIMATE_SCHEMA: Final = "lmplan.estimate/1"
_SAME: Final = (
    "engine",
    "lmdeploy",
    "weights",
    "dtype",
    "quant_policy",
    "cache_max_entry_count",
    "tp",
    "session_len",
    "max_batch_size",
    "max_prefill_token_num",
)
_DENSE, _TP, _FOUR_BITS, _PYTORCH = 0.01, 0.015, 0.03, 0.03
"""Relative differences that `lmplan compare` accepts. Repeats of a 16-bit TurboMind start agree to 0.1%, those of a
4-bit one differ by up to 2.5% of the KV budget (a race in the engine), NCCL takes its buffers as it goes, and the
PyTorch engine loads code so."""
_FREE_DIFFERENCE_BYTES: Final = 64 * MIB
"""Holding the rest of a card leaves up to 16 MiB more than asked for (`hold.py`)."""


@dataclass(frozen=True, slots=True)
class Row:
    """One quantity on both sides. `low` and `high` are the estimate's band; `unit` is bytes, blocks or tokens."""

    name: str
    unit: str
    estimated: int
    measured: int
    low: int
    high: int
    judged: bool = True

    @property
    def off_ratio(self) -> float:
        """How far the estimate is from the measurement, relative to it."""
        if not self.measured:
            return 1.0 if self.estimated else 0.0
        return self.estimated / self.measured - 1

    @property
    def in_band(self) -> bool:
        """Whether what was measured lies in the estimate's own band."""
        return self.low <= self.measured <= self.high

    def within(self, tolerance: float) -> bool:
        """Inside the band or the tolerance."""
        return self.in_band or abs(self.off_ratio) <= tolerance


@dataclass(frozen=True, slots=True)
class Comparison:
    """Every quantity that both sides know, and the two verdicts."""

    rows: tuple[Row, ...]
    estimated_verdict: str
    measured_outcome: str
    tolerance: float

    @property
    def verdict_right(self) -> bool:
        """Whether the estimate said what happened."""
        return self.estimated_verdict == self.measured_outcome

    @property
    def passed(self) -> bool:
        """Whether the verdict is right and every judged row lies within the tolerance."""
        return self.verdict_right and all(row.within(self.tolerance) for row in self.rows if row.judged)


def compare(estimate: dict[str, Any], measurement: Measurement, tolerance: float | None = None) -> Comparison:
    """Compare an estimate (the JSON object of `lmplan estimate`) with a measurement.

    Raises:
        UsageError: the two are not of the same schema, model or settings.
    """
    _check_same(estimate, measurement)
    terms = {term["name"]: term for term in estimate["per_gpu"]["terms"]}
    rows = [*_context(terms, measurement), *_cache(estimate, terms, measurement), *_totals(estimate, measurement)]
    return Comparison(
        tuple(rows),
        Verdict(estimate["verdict"]).outcome,
        measurement.outcome,
        _tolerance(estimate, measurement) if tolerance is None else tolerance,
    )


def read_estimate(path: Path) -> dict[str, Any]:
    """The estimate that a file holds.

    Raises:
        UsageError: it cannot be read, is of another schema, or lacks what a comparison reads.
    """
    value = reading.read_object(path, reading.ESTIMATE)
    check_schema(value, ESTIMATE_SCHEMA, f"{shown(path)} is no estimate", reading.ESTIMATE.hint)
    check(EstimateForm, value, shown(path), reading.ESTIMATE.hint)
    return value


def _tolerance(estimate: dict[str, Any], measurement: Measurement) -> float:
    engine = EngineName(estimate["settings"]["engine"])
    match engine:
        case EngineName.PYTORCH:
            return _PYTORCH
        case EngineName.TURBOMIND:
            if measurement.checkpoint.get("format") in (QuantMethod.AWQ.value, QuantMethod.GPTQ.value):
                return _FOUR_BITS
            return _TP if estimate["settings"]["tp"] > 1 else _DENSE
        case _:
            assert_never(engine)


def _check_same(estimate: dict[str, Any], measurement: Measurement) -> None:
    check_schema(estimate, ESTIMATE_SCHEMA, "that is no estimate")
    planned, served = estimate["model"]["name"], measurement.model["name"]
    if planned != served:
        raise UsageError(f"the estimate is of {shown(planned)}, the measurement of {shown(served)}")
    ran = {"lmdeploy": measurement.host.get("lmdeploy"), **measurement.settings}
    for key in _SAME:
        measured, estimated = ran.get(key), estimate["settings"][key]
        if measured is not None and measured != estimated:
            raise UsageError(
                f"the measurement has another setting: {key} is {shown(str(measured))}, "
                f"the estimate's is {shown(str(estimated))}",
                "Estimate again with the settings that ran",
            )
    free = estimate["gpu"]["free_bytes"]
    if abs(free - measurement.free_before_bytes) > _FREE_DIFFERENCE_BYTES:
        raise UsageError(
            f"the measurement began with {format_gib(measurement.free_before_bytes)} free, the estimate with "
            f"{format_gib(free)}",
            f"Estimate again with --free {measurement.free_before_bytes // 2**20}MiB",
        )


def _context(terms: dict[str, Any], measurement: Measurement) -> list[Row]:
    phase, term = measurement.phase("context"), terms.get("cuda_context")
    if phase is None or term is None:
        return []
    # Not judged: megabytes out of gigabytes, and the kernel code that follows is not seen apart.
    return [_row("CUDA context", term, phase.used_bytes[0], judged=False)]


def _cache(estimate: dict[str, Any], terms: dict[str, Any], measurement: Measurement) -> list[Row]:
    log, kv = measurement.engine_log, estimate["kv_cache"]
    rows = []
    if "kv_budget_bytes" in log:
        rows.append(_row("KV budget", terms["kv_cache"], log["kv_budget_bytes"]))
    if "block_bytes" in log:
        rows.append(_exact("block", "bytes", kv["block_bytes"], log["block_bytes"]))
    if "blocks" in log:
        rows.append(_exact("blocks", "blocks", kv["blocks"], log["blocks"]))
    return rows


def _totals(estimate: dict[str, Any], measurement: Measurement) -> list[Row]:
    per_gpu = estimate["per_gpu"]
    rows = []
    if measurement.total_bytes is not None:
        rows.append(_exact("total when serving", "bytes", per_gpu["total_bytes"], measurement.total_bytes))
        loaded = measurement.phase("loaded")
        if loaded is not None and not loaded.facts.get("attached"):  # nobody saw such a server start
            rows.append(_exact("peak while starting", "bytes", per_gpu["load_peak_bytes"], measurement.load_peak_bytes))
        growth = _growth(measurement)
        if growth is not None:
            allowed = sum(t["high_bytes"] - t["bytes"] for t in per_gpu["terms"] if t["name"] != "kv_cache")
            rows.append(Row("growth under load", "bytes", 0, growth, 0, allowed, judged=False))
    return rows


def _growth(measurement: Measurement) -> int | None:
    """How far requests took the process beyond what it held once it served; None without a full batch."""
    names = [phase.name for phase in measurement.phases]
    if "full_batch" not in names or measurement.total_bytes is None:
        return None
    served = measurement.phases[names.index("loaded") + 1 :]
    if not served:  # requests before it had loaded: nobody runs so
        return None
    return max(max(phase.peak_bytes[0] for phase in served) - measurement.total_bytes, 0)


def _row(name: str, term: dict[str, Any], measured: int, judged: bool = True) -> Row:
    return Row(name, "bytes", term["bytes"], measured, term["low_bytes"], term["high_bytes"], judged)


def _exact(name: str, unit: str, estimated: int, measured: int) -> Row:
    return Row(name, unit, estimated, measured, estimated, estimated)
