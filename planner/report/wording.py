"""The sentences that every report shares."""

from __future__ import annotations

from planner.api.estimate import Plan
from planner.evidence import bands
from planner.lmdeploy.options import value_word
from planner.memory.terms import Evidence
from planner.units import MIB, format_bytes, format_gib

CAPACITY_NOT_FOOTPRINT = (
    "KV quantization and --cache-max-entry-count change how many tokens fit, not the footprint: the engine takes its "
    "share of the free memory whatever the cache holds. --quant-policy 8 or 4 puts more tokens into the same memory; "
    "a smaller ratio gives memory back and holds fewer tokens."
)

TERM_TITLES = {
    "cuda_context": "CUDA context",
    "kernel_code": "kernel code",
    "weights": "weights",
    "vision_tower": "vision tower",
    "pool_rounding": "pool rounding",
    "communicator": "NCCL",
    "late_communicator": "NCCL, exchanging",
    "packed_copy": "packed copy",
    "workspaces": "workspaces",
    "kv_cache": "KV cache",
    "batch_buffers": "batch buffers",
    "gemm_workspace": "GEMM workspace",
    "forward_buffers": "forward buffers",
    "delta_buffers": "delta rule",
    "torch_kept": "kept by torch",
    "late_code": "late kernels",
    "exchange_buffer": "exchange buffer",
    "cuda_graphs": "CUDA graphs",
}

_WORTH_SAYING_BYTES = 5 * MIB
CONTEXTS = (2048, 8192, 32768, 131072)


def title(name: str) -> str:
    """A term's name for people."""
    return TERM_TITLES.get(name, name.replace("_", " "))


def short_evidence(evidence: Evidence) -> str:
    """The evidence up to its first clause, for a table."""
    return str(evidence._replace(detail=evidence.detail.partition(";")[0]))


def headline(plan: Plan) -> str:
    """The verdict in one line."""
    memory, verdict = plan.memory, plan.verdict
    name = f"{verdict[0].upper()}{verdict[1:]}"
    if not memory.fits:
        return f"{name}: {plan.reasons[0]}."
    free = memory.deployment.free_bytes
    held = (
        f"holds {format_gib(memory.total_bytes)} of {format_gib(free)}, "
        f"{format_gib(free - memory.total_bytes)} remain free"
    )
    return f"{name}: {'; '.join((held, *plan.reasons))}."


def model_line(plan: Plan) -> str:
    """What is served."""
    memory = plan.memory
    spec, settings = memory.deployment.spec, memory.deployment.settings
    quantized = f", {settings.quantization.method} {settings.quantization.bits}-bit" if settings.quantization else ""
    return (
        f"{spec.name} ({spec.architecture}, {memory.num_parameters / 1e9:.2f} B parameters, "
        f"checkpoint {format_gib(plan.checkpoint_bytes)}{quantized}, runs in {settings.dtype.config_name})"
    )


def gpu_line(plan: Plan) -> str:
    """What it is served on and with."""
    deployment = plan.memory.deployment
    gpu, settings = deployment.gpu, deployment.settings
    part = f", part of {gpu.slice_of}" if gpu.slice_of else ""
    free = (
        f", {format_gib(deployment.free_bytes)} of {format_gib(gpu.memory_total_bytes)} free"
        if deployment.free_bytes != gpu.memory_total_bytes
        else f", {format_gib(gpu.memory_total_bytes)}"
    )
    tp = f", {settings.tp} of them" if settings.tp > 1 else ""
    return (
        f"{gpu.name} (compute capability {gpu.compute_capability / 10}{part}{free}{tp}), "
        f"{settings.engine.heading} of LMDeploy {settings.lmdeploy.version}"
    )


def settings_line(plan: Plan) -> str:
    """The settings, as LMDeploy calls them."""
    settings = plan.memory.deployment.settings
    return (
        f"cache_max_entry_count {value_word(settings.cache_max_entry_count)}, quant_policy {settings.quant_policy}, "
        f"tp {settings.tp}, session_len {settings.session_len}, max_batch_size {settings.max_batch_size}, "
        f"max_prefill_token_num {settings.max_prefill_token_num}"
    )


def capacity_rows(plan: Plan) -> list[tuple[int, int]]:
    """Context length in tokens and concurrent sequences, for lengths up to the session's."""
    memory = plan.memory
    limit = memory.deployment.settings.session_len
    contexts = sorted({c for c in CONTEXTS if c <= limit} | {plan.context_tokens})
    return [(context, memory.max_sequences(context)) for context in contexts]


def image_line(plan: Plan) -> str:
    """What an image costs in tokens, or an empty string."""
    tower = plan.memory.deployment.spec.vision
    if tower is None:
        return ""
    return f"An image takes {tower.tokens_per_tile} tokens per tile, at most {tower.max_image_tokens} in all."


def state_line(plan: Plan) -> str:
    """What a running sequence holds beside its tokens, or an empty string."""
    states = plan.memory.kv_cache.states
    return f"A running sequence holds {format_bytes(states.sequence_bytes)} of state besides." if states else ""


def beside_tokens(plan: Plan) -> list[str]:
    """Lines on what takes of the KV cache besides tokens of text; empty for most models."""
    return [line for line in (state_line(plan), image_line(plan)) if line]


def accuracy_line(plan: Plan) -> str:
    """How near estimates of this kind came to what was measured."""
    return f"Accuracy: {bands.line(plan.memory.deployment)}."


def assumptions(plan: Plan) -> list[str]:
    """Terms that nobody measured on this GPU, with their bands; what prints as 0.00 GiB is left out."""
    return [
        f"{title(term.name)} {format_gib(term.size_bytes)} "
        f"({format_gib(term.low_bytes)} to {format_gib(term.high_bytes)}): {term.evidence.detail}"
        for term in plan.memory.terms
        if term.evidence.kind == "assumed" and term.name != "kv_cache" and term.high_bytes >= _WORTH_SAYING_BYTES
    ]
