"""The command that starts what was planned."""

from __future__ import annotations

import shlex

from planner.engine.settings import DEFAULT_MAX_PREFILL_TOKEN_NUM, Settings
from planner.engine.versions import default_max_batch_size, has_option
from planner.footprint import MemoryEstimate


def model_argument(model: str, settings: Settings, quantized_already: bool) -> str:
    """What to serve: the model itself, or the folder that quantizing it will write."""
    if settings.weights != "as-is" and not quantized_already:
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
    if settings.quantization is not None and has_option("--model-format", version):
        words += ["--model-format", settings.quantization.method]
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
