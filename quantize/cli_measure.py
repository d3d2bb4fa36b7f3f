"""`lmplan measure`, `lmplan compare` and `lmplan calibrate`."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from planner.api import Plan
from planner.errors import CheckFailedError, UsageError
from planner.options import deployment_options
from planner.report import jsonform
from planner.units import format_bytes, format_gib, parse_bytes
from quantize import compare_report
from quantize.compare import compare
from quantize.measurement import Measurement, read, write


def _size(value: str | None) -> int | None:
    if value is None:
        return None
    try:
        return parse_bytes(value)
    except ValueError as error:
        raise UsageError(f"--limit: {error}") from None


@click.command("measure")
@click.option("--model", metavar="NAME|PATH|ID", help="As for estimate.")
@deployment_options
@click.option("--plan", "plan_file", type=click.Path(path_type=Path), help="Take model and settings from a plan.json.")
@click.option("--dry-weights", is_flag=True, help="Measure an empty checkpoint of these shapes: no download, no disk.")
@click.option("--limit", metavar="SIZE", help="Imitate a smaller card: a neighbour holds the rest.")
@click.option("--device", type=int, default=0, show_default=True, help="GPU of this machine; tp takes the next ones.")
@click.option(
    "--image", "image_pixels", type=int, default=0, help="Also serve a square image of so many pixels a side."
)
@click.option("--load-only", is_flag=True, help="Stop once it serves, without requests.")
@click.option(
    "--time-limit",
    "time_limit_s",
    type=float,
    default=900.0,
    show_default=True,
    metavar="SECONDS",
    help="Then it is ended.",
)
@click.option("--python", default=sys.executable, help="The Python that LMDeploy is installed in.  [default: this one]")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("measurement.json"), show_default=True, help="The file."
)
@click.option("--url", help="Attach to a server that runs already, such as http://localhost:23333.")
@click.option("--pid", type=int, help="The server's process, for --url.")
def measure_command(
    model: str | None,
    plan_file: Path | None,
    dry_weights: bool,
    limit: str | None,
    device: int,
    image_pixels: int,
    load_only: bool,
    time_limit_s: float,
    python: str,
    out: Path,
    url: str | None,
    pid: int | None,
    quant_policy: str,
    **wishes: Any,
) -> int:
    """Start LMDeploy as planned, read what the GPU holds, and compare it with the estimate.

    The measurement is written to --out, also when the engine dies or hangs. Exits with 6 when it could not be finished.

    \b
    lmplan measure --model qwen2.5-1.5b --dry-weights --limit 24GiB
    lmplan measure --plan plan.json --out measured.json
    """
    if url is not None:
        from quantize.attach import attach

        measurement = attach(url, pid, device)
        write(measurement, out)
        click.echo(f"{measurement.note}\nwritten to {out}")
        return 0
    given = {**wishes, "quant_policy": int(quant_policy)}
    if plan_file is not None:
        model, given = _from_plan(plan_file, model)
    if model is None:
        raise UsageError("nothing to measure", "Give --model or --plan, or --url for a server that runs")
    from quantize.measuring import measure_plan, plan_here

    plan = plan_here(model, given, device, _size(limit))
    click.echo(f"estimated: {plan.memory.verdict}, {format_gib(plan.total_bytes)}", err=True)
    with tempfile.TemporaryDirectory(prefix="lmplan-weights-") as scratch:
        measurement = measure_plan(
            plan,
            Path(scratch) if dry_weights else None,
            limit_bytes=_size(limit),
            device=device,
            image_pixels=image_pixels,
            load_only=load_only,
            time_limit_s=time_limit_s,
            python=python,
            tell=lambda text: click.echo(f"  {text}", err=True),
        )
    write(measurement, out)
    return _show(plan, measurement, out)


def _from_plan(path: Path, model: str | None) -> tuple[str, dict[str, Any]]:
    value = _read_estimate(path)
    settings = {key: value["settings"][key] for key in value["settings"] if key != "dtype"}
    return model or value["model"]["name"], settings


def _show(plan: Plan, measurement: Measurement, out: Path) -> int:
    if not measurement.complete:
        click.echo(f"the run did not finish: {measurement.error}", err=True)
    click.echo(compare_report.table(compare(jsonform.to_object(plan), measurement)), nl=False)
    click.echo(f"written to {out}")
    died_as_planned = not measurement.complete and measurement.outcome == plan.verdict
    return 0 if measurement.complete or died_as_planned else 6


@click.command("compare")
@click.argument("estimate_file", metavar="ESTIMATE", type=click.Path(path_type=Path))
@click.argument("measurement_file", metavar="MEASUREMENT", type=click.Path(path_type=Path))
@click.option("--tolerance", type=float, help="Relative difference allowed, such as 0.01.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
def compare_command(estimate_file: Path, measurement_file: Path, tolerance: float | None, form: str) -> int:
    """Put an ESTIMATE (from `lmplan estimate --format json`) beside a MEASUREMENT.

    Exits with 7 outside the tolerance, which is 1% for TurboMind, 3% for its 4-bit weights and the PyTorch engine.
    """
    if tolerance is not None and not 0 <= tolerance < 1:
        raise UsageError(f"--tolerance is {tolerance:g}; expected a share such as 0.01")
    comparison = compare(_read_estimate(estimate_file), read(measurement_file), tolerance)
    click.echo(compare_report.to_json(comparison) if form == "json" else compare_report.table(comparison), nl=False)
    return 0 if comparison.passed else CheckFailedError.exit_code


def _read_estimate(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict) or value.get("schema") != jsonform.SCHEMA:
        found = value.get("schema") if isinstance(value, dict) else type(value).__name__
        raise UsageError(f"{path} is no estimate: its schema is {found!r}, expected {jsonform.SCHEMA!r}")
    return value


@click.command("calibrate")
@click.option("--reset", is_flag=True, help="Forget what was measured on this host.")
@click.option("--device", type=int, default=0, show_default=True, help="GPU of this machine.")
@click.option("--engine", type=click.Choice(["turbomind", "pytorch"]), default="turbomind", show_default=True)
@click.option("--lmdeploy", metavar="VERSION", help="The version that is installed.  [default: the newest known]")
@click.option("--python", default=sys.executable, help="The Python that LMDeploy is installed in.  [default: this one]")
def calibrate_command(reset: bool, device: int, engine: str, lmdeploy: str | None, python: str) -> None:
    """Measure what only this host can tell, and use it in later estimates.

    Starts LMDeploy on small empty models and stores the CUDA context and the engine's kernel code, by GPU, driver and
    LMDeploy version, in the user's configuration folder.
    """
    from planner.engine import calibration

    if reset:
        removed = calibration.reset()
        click.echo("forgotten" if removed else "there was nothing to forget")
        return
    from quantize.calibrate import calibrate

    entry = calibrate(device, engine, lmdeploy, python, lambda text: click.echo(f"  {text}", err=True))
    click.echo(
        f"{entry['product']}, driver {entry['driver']}, LMDeploy {entry['lmdeploy']}: "
        f"context {format_bytes(entry['cuda_context_bytes'])}, kernel code {format_bytes(entry['kernel_code_bytes'])} "
        f"({entry['runs']} runs)\nwritten to {calibration.path()}"
    )
