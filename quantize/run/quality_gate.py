"""The gate of a run: a result that is not good enough does not get its name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from planner.errors import CheckFailedError
from quantize.lite.methods import METHODS
from quantize.quality import report
from quantize.quality.child import Pair, look
from quantize.quality.report import Quality
from quantize.quality.text import held_out_text
from quantize.recipe.model import QualityCheck
from quantize.run.prepare import ReadyJob
from quantize.run.staging import Staging
from quantize.system.installation import find_interpreter


def pass_gate(
    job: ReadyJob, model: Path, staging: Staging, environment: Mapping[str, str], tell: Callable[[str], None]
) -> Quality | None:
    """Compare the result with `model`, its original, and write the report by layer beside the weights.

    Args:
        job: what was run.
        model: the folder that LMDeploy read.
        staging: where the result is.
        environment: of the child (`quantize.lite.command.build_environment`).
        tell: is given a line when the check turns to something else.

    Returns:
        What was found, within the limits of the recipe; None where the recipe wants no check.

    Raises:
        CheckFailedError: something is beyond the limits. The result, its report and problems.txt stay in staging.
        EnvironmentProblem, ChildFailedError, EndedBySignal: as `quantize.quality.child.look`.
    """
    recipe = job.recipe
    if recipe.check.quality is QualityCheck.NONE:
        return None
    folder = staging.root / "check"
    folder.mkdir()
    pair = Pair(
        model,
        staging.result,
        job.spec,
        METHODS[recipe.method].checkpoint_method,
        drawn=recipe.draw,
        trust_remote_code=recipe.trust_remote_code,
    )
    quality = look(
        pair,
        recipe.check,
        text=held_out_text(recipe.check),
        python=find_interpreter(environment),
        device=recipe.device,
        environment=environment,
        folder=folder,
        silence_s=recipe.silence_s,
        tell=tell,
        keep_fds=(staging.lock_fd,),
    )
    found = report.problems(quality, recipe.check)
    text = json.dumps(report.to_object(quality, recipe.check, found), indent=1) + "\n"
    (staging.result / report.NAME).write_text(text, encoding="utf-8")
    if found:
        all_ = staging.root / "problems.txt"
        all_.write_text("".join(f"{problem.what}\n  {problem.remedy}\n" for problem in found), encoding="utf-8")
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise CheckFailedError(
            f"the result is not good enough: {found[0].what}{more}",
            f"{found[0].remedy}. It is kept in {staging.result}; all of it: {all_}",
        )
    return quality
