"""The one door to the terminal and to files: no control characters, no half file, nothing replaced unasked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from planner.files.escape import shown, terminal
from planner.files.writing import STDOUT, check_place, write_files, write_text

Command = TypeVar("Command", bound=Callable[..., Any])


def say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print to standard output, or to standard error for what is not the result."""
    click.echo(terminal(text), err=err, nl=nl)


class OutPath(click.ParamType[Path]):
    """A place to write to; ``-`` is standard output, and an empty name is a slip."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path, as far as a name says."""
        if not str(value).strip():
            self.fail("an empty name; expected a path, or - for standard output", param, ctx)
        return Path(value)


def output_options(command: Command) -> Command:
    """``--output`` and ``--force``."""
    command = click.option("--force", is_flag=True, help="Replace files that are there already.")(command)
    text = "Where to write it, - for standard output.  [default: standard output]"
    return click.option("--output", "-o", type=OutPath(), metavar="FILE", help=text)(command)


def check_output(output: Path | None, force: bool) -> None:
    """Whether the result could be written, before the work for it begins.

    Raises:
        UsageError, EnvironmentProblem: it could not.
    """
    if output is not None and str(output) != STDOUT:
        check_place(output, force=force)


def deliver(text: str, output: Path | None, force: bool) -> None:
    """Print a result, or write it to the file that was asked for.

    Raises:
        UsageError, EnvironmentProblem: it cannot be written there.
    """
    if output is None or str(output) == STDOUT:
        say(text, nl=False)
        return
    replaced = write_text(output, text, force=force)
    say(f"{'replaced' if replaced else 'wrote'} {shown(output)}", err=True)


def deliver_folder(files: dict[str, str], folder: Path, force: bool) -> None:
    """Write a plan's files into a folder, and say which of them were there before.

    Raises:
        UsageError, EnvironmentProblem: they cannot be written there.
    """
    replaced = write_files(folder, files, force=force)
    new = [name for name in files if name not in replaced]
    parts = [f"{word} {', '.join(names)}" for word, names in (("wrote", new), ("replaced", replaced)) if names]
    say(f"{shown(folder)}: {'; '.join(parts) or 'nothing to write'}", err=True)
