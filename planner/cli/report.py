"""`lmplan report`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from planner.cli.options import form_by_ending, load_options, schema_option
from planner.cli.output import check_output, deliver, output_options
from planner.errors import DoesNotFitError, UsageError
from planner.files.escape import html as escape
from planner.files.escape import markdown
from planner.units import counted

_PATH = click.Path(dir_okay=False, path_type=Path)
_ENDINGS = {".html": "html", ".htm": "html", ".md": "markdown", ".json": "json"}


@click.command("report")
@load_options(required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(["html", "markdown", "json"]),
    help="[default: by the ending of --output, else html]",
)
@output_options
@schema_option("report-1.schema.json")
@click.option("--diff", "plans", nargs=2, type=_PATH, metavar="OLD NEW", help="What changed between two plans (JSON).")
def report_command(
    model: str | None,
    gpu: tuple[str, ...],
    form: str | None,
    output: Path | None,
    force: bool,
    plans: tuple[Path, Path] | None,
    **wishes: Any,
) -> int:
    """A plan as one self-contained page for a review, or as Markdown or JSON; or what changed between two plans.

    Exits with 3 when the request cannot be met in full; the report is still written.

    \b
    lmplan report --model internlm2_5-7b --gpu a10 --concurrency 16 -o plan.html
    lmplan report --diff old.json new.json
    """
    check_output(output, force)
    if plans:
        if model or gpu:
            raise UsageError("--diff compares two existing plans", "Leave out --model and --gpu")
        text = _diff(*plans, form or form_by_ending(output, _ENDINGS, "markdown"))
        code = 0
    else:
        if not model or not gpu:
            raise UsageError("--model and --gpu are needed", "Or give --diff OLD NEW to compare two plans")
        text, code = _report(model, gpu, form or form_by_ending(output, _ENDINGS, "html"), wishes)
    deliver(text, output, force)
    return code


def _report(model: str, gpu: tuple[str, ...], form: str, wishes: dict[str, Any]) -> tuple[str, int]:
    from planner.api.advice import advise
    from planner.report import dossier_json, dossier_markdown, html
    from planner.report.dossier import gather

    advice = advise(model, gpu, **wishes)
    dossier = gather(advice, list(advice.decision.options))
    render = {"html": html.render, "markdown": dossier_markdown.render, "json": dossier_json.render}[form]
    return render(dossier), 0 if advice.decision.serves else DoesNotFitError.exit_code


def _diff(old: Path, new: Path, form: str) -> str:
    from tabulate import tabulate

    from planner.report import html
    from planner.report.plan_diff import diff, read_plan

    changes = diff(read_plan(old), read_plan(new))
    if form == "json":
        rows = [{"where": c.where, "old": c.old, "new": c.new} for c in changes]
        return json.dumps({"schema": "lmplan.diff/1", "changes": rows}, indent=2) + "\n"
    shown = [change for change in changes if not change.is_detail]
    cells = [[c.where, _short(c.old_text()), _short(c.new_text()), c.difference()] for c in shown]
    headers = ["what", "old", "new", "by"]
    rest = len(changes) - len(shown)
    more = f"Not shown: {counted(rest, 'value')} derived from these; --format json lists all." if rest else ""
    if form == "html":
        body = html.table(headers, cells) if cells else "<p>Nothing changed.</p>"
        names = f"<p>From {escape(old.name)} to {escape(new.name)}.</p>"
        return html.page("What changed", f"<h1>What changed</h1>{names}{body}<p>{more}</p>")
    if not cells:
        return "Nothing changed.\n"
    escaped = [[markdown(cell) for cell in row] for row in cells]
    text = tabulate(escaped, headers=headers, tablefmt="github", disable_numparse=True)
    return f"{text}\n\n{more}".rstrip() + "\n"


def _short(text: str) -> str:
    """One line of at most 240 characters; the plans hold the whole."""
    line = " ".join(text.split())
    return line if len(line) <= 240 else f"{line[:237]}..."
