"""What the quantize and inspect commands print: values in, text out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from tabulate import tabulate

from planner.api.estimate import Plan
from planner.errors import LmplanError
from planner.files.escape import visible
from planner.units import format_bytes, format_gib
from quantize.lite.inspection import Inspection
from quantize.lite.methods import METHODS
from quantize.quality.needs import QualityNeeds
from quantize.quality.report import Problem, Quality
from quantize.recipe.model import QualityCheck, Recipe, Target
from quantize.run.manifest import Manifest
from quantize.run.prepare import Job
from quantize.run.progress import format_seconds


def _table(rows: Iterable[tuple[str, str]]) -> str:
    """Two columns, one line each, whatever the names in them hold."""
    return tabulate([(name, visible(text)) for name, text in rows], tablefmt="plain", disable_numparse=True)


def preflight_text(job: Job, name: str) -> str:
    """The job at a glance: what will run, what it makes and what it takes."""
    recipe, needs, machine = job.recipe, job.needs, job.machine
    rows = [
        ("recipe", name),
        ("model", _model(job)),
        ("output", str(job.output)),
        ("format", METHODS[recipe.method].describe(recipe)),
        ("calibration", _calibration(recipe, job.batch_size)),
    ]
    if job.installed is not None:
        others = [f"{n} {job.installed.packages[n]}" for n in ("torch", "transformers") if n in job.installed.packages]
        note = "" if job.installed.command else " (not installed; what follows is for it)"
        rows.append(("LMDeploy", ", ".join([job.installed.version, *others]) + note))
    if job.expected is not None:
        rows.append(
            ("checkpoint", f"{job.expected.file_bytes:,} bytes ({format_bytes(job.expected.file_bytes)}) predicted")
        )
    disk_free = "unknown" if machine.disk_free_bytes is None else format_gib(machine.disk_free_bytes)
    if needs is not None:
        if needs.gpu_bytes:
            gpu = machine.gpu
            there = f"{format_gib(gpu.free_bytes)} free on {gpu.product}" if gpu else "no GPU here"
            rows.append(("GPU memory", f"{format_gib(needs.gpu_bytes)} at the peak; {there}"))
        rows += [
            (
                "host memory",
                f"{format_gib(needs.host_bytes)} at the peak; {format_gib(machine.host_available_bytes)} free",
            ),
            ("disk", f"{format_gib(needs.disk_bytes)}; {disk_free} free"),
            ("time", f"about {format_seconds(needs.seconds)}"),
        ]
    if job.check_needs is not None:
        rows.append(("check", _check(job.check_needs, recipe)))
    return _table(rows)


def findings_text(job: Job) -> str:
    """Every finding with its remedy; empty where there is none."""
    lines = []
    for finding in sorted(job.findings, key=lambda finding: finding.severity.value):
        lines.append(f"{finding.severity.value}: {visible(finding.what)}")
        if finding.remedy:
            lines.append(f"  {visible(finding.remedy)}")
    return "\n".join(lines)


def outcome_text(manifest: Mapping[str, Any] | Manifest, output: Path, quality: Quality | None) -> str:
    """What a run made and took, beside what was predicted; and how good it is."""
    assert isinstance(manifest, Manifest)
    rows = [
        ("output", str(output)),
        ("checkpoint", _beside(manifest.checkpoint.found_bytes, manifest.checkpoint.predicted_bytes, exact=True)),
        *(() if quality is None else quality_rows(quality)),
        ("host memory", _beside(manifest.host.found_bytes, manifest.host.predicted_bytes)),
    ]
    if manifest.gpu.predicted_bytes:
        rows.append(("GPU memory", _beside(manifest.gpu.found_bytes, manifest.gpu.predicted_bytes)))
        if manifest.gpu_allocated_bytes:
            rows.append(
                ("", f"{format_gib(manifest.gpu_allocated_bytes)} of it in PyTorch's tensors, as LMDeploy says")
            )
    phases = ", ".join(f"{name} {format_seconds(seconds)}" for name, seconds in manifest.phase_seconds.items())
    rows.append(
        (
            "time",
            f"{format_seconds(manifest.seconds)} ({phases}); predicted {format_seconds(manifest.predicted_seconds)}",
        )
    )
    return _table(rows)


def estimate_text(
    plan: Plan | LmplanError, deployment: Target, output: Path, unmeasured: LmplanError | None = None
) -> str:
    """The estimate of serving the result; where it could not be measured, why not and how to."""
    if isinstance(plan, LmplanError):
        return f"No estimate for {deployment.gpu}: {plan.message}"
    rows = [
        ("for", f"{deployment.gpu}, {deployment.engine}, KV {deployment.kv_bits} bits, ratio {deployment.ratio:g}"),
        ("verdict", str(plan.verdict)),
    ]
    if unmeasured is None:
        rows.append(("GPU memory", f"{format_gib(plan.total_bytes)} predicted"))
    else:
        rows += [
            ("GPU memory", f"{format_gib(plan.total_bytes)} predicted, not measured: {unmeasured.message}"),
            ("", f"to measure it, there: lmplan measure --model {quote(str(output))} --gpu {quote(deployment.gpu)}"),
        ]
    rows += [
        (
            "sessions",
            f"{plan.memory.max_sequences(deployment.context_tokens)} of {deployment.context_tokens} tokens at once",
        ),
    ]
    if plan.command:
        rows.append(("serve", plan.command))
    return _table(rows)


def quality_rows(quality: Quality) -> list[tuple[str, str]]:
    """How far a result is from its original: its linears, and held-out text."""
    worst = max(quality.linears, key=lambda linear: math.inf if linear.error is None else linear.error, default=None)
    rows = []
    if worst is not None and worst.error is not None:
        rows.append(("weights", f"at most {worst.error:.1%} off the original's ({worst.name})"))
    text = quality.text
    if text is None or text.perplexity_increase is None:
        rows.append(("held-out text", f"not looked at: {quality.text_skipped}" if text is None else "no number"))
        return rows
    rows += [
        (
            "held-out text",
            f"perplexity {text.perplexity_result:.4g}, the original's {text.perplexity_original:.4g} "
            f"({text.perplexity_increase:+.1%})",
        ),
        ("", f"divergence {text.mean_kl_nats:.3g} nats, {text.top1_agreement_ratio:.0%} of next tokens the same"),
    ]
    return rows


def inspection_text(
    inspection: Inspection, folder: Path, quality: Quality | None = None, found: Sequence[Problem] = ()
) -> str:
    """The result of `lmplan inspect`."""
    rows = [("folder", str(folder))]
    if inspection.quantization is not None:
        q = inspection.quantization
        rows.append(("format", f"{q.method}, {q.bits} bits, groups of {q.group_size}"))
    if inspection.num_tensors:
        rows += [
            ("tensors", f"{inspection.num_tensors}, {inspection.num_scales} of them scales"),
            ("bytes", _beside(inspection.tensor_bytes, inspection.expected_bytes, exact=True)),
        ]
    rows += [] if quality is None else quality_rows(quality)
    rows += [("note", note) for note in inspection.notes]
    rows += [("problem", problem) for problem in (*inspection.problems, *(problem.what for problem in found))]
    rows.append(("result", "passed" if inspection.passed and not found else "failed"))
    return _table(rows)


def _beside(found: int | None, predicted: int | None, exact: bool = False) -> str:
    shown = (lambda size: f"{size:,} bytes") if exact else format_gib
    if found is None:
        return f"not measured; {shown(predicted)} predicted" if predicted else "not measured"
    if not predicted:
        return shown(found)
    difference = (found - predicted) / predicted
    return f"{shown(found)}; {shown(predicted)} predicted ({difference:+.{4 if exact else 1}%})"


def _check(needs: QualityNeeds, recipe: Recipe) -> str:
    with_text = recipe.check.quality is QualityCheck.FULL and not recipe.draw
    what = "weights and held-out text" if with_text else "weights"
    device, size = ("GPU", needs.gpu_bytes) if needs.gpu_bytes else ("host", needs.host_bytes)
    return (
        f"{what} against the original's: about {format_seconds(needs.seconds)}, {format_gib(size)} of {device} memory"
    )


def _model(job: Job) -> str:
    parts = [job.source.hf_id or job.source.name]
    if job.source.revision:
        parts.append(f"at {job.source.revision[:12]}")
    if job.recipe.draw:
        parts.append("(drawn at random)")
    return " ".join(parts)


def _calibration(recipe: Recipe, batch_size: int) -> str:
    calibration = recipe.calibration
    if calibration.data_free:
        return "none: plain rounding"
    what = calibration.text or calibration.dataset
    automatic = " (auto)" if calibration.batch_size == "auto" else ""
    search = ", scale search" if recipe.search_scale else ""
    return f"{what}, {calibration.samples} x {calibration.seqlen} tokens, batch size {batch_size}{automatic}{search}"
