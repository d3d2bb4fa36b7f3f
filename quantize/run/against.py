"""`lmplan inspect FOLDER --against ORIGINAL`: the gate of a run, for a checkpoint that somebody made."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from planner.errors import EnvironmentProblem, UsageError
from planner.model.arch import read_spec
from planner.model.quantization import Quantization
from planner.model.source import read_config, resolve
from quantize.checkpoint.synthetic import is_synthetic
from quantize.quality.child import Pair, look
from quantize.quality.report import Quality
from quantize.quality.text import held_out_text
from quantize.recipe.model import Check
from quantize.system.installation import find_interpreter
from quantize.system.nvml import first_gpu

_SILENCE_S = 3600.0


def look_against(
    folder: Path,
    original: str,
    quantization: Quantization,
    check: Check,
    *,
    device: str | None,
    trust_remote_code: bool,
    environment: Mapping[str, str],
    tell: Callable[[str], None],
) -> Quality:
    """Compare the checkpoint in `folder` with `original`.

    Args:
        folder: with a quantized checkpoint.
        original: a folder with the 16-bit weights, or a Hugging Face id whose weights are in the cache.
        quantization: of the checkpoint.
        check: whether to look at text, and which.
        device: ``cuda`` or ``cpu``; None for the GPU where there is one.
        trust_remote_code: run Python files that come with the models.
        environment: the user's.
        tell: is given a line when the check turns to something else.

    Raises:
        UsageError: the original's weights are not on this machine, or are quantized.
        Others: as `quantize.quality.child.look`.
    """
    source = resolve(original)
    if source.folder is None:
        raise UsageError(f"the weights of {original} are not on this machine", "Give a folder with the 16-bit weights")
    spec = read_spec(source.config, source.name)
    if spec.quantization is not None:
        raise UsageError(f"{original} is quantized itself ({spec.quantization.method})", "Give its 16-bit original")
    result = read_spec(read_config(folder / "config.json"), folder.name)
    if (result.architecture, result.text.num_layers) != (spec.architecture, spec.text.num_layers):
        raise UsageError(f"{original} is another model than {folder}: architecture or number of layers differ")
    try:
        python = find_interpreter(environment)
    except EnvironmentProblem:
        python = sys.executable  # without LMDeploy, torch may still be here; the child says where it is not
    if device is None:
        device = "cpu" if first_gpu(environment) is None else "cuda"
    pair = Pair(
        source.folder,
        folder,
        spec,
        quantization.method,
        drawn=is_synthetic(source.folder),
        trust_remote_code=trust_remote_code,
    )
    with tempfile.TemporaryDirectory(prefix="lmplan-check-") as work:
        return look(
            pair,
            check,
            text=held_out_text(check),
            python=python,
            device=device,
            environment=environment,
            folder=Path(work),
            silence_s=_SILENCE_S,
            tell=tell,
        )
