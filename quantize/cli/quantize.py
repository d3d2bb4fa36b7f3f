"""`lmplan quantize` and `lmplan inspect`: parse, one call, print."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import click

from planner.cli.output import say
from planner.errors import CheckFailedError, LmplanError, UsageError
from planner.files.escape import shown
from quantize.lite.inspection import inspect_folder
from quantize.quality.report import problems, to_object
from quantize.recipe.file import LoadedRecipe, load_recipe, shipped_recipes
from quantize.recipe.model import Check, QualityCheck, Target, json_schema
from quantize.run import report
from quantize.run.against import look_against
from quantize.run.estimate import estimate_result
from quantize.run.manifest import read_manifest
from quantize.run.prepare import Job, prepare, ready
from quantize.run.progress import make_display
from quantize.run.serving import Serving, measure_result
from quantize.run.staging import clean_leftover
from quantize.run.workflow import execute


class PreflightError(LmplanError):
    """The preflight found errors; the findings were printed. Exit code of the gravest: 2 before 4 before 5."""

    def __init__(self, job: Job) -> None:
        number = len(job.errors)
        super().__init__(f"the preflight found {number} error{'s' if number > 1 else ''}; nothing was run")
        self.exit_code = min(finding.exit_code for finding in job.errors)


@click.command("quantize")
@click.argument("recipe", required=False)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a value: calibration.samples=64.")
@click.option("--dry-run", is_flag=True, help="Stop after the preflight.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of recipes.")
@click.option("--list", "list_recipes", is_flag=True, help="List the recipes that come with lmplan.")
def quantize_command(
    recipe: str | None, settings: tuple[str, ...], dry_run: bool, schema: bool, list_recipes: bool
) -> None:
    """Quantize with LMDeploy from RECIPE, a reviewed file or a shipped name, and check what it makes.

    Values of the recipe are overridden by the environment (LMPLAN_RECIPE_CALIBRATION__SAMPLES=64) and by --set.
    """
    if schema:
        say(json.dumps(json_schema(), indent=2))
        return
    if list_recipes:
        for name in shipped_recipes():
            say(name)
        return
    if recipe is None:
        raise UsageError("give a recipe, a file or a shipped name", "Shipped: " + ", ".join(shipped_recipes()))
    loaded = load_recipe(recipe, settings)
    if not dry_run and _is_done(loaded):
        return
    job = prepare(loaded, os.environ)
    say(report.preflight_text(job, loaded.name))
    findings = report.findings_text(job)
    if findings:
        say(findings, err=True)
    if job.errors:
        raise PreflightError(job)
    if dry_run:
        return
    outcome = execute(ready(job), os.environ, make_display(), _tell)
    say("")
    say(report.outcome_text(outcome.manifest, job.output, outcome.quality))
    if loaded.recipe.deployment is not None:
        _show_serving(job.output, loaded.recipe.deployment, loaded.recipe.trust_remote_code)


@click.command("inspect")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--against", metavar="ORIGINAL", help="Compare with the 16-bit original: every tensor, and text.")
@click.option("--text", metavar="FILE", help="Your own held-out text for --against: .txt, .jsonl or .parquet.")
@click.option("--weights-only", is_flag=True, help="With --against, leave out the text.")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), help="For --against; the GPU where there is one.")
@click.option("--trust-remote-code", is_flag=True, help="With --against, run Python files that come with the models.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect_command(
    folder: Path,
    against: str | None,
    text: str | None,
    weights_only: bool,
    device: str | None,
    trust_remote_code: bool,
    as_json: bool,
) -> None:
    """Check the quantized checkpoint in FOLDER: config, every tensor's shape and bytes, the scales, the tokenizer."""
    if against is None and (text or weights_only or device or trust_remote_code):
        raise UsageError("--text, --weights-only, --device and --trust-remote-code go with --against ORIGINAL")
    inspection = inspect_folder(folder)
    quality, found = None, []
    quality_check = QualityCheck.WEIGHTS if weights_only else QualityCheck.FULL
    check = Check.model_validate({"text": text, "quality": quality_check})
    # A checkpoint that is broken as it stands is not worth the comparison, and may not bear it.
    if against is not None and inspection.passed and inspection.quantization is not None:
        quality = look_against(
            folder,
            against,
            inspection.quantization,
            check,
            device=device,
            trust_remote_code=trust_remote_code,
            environment=os.environ,
            tell=_tell,
        )
        found = problems(quality, check)
    if as_json:
        answer = {"folder": str(folder), "passed": inspection.passed and not found, **asdict(inspection)}
        if inspection.quantization is not None:
            answer["quantization"] = inspection.quantization._asdict()
        if quality is not None:
            answer["quality"] = to_object(quality, check, found)
        say(json.dumps(answer, indent=2, default=str))  # a method goes by its name
    else:
        say(report.inspection_text(inspection, folder, quality, found))
    wrong = [*inspection.problems, *(problem.what for problem in found)]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise CheckFailedError(f"{shown(folder)} did not pass: {wrong[0]}{more}", found[0].remedy if found else "")


def _tell(text: str) -> None:
    say(f"  {text}", err=True)


def _is_done(loaded: LoadedRecipe) -> bool:
    """Whether the output is there, made from this very recipe; says so and cleans what a killed run left."""
    output = loaded.recipe.output_folder
    manifest = read_manifest(output)
    if manifest is None or manifest.get("recipe_sha256") != loaded.recipe.sha256():
        return False
    if clean_leftover(output):
        say("cleaned what a killed run left", err=True)
    finished_at = shown(str(manifest.get("finished_at"))[:40])
    say(f"{shown(output)} is finished: made from this recipe at {finished_at}; nothing to do")
    deployment = loaded.recipe.deployment
    if deployment is not None:
        say(report.estimate_text(estimate_result(output, deployment), deployment, output))
    return True


def _show_serving(output: Path, deployment: Target, trust_remote_code: bool) -> None:
    """What serving the result will hold, and where there is a GPU what it holds. The result is good either way."""
    measured = measure_result(output, deployment, os.environ, _tell, trust_remote_code=trust_remote_code)
    unmeasured = measured if isinstance(measured, LmplanError) else None
    say("")
    say(report.estimate_text(estimate_result(output, deployment), deployment, output, unmeasured))
    if isinstance(measured, Serving):
        say("")
        say(measured.text, nl=False)
