"""A plan for the terminal: verdict, bar, terms, capacity, what to do."""

from __future__ import annotations

import textwrap

from tabulate import tabulate

from planner.api.estimate import Plan
from planner.report import wording
from planner.units import GIB, counted, format_gib

_WIDTH = 100
_BAR_CELLS = 64
_FILLS = ("█", "▓", "▒")


def render(plan: Plan) -> str:
    """The whole report; lines end in a newline."""
    blocks = [
        f"{wording.model_line(plan)}\non {wording.gpu_line(plan)}\nwith {wording.settings_line(plan)}",
        _wrap(wording.headline(plan)),
        _bar(plan),
        _terms(plan),
        _capacity(plan),
        _recommendation(plan),
        _list("Note", (*plan.notes, *plan.memory.warnings)),
        _list("Assumed", tuple(wording.assumptions(plan))),
        _wrap(wording.accuracy_line(plan)),
        _wrap(wording.CAPACITY_NOT_FOOTPRINT),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def explain(plan: Plan) -> str:
    """Each term's formula with the numbers put in, and what loading holds besides."""
    memory = plan.memory
    extra = [memory.staging, *([memory.transient] if memory.transient else [])]
    lines = ["How each number is computed"]
    for term in (*memory.terms, *extra):
        lines.append(f"\n{wording.title(term.name)}: {term.size_bytes} bytes ({format_gib(term.size_bytes, 3)})")
        lines.append(textwrap.indent(_wrap(f"= {term.formula}", _WIDTH - 2), "  "))
        lines.append(textwrap.indent(_wrap(f"{term.what}; {term.evidence}", _WIDTH - 2), "  "))
    lines.append(
        f"\ntotal: {memory.total_bytes} bytes, the sum of the terms listed before the staging"
        f"\nload peak: {memory.load_peak_bytes} bytes, what is held before the KV cache plus staging, "
        "or the peak of the start if higher"
    )
    return "\n".join(lines) + "\n"


def _wrap(text: str, width: int = _WIDTH) -> str:
    return textwrap.fill(text, width)


def _bar(plan: Plan) -> str:
    """Weights, everything else and KV cache as shares of what is free; what is missing runs over the end."""
    memory = plan.memory
    kv = memory.kv_cache.budget_bytes
    weights = sum(t.size_bytes for t in memory.terms if t.name in ("weights", "vision_tower"))
    other = memory.total_bytes - kv - weights
    free = memory.deployment.free_bytes
    scale = max(free, memory.total_bytes)
    parts = [(weights, "weights"), (kv, "KV cache"), (other, "rest")]
    cells = "".join(fill * round(size / scale * _BAR_CELLS) for fill, (size, _) in zip(_FILLS, parts, strict=True))
    legend = "  ".join(f"{fill} {name} {size / GIB:.2f}" for fill, (size, name) in zip(_FILLS, parts, strict=True))
    spare = free - memory.total_bytes
    tail = f"  · free {spare / GIB:.2f} GiB" if spare >= 0 else f"  ! {-spare / GIB:.2f} GiB over"
    return f"[{cells.ljust(_BAR_CELLS, '·')[:_BAR_CELLS]}]\n {legend}{tail}"


def _terms(plan: Plan) -> str:
    memory = plan.memory
    total = memory.total_bytes
    rows: list[list[str]] = [
        [
            wording.title(term.name),
            f"{term.size_bytes / GIB:.2f}",
            f"{term.size_bytes / total:.0%}",
            wording.short_evidence(term.evidence),
        ]
        for term in memory.terms
    ]
    rows.append(["total when serving", f"{total / GIB:.2f}", "100%", ""])
    rows.append(["peak while starting", f"{memory.load_peak_bytes / GIB:.2f}", "", ""])
    if memory.growth_bytes:
        rows.append(["most under full load", f"{memory.full_load_bytes / GIB:.2f}", "", ""])
    return tabulate(
        rows,
        headers=["", "GiB", "share", "evidence"],
        tablefmt="simple",
        disable_numparse=True,
        colalign=("left", "right", "right", "left"),
    )


def _capacity(plan: Plan) -> str:
    kv = plan.memory.kv_cache
    lines = [f"KV cache: {counted(kv.blocks, 'block')} of {kv.block_tokens} tokens = {counted(kv.tokens, 'token')}."]
    if kv.blocks:
        sequences = ", ".join(f"{count:,} of {context:,}" for context, count in wording.capacity_rows(plan))
        batch = plan.memory.deployment.settings.max_batch_size
        lines.append(
            _wrap(f"Concurrent sequences by tokens of context: {sequences} (max_batch_size allows {batch:,}).")
        )
    lines += wording.beside_tokens(plan)
    return "\n".join(lines)


def _recommendation(plan: Plan) -> str:
    why = list(plan.recommendation.why)
    lines = [_wrap(f"Recommended: {why[0]}.")] if plan.command else [_wrap(f"Recommended: none, {why[0]}.")]
    lines += [
        textwrap.fill(f"- {reason}.", _WIDTH, initial_indent="  ", subsequent_indent="    ") for reason in why[1:]
    ]
    if plan.command:
        lines.append(f"\n  {plan.command}")
    return "\n".join(lines)


def _list(label: str, entries: tuple[str, ...]) -> str:
    return "\n".join(textwrap.fill(f"{label}: {entry}.", _WIDTH, subsequent_indent="  ") for entry in entries)
