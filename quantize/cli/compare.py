"""`lmplan compare`: parse, one call, print."""

from __future__ import annotations

from pathlib import Path

import click

from planner.cli.options import schema_option
from planner.cli.output import say
from planner.errors import CheckFailedError, UsageError
from quantize.measure import compare_report
from quantize.measure.compare import compare, read_estimate
from quantize.measure.measurement import read


@click.command("compare")
@click.argument("estimate_file", metavar="ESTIMATE", type=click.Path(path_type=Path))
@click.argument("measurement_file", metavar="MEASUREMENT", type=click.Path(path_type=Path))
@click.option("--tolerance", type=float, help="Relative difference allowed, such as 0.01.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
@schema_option("comparison-1.schema.json")
def compare_command(estimate_file: Path, measurement_file: Path, tolerance: float | None, form: str) -> int:
    """Put an ESTIMATE (from `lmplan estimate --format json`) beside a MEASUREMENT.

    Exits with 7 outside the tolerance: 1% for TurboMind, 1.5% with tensor parallelism, 3% for 4-bit weights and for the
    PyTorch engine, unless --tolerance says otherwise. What lies in the estimate's own band passes.
    """
    if tolerance is not None and not 0 <= tolerance < 1:
        raise UsageError(f"--tolerance is {tolerance:g}; expected a share such as 0.01")
    comparison = compare(read_estimate(estimate_file), read(measurement_file), tolerance)
    say(compare_report.to_json(comparison) if form == "json" else compare_report.table(comparison), nl=False)
    return 0 if comparison.passed else CheckFailedError.exit_code
