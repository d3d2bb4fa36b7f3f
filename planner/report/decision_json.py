"""A decision as one JSON object; `planner/data/schemas/recommend-1.schema.json` describes it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from planner.advise.decision import Chosen, Evaluation
from planner.advise.throughput import Speed
from planner.api.advice import Advice
from planner.report import decision_text as text
from planner.report.jsonform import settings_object
from planner.request import Load

SCHEMA = "lmplan.recommend/1"


def render(advice: Advice) -> str:
    """The object as text, indented, with a newline at the end."""
    return json.dumps(to_object(advice), indent=2) + "\n"


def to_object(advice: Advice) -> dict[str, Any]:
    """The object. Sizes are whole bytes of one GPU; rates are tokens a second, bands are low, value, high."""
    decision, spec = advice.decision, advice.spec
    chosen, relaxation = decision.chosen, decision.relaxation
    value: dict[str, Any] = {
        "schema": SCHEMA,
        "model": {"name": spec.name, "architecture": spec.architecture, "dtype": spec.dtype.config_name},
        "lmdeploy": advice.lmdeploy.version,
        "gpus": [
            {"name": o.gpu.name, "free_bytes": o.free_bytes, "num_gpus": o.max_gpus if o.quality_first else None}
            for o in advice.offers
        ],
        "load": _load(decision.load),
        "serves": decision.serves,
        "gives": None
        if relaxation is None
        else {
            "wish": relaxation.wish,
            "asked": relaxation.asked,
            "possible": relaxation.possible,
            "load": _load(relaxation.load),
        },
        "chosen": chosen_object(advice, chosen) if chosen else None,
        "options": [_option(evaluation, advice) for evaluation in decision.options],
        "notes": list(advice.notes),
    }
    if advice.limits:
        value["limits"] = [_limit(evaluation) for evaluation in advice.limits]
    return value


def chosen_object(advice: Advice, chosen: Chosen) -> dict[str, Any]:
    """The plan taken."""
    memory, candidate = chosen.memory, chosen.candidate
    return {
        "gpu": candidate.offer.gpu.name,
        "num_gpus": candidate.option.tp,
        "settings": settings_object(candidate.settings),
        "total_bytes": memory.total_bytes,
        "load_peak_bytes": memory.load_peak_bytes,
        "free_bytes": memory.deployment.free_bytes,
        "keep_free_bytes": candidate.keep_free_bytes,
        "kv_tokens": memory.kv_cache.tokens,
        "users": candidate.users,
        "most_users": chosen.users.value,
        "longest_context_tokens": chosen.context.value,
        "growth_ends_at": chosen.binding,
        "speed": speed_object(chosen.speed) if chosen.speed else None,
        "why": text.why(advice),
        "artefacts": {artefact.key: artefact.text for artefact in advice.artefacts()},
    }


def speed_object(speed: Speed) -> dict[str, Any]:
    """A speed; bands as low, value and high."""
    bands = ("decode_tokens_per_s", "user_tokens_per_s", "step_seconds", "first_token_seconds", "prefill_tokens_per_s")
    return {
        **{name: asdict(getattr(speed, name)) for name in bands},
        "bound": speed.bound,
        "turn_batch": speed.turn_batch,
        "evidence": speed.evidence,
    }


def _load(load: Load) -> dict[str, Any]:
    return {
        "context_tokens": load.context_tokens,
        "concurrency": load.num_users,
        "images": load.num_images,
        "latency_ms": load.latency_ms,
        "first_token_ms": load.first_token_ms,
        "keep_quality": load.keep_quality,
    }


def _named(evaluation: Evaluation) -> dict[str, Any]:
    option = evaluation.option
    return {
        "gpu": evaluation.offer.gpu.name,
        "num_gpus": option.tp,
        "weights": option.weights,
        "quant_policy": option.quant_policy,
    }


def _option(evaluation: Evaluation, advice: Advice) -> dict[str, Any]:
    candidate = evaluation.candidate
    chosen = advice.decision.chosen if advice.decision.relaxation is None else None
    return {
        **_named(evaluation),
        "serves": evaluation.serves,
        "verdict": text.rejected(evaluation, chosen),
        "short_bytes": max(candidate.short_bytes, 0) if candidate and candidate.lack else None,
        "users": candidate.users if candidate and candidate.serves else None,
        "cache_max_entry_count": candidate.settings.cache_max_entry_count if candidate and candidate.serves else None,
    }


def _limit(evaluation: Evaluation) -> dict[str, Any]:
    assert evaluation.users is not None and evaluation.context is not None
    candidate = evaluation.users.candidate
    return {
        **_named(evaluation),
        "most_users": evaluation.users.value,
        "longest_context_tokens": evaluation.context.value,
        "cache_max_entry_count": candidate.settings.cache_max_entry_count if candidate else None,
    }
