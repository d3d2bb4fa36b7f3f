"""Everything that can be known before a run, all at once: each finding with what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from planner.model.checkpoint import compare
from planner.model.dtypes import DType
from planner.model.source import ModelSource
from planner.model.spec import ModelSpec
from planner.model.tensors import LINEAR_ROLES, inventory
from planner.units import format_gib
from quantize.command import unknown_options
from quantize.dataset import TextSize
from quantize.installation import Installation
from quantize.machine import Machine
from quantize.recipe import DRAWN, Recipe
from quantize.resources import Needs
from quantize.staging import is_free
from quantize.versions import LiteVersion, companions_of


class Severity(Enum):
    """An ERROR stops the run; a WARNING is for the reader to weigh."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a run would trip over: what, and the remedy. `exit_code` is that of the refusal."""

    severity: Severity
    what: str
    remedy: str
    exit_code: int = 2


def _error(what: str, remedy: str, exit_code: int = 2) -> Finding:
    return Finding(Severity.ERROR, what, remedy, exit_code)


def _warning(what: str, remedy: str) -> Finding:
    return Finding(Severity.WARNING, what, remedy)


def recipe_findings(recipe: Recipe, spec: ModelSpec, config: Mapping[str, object]) -> Iterator[Finding]:
    """What the recipe and the model say by themselves, without LMDeploy."""
    if recipe.bits != 4:
        yield _error(
            f"{recipe.bits}-bit weights: LMDeploy packs 4 bits only, and fails after calibration", "Set bits: 4"
        )
    if recipe.symmetric:
        yield _error("symmetric: true: LMDeploy fails while packing", "Set symmetric: false")
    if spec.quantization is not None:
        yield _error(
            f"{spec.name} is quantized already ({spec.quantization.method})", "Start from its 16-bit weights", 4
        )
    yield from _division_findings(recipe, spec)
    wants_code = isinstance(config.get("auto_map"), dict)
    if wants_code and not recipe.trust_remote_code and not recipe.draw:
        yield _error(
            f"{spec.name} comes with its own Python code, which has to run to load it",
            "Read that code, then set trust_remote_code: true",
        )
    if recipe.draw and spec.architecture in ("InternLM2ForCausalLM", "InternLM3ForCausalLM", "InternVLChatModel"):
        yield _error(
            f"a drawn {spec.architecture} cannot be quantized: its modelling code comes with the real weights",
            "Draw a model whose class transformers has, such as llama-3.1-8b",
        )
    longest = spec.text.max_position_embeddings
    if recipe.calibration.seqlen > longest and not recipe.calibration.data_free:
        yield _warning(
            f"seqlen {recipe.calibration.seqlen} is longer than the model's {longest} tokens",
            f"Set calibration.seqlen: {min(longest, 2048)}",
        )


def _division_findings(recipe: Recipe, spec: ModelSpec) -> Iterator[Finding]:
    size = recipe.group_size
    odd_in, odd_out = set(), set()
    for group in inventory(spec):
        if group.role in LINEAR_ROLES and len(group.shape) == 2:
            num_out, num_in = group.shape
            if num_in % size:
                odd_in.add(num_in)
            if num_out % 8:
                odd_out.add(num_out)
    if odd_in:
        fitting = [g for g in (128, 64, 32) if not any(n % g for n in odd_in)]
        remedy = f"Set group_size: {fitting[0]}" if fitting and fitting[0] != size else "This model cannot be quantized"
        numbers = ", ".join(map(str, sorted(odd_in)))
        yield _error(f"group_size {size} does not divide {numbers} inputs of a linear", remedy)
    elif size not in (32, 64, 128):
        yield _warning(
            f"group_size {size} is not one that LMDeploy's kernels serve (128; TurboMind also 64, 32)",
            "Set group_size: 128",
        )
    if odd_out:
        yield _error(
            f"eight 4-bit weights make a word, and {', '.join(map(str, sorted(odd_out)))} outputs are no multiple of 8",
            "This model cannot be quantized",
            4,
        )


def version_findings(recipe: Recipe, spec: ModelSpec, lite: LiteVersion, installed: Installation) -> Iterator[Finding]:
    """What the installed LMDeploy cannot do."""
    about = f"LMDeploy {lite.version}"
    if not lite.exact:
        yield _warning(
            f"{about} is newer than any that lmplan knows; it is taken to be like the newest of them",
            "Look at the result twice",
        )
    yield from _architecture_findings(recipe, spec, lite, about)
    calibration = recipe.calibration
    if calibration.data_free and not lite.data_free:
        yield _error(f"{about} cannot quantize without calibration data", "Upgrade to 0.14 or later, or name a dataset")
    named = calibration.dataset
    if named is not None and named != DRAWN and named not in lite.dataset_names:
        yield _error(f"{about} does not know the dataset {named}", "It knows " + ", ".join(lite.dataset_names))
    packs = any(info.packs for info in lite.datasets if info.name == named)
    if packs and calibration.samples * calibration.seqlen > 2**17:
        yield _warning(
            f"{named} may hold less than {calibration.samples} x {calibration.seqlen} tokens, "
            "and LMDeploy then calibrates on fewer samples without a word",
            "Look for `Split into N blocks` in the log, or use wikitext2",
        )
    yield from _dtype_findings(recipe, spec, lite, about)
    if not lite.trust_remote_code and not recipe.trust_remote_code:
        yield _warning(
            f"{about} always runs Python code that comes with a model",
            "Check that the model has none, or upgrade to 0.13 or later",
        )
    if not lite.device and recipe.device != "cuda":
        yield _error(f"{about} has no --device and runs on cuda", "Set device: cuda, or use another version")
    yield from _companion_findings(lite, spec, installed)


def _architecture_findings(recipe: Recipe, spec: ModelSpec, lite: LiteVersion, about: str) -> Iterator[Finding]:
    language = spec.text.architecture
    if spec.architecture == "InternVLForConditionalGeneration" and not lite.hf_form_vlm:
        yield _error(
            f"{about} cannot load the Hugging Face form of InternVL to quantize it",
            "Quantize the model without -hf in its name",
            4,
        )
    elif language in lite.calibrate:
        return
    elif language in lite.data_free_only:
        if not recipe.calibration.data_free:
            yield _error(
                f"{about} can calibrate no {language}: it runs all of it and then raises KeyError",
                "Set calibration.data_free: true",
                4,
            )
    else:
        yield _error(
            f"{about} cannot quantize {language}: it says so only after loading the whole model",
            "Known: " + ", ".join(sorted(lite.calibrate | lite.data_free_only)),
            4,
        )


def _dtype_findings(recipe: Recipe, spec: ModelSpec, lite: LiteVersion, about: str) -> Iterator[Finding]:
    if recipe.dtype == "bfloat16" and not lite.dtype:
        yield _error(f"{about} has no --dtype and always makes float16", "Set dtype: auto")
    keeps_bf16 = recipe.dtype == "bfloat16" or (
        recipe.dtype == "auto" and spec.dtype is DType.BF16 and lite.dtype and lite.auto_dtype == "keep"
    )
    if recipe.device == "cpu" and keeps_bf16:
        yield _error("LMDeploy refuses bfloat16 on a CPU", "Set dtype: float16")
    if recipe.dtype == "auto" and spec.dtype is DType.F32:
        yield _warning(
            "the checkpoint is float32 and stays so with dtype auto: scales and embeddings take twice the room",
            "Set dtype: float16",
        )


def _companion_findings(lite: LiteVersion, spec: ModelSpec, installed: Installation) -> Iterator[Finding]:
    if not installed.packages:
        return
    for name, ranges in (*lite.companions, *companions_of(spec.text.architecture)):
        found = installed.packages.get(name)
        if found is None:
            yield _error(f"LMDeploy's lite needs {name}, which is not installed", f"pip install '{name}{ranges}'", 5)
            continue
        try:
            fits = SpecifierSet(ranges).contains(Version(found), prereleases=True)
        except InvalidVersion:
            continue
        if not fits:
            yield _error(
                f"LMDeploy {lite.version} does not work with {name} {found}", f"pip install '{name}{ranges}'", 5
            )
    needed = ["datasets", "accelerate"] + (["torchvision"] if spec.vision is not None else [])
    named = {name for name, _ in lite.companions}
    for name in needed:
        if name not in installed.packages and name not in named:
            yield _error(f"LMDeploy's lite needs {name}, which is not installed", f"pip install {name}", 5)


def command_findings(words: list[str], installed: Installation) -> Iterator[Finding]:
    """Options that the installed LMDeploy does not list."""
    for option in unknown_options(words, installed.options):
        yield _error(
            f"this LMDeploy ({installed.version}) does not list {option} in its --help",
            "Its version and its options do not agree; reinstall it",
            5,
        )


def text_findings(recipe: Recipe, size: TextSize, vocabulary_is_bytes: bool) -> Iterator[Finding]:
    """Whether own text is enough: LMDeploy cuts samples at random from all of it, so it must hold one at least."""
    calibration = recipe.calibration
    # A token is at least a byte of text, so fewer bytes than tokens are too few for sure.
    if size.utf8_bytes < calibration.seqlen:
        yield _error(
            f"the calibration text has {size.utf8_bytes} bytes, which cannot make one sample of "
            f"{calibration.seqlen} tokens",
            "Give more text, or lower calibration.seqlen",
        )
        return
    # English takes 3 to 5 bytes a token with current vocabularies.
    likely_tokens = size.utf8_bytes if vocabulary_is_bytes else size.utf8_bytes // 4
    if likely_tokens < calibration.seqlen:
        yield _error(
            f"the calibration text has about {likely_tokens} tokens, less than one sample of {calibration.seqlen}",
            "Give more text, or lower calibration.seqlen",
        )
    elif likely_tokens < calibration.seqlen * calibration.samples:
        yield _warning(
            f"about {likely_tokens} tokens of text for {calibration.samples} x {calibration.seqlen}: "
            "samples will overlap",
            "Give more text, or lower calibration.samples",
        )


def network_findings(recipe: Recipe, reachable: bool, cached: bool) -> Iterator[Finding]:
    """A named dataset that can come neither from the Hub nor from the cache."""
    named = recipe.calibration.dataset
    if named is None or named == DRAWN or reachable:
        return
    if cached:
        yield _warning(
            f"the Hub cannot be reached: {named} comes from your cache, as some earlier run prepared it",
            "To be sure of its content, give your own text with calibration.text",
        )
    else:
        yield _error(
            f"the Hub cannot be reached, and {named} is not in the cache",
            "Give your own text with calibration.text, or set calibration.data_free: true",
            5,
        )


def machine_findings(recipe: Recipe, needs: Needs, machine: Machine) -> Iterator[Finding]:
    """What the run takes against what this machine has."""
    if recipe.device == "cuda":
        if machine.gpu is None:
            yield _error(
                "there is no GPU to use", "Set device: cpu (slow for more than 2B), or run where there is one", 5
            )
        elif needs.gpu_bytes > machine.gpu.free_bytes:
            yield _error(
                f"the run takes {format_gib(needs.gpu_bytes)} of GPU memory, and "
                f"{format_gib(machine.gpu.free_bytes)} are free",
                "Lower calibration.samples times seqlen, which is what memory follows",
                5,
            )
    if needs.host_bytes > machine.host_available_bytes:
        yield _error(
            f"the run takes {format_gib(needs.host_bytes)} of host memory, and "
            f"{format_gib(machine.host_available_bytes)} are free",
            "Free memory, or use a larger machine",
            5,
        )
    if needs.disk_bytes > machine.disk_free_bytes:
        yield _error(
            f"the run takes {format_gib(needs.disk_bytes)} of disk, and {format_gib(machine.disk_free_bytes)} are free",
            "Free disk, or put the output elsewhere",
            5,
        )


def output_findings(output: Path) -> Iterator[Finding]:
    """Whether the output's name is free."""
    if not is_free(output):
        yield _error(f"the output folder {output} is not empty", "Give another output, or move that folder away")


def weights_findings(source: ModelSource, spec: ModelSpec, reachable: bool) -> Iterator[Finding]:
    """Whether the weights are here or can be fetched, and whether they are what config.json says."""
    if source.folder is None and source.hf_id is None:
        yield _error(
            f"{source.name} is a config.json without weights", "Give the folder with the weights, or a Hugging Face id"
        )
    elif source.folder is None and not reachable:
        yield _error(
            f"the weights of {source.hf_id} are not on this machine, and the Hub cannot be reached",
            "Give a folder, or fill the cache where there is a network: hf download " + str(source.hf_id),
            5,
        )
    elif source.folder is not None and source.checkpoint is None and not any(source.folder.glob("*.bin")):
        yield _error(f"{source.folder} has no weights", "Expected *.safetensors or *.bin beside config.json")
    if source.checkpoint is not None and spec.quantization is None:
        for line in compare(inventory(spec), source.checkpoint)[:3]:
            yield _warning(f"the weights differ from config.json: {line}", "Predicted sizes follow config.json")
