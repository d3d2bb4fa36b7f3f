"""What a recipe, a model and the installed LMDeploy say before a run: each finding with its remedy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from planner.files.escape import shown
from planner.model.dtypes import DType
from planner.model.own_code import own_code, some_of
from planner.model.spec import ModelSpec
from quantize.lite.command import unknown_options
from quantize.lite.findings import Finding, error, warning
from quantize.lite.methods import METHODS
from quantize.lite.versions import LiteVersion, companions_of
from quantize.recipe.model import DRAWN, MethodName, Recipe
from quantize.system.installation import Installation


def recipe_findings(
    recipe: Recipe, spec: ModelSpec, config: Mapping[str, Any], folder: Path | None = None
) -> Iterator[Finding]:
    """What the recipe and the model say by themselves, without LMDeploy; `folder` is where the model lies."""
    if spec.quantization is not None:
        yield error(
            f"{spec.name} is quantized already ({spec.quantization.method})", "Start from its 16-bit weights", 4
        )
    yield from METHODS[recipe.method].recipe_findings(recipe, spec)
    if not recipe.trust_remote_code and not recipe.draw and (files := own_code(config, folder)):
        yield error(
            f"{shown(spec.name)} comes with its own Python code, which has to run to load it: {some_of(files)}",
            "Read that code, then set trust_remote_code: true",
        )
    if recipe.draw and spec.architecture in ("InternLM2ForCausalLM", "InternLM3ForCausalLM", "InternVLChatModel"):
        yield error(
            f"a drawn {spec.architecture} cannot be quantized: its modelling code comes with the real weights",
            "Draw a model whose class transformers has, such as llama-3.1-8b",
        )
    longest = spec.text.max_position_embeddings
    if recipe.calibration.seqlen > longest and not recipe.calibration.data_free:
        yield warning(
            f"seqlen {recipe.calibration.seqlen} is longer than the model's {longest} tokens",
            f"Set calibration.seqlen: {min(longest, 2048)}",
        )


def version_findings(recipe: Recipe, spec: ModelSpec, lite: LiteVersion, installed: Installation) -> Iterator[Finding]:
    """What the installed LMDeploy cannot do."""
    about = f"LMDeploy {lite.version}"
    if not lite.exact:
        yield warning(
            f"{about} is newer than any that lmplan knows; it is taken to be like the newest of them",
            "Look at the result twice",
        )
    yield from _architecture_findings(recipe, spec, lite, about)
    calibration = recipe.calibration
    if calibration.data_free and not lite.data_free:
        yield error(f"{about} cannot quantize without calibration data", "Upgrade to 0.14 or later, or name a dataset")
    named = calibration.dataset
    if named is not None and named != DRAWN and named not in lite.dataset_names:
        yield error(f"{about} does not know the dataset {named}", "It knows " + ", ".join(lite.dataset_names))
    packs = any(info.packs for info in lite.datasets if info.name == named)
    if packs and calibration.samples * calibration.seqlen > 2**17:
        yield warning(
            f"{named} may hold less than {calibration.samples} x {calibration.seqlen} tokens, "
            "and LMDeploy then calibrates on fewer samples without a word",
            "Look for `Split into N blocks` in the log, or use wikitext2",
        )
    yield from _dtype_findings(recipe, spec, lite, about)
    if not lite.trust_remote_code and not recipe.trust_remote_code:
        yield warning(
            f"{about} always runs Python code that comes with a model",
            "Check that the model has none, or upgrade to 0.13 or later",
        )
    if not lite.device and recipe.device != "cuda":
        yield error(f"{about} has no --device and runs on cuda", "Set device: cuda, or use another version")
    yield from _companion_findings(recipe.method, lite, spec, installed)


def _architecture_findings(recipe: Recipe, spec: ModelSpec, lite: LiteVersion, about: str) -> Iterator[Finding]:
    language = spec.text.architecture
    if spec.architecture == "InternVLForConditionalGeneration" and not lite.hf_form_vlm:
        yield error(
            f"{about} cannot load the Hugging Face form of InternVL to quantize it",
            "Quantize the model without -hf in its name",
            4,
        )
    elif language in lite.calibrate:
        return
    elif language in lite.data_free_only:
        if not recipe.calibration.data_free:
            yield error(
                f"{about} can calibrate no {language}: it runs all of it and then raises KeyError",
                "Set calibration.data_free: true",
                4,
            )
    else:
        yield error(
            f"{about} cannot quantize {language}: it says so only after loading the whole model",
            "Known: " + ", ".join(sorted(lite.calibrate | lite.data_free_only)),
            4,
        )


def _dtype_findings(recipe: Recipe, spec: ModelSpec, lite: LiteVersion, about: str) -> Iterator[Finding]:
    if recipe.dtype == "bfloat16" and not lite.dtype:
        yield error(f"{about} has no --dtype and always makes float16", "Set dtype: auto")
    keeps_bf16 = recipe.dtype == "bfloat16" or (
        recipe.dtype == "auto" and spec.dtype is DType.BF16 and lite.dtype and lite.auto_dtype == "keep"
    )
    if recipe.device == "cpu" and keeps_bf16:
        yield error("LMDeploy refuses bfloat16 on a CPU", "Set dtype: float16")
    if recipe.dtype == "auto" and spec.dtype is DType.F32:
        yield warning(
            "the checkpoint is float32 and stays so with dtype auto: scales and embeddings take twice the room",
            "Set dtype: float16",
        )


def _companion_findings(
    method: MethodName, lite: LiteVersion, spec: ModelSpec, installed: Installation
) -> Iterator[Finding]:
    if not installed.packages:
        return
    for name, ranges in (*lite.companions, *companions_of(spec.text.architecture, method)):
        found = installed.packages.get(name)
        if found is None:
            yield error(f"LMDeploy's lite needs {name}, which is not installed", f"pip install '{name}{ranges}'", 5)
            continue
        try:
            fits = SpecifierSet(ranges).contains(Version(found), prereleases=True)
        except InvalidVersion:
            continue
        if not fits:
            yield error(
                f"LMDeploy {lite.version} does not work with {name} {found}", f"pip install '{name}{ranges}'", 5
            )
    needed = ["datasets", "accelerate"] + (["torchvision"] if spec.vision is not None else [])
    named = {name for name, _ in lite.companions}
    for name in needed:
        if name not in installed.packages and name not in named:
            yield error(f"LMDeploy's lite needs {name}, which is not installed", f"pip install {name}", 5)


def command_findings(words: list[str], installed: Installation) -> Iterator[Finding]:
    """Options that the installed LMDeploy does not list."""
    for option in unknown_options(words, installed.options):
        yield error(
            f"this LMDeploy ({installed.version}) does not list {option} in its --help",
            "Its version and its options do not agree; reinstall it",
            5,
        )
