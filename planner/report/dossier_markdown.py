"""A report as Markdown: the decision, the terms, capacity, evidence and provenance."""

from __future__ import annotations

from tabulate import tabulate

from planner.files.escape import markdown as escape
from planner.report import decision_table, wording
from planner.report.dossier import Dossier
from planner.units import GIB, format_gib


def render(dossier: Dossier) -> str:
    """The whole report."""
    parts = [
        decision_table.render_markdown(dossier.advice).rstrip(),
        _terms(dossier),
        _capacity(dossier),
        _assumed(dossier),
        _measured(dossier),
        _provenance(dossier),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _terms(dossier: Dossier) -> str:
    memory = dossier.memory
    if memory is None:
        return ""
    rows = [[wording.title(t.name), f"{t.size_bytes / GIB:.3f}", t.formula, str(t.evidence)] for t in memory.terms]
    rows.append(["**total when serving**", f"**{memory.total_bytes / GIB:.3f}**", "", ""])
    rows.append(["peak while starting", f"{memory.load_peak_bytes / GIB:.3f}", "", ""])
    if memory.growth_bytes:
        rows.append(["most under full load", f"{memory.full_load_bytes / GIB:.3f}", "", ""])
    return "### Memory of the chosen plan\n\n" + _table(rows, ["term", "GiB", "formula with its inputs", "evidence"])


def _capacity(dossier: Dossier) -> str:
    curves = dossier.curves
    if not curves:
        return ""
    rows = [
        [f"{context:,}", *(f"{curve.points[i][1]:,}" for curve in curves)]
        for i, (context, _) in enumerate(curves[0].points)
    ]
    headers = ["context tokens", *(f"{curve.option.quant_policy or 16}-bit KV" for curve in curves)]
    return "### Concurrent sequences by context length\n\n" + _table(rows, headers)


def _assumed(dossier: Dossier) -> str:
    items = [f"- {wording.title(t.name)} {format_gib(t.size_bytes)}: {t.evidence.detail}" for t in dossier.assumed]
    return "### Assumed\n\n" + "\n".join(items) if items else ""


def _measured(dossier: Dossier) -> str:
    rows = [
        [
            f"{r.run.product}, {r.run.lmdeploy}",
            ", ".join(f"{k} {v}" for k, v in r.run.settings.items() if k not in ("engine", "lmdeploy") and v),
            f"{r.run.used_bytes / GIB:.2f}" if r.run.used_bytes else r.run.outcome,
            f"{r.memory.total_bytes / GIB:.2f}" if r.memory.fits else str(r.memory.outcome),
        ]
        for r in dossier.measured
    ]
    headers = ["where", "settings", "measured GiB", "estimated GiB"]
    return "### Measured against estimated\n\n" + _table(rows, headers) if rows else ""


def _provenance(dossier: Dossier) -> str:
    made = dossier.provenance
    revision = f"@{made.revision}" if made.revision else ""
    lines = [
        f"- lmplan {made.lmplan}, LMDeploy {made.lmdeploy}, {made.date}",
        f"- model {escape(made.model)}{revision}, config.json sha256 {made.config_sha256}",
        *(f"- {source}" for source in made.gpu_sources),
    ]
    return "### Provenance\n\n" + "\n".join(lines)


def _table(rows: list[list[str]], headers: list[str]) -> str:
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)
