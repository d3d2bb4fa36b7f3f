"""A decision as one JSON object; `planner/data/schemas/recommend-1.schema.json` describes it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from planner.advise.decision import Chosen, Weighed
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
    chosen, give = decision.chosen, decision.give
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
        if give is None
        else {"wish": give.wish, "asked": give.asked, "possible": give.possible, "load": _load(give.load)},
        "chosen": chosen_object(advice, chosen) if chosen else None,
        "options": [_option(weighed, advice) for weighed in decision.options],
        "notes": list(advice.notes),
    }
    if advice.limits:
        value["limits"] = [_limit(weighed) for weighed in advice.limits]
    return value


def chosen_object(advice: Advice, chosen: Chosen) -> dict[str, Any]:
    """The plan taken."""
    memory, trial = chosen.memory, chosen.trial
    return {
        "gpu": trial.offer.gpu.name,
        "num_gpus": trial.option.tp,
        "settings": settings_object(trial.settings),
        "total_bytes": memory.total_bytes,
        "load_peak_bytes": memory.load_peak_bytes,
        "free_bytes": memory.deployment.free_bytes,
        "keep_free_bytes": trial.keep_free_bytes,
        "kv_tokens": memory.kv_cache.tokens,
        "users": trial.users,
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


def _named(weighed: Weighed) -> dict[str, Any]:
    option = weighed.option
    return {
        "gpu": weighed.offer.gpu.name,
        "num_gpus": option.tp,
        "weights": option.weights,
        "quant_policy": option.quant_policy,
    }


def _option(weighed: Weighed, advice: Advice) -> dict[str, Any]:
    trial = weighed.trial
    chosen = advice.decision.chosen if advice.decision.give is None else None
    return {
        **_named(weighed),
        "serves": weighed.serves,
        "verdict": text.rejected(weighed, chosen),
        "short_bytes": max(trial.short_bytes, 0) if trial and trial.lack else None,
        "users": trial.users if trial and trial.serves else None,
        "cache_max_entry_count": trial.settings.cache_max_entry_count if trial and trial.serves else None,
    }


def _limit(weighed: Weighed) -> dict[str, Any]:
    assert weighed.users is not None and weighed.context is not None
    trial = weighed.users.trial
    return {
        **_named(weighed),
        "most_users": weighed.users.value,
        "longest_context_tokens": weighed.context.value,
        "cache_max_entry_count": trial.settings.cache_max_entry_count if trial else None,
    }
