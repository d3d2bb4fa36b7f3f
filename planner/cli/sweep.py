"""`lmplan sweep`."""

from __future__ import annotations

from pathlib import Path

import click

from planner.cli.options import form_by_ending, schema_option
from planner.cli.output import say
from planner.errors import DoesNotFitError, UsageError

_ENDINGS = {".csv": "csv", ".json": "json", ".html": "html", ".htm": "html", ".txt": "table"}


@click.command("sweep")
@click.argument("fleet", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json", "html"]),
    help="[default: by the ending of --output, else table]",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where to write it.  [default: standard output]",
)
@schema_option("sweep-1.schema.json")
def sweep_command(fleet: Path, form: str | None, output: Path | None) -> int:
    """Plan many models on many GPUs: FLEET is a YAML file of workloads and machines.

    Exits with 3 when a model finds no GPU; the plan is printed all the same. docs/fleets.md describes the file.

    \b
    lmplan sweep fleet.yaml
    lmplan sweep fleet.yaml -o fleet.html
    """
    from planner.fleet.file import read_fleet
    from planner.fleet.placement import sweep
    from planner.report import fleet_forms
    from planner.report.dossier import today

    form = form or form_by_ending(output, _ENDINGS, "table")
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
    if output is None:
        say(text, nl=False)
    else:
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot write {output}: {error.strerror}") from None
        say(f"wrote {output}", err=True)
    return DoesNotFitError.exit_code if found.unplaced else 0
