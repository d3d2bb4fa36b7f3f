"""`lmplan estimate`."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from planner.api.estimate import Plan, estimate
from planner.cli.options import deployment_options, gpu_options, schema_option
from planner.cli.output import say
from planner.errors import DoesNotFitError, OverloadError
from planner.verdict import Verdict

_DEFAULT = ParameterSource.DEFAULT


@click.command("estimate")
@click.option(
    "--model", required=True, metavar="NAME|PATH|ID", help="Catalog name, folder, config.json or org/name@revision."
)
@gpu_options
@deployment_options
@click.option(
    "--context",
    type=int,
    metavar="TOKENS",
    help="Length of a session to plan for.  [default: 8192, or --session-len if less]",
)
@click.option("--explain", is_flag=True, help="Print each term's formula with its numbers.")
@click.option("--format", "form", type=click.Choice(["table", "markdown", "json"]), default="table", show_default=True)
@schema_option("estimate-1.schema.json")
def estimate_command(form: str, explain: bool, quant_policy: str, **wishes: Any) -> int:
    """Estimate what LMDeploy will hold on a GPU, term by term.

    Exits with 3 when it does not fit, with 8 when full load may end it; the report is still printed.

    \b
    lmplan estimate --model internlm2_5-7b --gpu a100-24g
    lmplan estimate --model ./my-model --gpu 24GiB --sm 89 --weights w4a16
    """
    given = {**wishes, "quant_policy": int(quant_policy)}
    context = click.get_current_context()
    # What stands at its default was not asked for: a recommendation may change it before what was.
    left_out = (n for n in ("tp", "weights", "quant_policy") if context.get_parameter_source(n) is _DEFAULT)
    plan = estimate(**{**given, **dict.fromkeys(left_out)})
    if form == "json":
        from planner.report import jsonform

        say(jsonform.render(plan), nl=False)
    elif form == "markdown":
        from planner.report import markdown, table

        say(markdown.render(plan), nl=False)
        if explain:
            say(f"\n```\n{table.explain(plan)}```")
    else:
        from planner.report import table

        say(table.render(plan), nl=False)
        if explain:
            say("\n" + table.explain(plan), nl=False)
    return _exit_code(plan)


def _exit_code(plan: Plan) -> int:
    if plan.verdict is Verdict.UNTIL_FULL_LOAD:
        return OverloadError.exit_code
    return 0 if plan.fits else DoesNotFitError.exit_code
