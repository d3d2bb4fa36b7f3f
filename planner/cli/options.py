"""Options that several commands share, called as LMDeploy calls them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from planner.cli.output import say
from planner.data import ROOT
from planner.errors import UsageError
from planner.kinds import EngineName, WeightsChoice

Command = TypeVar("Command", bound=Callable[..., Any])


def deployment_options(command: Command) -> Command:
    """Engine, version, weights, KV cache, tensor parallelism and lengths."""
    options = (
        click.option("--engine", type=click.Choice(EngineName.words()), help="[default: LMDeploy's choice]"),
        click.option("--lmdeploy", metavar="VERSION", help="LMDeploy's version; the newest known by default."),
        click.option(
            "--weights",
            type=click.Choice(WeightsChoice.words()),
            default=str(WeightsChoice.AS_IS),
            show_default=True,
            help="Serve the checkpoint as it is, or its 4-bit AWQ or blocked fp8 form.",
        ),
        click.option("--dtype", type=click.Choice(["auto", "float16", "bfloat16"]), default="auto", show_default=True),
        click.option(
            "--quant-policy",
            type=click.Choice(["0", "4", "8"]),
            default="0",
            show_default=True,
            help="Bits of the KV cache; 0 is 16-bit.",
        ),
        click.option(
            "--cache-max-entry-count",
            type=float,
            metavar="RATIO",
            help="Share of the memory free after loading that the KV cache gets, or from 1 on its number of blocks in "
            "the versions that count them (0.4.0, 0.10 to 0.14).  [default: 0.8]",
        ),
        click.option("--tp", type=int, default=1, show_default=True, help="GPUs that share the model."),
        click.option("--session-len", type=int, metavar="TOKENS", help="[default: the model's maximum]"),
        click.option("--max-batch-size", type=int, metavar="N", help="[default: LMDeploy's for that GPU]"),
        click.option("--max-prefill-token-num", type=int, metavar="TOKENS", help="[default: 8192]"),
    )
    for option in reversed(options):
        command = option(command)
    return command


def gpu_options(command: Command) -> Command:
    """The GPU and what is free on it."""
    options = (
        click.option(
            "--gpu", required=True, metavar="NAME|SIZE", help="A name that `lmplan gpus` lists, or a size, e.g. 24GiB."
        ),
        click.option(
            "--sm", type=int, metavar="CAPABILITY", help="Compute capability of a GPU given by size: 80 for 8.0."
        ),
        click.option(
            "--free", metavar="SIZE", help="Memory that other processes leave free, e.g. 24GiB.  [default: all]"
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def load_options(*, required: bool = True) -> Callable[[Command], Command]:
    """A model, kinds of GPU and what has to be served."""
    options = (
        click.option(
            "--model",
            required=required,
            metavar="NAME|PATH|ID",
            help="Catalog name, folder, config.json or org/name@rev.",
        ),
        click.option(
            "--gpu",
            required=required,
            multiple=True,
            metavar="NAME|SIZE",
            help="A name that `lmplan gpus` lists, or a size, e.g. 24GiB; repeat it to offer several kinds.",
        ),
        click.option("--sm", type=int, metavar="CAPABILITY", help="Compute capability of a GPU given by size."),
        click.option("--free", metavar="SIZE", help="Memory that is free on each GPU, e.g. 24GiB.  [default: all]"),
        click.option(
            "--gpus",
            "num_gpus",
            type=int,
            metavar="N",
            help="GPUs available of each kind, all of them used where that keeps quality.  [default: as few as serve]",
        ),
        click.option("--lmdeploy", metavar="VERSION", help="LMDeploy's version; the newest known by default."),
        click.option("--engine", type=click.Choice(EngineName.words()), help="[default: LMDeploy's choice]"),
        click.option("--dtype", type=click.Choice(["auto", "float16", "bfloat16"]), default="auto", show_default=True),
        click.option(
            "--context",
            type=int,
            metavar="TOKENS",
            help="Tokens of a session.  [default: 8192, or the model's maximum if less]",
        ),
        click.option("--concurrency", type=int, metavar="N", help="Concurrent sessions.  [default: 1]"),
        click.option(
            "--images", type=int, metavar="N", help="Images per session; their tokens count towards --context."
        ),
        click.option(
            "--latency-ms", type=float, metavar="MS", help="Longest acceptable time between two tokens of a user."
        ),
        click.option(
            "--first-token-ms", type=float, metavar="MS", help="Longest acceptable time to a user's first token."
        ),
        click.option("--keep-quality", is_flag=True, help="Quantize neither the weights nor the KV cache."),
    )

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def schema_option(file: str) -> Callable[[Command], Command]:
    """``--schema``: print a shipped JSON Schema and exit."""

    def show(ctx: click.Context, parameter: click.Parameter, wanted: bool) -> None:
        if wanted:
            say((ROOT / "schemas" / file).read_text(encoding="utf-8"), nl=False)
            ctx.exit()

    text = "Print the JSON Schema of --format json and exit."
    return click.option("--schema", is_flag=True, is_eager=True, expose_value=False, callback=show, help=text)


def form_by_ending(output: Path | None, endings: Mapping[str, str], default: str) -> str:
    """The format that a file's ending asks for; `default` for standard output and files without an ending.

    Raises:
        UsageError: an ending of no format.
    """
    ending = output.suffix.lower() if output else ""
    if not ending:
        return default
    if ending not in endings:
        known = ", ".join(sorted(endings))
        raise UsageError(f"{output}: the ending {ending} names no format", f"Use {known}, or give --format")
    return endings[ending]
