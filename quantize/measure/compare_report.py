"""A comparison as a table or as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict

from tabulate import tabulate

from planner.units import format_gib
from quantize.measure.compare import Comparison, Row


def table(comparison: Comparison) -> str:
    """For the terminal."""
    rows = [
        [
            row.name,
            _size(row, row.estimated),
            _size(row, row.measured),
            f"{row.off_ratio:+.2%}" if row.measured and row.estimated else "",
            _judgement(row, comparison.tolerance),
        ]
        for row in comparison.rows
    ]
    body = tabulate(
        rows,
        headers=["", "estimated", "measured", "off by", ""],
        tablefmt="simple",
        disable_numparse=True,
        colalign=("left", "right", "right", "right", "left"),
    )
    verdict = (
        f"Verdict: {comparison.measured_outcome}, as estimated."
        if comparison.verdict_right
        else f"Verdict: {comparison.measured_outcome}; the estimate said: {comparison.estimated_verdict}."
    )
    result = "passed" if comparison.passed else "failed"
    return f"{body}\n\n{verdict}\nTolerance {comparison.tolerance:.1%}: {result}.\n"


def to_json(comparison: Comparison) -> str:
    """For programs."""
    rows = [
        {**asdict(row), "off_ratio": row.off_ratio, "in_band": row.in_band, "within": row.within(comparison.tolerance)}
        for row in comparison.rows
    ]
    return (
        json.dumps(
            {
                "schema": "lmplan.comparison/1",
                "rows": rows,
                "estimated_verdict": comparison.estimated_verdict,
                "measured_outcome": comparison.measured_outcome,
                "verdict_right": comparison.verdict_right,
                "tolerance": comparison.tolerance,
                "passed": comparison.passed,
            },
            indent=2,
        )
        + "\n"
    )


def _size(row: Row, value: int) -> str:
    if row.unit != "bytes":
        return f"{value:,}"
    return f"{value:,} B" if row.name == "block" else format_gib(value, 3)


def _judgement(row: Row, tolerance: float) -> str:
    if not row.judged:
        return "inside the band" if row.in_band else "outside the band, not judged"
    if row.in_band:
        return "equal" if row.low == row.high else "inside the band"
    return f"within {tolerance:.1%}" if row.within(tolerance) else "OUTSIDE"
