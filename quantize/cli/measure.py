"""`lmplan measure`: parse, one call, print."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from planner.api.estimate import Plan
from planner.cli.options import deployment_options, schema_option
from planner.cli.output import OutPath, check_output, say
from planner.errors import ChildFailedError, UsageError
from planner.files.escape import shown
from planner.files.writing import STDOUT
from planner.hardware.gpu import find_gpu
from planner.lmdeploy.settings import Request
from planner.report import jsonform
from planner.units import format_gib, parse_bytes
from planner.verdict import Outcome
from quantize.measure import compare_report
from quantize.measure.compare import compare, read_estimate
from quantize.measure.measurement import Measurement, write
from quantize.system.installation import find_interpreter, lmdeploy_version
from quantize.system.local_gpu import local_gpu

_MOST_PIXELS = 16384


def _size(value: str | None) -> int | None:
    if value is None:
        return None
    try:
        size = parse_bytes(value)
    except ValueError as error:
        raise UsageError(f"--limit: {error}") from None
    if size <= 0:
        raise UsageError(f"--limit is {value}; expected a size, e.g. 24GiB")
    return size


def _tell(text: str) -> None:
    say(f"  {text}", err=True)


@click.command("measure")
@click.option("--model", metavar="NAME|PATH|ID", help="As for estimate.")
@click.option(
    "--gpu",
    default="local",
    show_default=True,
    metavar="local|NAME",
    help="A name has to be this machine's; --limit imitates smaller cards.",
)
@deployment_options
@click.option(
    "--plan",
    "plan_file",
    type=click.Path(path_type=Path),
    help="Take model and settings from a plan.json; --model says where a model without a known name lies.",
)
@click.option("--dry-weights", is_flag=True, help="Measure a sparse checkpoint of these shapes: no download, no disk.")
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
    help="Stop the run after this time.",
)
@click.option("--python", help="The Python that LMDeploy is installed for.  [default: as for lmplan quantize]")
@click.option("--trust-remote-code", is_flag=True, help="Run the Python files that come with the model.")
@click.option(
    "--out",
    type=OutPath(),
    default="measurement.json",
    metavar="FILE",
    show_default=True,
    help="The file, - for standard output.",
)
@click.option("--force", is_flag=True, help="Replace a file that is there already.")
@click.option("--url", help="Attach to a server that runs already, such as http://localhost:23333.")
@click.option("--pid", type=int, help="The server's process, for --url.")
@schema_option("measurement-1.schema.json")
def measure_command(
    model: str | None,
    gpu: str,
    plan_file: Path | None,
    dry_weights: bool,
    limit: str | None,
    device: int,
    image_pixels: int,
    load_only: bool,
    time_limit_s: float,
    python: str | None,
    trust_remote_code: bool,
    out: Path,
    force: bool,
    url: str | None,
    pid: int | None,
    quant_policy: str,
    **wishes: Any,
) -> int:
    """Start LMDeploy as planned, read what the GPU holds, and compare it with the estimate.

    The measurement is written to --out, also when the engine dies or hangs. Exits with 6 when it could not be finished,
    unless it died or hung as planned, and with 5 when this machine cannot measure.

    \b
    lmplan measure --model qwen2.5-1.5b --dry-weights --limit 24GiB
    lmplan measure --plan plan.json --out measured.json
    lmplan measure --url http://localhost:23333 --model internlm2_5-7b
    """
    _check_usage(time_limit_s, image_pixels, url, pid)
    # A run takes minutes: that its result cannot be kept is said before.
    check_output(out, force)
    given = {**wishes, "quant_policy": int(quant_policy)}
    if plan_file is not None:
        _refuse_settings((*wishes, "quant_policy"))
        model, given = _from_plan(plan_file, model)
    if url is not None:
        return _attach(url, pid, device, model, given, out, force)
    if model is None:
        raise UsageError("nothing to measure", "Give --model or --plan, or --url for a server that runs")
    from quantize.measure.plan import check_version, measure_plan, plan_here
    from quantize.measure.run import InterruptedMeasurement

    limit_bytes = _size(limit)
    # What keeps this machine from measuring is said before anything is started, the GPU first.
    _check_gpu(gpu, device)
    python = python or find_interpreter(os.environ)
    installed = lmdeploy_version(python, os.environ)
    if given.get("lmdeploy") is None:
        given["lmdeploy"] = installed
    plan = plan_here(model, given, device, limit_bytes)
    check_version(plan, installed)
    say(f"estimated: {plan.memory.outcome}, {format_gib(plan.total_bytes)}", err=True)
    try:
        with tempfile.TemporaryDirectory(prefix="lmplan-weights-") as scratch:
            measurement = measure_plan(
                plan,
                Path(scratch) if dry_weights else None,
                limit_bytes=limit_bytes,
                device=device,
                image_pixels=image_pixels,
                load_only=load_only,
                time_limit_s=time_limit_s,
                python=python,
                tell=_tell,
                trust_remote_code=trust_remote_code,
            )
    except InterruptedMeasurement as error:
        write(error.measurement, out, force=force)
        error.hint = f"What was seen is in {shown(out)}, marked as not complete"
        raise
    write(measurement, out, force=force)
    return _show(plan, measurement, out)


def _check_usage(time_limit_s: float, image_pixels: int, url: str | None, pid: int | None) -> None:
    if not time_limit_s > 0:
        raise UsageError(f"--time-limit is {time_limit_s:g}; expected seconds")
    if not 0 <= image_pixels <= _MOST_PIXELS:
        raise UsageError(f"--image is {image_pixels}; expected pixels a side, at most {_MOST_PIXELS}")
    if pid is not None and url is None:
        raise UsageError("--pid goes with --url")


def _check_gpu(name: str, device: int) -> None:
    here, facts = local_gpu(device)
    if name == "local":
        return
    wanted = find_gpu(name)
    if wanted.product != here.product or wanted.slice_of:
        raise UsageError(
            f"--gpu is {name} and GPU {device} of this machine is an {facts.product}",
            f"Leave it out; --limit {format_gib(wanted.memory_total_bytes).replace(' ', '')} imitates its memory",
        )


def _attach(
    url: str, pid: int | None, device: int, model: str | None, given: dict[str, Any], out: Path, force: bool
) -> int:
    from quantize.measure.attach import attach
    from quantize.measure.plan import plan_here

    measurement = attach(url, pid, device)
    plan = None
    if model is not None:
        plan = plan_here(model, given, device, None, measurement.free_before_bytes)
        measurement.model["served_as"] = measurement.model["name"]
        measurement.model["name"] = plan.memory.deployment.spec.name
    write(measurement, out, force=force)
    err = _prints(out)
    say(shown(measurement.note), err=err)
    if plan is not None:
        comparison = compare(jsonform.to_object(plan), measurement)
        say(compare_report.table(comparison), nl=False, err=err)
        if not comparison.passed:
            settings = plan.memory.deployment.settings
            say(
                f"A server does not tell how it was started. The estimate is for --cache-max-entry-count "
                f"{settings.cache_max_entry_count:g}, --max-batch-size {settings.max_batch_size}, --session-len "
                f"{settings.session_len}; give what it was started with.",
                err=err,
            )
    _say_where(out)
    return 0


def _prints(out: Path) -> bool:
    """Whether standard output takes the measurement, and all else has to go to standard error."""
    return str(out) == STDOUT


def _say_where(out: Path) -> None:
    if not _prints(out):
        say(f"written to {shown(out)}")


def _refuse_settings(names: tuple[str, ...]) -> None:
    """Settings come from the plan or from the command line, not from both."""
    source = click.get_current_context().get_parameter_source
    typed = [f"--{name.replace('_', '-')}" for name in names if source(name) is ParameterSource.COMMANDLINE]
    if typed:
        raise UsageError(f"--plan brings its own {', '.join(typed)}", "Leave them out, or plan again with them")


def _from_plan(path: Path, model: str | None) -> tuple[str, dict[str, Any]]:
    value = read_estimate(path)
    settings = {key: setting for key, setting in value["settings"].items() if key in Request._fields}
    return model or str(value["model"]["name"]), {**settings, "lmdeploy": value["settings"]["lmdeploy"]}


def _show(plan: Plan, measurement: Measurement, out: Path) -> int:
    if not measurement.complete:
        say(f"lmplan: the run did not finish: {shown(measurement.error)}", err=True)
    say(compare_report.table(compare(jsonform.to_object(plan), measurement)), nl=False, err=_prints(out))
    _say_where(out)
    died_as_planned = measurement.outcome == plan.memory.outcome is not Outcome.SERVES
    return 0 if measurement.complete or died_as_planned else ChildFailedError.exit_code
