"""`lmplan recommend`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from planner.cli.options import load_options, schema_option
from planner.cli.output import OutPath, deliver_folder, say
from planner.errors import DoesNotFitError


@click.command("recommend")
@load_options()
@click.option("--max", "limits", is_flag=True, help="How far each option can go: most users, longest context.")
@click.option("--format", "form", type=click.Choice(["table", "markdown", "json"]), default="table", show_default=True)
@click.option(
    "--write",
    type=OutPath(),
    metavar="FOLDER",
    help="Write every launch artefact of the plan into a folder.",
)
@click.option("--force", is_flag=True, help="With --write: replace files that are there already.")
@schema_option("recommend-1.schema.json")
def recommend_command(
    model: str, gpu: tuple[str, ...], form: str, limits: bool, write: Path | None, force: bool, **wishes: Any
) -> int:
    """Recommend settings for a load: weights, KV bits, GPUs, ratio and lengths, with the reasons.

    Exits with 3 when the request cannot be met in full; the closest plan is still printed.
    With --max it exits with 3 when no option holds a single user.

    \b
    lmplan recommend --model internlm2_5-7b --gpu a10 --context 8192 --concurrency 16
    lmplan recommend --model internvl2-26b --gpu a100-24g --gpu a100-40g --images 1 --lmdeploy 0.5.3
    lmplan recommend --model qwen3-8b --gpu l4 --max
    """
    from planner.api.advice import advise

    advice = advise(model, gpu, limits=limits, **wishes)
    if form == "json":
        from planner.report import decision_json

        say(decision_json.render(advice), nl=False)
    else:
        from planner.report import decision_table

        if form == "markdown":
            say(decision_table.render_markdown(advice), nl=False)
        elif limits:
            say(decision_table.render_limits(advice), nl=False)
        else:
            say(decision_table.render(advice), nl=False)
    if write is not None:
        deliver_folder({each.file: each.text for each in advice.artefacts()}, write, force)
    # How far every option goes is an answer by itself, as long as one of them holds a single user.
    serves = advice.decision.serves or any(each.users is not None and each.users.value for each in advice.limits)
    return 0 if serves else DoesNotFitError.exit_code
