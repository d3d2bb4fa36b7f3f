"""A plan as one JSON object; `planner/data/schemas/estimate-1.schema.json` describes it."""

from __future__ import annotations

import json
from typing import Any

from planner.api.estimate import Plan
from planner.engine.base import Deployment
from planner.evidence import bands
from planner.footprint import MemoryEstimate
from planner.lmdeploy import options
from planner.lmdeploy.settings import Settings
from planner.memory.terms import Term

SCHEMA = "lmplan.estimate/1"


def render(plan: Plan) -> str:
    """The object as text, indented, with a newline at the end."""
    return json.dumps(to_object(plan), indent=2) + "\n"


def to_object(plan: Plan) -> dict[str, Any]:
    """The object. Sizes are whole bytes of one GPU, the one that holds most."""
    memory = plan.memory
    deployment = memory.deployment
    best = plan.recommendation.estimate
    return {
        "schema": SCHEMA,
        "model": {
            "name": deployment.spec.name,
            "architecture": deployment.spec.architecture,
            "num_parameters": memory.num_parameters,
            "checkpoint_bytes": plan.checkpoint_bytes,
            "dtype": deployment.spec.dtype.config_name,
        },
        "gpu": {
            "name": deployment.gpu.name,
            "memory_total_bytes": deployment.gpu.memory_total_bytes,
            "free_bytes": deployment.free_bytes,
        },
        "settings": settings_object(deployment.settings),
        "per_gpu": {
            "terms": [term_object(term) for term in memory.terms],
            "total_bytes": memory.total_bytes,
            "load_peak_bytes": memory.load_peak_bytes,
            "full_load_bytes": memory.full_load_bytes,
        },
        "kv_cache": {
            "budget_bytes": memory.kv_cache.budget_bytes,
            "block_tokens": memory.kv_cache.block_tokens,
            "block_bytes": memory.kv_cache.block_bytes,
            "blocks": memory.kv_cache.blocks,
            "tokens": memory.kv_cache.tokens,
            "context_tokens": plan.context_tokens,
            "sequences": memory.max_sequences(plan.context_tokens),
        },
        "fits": plan.fits,
        "verdict": str(plan.verdict),
        "reasons": list(plan.reasons),
        "accuracy": _accuracy(deployment),
        "notes": [*plan.notes, *memory.warnings],
        "recommendation": {
            "settings": _best_settings(best),
            "why": list(plan.recommendation.why),
            "command": plan.command,
        },
    }


def settings_object(settings: Settings) -> dict[str, Any]:
    """Settings as LMDeploy calls them."""
    return {
        "engine": str(settings.engine),
        "lmdeploy": settings.lmdeploy.version,
        "weights": str(settings.weights),
        **options.full_config(settings),
    }


def _accuracy(deployment: Deployment) -> dict[str, Any] | None:
    """The measured runs of this very kind and the largest misses in them; null where there are none."""
    group = bands.find(deployment)
    if group is None:
        return None
    return {
        "product": group.product,
        "lmdeploy": group.lmdeploy,
        "engine": group.engine,
        "weights": group.format,
        "tp": group.tp,
        "runs": group.served,
        "models": group.models,
        "total_off_ratio": group.total_off_ratio,
        "kv_off_ratio": group.kv_off_ratio,
    }


def _best_settings(best: MemoryEstimate | None) -> dict[str, Any] | None:
    return settings_object(best.deployment.settings) if best else None


def term_object(term: Term) -> dict[str, Any]:
    """A term with its band, its evidence and its formula."""
    return {
        "name": term.name,
        "bytes": term.size_bytes,
        "low_bytes": term.low_bytes,
        "high_bytes": term.high_bytes,
        "evidence": str(term.evidence),
        "formula": term.formula,
    }
