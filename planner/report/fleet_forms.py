"""A sweep as a table for the terminal, CSV, JSON and one page."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from typing import Any

from tabulate import tabulate

from planner import __version__
from planner.files.escape import csv_cell
from planner.files.escape import html as escape
from planner.fleet.placement import Process, Sweep
from planner.report import fleet_rows as rows
from planner.report import html, svg
from planner.report.jsonform import settings_object
from planner.units import GIB, counted

SCHEMA = "lmplan.sweep/1"
_WIDTH = 100


def render_table(sweep: Sweep) -> str:
    """What runs where, what is needed, what got no GPU."""
    right = ("left", "left", "left", "left", "right", "right", "right", "right", "right")
    blocks = [
        headline(sweep),
        tabulate(rows.placed(sweep), rows.PLACED, tablefmt="simple", disable_numparse=True, colalign=right)
        if sweep.slots
        else "",
        tabulate(rows.needed(sweep), rows.NEEDED, tablefmt="simple", disable_numparse=True),
        "\n".join(
            textwrap.fill(f"No GPU for {line}.", _WIDTH, subsequent_indent="  ") for line in rows.unplaced(sweep)
        ),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def headline(sweep: Sweep) -> str:
    """The answer in one line."""
    copies = sum(workload.copies for workload in sweep.fleet.workloads)
    count = sum(slot.num_gpus for slot in sweep.slots if slot.processes)
    placed = copies - len(sweep.unplaced)
    if sweep.unplaced:
        return f"{placed:,} of {counted(copies, 'model')} fit on {counted(count, 'GPU')}."
    return f"{'The model runs' if copies == 1 else f'All {copies:,} models run'} on {counted(count, 'GPU')}."


def render_csv(sweep: Sweep) -> str:
    """Every workload on every kind of GPU, one row each."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(rows.MATRIX)
    writer.writerows([_cell(value) for value in row] for row in rows.matrix(sweep))
    return out.getvalue()


def _cell(value: object) -> object:
    """Numbers stay numbers; a name is shown by a spreadsheet and not run."""
    if value is None:
        return ""
    return csv_cell(value) if isinstance(value, str) else value


def render_json(sweep: Sweep) -> str:
    """The object as text, indented, with a newline at the end."""
    return json.dumps(to_object(sweep), indent=2) + "\n"


def to_object(sweep: Sweep) -> dict[str, Any]:
    """The object; `planner/data/schemas/sweep-1.schema.json` describes it."""
    return {
        "schema": SCHEMA,
        "lmplan": __version__,
        "serves": not sweep.unplaced,
        "needed": [
            {
                "machines": machines.name,
                "gpu": machines.gpu.name,
                "needed": sweep.needed(machines),
                "there": machines.num_gpus,
            }
            for machines in sweep.fleet.machines
        ],
        "gpus": [
            {
                "name": name,
                "gpu": slot.machines.gpu.name,
                "num_gpus": slot.num_gpus,
                "free_bytes": slot.machines.free_bytes,
                "processes": [_process(process) for process in slot.processes],
            }
            for name, slot in rows.named_slots(sweep)
        ],
        "unplaced": [{"workload": workload.name, "reason": reason} for workload, reason in sweep.unplaced],
        "matrix": [dict(zip(rows.MATRIX, row, strict=True)) for row in rows.matrix(sweep)],
    }


def _process(process: Process) -> dict[str, Any]:
    return {
        "workload": process.workload.name,
        "model": process.workload.spec.name,
        "settings": settings_object(process.candidate.settings),
        "users": process.candidate.users,
        "free_before_bytes": process.free_before_bytes,
        "total_bytes": process.memory.total_bytes,
        "grown_bytes": process.grown_bytes,
        "user_tokens_per_s": process.user_tokens_per_s,
        "command": process.command,
    }


def render_html(sweep: Sweep, title: str, date: str) -> str:
    """One page: the answer, GPUs with what they hold, every workload on every kind, commands."""
    headers, cells = rows.grid(sweep)
    lacking = "".join(f"<li>{escape(line)}</li>" for line in rows.unplaced(sweep))
    body = "".join(
        (
            svg.PATTERNS,
            f"<header><h1>{escape(title)}</h1><p class='sub'>Fleet plan for LMDeploy, {escape(date)}, lmplan "
            f"{__version__}</p></header><main>",
            f"<section><h2>Decision</h2><div class='decision{' no' if lacking else ''}'><strong>"
            f"{escape(headline(sweep))}</strong></div>",
            f"<p>Without a GPU:</p><ul>{lacking}</ul>" if lacking else "",
            f"{html.table(rows.NEEDED, rows.needed(sweep), (2, 3, 4))}</section>",
            f"<section><h2>What runs where</h2>{_slots(sweep)}"
            f"{html.table(rows.PLACED, rows.placed(sweep), (4, 5, 6, 7, 8))}"
            "<p class='small-print'>On a shared GPU, processes start in this order, each with what those before it "
            "leave; what these may still grow by remains free. Speeds assume that a model has the GPU to itself at "
            "that moment.</p></section>",
            f"<section><h2>Every workload on every kind of GPU</h2>{html.table(headers, cells)}</section>",
            _commands(sweep),
            "</main>",
            "<div class='sign'><div>Reviewed by</div><div>Decision</div><div>Date</div></div>",
        )
    )
    return html.page(title, body)


def _slots(sweep: Sweep) -> str:
    shown = [
        (
            name,
            slot.machines.free_bytes,
            [(process.workload.name, process.grown_bytes) for process in slot.processes],
        )
        for name, slot in rows.named_slots(sweep)
    ]
    if not shown:
        return ""
    return (
        f"<figure><div class='scroll'>{svg.slots(shown)}</div><figcaption>GiB on each GPU with every process at its "
        "largest, in the order of their start; the line is what is free.</figcaption></figure>"
    )


def _commands(sweep: Sweep) -> str:
    parts = []
    for name, slot in rows.named_slots(sweep):
        lines = "\n".join(process.command for process in slot.processes)
        held = ", ".join(
            f"{process.workload.name} ({process.free_before_bytes / GIB:.1f} GiB free before it)"
            for process in slot.processes
        )
        summary = f"<summary>{escape(name)}: {escape(held)}</summary>"
        parts.append(f"<details>{summary}<pre><code>{escape(lines)}</code></pre></details>")
    return f"<section><h2>Commands</h2>{''.join(parts)}</section>" if parts else ""
