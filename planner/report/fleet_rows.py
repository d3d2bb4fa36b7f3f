"""A sweep as rows: what runs where, what is needed, and every workload on every kind of GPU."""

from __future__ import annotations

from planner.fleet.placement import Cell, Process, Slot, Sweep
from planner.report import decision_text as text
from planner.units import GIB, counted

PLACED = (
    "GPU",
    "start",
    "workload",
    "weights, KV bits",
    "ratio",
    "users",
    "finds GiB",
    "holds GiB",
    "tokens/s per user",
)
NEEDED = ("machines", "GPU", "needed", "available", "spare")
MATRIX = (
    "workload",
    "model",
    "context",
    "concurrency",
    "machines",
    "gpu",
    "num_gpus",
    "weights",
    "quant_policy",
    "cache_max_entry_count",
    "users",
    "serves",
    "verdict",
)


def placed(sweep: Sweep) -> list[list[str]]:
    """A row for each process: where, in which order, with what."""
    rows = []
    for name, slot in named_slots(sweep):
        for order, process in enumerate(slot.processes, 1):
            candidate = process.candidate
            rows.append(
                [
                    name if order == 1 else "",
                    f"{order}." if len(slot.processes) > 1 else "",
                    process.workload.name,
                    text.short_option(candidate.option),
                    f"{candidate.settings.cache_max_entry_count:g}",
                    f"{candidate.users:,} of {process.workload.load.num_users:,}",
                    f"{process.free_before_bytes / GIB:.1f}",
                    held(process),
                    f"{process.user_tokens_per_s:,.0f}" if process.user_tokens_per_s else "",
                ]
            )
    return rows


def held(process: Process) -> str:
    """What a process holds, and what it may grow to."""
    now, grown = process.memory.total_bytes / GIB, process.grown_bytes / GIB
    return f"{now:.1f} to {grown:.1f}" if f"{now:.1f}" != f"{grown:.1f}" else f"{now:.1f}"


def named_slots(sweep: Sweep) -> list[tuple[str, Slot]]:
    """Every GPU taken with its name: its machines and a number, or several numbers where a model takes several."""
    counts: dict[str, int] = {}
    named = []
    for slot in sweep.slots:
        if not slot.processes:
            continue
        first = counts.get(slot.machines.name, 0) + 1
        counts[slot.machines.name] = first + slot.num_gpus - 1
        last = f"-{first + slot.num_gpus - 1}" if slot.num_gpus > 1 else ""
        named.append((f"{slot.machines.name} {first}{last}", slot))
    return named


def needed(sweep: Sweep) -> list[list[str]]:
    """GPUs of each kind: needed, available, spare."""
    rows = []
    for machines in sweep.fleet.machines:
        count, there = sweep.needed(machines), machines.num_gpus
        spare = "" if there is None else f"{there - count:,}"
        rows.append(
            [machines.name, machines.gpu.name, f"{count:,}", "as needed" if there is None else f"{there:,}", spare]
        )
    return rows


def unplaced(sweep: Sweep) -> list[str]:
    """What got no GPU, a sentence each; copies with the same reason are counted together."""
    counted: dict[tuple[str, str], int] = {}
    for workload, reason in sweep.unplaced:
        counted[workload.name, reason] = counted.get((workload.name, reason), 0) + 1
    return [f"{name}{f' ({n} copies)' if n > 1 else ''}: {reason}" for (name, reason), n in counted.items()]


def matrix(sweep: Sweep) -> list[list[object]]:
    """Every workload on every kind of GPU by itself, as MATRIX names the columns."""
    return [_matrix_row(cell) for cell in sweep.cells]


def _matrix_row(cell: Cell) -> list[object]:
    load, candidate = cell.workload.load, cell.candidate if cell.serves else None
    option = candidate.option if candidate else None
    return [
        cell.workload.name,
        cell.workload.spec.name,
        load.context_tokens,
        load.num_users,
        cell.machines.name,
        cell.machines.gpu.name,
        option.tp if option else None,
        option.weights if option else None,
        option.quant_policy if option else None,
        candidate.settings.cache_max_entry_count if candidate else None,
        candidate.users if candidate else None,
        cell.serves,
        "serves" if cell.serves else cell.lack,
    ]


def grid(sweep: Sweep) -> tuple[list[str], list[list[str]]]:
    """The matrix as a grid: a row a workload, a column a kind of GPU."""
    kinds = [machines.name for machines in sweep.fleet.machines]
    cells = {(cell.workload.name, cell.machines.name): cell for cell in sweep.cells}
    rows = []
    for workload in sweep.fleet.workloads:
        rows.append([workload.name, *(_grid_cell(cells.get((workload.name, kind))) for kind in kinds)])
    return ["workload", *kinds], rows


def _grid_cell(cell: Cell | None) -> str:
    if cell is None:
        return "not requested"
    if cell.candidate is None or not cell.serves:
        return cell.lack
    option, users = cell.candidate.option, counted(cell.candidate.users, "user")
    return f"{f'{option.tp}x ' if option.tp > 1 else ''}{text.short_option(option)}, {users}"
