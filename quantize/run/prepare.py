"""From a recipe to everything that a run needs to know, and every finding of the preflight."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from planner.errors import LmplanError, UsageError
from planner.model.arch import read_spec
from planner.model.inventory import inventory
from planner.model.source import ModelSource, resolve
from planner.model.spec import ModelSpec
from planner.model.tensors import size_bytes
from quantize.checkpoint.expected import ExpectedCheckpoint, expect
from quantize.checkpoint.make import known_config
from quantize.lite.command import Folders, build_arguments, stored_dtype
from quantize.lite.dataset import STANDS_FOR, draw_rows, measure, read_rows
from quantize.lite.findings import Finding, Severity
from quantize.lite.methods import METHODS
from quantize.lite.resources import Needs
from quantize.lite.versions import LiteVersion, lite_version, newest_version
from quantize.quality.needs import QualityNeeds
from quantize.quality.needs import needs as quality_needs
from quantize.quality.text import held_out_text
from quantize.recipe.file import LoadedRecipe
from quantize.recipe.model import DRAWN, Recipe, expanded
from quantize.run import preflight, preflight_machine
from quantize.system.installation import Installation, find_installation
from quantize.system.machine import Machine, look

_DEFAULT_DATASET: Final = "wikitext2"
_REACH_TIMEOUT_S: Final = 5
# Drawn text is bytes to a drawn model's tokenizer; to a real one it is about two bytes a token.
_DRAWN_BYTES_PER_TOKEN: Final = 4
_MAX_DRAWN_CHARACTERS: Final = 20_000_000


@dataclass(frozen=True, slots=True)
class Job:
    """A recipe with all that is known before it runs. What could not be known is None, and a finding says why."""

    recipe: Recipe
    output: Path
    source: ModelSource
    spec: ModelSpec
    findings: tuple[Finding, ...]
    machine: Machine
    installed: Installation | None = None
    lite: LiteVersion | None = None
    expected: ExpectedCheckpoint | None = None
    batch_size: int = 1
    needs: Needs | None = None
    check_needs: QualityNeeds | None = None
    dataset: str | None = None
    reachable: bool = False

    @property
    def errors(self) -> list[Finding]:
        """The findings that stop the run."""
        return [finding for finding in self.findings if finding.severity is Severity.ERROR]


@dataclass(frozen=True, slots=True)
class ReadyJob:
    """A job that nothing stands in the way of."""

    recipe: Recipe
    output: Path
    source: ModelSource
    spec: ModelSpec
    machine: Machine
    installed: Installation
    lite: LiteVersion
    expected: ExpectedCheckpoint
    batch_size: int
    needs: Needs
    dataset: str | None
    reachable: bool
    notes: tuple[str, ...]


def prepare(loaded: LoadedRecipe, environment: Mapping[str, str]) -> Job:
    """Look at everything that can be looked at without running anything long.

    Raises:
        UsageError, UnsupportedModelError, EnvironmentProblem: there is no such model, or none that lmplan knows.
    """
    recipe = _with_dataset(loaded.recipe)
    method = METHODS[recipe.method]
    output = recipe.output_folder
    if not output.absolute().name:
        raise UsageError(f"{loaded.place('output')}: output is {recipe.output}, which cannot be made")
    source = find_model(recipe)
    spec = read_spec(source.config, source.name)
    machine = look(output, environment)
    findings = [*preflight.recipe_findings(recipe, spec, source.config, source.folder)]
    findings += preflight_machine.output_findings(output)
    findings += _text_findings(loaded, recipe)
    needs_network = (source.folder is None and not recipe.draw) or _is_named(recipe)
    reachable = needs_network and hub_reachable(environment)
    if not recipe.draw:
        findings += preflight_machine.weights_findings(source, spec, reachable)
    findings += preflight_machine.network_findings(recipe, reachable, _dataset_is_cached(recipe, environment))
    job = Job(recipe, output, source, spec, (), machine, dataset=dataset_argument(recipe), reachable=reachable)
    try:
        installed = find_installation(environment, method.command)
        lite = lite_version(installed.version, recipe.method)
    except LmplanError as error:
        findings.append(Finding(Severity.ERROR, error.message, error.hint, error.exit_code))
        # What the run would take can be said all the same, for the newest LMDeploy.
        lite = lite_version(newest_version(), recipe.method)
        installed = Installation((), lite.version, {}, frozenset())
    findings += preflight.version_findings(recipe, spec, lite, installed)
    job = replace(job, installed=installed, lite=lite)
    if any(finding.severity is Severity.ERROR and finding.exit_code == 4 for finding in findings) or spec.quantization:
        return replace(job, findings=tuple(findings))
    return _with_sizes(job, findings)


def _with_sizes(job: Job, findings: list[Finding]) -> Job:
    """The job with its expected checkpoint, batch size and needs."""
    recipe, spec, lite, installed = job.recipe, job.spec, job.lite, job.installed
    method = METHODS[recipe.method]
    assert lite is not None and installed is not None
    try:
        expected = expect(
            spec,
            method.quantization(recipe, spec, lite),
            stored_dtype(recipe, lite, spec.dtype),
            file_format=lite.weights,
        )
    except LmplanError:
        return replace(job, findings=tuple(findings))  # the finding about sides that do not divide says it
    batch_size = recipe.calibration.batch_size
    if batch_size == "auto":
        gpu_bytes = job.machine.gpu.free_bytes if job.machine.gpu else None
        batch_size = method.auto_batch_size(recipe, spec, expected, gpu_bytes, job.machine.host_available_bytes)
    is_here = job.source.folder is not None and not recipe.draw
    download_bytes = 0 if is_here else size_bytes(inventory(spec))
    needs = method.needs(recipe, spec, expected, batch_size=batch_size, download_bytes=download_bytes)
    check_needs = quality_needs(spec, expected, recipe.check, recipe.device, recipe.draw)
    findings += preflight_machine.machine_findings(recipe, needs, job.machine)
    findings += preflight_machine.check_findings(recipe, check_needs, job.machine)
    nowhere = Path("/")
    folders = Folders(nowhere, nowhere, nowhere, nowhere)
    if installed.command:
        words = build_arguments(method, recipe, lite, folders, dataset=job.dataset, batch_size=batch_size)
        findings += preflight.command_findings(words, installed)
    return replace(
        job,
        findings=tuple(findings),
        expected=expected,
        batch_size=batch_size,
        needs=needs,
        check_needs=check_needs,
    )


def ready(job: Job) -> ReadyJob:
    """The job, once its findings hold no error."""
    assert not job.errors
    assert job.installed and job.lite and job.expected and job.needs
    return ReadyJob(
        recipe=job.recipe,
        output=job.output,
        source=job.source,
        spec=job.spec,
        machine=job.machine,
        installed=job.installed,
        lite=job.lite,
        expected=job.expected,
        batch_size=job.batch_size,
        needs=job.needs,
        dataset=job.dataset,
        reachable=job.reachable,
        notes=tuple(finding.what for finding in job.findings),
    )


def find_model(recipe: Recipe) -> ModelSource:
    """The model of a recipe: a drawn one, or what `planner.model.source.resolve` finds."""
    if recipe.draw:
        return ModelSource(recipe.model, dict(known_config(recipe.model)), "catalog")
    if recipe.revision is None:
        return resolve(recipe.model)
    if "@" in recipe.model:
        raise UsageError(f"model {recipe.model!r} names a revision, and so does revision", "Keep one of them")
    if Path(recipe.model).exists():
        raise UsageError(f"revision is for Hugging Face ids, and {recipe.model} is on this machine")
    return resolve(f"{recipe.model}@{recipe.revision}")


def own_rows(recipe: Recipe, seed_tokens: int) -> Iterator[str]:
    """The texts to calibrate on, where they are not LMDeploy's to fetch."""
    if recipe.calibration.text is not None:
        yield from read_rows(expanded(recipe.calibration.text), recipe.calibration.text_field)
    else:
        wanted = min(seed_tokens * _DRAWN_BYTES_PER_TOKEN, _MAX_DRAWN_CHARACTERS)
        yield from draw_rows(recipe.seed, max(wanted, 10 * recipe.calibration.seqlen * _DRAWN_BYTES_PER_TOKEN))


def has_own_rows(recipe: Recipe) -> bool:
    """Whether the calibration text is lmplan's to lay out."""
    calibration = recipe.calibration
    return not calibration.data_free and (calibration.text is not None or calibration.dataset == DRAWN)


def dataset_argument(recipe: Recipe) -> str | None:
    """What --calib-dataset says; None for data-free."""
    if recipe.calibration.data_free:
        return None
    return STANDS_FOR if has_own_rows(recipe) else recipe.calibration.dataset


def hub_reachable(environment: Mapping[str, str]) -> bool:
    """Whether the Hugging Face Hub answers at all, within a few seconds."""
    if environment.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    endpoint = environment.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        request = urllib.request.Request(endpoint, method="HEAD")
        with urllib.request.urlopen(request, timeout=_REACH_TIMEOUT_S):
            return True
    except urllib.error.HTTPError:
        return True  # it answers
    except (OSError, ValueError):
        return False


def _with_dataset(recipe: Recipe) -> Recipe:
    """A recipe that names no source calibrates on wikitext2, or on drawn text where the model is drawn."""
    calibration = recipe.calibration
    if calibration.dataset or calibration.text or calibration.data_free:
        return recipe
    dataset = DRAWN if recipe.draw else _DEFAULT_DATASET
    return recipe.model_copy(update={"calibration": calibration.model_copy(update={"dataset": dataset})})


def _is_named(recipe: Recipe) -> bool:
    return not recipe.calibration.data_free and not has_own_rows(recipe)


def _text_findings(loaded: LoadedRecipe, recipe: Recipe) -> Iterator[Finding]:
    if recipe.check.text is not None:
        try:
            held_out_text(recipe.check)
        except LmplanError as error:
            place = loaded.place("check", "text")
            yield Finding(Severity.ERROR, f"{place}: {error.message}", error.hint, error.exit_code)
    if recipe.calibration.text is None:
        return
    try:
        size = measure(own_rows(recipe, 0))
    except LmplanError as error:
        place = loaded.place("calibration", "text")
        yield Finding(Severity.ERROR, f"{place}: {error.message}", error.hint, error.exit_code)
        return
    yield from preflight_machine.text_findings(recipe, size, vocabulary_is_bytes=recipe.draw)


def _dataset_is_cached(recipe: Recipe, environment: Mapping[str, str]) -> bool:
    """Whether `datasets` has prepared the named set before: it keeps a folder ``<owner>___<name>``."""
    if not _is_named(recipe):
        return False
    home = Path(environment.get("HF_HOME") or expanded("~/.cache/huggingface"))
    cache = Path(environment.get("HF_DATASETS_CACHE") or home / "datasets")
    hubs = {"wikitext2": "wikitext", "ptb": "ptb_text_only"}
    name = hubs.get(recipe.calibration.dataset or "", recipe.calibration.dataset or "")
    wanted = name.replace("_", "-").lower()
    try:
        return any(wanted in entry.name.replace("_", "-").lower() for entry in cache.iterdir())
    except OSError:
        return False
