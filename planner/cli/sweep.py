"""`lmplan sweep`."""

from __future__ import annotations

from pathlib import Path

import click

from planner.cli.options import form_by_ending, schema_option
from planner.cli.output import check_output, deliver, output_options
from planner.errors import DoesNotFitError

_ENDINGS = {".csv": "csv", ".json": "json", ".html": "html", ".htm": "html", ".txt": "table"}


@click.command("sweep")
@click.argument("fleet", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json", "html"]),
    help="[default: by the ending of --output, else table]",
)
@output_options
@schema_option("sweep-1.schema.json")
def sweep_command(fleet: Path, form: str | None, output: Path | None, force: bool) -> int:
    """Plan many models on many GPUs: FLEET is a YAML file of workloads and machines.

    Exits with 3 when a model gets no GPU; the plan is still printed. docs/fleets.md describes the file.

    \b
    lmplan sweep fleet.yaml
    lmplan sweep fleet.yaml -o fleet.html
    """
    from planner.clock import today
    from planner.fleet.file import read_fleet
    from planner.fleet.placement import sweep
    from planner.report import fleet_forms

    form = form or form_by_ending(output, _ENDINGS, "table")
    check_output(output, force)
    found = sweep(read_fleet(fleet))
    if form == "html":
        text = fleet_forms.render_html(found, fleet.stem, today())
    else:
        render = {
            "table": fleet_forms.render_table,
            "csv": fleet_forms.render_csv,
            "json": fleet_forms.render_json,
        }[form]
        text = render(found)
    deliver(text, output, force)
    return DoesNotFitError.exit_code if found.unplaced else 0
