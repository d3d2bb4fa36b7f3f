"""The `lmplan` command: it mounts the commands and turns every problem into one line and an exit code."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from planner import __version__
from planner.cli.lazy import LazyGroup
from planner.cli.output import say
from planner.errors import LmplanError

COMMANDS = {
    "estimate": ("planner.cli.estimate:estimate_command", "What LMDeploy will hold on a GPU, and whether it starts."),
    "recommend": ("planner.cli.recommend:recommend_command", "Which settings and which GPU serve a load, and why."),
    "report": ("planner.cli.report:report_command", "A plan as a page for a review, or what changed between two."),
    "sweep": ("planner.cli.sweep:sweep_command", "Many models on many GPUs: what runs where, how many are needed."),
    "models": ("planner.cli.catalog:models_command", "The published models that lmplan knows by name."),
    "gpus": ("planner.cli.catalog:gpus_command", "The GPUs that lmplan knows by name."),
    "measure": ("quantize.cli.measure:measure_command", "Start LMDeploy as planned and read what the GPU holds."),
    "compare": ("quantize.cli.compare:compare_command", "Put an estimate beside a measurement."),
    "calibrate": ("quantize.cli.calibrate:calibrate_command", "Measure what only this host can tell."),
    "quantize": ("quantize.cli.quantize:quantize_command", "Quantize with LMDeploy from a reviewed recipe."),
    "inspect": ("quantize.cli.quantize:inspect_command", "Check a quantized checkpoint, tensor by tensor."),
}
"""Command -> where it lives and what it does; imported when called."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What a disk says that takes no more."""


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lmplan")
def lmplan() -> None:
    """Plan the GPU memory of language models served by LMDeploy.

    Exit codes: 0 done, 1 a bug, 2 usage, 3 does not fit, 4 unsupported model, 5 this machine lacks something,
    6 LMDeploy failed, 7 a check failed, 130 interrupted.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a character gets a question mark and not a traceback.
            stream.reconfigure(errors="replace")
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code comes back. Problems are one line each, never a traceback."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        result = lmplan.main(args=words or ["--help"], prog_name="lmplan", standalone_mode=False)
    except LmplanError as error:
        return _complain(error.message, error.hint, error.exit_code)
    except click.exceptions.Abort:
        return _complain("interrupted", "", 130)
    except click.UsageError as error:
        named = f"lmplan {words[0]}" if words and words[0] in COMMANDS else "lmplan"
        path = error.ctx.command_path if error.ctx else named
        return _complain(error.format_message(), f"`{path} --help` lists the options", error.exit_code)
    except click.ClickException as error:
        return _complain(error.format_message(), "", error.exit_code)
    except BrokenPipeError:
        # The reader went away (`lmplan models | head`): nothing more to say.
        _silence()
        return 0
    except OSError as error:
        if error.errno in _FULL:
            # Files are written with messages of their own, so this is standard output.
            _silence()
            return _complain(f"cannot write the output: {error.strerror}", "Free disk space, or print elsewhere", 5)
        if not _is_here():
            return _complain("the current folder was deleted or may not be searched", "Start in another folder", 5)
        raise
    return result if isinstance(result, int) else 0


def _is_here() -> bool:
    """Whether relative paths can be resolved."""
    try:
        return Path.cwd().is_dir()
    except OSError:
        return False


def _silence() -> None:
    """Throw away what standard output still holds, so that nothing is said of it on exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(message: str, hint: str, exit_code: int) -> int:
    say(f"lmplan: {message}", err=True)
    if hint:
        say(f"  {hint}", err=True)
    return exit_code
