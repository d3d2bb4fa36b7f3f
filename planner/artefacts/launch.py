"""The command that starts what was planned."""

from __future__ import annotations

import shlex

from planner.footprint import MemoryEstimate
from planner.lmdeploy.engines import engine_facts
from planner.lmdeploy.settings import DEFAULT_MAX_PREFILL_TOKEN_NUM, Settings
from planner.lmdeploy.versions import default_max_batch_size, has_option
from planner.model import catalog
from planner.model.source import ModelSource
from planner.model.spec import QuantMethod


def served_name(source: ModelSource) -> str:
    """What a command can load: the folder, the Hugging Face id where it is known, else the name given."""
    return str(source.folder) if source.origin == "folder" else source.hf_id or source.name


def model_argument(model: str, settings: Settings, quantized_already: bool) -> str:
    """What to serve: the model itself, its published fp8 form, or the folder that quantizing it will write."""
    if settings.weights == "fp8" and engine_facts(settings.engine).quantizes_to_fp8:
        return model
    if settings.weights != "as-is" and not quantized_already:
        published = catalog.load(f"{model}-{settings.weights}") if settings.weights == "fp8" else None
        if published is not None:
            return published.hf_id
        return f"./{model.rstrip('/').rpartition('/')[2]}-{settings.weights}"
    return model


def api_server_command(plan: MemoryEstimate, model: str) -> str:
    """`lmdeploy serve api_server ...` for the plan, with the options that its version knows.

    Options at their default are left out, apart from the ratio, which readers look for.
    """
    settings, spec = plan.deployment.settings, plan.deployment.spec
    version = settings.lmdeploy.rules
    quantized_already = spec.quantization is not None
    words = ["lmdeploy", "serve", "api_server", model_argument(model, settings, quantized_already)]
    words += ["--backend", settings.engine]
    quantized = settings.quantization
    named = engine_facts(settings.engine).names_every_format
    if quantized is not None and (named or quantized.method is QuantMethod.FP8):
        words += ["--model-format", quantized.method.value]
    if settings.quant_policy:
        words += ["--quant-policy", str(settings.quant_policy)]
    words += ["--cache-max-entry-count", f"{settings.cache_max_entry_count:g}"]
    if settings.tp > 1:
        words += ["--tp", str(settings.tp)]
    if settings.session_len != spec.text.max_position_embeddings and settings.session_len != (
        spec.text.max_position_embeddings + 8
    ):
        words += ["--session-len", str(settings.session_len)]
    if settings.max_batch_size != default_max_batch_size(version, plan.deployment.gpu.product):
        words += ["--max-batch-size", str(settings.max_batch_size)]
    if settings.max_prefill_token_num != DEFAULT_MAX_PREFILL_TOKEN_NUM:
        words += ["--max-prefill-token-num", str(settings.max_prefill_token_num)]
    if needs_remote_code(spec.architecture, spec.text.architecture) and has_option("--trust-remote-code", version):
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
