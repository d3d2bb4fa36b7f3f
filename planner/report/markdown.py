"""A plan as Markdown, for a ticket or a wiki."""

from __future__ import annotations

from tabulate import tabulate

from planner.api.estimate import Plan
from planner.files.escape import markdown as escape
from planner.report import wording
from planner.units import GIB, counted


def render(plan: Plan) -> str:
    """The whole report in Markdown; byte counts as GiB."""
    memory = plan.memory
    rows = [
        [
            wording.title(term.name),
            f"{term.size_bytes / GIB:.2f}",
            f"{term.low_bytes / GIB:.2f} to {term.high_bytes / GIB:.2f}"
            if term.low_bytes != term.high_bytes
            else "exact",
            str(term.evidence),
        ]
        for term in memory.terms
    ]
    rows.append(["**total when serving**", f"**{memory.total_bytes / GIB:.2f}**", "", ""])
    rows.append(["peak while starting", f"{memory.load_peak_bytes / GIB:.2f}", "", ""])
    if memory.growth_bytes:
        rows.append(["most under full load", f"{memory.full_load_bytes / GIB:.2f}", "", ""])
    capacity = [[f"{context:,}", f"{count:,}"] for context, count in wording.capacity_rows(plan)]
    parts = [
        f"## {escape(memory.deployment.spec.name)} on {memory.deployment.gpu.name}",
        f"**{wording.headline(plan)}**",
        f"- Model: {escape(wording.model_line(plan))}\n"
        f"- GPU: {wording.gpu_line(plan)}\n"
        f"- Settings: {wording.settings_line(plan)}",
        _table(rows, ["term", "GiB", "band GiB", "evidence"]),
        f"KV cache: {counted(memory.kv_cache.blocks, 'block')} of {memory.kv_cache.block_tokens} tokens, "
        + " ".join([f"{counted(memory.kv_cache.tokens, 'token')}.", *wording.beside_tokens(plan)]),
        _table(capacity, ["context tokens", "concurrent sequences"]) if memory.kv_cache.blocks else "",
        "### Recommended\n\n" + "\n".join(f"- {reason}" for reason in plan.recommendation.why),
        f"```\n{plan.command}\n```" if plan.command else "",
        "\n".join(f"- Note: {escape(note)}" for note in (*plan.notes, *memory.warnings)),
        "\n".join(f"- Assumed: {assumption}" for assumption in wording.assumptions(plan)),
        wording.accuracy_line(plan),
        wording.CAPACITY_NOT_FOOTPRINT,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(rows: list[list[str]], headers: list[str]) -> str:
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)
