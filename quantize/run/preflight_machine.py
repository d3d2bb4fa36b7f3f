"""What this machine says before a run: text, network, weights, memory, disk and the output's name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from planner.files.escape import shown
from planner.model.file_form import as_stored
from planner.model.inventory import inventory
from planner.model.reconcile import belongs, compare
from planner.model.source import ModelSource
from planner.model.spec import ModelSpec
from planner.units import format_gib
from quantize.lite.dataset import TextSize
from quantize.lite.findings import Finding, error, warning
from quantize.lite.resources import Needs
from quantize.quality.needs import QualityNeeds
from quantize.recipe.model import DRAWN, Recipe
from quantize.run.staging import is_free
from quantize.system.machine import Machine, nearest_folder


def text_findings(recipe: Recipe, size: TextSize, vocabulary_is_bytes: bool) -> Iterator[Finding]:
    """Whether own text is enough: LMDeploy cuts samples at random from all of it, so it must hold one at least."""
    calibration = recipe.calibration
    # A token is at least a byte of text, so fewer bytes than tokens are too few for sure.
    if size.utf8_bytes < calibration.seqlen:
        yield error(
            f"the calibration text has {size.utf8_bytes} bytes, which cannot make one sample of "
            f"{calibration.seqlen} tokens",
            "Give more text, or lower calibration.seqlen",
        )
        return
    # English takes 3 to 5 bytes a token with current vocabularies.
    likely_tokens = size.utf8_bytes if vocabulary_is_bytes else size.utf8_bytes // 4
    if likely_tokens < calibration.seqlen:
        yield error(
            f"the calibration text has about {likely_tokens} tokens, less than one sample of {calibration.seqlen}",
            "Give more text, or lower calibration.seqlen",
        )
    elif likely_tokens < calibration.seqlen * calibration.samples:
        yield warning(
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
        yield warning(
            f"the Hub cannot be reached: {named} comes from your cache, as some earlier run prepared it",
            "To be sure of its content, give your own text with calibration.text",
        )
    else:
        yield error(
            f"the Hub cannot be reached, and {named} is not in the cache",
            "Give your own text with calibration.text, or set calibration.data_free: true",
            5,
        )


def machine_findings(recipe: Recipe, needs: Needs, machine: Machine) -> Iterator[Finding]:
    """What the run takes against what this machine has."""
    if recipe.device == "cuda":
        if machine.gpu is None:
            yield error(
                "there is no GPU to use", "Set device: cpu (slow for more than 2B), or run where there is one", 5
            )
        elif needs.gpu_bytes > machine.gpu.free_bytes:
            yield error(
                f"the run takes {format_gib(needs.gpu_bytes)} of GPU memory, and "
                f"{format_gib(machine.gpu.free_bytes)} are free",
                "Lower calibration.samples times seqlen, which is what memory follows",
                5,
            )
    if needs.host_bytes > machine.host_available_bytes:
        yield error(
            f"the run takes {format_gib(needs.host_bytes)} of host memory, and "
            f"{format_gib(machine.host_available_bytes)} are free",
            "Free memory, or use a larger machine",
            5,
        )
    if machine.disk_free_bytes is not None and needs.disk_bytes > machine.disk_free_bytes:
        yield error(
            f"the run takes {format_gib(needs.disk_bytes)} of disk, and {format_gib(machine.disk_free_bytes)} are free",
            "Free disk, or put the output elsewhere",
            5,
        )


def check_findings(recipe: Recipe, needs: QualityNeeds | None, machine: Machine) -> Iterator[Finding]:
    """What the check of the result takes, and the text that it reads."""
    if needs is None:
        return
    remedy = "Set check.quality: weights, which takes less, or none"
    if machine.gpu is not None and needs.gpu_bytes > machine.gpu.free_bytes:
        yield error(
            f"the check of the result takes {format_gib(needs.gpu_bytes)} of GPU memory, and "
            f"{format_gib(machine.gpu.free_bytes)} are free",
            remedy,
            5,
        )
    if needs.host_bytes > machine.host_available_bytes:
        yield error(
            f"the check of the result takes {format_gib(needs.host_bytes)} of host memory, and "
            f"{format_gib(machine.host_available_bytes)} are free",
            remedy,
            5,
        )
    if recipe.check.text is not None and recipe.check.text == recipe.calibration.text:
        yield warning(
            "check.text is the text of the calibration: what was seen there comes out better than what was not",
            "Name another file, or leave check.text out",
        )


def output_findings(output: Path) -> Iterator[Finding]:
    """Whether the output's name is free, and whether something can be made there."""
    try:
        if not is_free(output):
            yield error(f"the output folder {output} is not empty", "Give another output, or move that folder away")
        above = nearest_folder(output.absolute().parent)
    except OSError as problem:
        yield error(f"the output {output} cannot be made: {problem.strerror or problem}", "Give another output", 5)
        return
    if not os.access(above, os.W_OK | os.X_OK):
        yield error(f"cannot write to {above}, where the output is to be", "Give another output", 5)


def weights_findings(source: ModelSource, spec: ModelSpec, reachable: bool) -> Iterator[Finding]:
    """Whether the weights are here or can be fetched, and whether they are what config.json says."""
    if source.folder is None and source.hf_id is None:
        yield error(
            f"{source.name} is a config.json without weights", "Give the folder with the weights, or a Hugging Face id"
        )
    elif source.folder is None and not reachable:
        yield error(
            f"the weights of {source.hf_id} are not on this machine, and the Hub cannot be reached",
            "Give a folder, or fill the cache where there is a network: hf download " + str(source.hf_id),
            5,
        )
    elif source.folder is not None and source.checkpoint is None and not any(source.folder.glob("*.bin")):
        yield error(f"{source.folder} has no weights", "Expected *.safetensors or *.bin beside config.json")
    if source.checkpoint is not None and spec.quantization is None:
        if not belongs(inventory(spec), source.checkpoint):
            yield error(
                f"{shown(source.checkpoint.source)} holds none of the tensors that its config.json leads to",
                "Put the config.json and the weights of one model there",
            )
            return
        for line in compare(inventory(as_stored(spec, source.checkpoint)), source.checkpoint)[:3]:
            yield warning(f"the weights differ from config.json: {line}", "Predicted sizes follow config.json")
