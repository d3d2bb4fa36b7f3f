"""The command that starts what was planned."""

from __future__ import annotations

import shlex

from planner.footprint import MemoryEstimate
from planner.kinds import WeightsChoice, assert_never
from planner.lmdeploy import options
from planner.lmdeploy.settings import Settings, defaults, makes_fp8
from planner.lmdeploy.versions import asks_for_remote_code
from planner.model import catalog
from planner.model.source import ModelSource


def served_name(source: ModelSource) -> str:
    """What a command can load: the folder, the Hugging Face id where it is known, else the name given."""
    return str(source.folder) if source.origin == "folder" else source.hf_id or source.name


def model_argument(model: str, settings: Settings, quantized_already: bool) -> str:
    """What to serve: the model itself, its published fp8 form, or the folder that quantizing it will write."""
    if quantized_already:
        return model
    match settings.weights:
        case WeightsChoice.AS_IS:
            return model
        case WeightsChoice.FP8:
            if makes_fp8(settings.engine):
                return model
            published = catalog.load(f"{model}-{settings.weights}")
            if published is not None:
                return published.hf_id
        case WeightsChoice.W4A16:
            pass
        case _:
            assert_never(settings.weights)
    return f"./{model.rstrip('/').rpartition('/')[2]}-{settings.weights}"


def default_settings(plan: MemoryEstimate) -> Settings:
    """What LMDeploy would do for the plan's engine and weights if it were told nothing else."""
    return defaults(plan.deployment.settings, plan.deployment.spec, plan.deployment.gpu)


def api_server_command(plan: MemoryEstimate, model: str) -> str:
    """`lmdeploy serve api_server ...` for the plan.

    Options at their default are left out, apart from the ratio, which readers look for.
    """
    settings, spec = plan.deployment.settings, plan.deployment.spec
    words = ["lmdeploy", "serve", "api_server", model_argument(model, settings, spec.quantization is not None)]
    words += options.api_server_words(settings, default_settings(plan))
    if needs_remote_code(spec.architecture, spec.text.architecture) and asks_for_remote_code(settings.lmdeploy.rules):
        words.append("--trust-remote-code")
    return shlex.join(words)


def needs_remote_code(*architectures: str) -> bool:
    """Whether LMDeploy runs the repository's own code for a model of these architectures."""
    return any(name in _REMOTE_CODE for name in architectures)


_REMOTE_CODE = {
    "InternLMForCausalLM",
    "InternLM2ForCausalLM",
    "InternLM3ForCausalLM",
    "InternVLChatModel",
    "QWenLMHeadModel",
}
"""Families whose configuration class ships with the model and not with transformers."""
