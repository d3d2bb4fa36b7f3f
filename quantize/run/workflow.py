"""The run: staging folder, LMDeploy, inspection, manifest, and the rename that makes the output appear."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from planner import __version__
from planner.errors import CheckFailedError, EnvironmentProblem
from planner.model.fingerprint import config_sha256
from quantize.checkpoint.make import make
from quantize.checkpoint.synthetic import MARK
from quantize.lite.command import Folders, build_arguments, build_environment
from quantize.lite.dataset import write_dataset
from quantize.lite.events import Event, Phase, parse_line
from quantize.lite.failures import explain
from quantize.lite.inspection import STATISTICS, Inspection, inspect_or_explain
from quantize.lite.methods import METHODS
from quantize.lite.process import RunResult, run
from quantize.quality.report import Quality
from quantize.run.manifest import NAME, SCHEMA_VERSION, Manifest, Memory, ModelFacts
from quantize.run.prepare import ReadyJob, has_own_rows, own_rows
from quantize.run.progress import Display, Tracker
from quantize.run.quality_gate import pass_gate
from quantize.run.staging import Staging, open_staging


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished run."""

    manifest: Manifest
    inspection: Inspection
    quality: Quality | None


class _Clock:
    """Notes when each phase began, by its first event, and the GPU memory that LMDeploy speaks of."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self._last: dict[Phase, float] = {}
        self.gpu_bytes: int | None = None

    def see(self, event: Event) -> None:
        self._last[event.phase] = time.monotonic() - self.start
        if event.gpu_bytes:
            self.gpu_bytes = max(self.gpu_bytes or 0, event.gpu_bytes)

    def phases(self) -> dict[str, float]:
        """Seconds of each phase: a phase ends with its last event, saving with the process."""
        seconds: dict[str, float] = {}
        before = 0.0
        for phase in Phase:
            end = time.monotonic() - self.start if phase is Phase.SAVING else self._last.get(phase)
            if end is not None:
                seconds[phase.value] = round(end - before, 2)
                before = end
        return seconds


def execute(
    job: ReadyJob, environment: Mapping[str, str], display: Display, tell: Callable[[str], None] = lambda text: None
) -> Outcome:
    """Run a job to its end.

    Args:
        job: what to run.
        environment: the user's.
        display: shows LMDeploy's progress.
        tell: is given a line when the check of the result turns to something else.

    Raises:
        EnvironmentProblem: another run is at work for the output, the disk is full, or the weights cannot be had.
        ChildFailedError: LMDeploy failed or fell silent; the log is kept.
        EndedBySignal: the user ended it.
        CheckFailedError: the result did not pass; the staging folder is kept for a look.
    """
    with open_staging(job.output) as staging:
        try:
            words, child_environment, model = _lay_out(job, environment, staging)
            clock = _Clock()
            result = _run(job, words, child_environment, staging, clock, display)
            if result.exit_code:
                raise explain(result, str(staging.log))
            inspection = _check(job, staging)
            quality = pass_gate(job, model, staging, child_environment, tell)
        except BaseException:
            staging.drop_inputs()
            raise
        facts = ModelFacts(
            name=job.source.hf_id or job.source.name,
            revision=job.source.revision or _commit(model),
            config_sha256=config_sha256(job.source.config),
            drawn=job.recipe.draw,
        )
        manifest = _manifest(job, facts, (*job.installed.command, *words), result, clock, inspection, quality)
        staging.log.replace(staging.result / staging.log.name)
        (staging.result / NAME).write_text(manifest.to_json(), encoding="utf-8")
        staging.publish()
        staging.remove()
    return Outcome(manifest, inspection, quality)


def _lay_out(job: ReadyJob, environment: Mapping[str, str], staging: Staging) -> tuple[list[str], dict[str, str], Path]:
    """Put model and text where they belong; the child's arguments and environment, and the model's folder."""
    recipe = job.recipe
    if recipe.draw:
        make(recipe.model, staging.model, fill="drawn", seed=recipe.seed)
        model = staging.model
    elif job.source.folder is not None:
        model = job.source.folder.absolute()
    else:
        model = _download(job)
    own = has_own_rows(recipe)
    if own:
        tokens = recipe.calibration.samples * recipe.calibration.seqlen
        write_dataset(staging.work, own_rows(recipe, tokens), job.lite.wikitext_splits)
    folders = Folders(model, staging.work, staging.caches, staging.result)
    method = METHODS[recipe.method]
    words = build_arguments(method, recipe, job.lite, folders, dataset=job.dataset, batch_size=job.batch_size)
    child_environment = build_environment(
        environment,
        recipe,
        folders,
        own_dataset_cache=own or job.reachable,
        offline=own or recipe.calibration.data_free or not job.reachable,
    )
    return words, child_environment, model


def _download(job: ReadyJob) -> Path:
    """The weights from the Hub, into the user's cache, at the revision that the preflight saw."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    assert job.source.hf_id is not None
    try:
        folder = snapshot_download(job.source.hf_id, revision=job.source.revision, ignore_patterns=["*.pth", "*.gguf"])
    except (HfHubHTTPError, OSError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EnvironmentProblem(
            f"cannot download {job.source.hf_id}: {first[:200]}", "Try again; what came is kept"
        ) from None
    return Path(folder)


def _commit(model: Path) -> str | None:
    """The commit that a folder of the Hugging Face cache holds: ``.../snapshots/<commit>``."""
    return model.name if model.parent.name == "snapshots" else None


def _run(
    job: ReadyJob,
    words: list[str],
    environment: Mapping[str, str],
    staging: Staging,
    clock: _Clock,
    display: Display,
) -> RunResult:
    method = METHODS[job.recipe.method]
    steps = method.steps(job.recipe, job.spec, job.expected)
    tracker = Tracker(steps, job.needs.phase_seconds)

    def on_line(line: str) -> None:
        event = parse_line(line, method.event)
        if event is not None:
            clock.see(event)
            tracker.see(event)
            display.update(tracker)

    with display:
        display.update(tracker)
        return run(
            [*job.installed.command, *words],
            folder=staging.work,
            environment=environment,
            log=staging.log,
            silence_s=job.recipe.silence_s,
            on_line=on_line,
            keep_fds=(staging.lock_fd,),
        )


def _check(job: ReadyJob, staging: Staging) -> Inspection:
    """Inspect the result, and put what belongs to it in order."""
    if not job.recipe.keep_statistics:
        for name in STATISTICS:
            (staging.result / name).unlink(missing_ok=True)
    if job.recipe.draw:
        shutil.copyfile(staging.model / MARK, staging.result / MARK)
    _make_readable(staging.result)
    inspection = inspect_or_explain(staging.result, job.expected.groups)
    problems = list(inspection.problems)
    if inspection.quantization is not None:
        problems += METHODS[job.recipe.method].result_problems(job.recipe, inspection.quantization)
    if inspection.passed:
        difference = abs(inspection.file_bytes - job.expected.file_bytes)
        if difference > job.recipe.check.bytes_tolerance * job.expected.file_bytes:
            problems.append(
                f"the files take {inspection.file_bytes} bytes, predicted were {job.expected.file_bytes}, "
                f"off by {difference / job.expected.file_bytes:.3%}"
            )
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        report = staging.root / "problems.txt"
        report.write_text("\n".join(problems) + "\n", encoding="utf-8")
        raise CheckFailedError(
            f"the result did not pass: {problems[0]}{more}", f"It is kept in {staging.result}; all of it: {report}"
        )
    return inspection


def _make_readable(folder: Path) -> None:
    """Weights are written for their owner alone; give them the mode that other files of the folder have."""
    mask = os.umask(0)
    os.umask(mask)
    for path in (*folder.glob("*.safetensors"), *folder.glob("*.bin")):
        with suppress(OSError):
            path.chmod(0o666 & ~mask)


def _manifest(
    job: ReadyJob,
    model: ModelFacts,
    command: tuple[str, ...],
    result: RunResult,
    clock: _Clock,
    inspection: Inspection,
    quality: Quality | None,
) -> Manifest:
    needs = job.needs
    return Manifest(
        schema=SCHEMA_VERSION,
        lmplan=__version__,
        finished_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        recipe=job.recipe.model_dump(mode="json"),
        recipe_sha256=job.recipe.sha256(),
        model=model,
        packages={"lmdeploy": job.installed.version, **job.installed.packages},
        command=command,
        batch_size=job.batch_size,
        seconds=round(result.seconds, 2),
        phase_seconds=clock.phases(),
        predicted_seconds=round(needs.seconds, 2),
        gpu=Memory(needs.gpu_bytes or None, result.gpu_peak_bytes),
        gpu_allocated_bytes=clock.gpu_bytes,
        host=Memory(needs.host_bytes, result.host_peak_bytes),
        checkpoint=Memory(job.expected.file_bytes, inspection.file_bytes),
        num_tensors=inspection.num_tensors,
        quality=None if quality is None else quality.summary(),
        notes=job.notes,
    )
