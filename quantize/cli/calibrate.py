"""`lmplan calibrate`: parse, one call, print."""

from __future__ import annotations

import os

import click

from planner.cli.output import say
from planner.errors import UsageError
from planner.hardware import calibration
from planner.kinds import EngineName
from planner.units import format_bytes
from quantize.measure.calibrate import calibrate
from quantize.system.installation import find_interpreter, lmdeploy_version
from quantize.system.local_gpu import local_gpu


@click.command("calibrate")
@click.option("--reset", is_flag=True, help="Forget what was measured on this host.")
@click.option("--device", type=int, default=0, show_default=True, help="GPU of this machine.")
@click.option("--engine", type=click.Choice(EngineName.words()), default=str(EngineName.TURBOMIND), show_default=True)
@click.option("--tp", type=int, default=1, show_default=True, help="Also what NCCL holds among so many GPUs.")
@click.option("--python", help="The Python that LMDeploy is installed for.  [default: as for lmplan quantize]")
@click.option(
    "--trust-remote-code",
    is_flag=True,
    help="Run the Python files that come with a model; those that are started now bring none.",
)
def calibrate_command(
    reset: bool, device: int, engine: str, tp: int, python: str | None, trust_remote_code: bool
) -> None:
    """Measure what only this host can tell, and use it in later estimates.

    Starts LMDeploy on small sparse models and stores the CUDA context, the engine's kernel code and NCCL's buffers, by
    GPU, driver and LMDeploy version, in the user's configuration folder. Estimates that use them say so.
    """
    if reset:
        removed = calibration.reset()
        say("forgotten" if removed else "there was nothing to forget")
        return
    if tp < 1:
        raise UsageError(f"--tp is {tp}; expected the number of GPUs")
    local_gpu(device)
    python = python or find_interpreter(os.environ)
    entry = calibrate(
        device,
        engine,
        lmdeploy_version(python, os.environ),
        python,
        lambda text: say(f"  {text}", err=True),
        tp,
        trust_remote_code=trust_remote_code,
    )
    parts = [
        f"context {format_bytes(entry['cuda_context_bytes'])}",
        f"kernel code {format_bytes(entry['kernel_code_bytes'])}",
        *(f"NCCL {format_bytes(e['size_bytes'] + e['late_bytes'])}" for e in entry.get("communicator", [])),
    ]
    say(
        f"{entry['product']}, driver {entry['driver']}, LMDeploy {entry['lmdeploy']}: {', '.join(parts)} "
        f"({entry['runs']} runs)\nwritten to {calibration.path()}"
    )
