"""The one door to the terminal: what leaves through it holds lines and colours and no other control character."""

from __future__ import annotations

import click

from planner.files.escape import terminal


def say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print to standard output, or to standard error for what is not the result."""
    click.echo(terminal(text), err=err, nl=nl)
